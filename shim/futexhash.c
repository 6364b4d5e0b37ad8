// futexhash.c: room for many sleeping threads in the kernel's table of futexes.
//
// Problem. Each thread without a P sleeps on a futex of its own. Since Linux 6.16 a process has its own table of these, of 16 lists on
// two CPUs however many threads there are; to wake one of 10,000 the kernel walks through hundreds, and a switch takes 30 us
// instead of 3. Approach: sysmon asks for lists enough when there are many threads. The kernel waits for a grace period meanwhile,
// some 10 ms, so it is done in a process that shares our memory (helper_call). A table that the program has made larger by itself
// is left alone; older kernels refuse.

#include <errno.h>
#include <sys/syscall.h>

#include "shim.h"

enum {
	FUTEX_HASH = 78 /* PR_FUTEX_HASH */,
	SET_SLOTS = 1,
	GET_SLOTS = 2,
	MANY = 128,
	MOST = 65536
};

static uint32_t slots; // asked for; 0: nothing yet

static void set_slots(void *arg)
{
	uint32_t n = *(uint32_t *)arg;

	if (sys5(SYS_prctl, FUTEX_HASH, GET_SLOTS, 0, 0, 0) < (long)n)
		sys5(SYS_prctl, FUTEX_HASH, SET_SLOTS, n, 0, 0);
}

void futexhash_poll(void)
{
	uint32_t gs = load_relaxed(&sched.ngs_made), n = MANY, had = slots;

	if (likely(gs <= slots || gs < MANY || slots >= MOST))
		return;
	while (n < 2 * gs && n < MOST)
		n *= 2;
	slots = n;
	if (helper_call(set_slots, &slots) == -EBUSY)
		slots = had; // later
}

void futexhash_reset_in_child(void)
{
	slots = 0;
}
