// What the preemption handler's decision costs: the table of the PC, its row, and ten callers, with the core's own
// modules_find and tables from the cache. "cold" is the same after other code has used the caches, one call at a time.
//
// usage: lookup FRAMES.so [SECONDS]; PREEMPT_CACHE_DIR has its table
#include "bench.h"
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { CALLERS = 10, DEPTH = 16, BATCH = 1000, COLD = 400, SWEEP = 8 << 20 };

typedef void at_fn(uintptr_t pc, uintptr_t sp, uintptr_t bp);

static struct g g = {.prog_altstack.ss_flags = SS_DISABLE};
static struct frame frame;
static double seconds;

static void find(void *arg, unsigned n)
{
	uintptr_t bias;

	(void)arg;
	while (n--)
		if (!modules_find(frame.pc, &bias))
			die("lost the table", ENOENT);
}

static void decide(void *arg, unsigned n)
{
	(void)arg;
	while (n--)
		if (is_async_safe_point(&g, &frame) != REFUSE_NOT)
			die("not a safe point", EINVAL);
}

static void decide_cold(void)
{
	static volatile char memory[SWEEP];
	static double samples[COLD];

	for (int i = 0; i < COLD; i++) {
		uint64_t t;

		for (int k = 0; k < SWEEP; k += 64)
			memory[k]++;
		t = now_ns();
		decide(NULL, 1);
		samples[i] = (double)(now_ns() - t);
	}
	metric("decision_cold", percentile(samples, COLD, 50), "ns", "lower");
}

// The stack is made to end after so many callers.
static void at(uintptr_t pc, uintptr_t sp, uintptr_t bp)
{
	struct frame f = {pc, sp, bp};
	const struct table_row *row;

	frame = f;
	for (int i = 0; i < CALLERS; i++)
		if (unwind_step(&f, i == 0, sp + 65536, &row) != 1)
			die("no caller", EINVAL);
	stack_is(sp - 262144, f.sp);
	time_batches("find", find, NULL, BATCH, seconds / 2, "ns", 1);
	time_batches("decision", decide, NULL, BATCH, seconds / 2, "ns", 1);
	decide_cold();
}

int main(int argc, char **argv)
{
	int (*descend)(int, at_fn *);
	uint64_t end = now_ns() + 10000000000u;
	uintptr_t bias;
	void *frames;

	if (argc < 2)
		die("usage: lookup FRAMES.so [SECONDS]", EINVAL);
	seconds = arg_seconds(argc, argv, 2, 1);
	frames = dlopen(argv[1], RTLD_NOW);
	descend = frames ? (int (*)(int, at_fn *))dlsym(frames, "descend") : NULL;
	if (!descend)
		die(argv[1], ENOENT);
	modules_find_object =
		(modules_find_object_fn *)dlvsym(RTLD_DEFAULT, "_dl_find_object", "GLIBC_2.35");
	cache_init(getenv("PREEMPT_CACHE_DIR"), NULL, NULL, "");
	while (!modules_find((uintptr_t)descend, &bias)) { // as sysmon does
		if (now_ns() > end)
			die("no table for the frames", ENOENT);
		sleep_for(0.0005);
		modules_poll(os_nanotime());
	}
	descend(DEPTH, at);
	return 0;
}
