// public.c: preempt.h: what programs may ask for. Nothing here touches errno.

#include <sched.h>
#include <string.h>

#include "preempt.h"
#include "interpose.h"
#include "../probes.h"

// The declarations are weak, for programs. As definitions they are ours.
#define PUBLIC EXPORT

PUBLIC const char *preempt_version(void)
{
	return PREEMPT_VERSION;
}

PUBLIC void preempt_yield(void)
{
	struct g *gp = getg();

	if (gp && demand())
		gosched(gp, G_RUNNABLE);
	else
		sys0(SYS_sched_yield);
}

// As a lock that counts also when its grace is over (preempt_check_slow, can_preempt).
PUBLIC void preempt_disable(void)
{
	struct g *gp = getg();

	if (!gp)
		return;
	lock_counted(gp);
	gp->preemptoff++;
}

PUBLIC void preempt_enable(void)
{
	struct g *gp = getg();

	if (!gp || !gp->preemptoff)
		return;
	gp->preemptoff--;
	compiler_barrier();
	lock_released(gp);
	preempt_check(gp); // the count may have been taken away meanwhile
}

PUBLIC void preempt_lock_begin(const volatile void *lock)
{
	struct g *gp = getg();

	if (!gp)
		return;
	lock_counted(gp);
	gp->spun = lock;
}

PUBLIC void preempt_lock_wait(const volatile void *lock)
{
	uintptr_t from = (uintptr_t)__builtin_return_address(0);
	struct g *gp = getg();

	cpu_relax();
	if (!gp)
		return;
	lock_not_counted(gp);
	preempt_check(gp);
	if (demand() && spin_paused(gp, from))
		spin_yield_lock(gp, lock, from, tls.paused_since, NULL);
	lock_counted(gp);
	gp->spun = lock;
}

PUBLIC void preempt_lock_end(const volatile void *lock)
{
	struct g *gp = getg();

	if (gp && gp->spun == lock)
		gp->spun = NULL;
	lock_released(gp);
}

PUBLIC int preempt_set_weight(int weight)
{
	if (weight < 0 || weight > 10000)
		return EINVAL;
	tls.weight = (uint32_t)weight;
	if (getg())
		weigh(getg());
	return 0;
}

PUBLIC int preempt_stop_the_world(long long timeout_ns, struct preempt_stopped *stopped)
{
	struct stopped s;
	int r = stw_stop(timeout_ns > 0 ? timeout_ns : 0, &s);

	if (stopped) {
		*stopped = (struct preempt_stopped){
			.ns = s.ns, .threads = s.threads, .stragglers = s.stragglers};
		memcpy(stopped->straggler, s.straggler, sizeof stopped->straggler);
	}
	return -r;
}
_Static_assert(sizeof(((struct preempt_stopped *)0)->straggler) / sizeof(int) == STRAGGLERS,
	       "fits");

PUBLIC int preempt_start_the_world(void)
{
	return -stw_start();
}

PUBLIC int preempt_dump(int fd)
{
	return -dump_to(fd);
}
