// Locks as programs have them compiled in, of which no interposer sees anything: waiters spin with PAUSE.
//
// tas: test and test-and-set. ticket: first come, first served, on one word. mcs: the same, and each waits on a
// word of its own. The last two stop all waiters when the next in line has lost its CPU.
//
// The section adds SECTION times to one shared counter; between sections a thread works for THINK steps. For tas that is
// 0: as hard as it can be. For the fair locks it is some microseconds, since with all threads in line all the time each section needs
// a switch of threads whoever schedules them, and two threads on two CPUs none. The counter at the end shows whether
// the lock excluded.
//
// usage: compiledlock tas|ticket|mcs [THREADS] [SECONDS] [THINK]
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { SECTION = 48, SETTLE_US = 300000 };

struct node {
	_Alignas(64) _Atomic(struct node *) next;
	atomic_bool waits;
};

static struct {
	_Alignas(64) atomic_uint word; // tas; tickets given
	_Alignas(64) atomic_uint serves;
	_Alignas(64) _Atomic(struct node *) tail;
} lock;
static _Alignas(64) volatile uint64_t counter;
static uint64_t think;
static atomic_bool counts; // the time that counts has begun

#define RELAX() __builtin_ia32_pause()

static void tas_lock(struct node *n)
{
	(void)n;
	while (atomic_exchange_explicit(&lock.word, 1, memory_order_acquire))
		while (atomic_load_explicit(&lock.word, memory_order_relaxed))
			RELAX();
}

static void tas_unlock(struct node *n)
{
	(void)n;
	atomic_store_explicit(&lock.word, 0, memory_order_release);
}

static void ticket_lock(struct node *n)
{
	unsigned mine = atomic_fetch_add_explicit(&lock.word, 1, memory_order_relaxed);

	(void)n;
	while (atomic_load_explicit(&lock.serves, memory_order_acquire) != mine)
		RELAX();
}

static void ticket_unlock(struct node *n)
{
	unsigned now = atomic_load_explicit(&lock.serves, memory_order_relaxed);

	(void)n;
	atomic_store_explicit(&lock.serves, now + 1, memory_order_release);
}

static void mcs_lock(struct node *n)
{
	struct node *before;

	atomic_store_explicit(&n->next, NULL, memory_order_relaxed);
	atomic_store_explicit(&n->waits, true, memory_order_relaxed);
	before = atomic_exchange_explicit(&lock.tail, n, memory_order_acq_rel);
	if (!before)
		return;
	atomic_store_explicit(&before->next, n, memory_order_release);
	while (atomic_load_explicit(&n->waits, memory_order_acquire))
		RELAX();
}

static void mcs_unlock(struct node *n)
{
	struct node *next = atomic_load_explicit(&n->next, memory_order_acquire), *me = n;

	if (!next) {
		if (atomic_compare_exchange_strong_explicit(
			    &lock.tail, &me, NULL, memory_order_release, memory_order_relaxed))
			return;
		while (!(next = atomic_load_explicit(&n->next, memory_order_acquire)))
			RELAX();
	}
	atomic_store_explicit(&next->waits, false, memory_order_release);
}

// The loop for each kind by itself, so that lock and unlock are part of it, as in programs.
#define WORK(kind)                                                                                 \
	static void kind##_work(struct worker *w)                                                  \
	{                                                                                          \
		struct node n = {NULL, false};                                                     \
		uint64_t x = w->id, early = 0;                                                     \
                                                                                                   \
		while (!stopped(w)) {                                                              \
			kind##_lock(&n);                                                           \
			for (int i = 0; i < SECTION; i++)                                          \
				counter++;                                                         \
			kind##_unlock(&n);                                                         \
			if (atomic_load_explicit(&counts, memory_order_relaxed))                   \
				w->ops++;                                                          \
			else                                                                       \
				early++;                                                           \
			x = churn(x, think);                                                       \
		}                                                                                  \
		*(uint64_t *)w->arg = early + (x & 0);                                             \
	}
WORK(tas)
WORK(ticket)
WORK(mcs)

static const struct kind {
	const char *name;
	void (*work)(struct worker *);
	unsigned think;
} kinds[] = {{"tas", tas_work, 0}, {"ticket", ticket_work, 5000}, {"mcs", mcs_work, 5000}};

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 2, 16);
	double seconds = arg_seconds(argc, argv, 3, 1);
	static uint64_t early[1000];
	const struct kind *kind = NULL;
	struct team team;
	uint64_t start, end, all = 0;

	for (size_t i = 0; argc > 1 && i < sizeof(kinds) / sizeof(*kinds); i++)
		if (strcmp(argv[1], kinds[i].name) == 0)
			kind = &kinds[i];
	if (!kind || threads > sizeof(early) / sizeof(*early))
		die("compiledlock tas|ticket|mcs", EINVAL);
	think = arg_count(argc, argv, 4, kind->think);
	team_init(&team, threads, kind->work, NULL);
	for (unsigned i = 0; i < threads; i++)
		team.workers[i].arg = &early[i];
	team_start(&team);
	sleep_for(SETTLE_US / 1e6); // the library reads its tables
	atomic_store(&counts, true);
	start = now_ns();
	sleep_for(seconds);
	end = team_stop(&team);
	team_join(&team);
	for (unsigned i = 0; i < threads; i++)
		all += early[i];
	if (counter != (team_ops(&team) + all) * SECTION) {
		fprintf(stderr, "compiledlock: the lock did not exclude\n");
		return 1;
	}
	metric("ops", (double)team_ops(&team) / ((double)(end - start) / 1e9), "ops/s", "higher");
	metric("jain", team_jain(&team), "index", "higher");
	team_fini(&team);
	return 0;
}
