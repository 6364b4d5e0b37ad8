// g.c: memory for Gs.
//
// Type-stable: a struct g is reused but never unmapped, so sysmon, a waker or a granter may look at
// one whose thread is dying. Each keeps the alternate signal stack it was once given.

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "shim.h"

enum { G_CHUNK = 32 };

// The kernel's frame (with AVX-512 or AMX state: AT_MINSIGSTKSZ), our handler, and handlers of a program whose own alternate
// stack is too small (altstack.c). Virtual memory: touched only when used; below it is a guard page.
size_t g_altstack_size(void)
{
	return 256 * 1024;
}

static void *altstack_alloc(void)
{
	char *p = os_mmap(4096 + g_altstack_size());

	if (!p)
		return NULL;
	sys3(SYS_mprotect, p, 4096, PROT_NONE);
	return p + 4096;
}

static bool gfree_refill(void)
{
	struct g *chunk;

	if (sched.policy && sched.policy->reserve &&
	    !sched.policy->reserve(sched.ngs_made + G_CHUNK))
		return false;
	chunk = os_mmap(sizeof *chunk * G_CHUNK);
	if (!chunk)
		return false;
	sched.ngs_made += G_CHUNK;
	for (int i = 0; i < G_CHUNK; i++) {
		chunk[i].schedlink = sched.gfree;
		sched.gfree = &chunk[i];
		chunk[i].alllink = sched.allgs;
		store_release(&sched.allgs, &chunk[i]); // pairs with readers that walk allgs
	}
	return true;
}

struct g *g_alloc(void)
{
	struct g *gp = NULL;
	void *stack;

	critical_enter();
	lock_acquire(&sched.lock);
	if (sched.gfree || gfree_refill()) {
		gp = sched.gfree;
		sched.gfree = gp->schedlink;
	}
	lock_release(&sched.lock);
	critical_leave();
	if (!gp)
		return NULL;

	stack = gp->altstack;
	if (!stack)
		stack = altstack_alloc();
	// Others walk alllink at any time.
	memset((char *)gp + sizeof gp->alllink, 0, sizeof *gp - sizeof gp->alllink);
	gp->altstack = stack;
	if (!stack) {
		g_free(gp);
		return NULL;
	}
	gp->goid = fetch_add(&sched.goidgen, 1) + 1; // only uniqueness matters
	gp->prog_altstack.ss_flags = SS_DISABLE;
	return gp;
}

// Gs by the number of their thread: a hint for those who have only that.
enum { BY_TID = 1024 };
static struct g *by_tid[BY_TID];

void g_has_tid(struct g *gp)
{
	store_relaxed(&by_tid[(uint32_t)gp->tid % BY_TID], gp);
}

struct g *g_queued(int32_t tid)
{
	struct g *gp = load_relaxed(&by_tid[(uint32_t)tid % BY_TID]);
	uint32_t status;

	if (!gp || load_relaxed(&gp->tid) != tid)
		return NULL;
	status = load_relaxed(&gp->status);
	return status == G_RUNNABLE || status == G_PREEMPTED ? gp : NULL;
}

void g_free(struct g *gp)
{
	CHECKED(invariant_free(gp));
	critical_enter();
	lock_acquire(&sched.lock);
	gp->status = G_IDLE;
	gp->schedlink = sched.gfree;
	sched.gfree = gp;
	lock_release(&sched.lock);
	critical_leave();
}
