// futexhash.c: room for many sleeping threads in the kernel's table of futexes.
//
// Problem. Each thread without a P sleeps on a futex of its own. Since Linux 6.16 a process has its own table of these, of 16 lists on
// two CPUs however many threads there are; to wake one of 10,000 the kernel walks through hundreds, and a switch takes 30 us
// instead of 3. Approach: sysmon asks for lists enough when there are many threads. The kernel waits for a grace period meanwhile,
// some 10 ms, so it is done in a process that shares our memory (helper_call). A table that the program has made larger by itself
// is left alone; older kernels refuse.

#include <sys/syscall.h>

#include "shim.h"

enum {
	FUTEX_HASH = 78, // PR_FUTEX_HASH
	SET_SLOTS = 1,
	GET_SLOTS = 2,
	MANY = 128,	   // Gs
	MOST = 65536,	   // lists
	AGAIN = 100000000, // ns; the kernel may be busy with an earlier change
	TRIES = 50,
};

static uint32_t slots; // there are so many, as far as known; written by the process that asks
static uint32_t wanted;
static int64_t next;
static int tries;

static void ask(void *arg)
{
	long had = sys5(SYS_prctl, FUTEX_HASH, GET_SLOTS, 0, 0, 0);

	(void)arg;
	if (had >= 0 && had < (long)wanted) {
		sys5(SYS_prctl, FUTEX_HASH, SET_SLOTS, wanted, 0, 0);
		had = sys5(SYS_prctl, FUTEX_HASH, GET_SLOTS, 0, 0, 0);
	}
	store_relaxed(&slots, had < 0 ? MOST : (uint32_t)had); // an older kernel: not again
}

void futexhash_poll(int64_t now)
{
	uint32_t gs = load_relaxed(&sched.ngs_made), n = MANY;

	if (likely(gs < MANY || gs <= load_relaxed(&slots)) || now < next || tries >= TRIES)
		return;
	while (n < 2 * gs && n < MOST)
		n *= 2;
	if (helper_calling())
		return;
	next = now + AGAIN;
	wanted = n;
	tries++;
	(void)helper_call(ask, NULL); // refused: once more later
}

void futexhash_reset_in_child(void)
{
	slots = 0;
	next = 0;
	tries = 0;
}
