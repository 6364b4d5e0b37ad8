// thread.c: threads begin, end, are joined and cancelled.
//
// A new thread becomes a G in gothread and waits for a P before the program's start routine runs. It
// leaves in the destructor of a thread-specific key: that runs after C++ thread_local destructors, and the
// key sets itself again until the last round, so that the program's own destructors still hold a P.

#include <limits.h>
#include <pthread.h>
#include <threads.h>

#include "objects.h"

REAL_FN(pthread_create);
REAL_FN(pthread_join);
REAL_FN(pthread_tryjoin_np);
REAL_FN(pthread_timedjoin_np);
REAL_FN(pthread_clockjoin_np);
REAL_FN(pthread_exit);
REAL_FN(pthread_cancel);
REAL_FN(pthread_setcanceltype);
REAL_FN(pthread_detach);
REAL_FN(pthread_testcancel);
REAL_FN(thrd_create);
REAL_FN(thrd_join);
REAL_FN(thrd_detach);
REAL_FN(thrd_exit);

static pthread_key_t exit_key;
static bool have_key;

static void thread_leaves(void *round)
{
	uintptr_t n = (uintptr_t)round;

	if (n < PTHREAD_DESTRUCTOR_ITERATIONS &&
	    pthread_setspecific(exit_key, (void *)(n + 1)) == 0)
		return;
	if (tls.outside) // it may be cancelled here, too
		REAL(pthread_setcanceltype)(PTHREAD_CANCEL_DEFERRED, NULL);
	goexit();
}

void shim_thread_exits(long nr, long status)
{
	(void)nr;
	if (load_relaxed(&sched.active) != PHASE_ACTIVE)
		return;
	goexit();
	if (load_seq_cst(&sched.ngs) == 0) // pairs with the decrement in another goexit
		sysmon_last((int)status);
}

// As early as possible: a low key needs no memory in pthread_setspecific.
__attribute__((constructor(101))) static void make_key(void)
{
	have_key = pthread_key_create(&exit_key, thread_leaves) == 0;
}

static void arm_exit(void)
{
	pthread_setspecific(exit_key, (void *)1);
}

// A thread that we did not start, or NULL: it becomes a G at its first wait for a pthread object.
struct g *getg_adopt(void)
{
	struct g *gp = getg();

	if (gp || tls.no_adopt || tls.critical || tls.async_cancel ||
	    load_relaxed(&sched.active) != PHASE_ACTIVE || load_relaxed(&sched.sealed))
		return gp;
	gp = g_alloc();
	if (!gp)
		return NULL;
	gp->self = pthread_self();
	signal_thread_start(gp);
	sched_start(gp);
	arm_exit();
	return gp;
}

// The stack of the calling thread: sp is the caller's stack pointer as it calls the program's start routine. libc keeps
// the thread's descriptor, a few KiB, at the top of a stack that it makes, below the TLS blocks; so it ends
// within a page of pthread_self().
static void learn_stack(const struct g *gp, uintptr_t sp)
{
	uintptr_t lo = gp->stack_lo;

	if (!lo)
		lo = (uintptr_t)gp->self + 4096 - gp->stack_size;
	stack_is(lo, sp);
}

// No tail call, and nothing is pushed: the CFA of the start routine is sp, which tells the end of its callers.
static void *gothread(void *arg)
{
	struct g *gp = arg;
	uintptr_t sp;
	void *ret;

	gp->self = pthread_self();
	arm_exit();
	__asm__ volatile("mov %%rsp, %0" : "=r"(sp));
	learn_stack(gp, sp);
	gostart(gp);
	ret = gp->start(gp->arg);
	__asm__ volatile("" : "+r"(ret));
	return ret;
}

