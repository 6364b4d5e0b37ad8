// What do blocked threads cost the busy ones? Slots with and without BLOCKED threads that sit in
// the kernel alternate in one process, with the same number of busy threads in both; the metric is
// busy work with them over busy work without them, so 1 means that they cost nothing.
//
// How the blocked ones block:
// 	read	read(2) on an empty pipe, for the whole slot
// 	futex	a futex wait by inline assembly, which no library sees, for the whole slot
// 	timer	read(2) on a timer that ticks every 20 ms: blocks anew each time
// 	tick	the inline-assembly futex wait with a timeout of 20 ms, anew each time
//
// usage: retake MODE [BLOCKED] [BUSY] [SECONDS]
#include "bench.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { STEPS = 2000, PAIRS = 3, TICK_NS = 20000000 };

static int pipe_fd[2];
static int futex_word;

static long raw_futex(int op, int val, const struct timespec *timeout)
{
#ifdef __x86_64__
	register const struct timespec *r10 __asm__("r10") = timeout;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(SYS_futex), "D"(&futex_word), "S"(op), "d"(val), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
#else
	return syscall(SYS_futex, &futex_word, op, val, timeout);
#endif
}

static void block_read(struct worker *w)
{
	char byte;

	(void)w;
	while (read(pipe_fd[0], &byte, 1) != 1)
		if (errno != EINTR)
			die("read", errno);
}

static void block_futex(struct worker *w)
{
	while (!stopped(w))
		raw_futex(FUTEX_WAIT_PRIVATE, 0, NULL);
}

static void block_timer(struct worker *w)
{
	struct itimerspec every = {{0, TICK_NS}, {0, TICK_NS}};
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	uint64_t ticks;

	if (fd < 0 || timerfd_settime(fd, 0, &every, NULL))
		die("timerfd", errno);
	while (!stopped(w))
		if (read(fd, &ticks, sizeof(ticks)) < 0 && errno != EINTR)
			die("read", errno);
	close(fd);
}

static void block_tick(struct worker *w)
{
	struct timespec ts = {0, TICK_NS};

	while (!stopped(w))
		raw_futex(FUTEX_WAIT_PRIVATE, 0, &ts);
}

static const struct mode {
	const char *name;
	void (*fn)(struct worker *);
} modes[] = {
	{"read", block_read},
	{"futex", block_futex},
	{"timer", block_timer},
	{"tick", block_tick},
};

static void work(struct worker *w)
{
	while (!stopped(w)) {
		churn(w->ops, STEPS);
		w->ops++;
	}
}

// Work per second of the busy threads during one slot.
static double slot(unsigned busy, double seconds)
{
	struct team team;
	double elapsed, rate;

	team_init(&team, busy, work, NULL);
	elapsed = team_run(&team, seconds);
	rate = (double)team_ops(&team) / elapsed;
	team_fini(&team);
	return rate;
}

static double slot_with(const struct mode *mode, unsigned blocked, unsigned busy, double seconds)
{
	struct team team;
	double rate;

	team_init(&team, blocked, mode->fn, NULL);
	team_start(&team);
	rate = slot(busy, seconds);
	futex_word = 1; // a waiter that has not gone to sleep yet will not
	team_stop(&team);
	for (unsigned i = 0; i < blocked; i++)
		if (mode->fn == block_read && write(pipe_fd[1], "x", 1) != 1)
			die("write", errno);
	raw_futex(FUTEX_WAKE_PRIVATE, (int)blocked, NULL);
	team_join(&team);
	futex_word = 0;
	team_fini(&team);
	return rate;
}

int main(int argc, char **argv)
{
	unsigned blocked = arg_count(argc, argv, 2, 4);
	unsigned busy = arg_count(argc, argv, 3, 8);
	double seconds = arg_seconds(argc, argv, 4, 1) / (2 * PAIRS);
	const struct mode *mode = NULL;
	double with[PAIRS], without[PAIRS], ratio[PAIRS];

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (argc > 1 && !strcmp(argv[1], modes[i].name))
			mode = &modes[i];
	if (!mode) {
		fprintf(stderr, "usage: retake read|futex|timer|tick [BLOCKED] [BUSY] [SECONDS]\n");
		return 2;
	}
	if (pipe(pipe_fd))
		die("pipe", errno);
	slot(busy, seconds / 4); // warm up: the first threads of a process cost more
	for (int i = 0; i < PAIRS; i++) {
		if (i % 2) {
			with[i] = slot_with(mode, blocked, busy, seconds);
			without[i] = slot(busy, seconds);
		} else {
			without[i] = slot(busy, seconds);
			with[i] = slot_with(mode, blocked, busy, seconds);
		}
		ratio[i] = with[i] / without[i];
	}
	metric("kept", percentile(ratio, PAIRS, 50), "ratio", "higher");
	metric("work", percentile(with, PAIRS, 50), "units/s", "higher");
	return 0;
}
