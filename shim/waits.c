// waits.c: whom does a waiting G wait for?
//
// Read from the object it waits for: a mutex and a rwlock held for writing know their owner's thread id, in fields of the public
// header; a thread that is joined is known by its pthread_t. The object is the program's memory: it is read by
// memory_read, which does not fault.

#include <pthread.h>

#include "shim.h"

static int read_int(uintptr_t addr)
{
	int v;

	return memory_read(addr, &v, sizeof v) == 0 ? v : 0;
}

int mutex_owner(const void *mutex)
{
	const pthread_mutex_t *m = mutex;

	return read_int((uintptr_t)&m->__data.__owner);
}

static bool lives(const struct g *gp)
{
	uint32_t status = load_relaxed(&gp->status);

	return status != G_IDLE && status != G_DEAD;
}

const struct g *g_of_tid(int tid)
{
	// acquire: pairs with gfree_refill
	for (const struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink)
		if (gp->tid == tid && lives(gp))
			return gp;
	return NULL;
}

static const struct g *g_of_pthread(pthread_t self)
{
	// acquire: pairs with gfree_refill
	for (const struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink)
		if (gp->self == self && lives(gp))
			return gp;
	return NULL;
}

// The G that has what gp waits for, or NULL. *ret_tid: its thread, also if it is no G; 0: nobody, or not known.
const struct g *wait_owner(const struct g *gp, int *ret_tid)
{
	const void *addr = load_relaxed(&gp->waitaddr);
	const struct g *owner;

	*ret_tid = 0;
	if (load_relaxed(&gp->status) == G_SYSCALL && load_relaxed(&gp->joins)) {
		owner = g_of_pthread(gp->joins);
		*ret_tid = owner ? owner->tid : 0;
		return owner;
	}
	if (load_relaxed(&gp->status) != G_WAITING || !addr)
		return NULL;
	if (gp->waitreason == WAIT_MUTEX || (gp->waitreason == WAIT_COND && gp->waitmoved))
		*ret_tid = mutex_owner(addr);
	else if (gp->waitreason == WAIT_RWLOCK_R || gp->waitreason == WAIT_RWLOCK_W)
		*ret_tid = read_int((uintptr_t) &
				    ((const pthread_rwlock_t *)addr)->__data.__cur_writer);
	return *ret_tid ? g_of_tid(*ret_tid) : NULL;
}