static int gothread_c11(void *arg)
{
	struct g *gp = arg;
	uintptr_t sp;
	int ret;

	gp->self = pthread_self();
	arm_exit();
	__asm__ volatile("mov %%rsp, %0" : "=r"(sp));
	learn_stack(gp, sp);
	gostart(gp);
	ret = ((int (*)(void *))(uintptr_t)gp->start)(gp->arg);
	__asm__ volatile("" : "+r"(ret));
	return ret;
}

// Note which stack the thread will have. A stack of the program's is known; of one that libc makes, the size.
static void stack_from(struct g *gp, const pthread_attr_t *attr)
{
	pthread_attr_t defaults;
	size_t size = 0, guard = 0;
	void *lo = NULL;

	if (attr && pthread_attr_getstack(attr, &lo, &size) == 0 && (uintptr_t)lo + size) {
		gp->stack_lo = (uintptr_t)lo;
		return;
	}
	if (!attr && pthread_attr_init(&defaults) != 0)
		return;
	size = 0;
	pthread_attr_getstacksize(attr ? attr : &defaults, &size);
	pthread_attr_getguardsize(attr ? attr : &defaults, &guard);
	// Some versions of libc take the guard from the size, others add it.
	gp->stack_size = size > guard ? size - guard : 0;
	if (!attr)
		pthread_attr_destroy(&defaults);
}

// The G of a thread about to be created; NULL: it shall run without the scheduler.
static struct g *newproc(void *(*start)(void *), void *arg, const pthread_attr_t *attr)
{
	static bool told;
	struct g *gp, *creator = getg();

	if (!have_key || tls.vforked || !shim_activate() || load_relaxed(&sched.sealed))
		return NULL;
	if (!creator)
		arm_exit(); // the first thread became a G just now
	gp = g_alloc();
	if (!gp) {
		if (!xchg(&told, true)) // a program may go on to make thousands
			log_line(LOG_WARN, "no memory for a thread: it runs without the scheduler");
		return NULL;
	}
	gp->start = start;
	gp->arg = arg;
	stack_from(gp, attr);
	gp->sig_blocked = tls.self && tls.self->sig_blocked; // the mask is inherited
	// Parked until its creator knows that there is a thread, and readies it: so it is next in line,
	// as in Go's newproc, however long the kernel takes to start the thread.
	set_status(gp, G_WAITING);
	gp->park = PARK_PARKED;
	gp->waiting = true;
	TRACE(write, TRACE_GO_CREATE, 0, NULL, gp->goid, creator ? creator->goid : 0,
	      (uintptr_t)start, 0);
	return gp;
}

EXPORT int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*start)(void *),
			  void *arg)
{
	struct g *gp = newproc(start, arg, attr);
	int r;

	if (!gp)
		return REAL(pthread_create)(t, attr, start, arg);
	r = MAY_BLOCK(REAL(pthread_create)(t, attr, gothread, gp));
	if (r == EAGAIN && sysmon_stop())
		r = REAL(pthread_create)(t, attr, gothread, gp);
	signal_thread_made();
	if (r == 0)
		goready(gp);
	else
		g_free(gp);
	return r;
}
COMPAT(pthread_create, 2_2_5, "GLIBC_2.2.5");

EXPORT int thrd_create(thrd_t *t, thrd_start_t start, void *arg)
{
	struct g *gp = newproc((void *(*)(void *))(uintptr_t)start, arg, NULL);
	int r;

	if (!gp)
		return REAL(thrd_create)(t, start, arg);
	r = MAY_BLOCK(REAL(thrd_create)(t, gothread_c11, gp));
	if (r != thrd_success && sysmon_stop())
		r = REAL(thrd_create)(t, gothread_c11, gp);
	signal_thread_made();
	if (r == thrd_success)
		goready(gp);
	else
		g_free(gp);
	return r;
}
COMPAT(thrd_create, 2_28, "GLIBC_2.28");

// For dumps and deadlock.c. A join that is left by longjmp is ended by park_abandon, one that is cancelled here.
static void joins_no_more(void *gp)
{
	((struct g *)gp)->joins = 0;
}

