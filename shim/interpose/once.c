// once.c: pthread_once, call_once: the real one runs the routine; who comes while it runs waits in the lot.
// An initialiser that leaves by cancellation or an exception wakes nobody: waiters look again by themselves.
//
// In the child of a fork, a routine that another thread of the parent was in is nobody's: the next caller runs it
// again. glibc knows by the number of forks in the other bits of the control. That number is its secret, so a
// control of our own, in progress, is asked for it.

#include <pthread.h>
#include <threads.h>

#include "objects.h"

REAL_FN(pthread_once);

enum { ONCE_INPROGRESS = 1, ONCE_DONE = 2 }; // glibc's; a hint only

static __thread pthread_once_t probe __attribute__((tls_model("initial-exec")));
static __thread int in_progress __attribute__((tls_model("initial-exec")));

static void note_in_progress(void)
{
	in_progress = probe;
}

static int try_not_in_progress(void *control)
{
	int now = load_acquire((int *)control); // pairs with glibc's release

	if (!(now & ONCE_INPROGRESS))
		return 0;
	probe = PTHREAD_ONCE_INIT;
	REAL(pthread_once)(&probe, note_in_progress);
	return now == in_progress ? EBUSY : 0;
}

EXPORT int pthread_once(pthread_once_t *control, void (*init)(void))
{
	struct g *gp = getg();
	int r;

	if (likely(load_acquire(control) & ONCE_DONE) || !gp) // pairs with glibc's release
		return REAL(pthread_once)(control, init);
	if (try_not_in_progress(control) == EBUSY)
		lot_acquire(gp, control, try_not_in_progress, LOT_ANY, WAIT_ONCE, NULL, 0);
	r = REAL(pthread_once)(control, init);
	if (lot_has_waiters(control))
		lot_wake(control, INT32_MAX);
	return r;
}
ALIAS(__pthread_once, pthread_once);
COMPAT(pthread_once, 2_2_5, "GLIBC_2.2.5");

EXPORT void call_once(once_flag *flag, void (*init)(void))
{
	pthread_once((pthread_once_t *)flag, init); // the same type in glibc
}
COMPAT(call_once, 2_28, "GLIBC_2.28");