EXPORT int pthread_join(pthread_t t, void **ret)
{
	struct g *gp = getg();
	volatile int r;

	if (!gp)
		return REAL(pthread_join)(t, ret);
	gp->joins = t;
	pthread_cleanup_push(joins_no_more, gp);
	r = WILL_BLOCK(REAL(pthread_join)(t, ret));
	pthread_cleanup_pop(1);
	return r;
}
COMPAT(pthread_join, 2_2_5, "GLIBC_2.2.5");

EXPORT int thrd_join(thrd_t t, int *ret)
{
	struct g *gp = getg();
	volatile int r;

	if (!gp)
		return REAL(thrd_join)(t, ret);
	gp->joins = t;
	pthread_cleanup_push(joins_no_more, gp);
	r = WILL_BLOCK(REAL(thrd_join)(t, ret));
	pthread_cleanup_pop(1);
	return r;
}
COMPAT(thrd_join, 2_28, "GLIBC_2.28");

EXPORT int pthread_tryjoin_np(pthread_t t, void **ret)
{
	return MAY_BLOCK(REAL(pthread_tryjoin_np)(t, ret));
}
COMPAT(pthread_tryjoin_np, 2_3_3, "GLIBC_2.3.3");

EXPORT int pthread_timedjoin_np(pthread_t t, void **ret, const struct timespec *abs)
{
	return WILL_BLOCK(REAL(pthread_timedjoin_np)(t, ret, abs));
}
COMPAT(pthread_timedjoin_np, 2_3_3, "GLIBC_2.3.3");

EXPORT int pthread_clockjoin_np(pthread_t t, void **ret, clockid_t clock,
				const struct timespec *abs)
{
	return WILL_BLOCK(REAL(pthread_clockjoin_np)(t, ret, clock, abs));
}
COMPAT(pthread_clockjoin_np, 2_31, "GLIBC_2.31");

EXPORT int pthread_detach(pthread_t t)
{
	return REAL(pthread_detach)(t);
}
COMPAT(pthread_detach, 2_2_5, "GLIBC_2.2.5");

EXPORT int thrd_detach(thrd_t t)
{
	return REAL(thrd_detach)(t);
}
COMPAT(thrd_detach, 2_28, "GLIBC_2.28");

EXPORT void pthread_exit(void *ret)
{
	park_abandon(LEAVES);
	REAL(pthread_exit)(ret);
	__builtin_unreachable();
}

EXPORT void thrd_exit(int ret)
{
	park_abandon(LEAVES);
	REAL(thrd_exit)(ret);
	__builtin_unreachable();
}
COMPAT(thrd_exit, 2_28, "GLIBC_2.28");

EXPORT void pthread_testcancel(void)
{
	REAL(pthread_testcancel)();
}
COMPAT(pthread_testcancel, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_setcanceltype(int type, int *old)
{
	int r;

	if (type == PTHREAD_CANCEL_ASYNCHRONOUS)
		outside_enter();
	r = REAL(pthread_setcanceltype)(type, old);
	if (r == 0 && type != PTHREAD_CANCEL_ASYNCHRONOUS)
		outside_leave();
	return r;
}

// libc marks the thread; a thread parked in a cancellable wait is told to end it, and acts in its
// own wrapper (pthread_testcancel) with the mutex taken again.
EXPORT int pthread_cancel(pthread_t t)
{
	int r = REAL(pthread_cancel)(t);
	struct g *gp;

	if (r != 0 || load_relaxed(&sched.active) != PHASE_ACTIVE)
		return r;
	for (gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) { // pairs with gfree_refill
		if (gp->self != t || load_relaxed(&gp->status) == G_IDLE)
			continue;
		if (fetch_or(&gp->note, NOTE_CANCEL) & NOTE_SLEEPING) // pairs with park_wait
			os_futex_wake(&gp->note, 1);
	}
	return r;
}
COMPAT(pthread_cancel, 2_2_5, "GLIBC_2.2.5");
