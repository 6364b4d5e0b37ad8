/*
 * sched.c - who runs: progress of busy threads and hand-off from blocked ones.
 */
#include "prog.h"

#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void *busy_forever(void *arg)
{
	(void)arg;
	for (;;)
		__asm__ volatile("");
	return NULL;
}

/* A busy thread without calls does not keep main from running: Go before 1.14 hung here. */
CASE_STRESS(seed_go114)
{
	struct timespec ts = {.tv_nsec = 1000000};

	spawn(busy_forever, NULL);
	nanosleep(&ts, NULL);
	puts("OK");
	fflush(stdout);
	_exit(0);
}

/* The same when the other one surely runs: who has not started yet may lose its turn. */
static atomic_int busy_runs;

static void *busy_noticed(void *arg)
{
	atomic_store(&busy_runs, 1);
	return busy_forever(arg);
}

CASE(seed_started)
{
	struct timespec ts = {.tv_nsec = 1000000};

	spawn(busy_noticed, NULL);
	while (!atomic_load(&busy_runs))
		nanosleep(&ts, NULL);
	nanosleep(&ts, NULL);
	puts("OK");
	fflush(stdout);
	_exit(0);
}

/* Eight busy threads, and main still sleeps and wakes, many times. */
CASE(sleep_among_busy)
{
	hogs_start(8);
	for (int i = 0; i < 10; i++)
		sleep_ns(MS);
	hogs_stop();
}

/* sched_yield hands over: two threads take turns at a word, the waiter yielding. */
static atomic_int turn;

static void *turns(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 0; i < 300; i++) {
		while (atomic_load(&turn) != me)
			CHECK_EQ(sched_yield(), 0);
		atomic_store(&turn, !me);
	}
	return NULL;
}

CASE_STRESS(yield_turns)
{
	pthread_t a = spawn(turns, (void *)0), b = spawn(turns, (void *)1);

	join(a);
	join(b);
	CHECK_EQ(atomic_load(&turn), 0);
}

/* A waiter that spins without calls, on a word another thread sets, is not alone for ever. */
static atomic_int spin_round[2];

static void *spin_flag_thread(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 1; i <= 10; i++) {
		if (me == 0)
			atomic_store(&spin_round[0], i);
		while (atomic_load(&spin_round[!me]) < i)
			__builtin_ia32_pause();
		if (me == 1)
			atomic_store(&spin_round[1], i);
	}
	return NULL;
}

CASE_STRESS(spin_flag)
{
	pthread_t a = spawn(spin_flag_thread, (void *)0), b = spawn(spin_flag_thread, (void *)1);

	join(a);
	join(b);
}

/* A spin barrier compiled into the program, 8 threads: each round needs every thread to run. */
static atomic_int sb_arrived, sb_gen;

static void *spin_barrier_thread(void *arg)
{
	(void)arg;
	for (int i = 0; i < 5; i++) {
		int gen = atomic_load(&sb_gen);

		if (atomic_fetch_add(&sb_arrived, 1) == 7) {
			atomic_store(&sb_arrived, 0);
			atomic_fetch_add(&sb_gen, 1);
		} else {
			while (atomic_load(&sb_gen) == gen)
				__builtin_ia32_pause();
		}
	}
	return NULL;
}

CASE_STRESS(spin_barrier)
{
	pthread_t t[8];

	for (int i = 0; i < 8; i++)
		t[i] = spawn(spin_barrier_thread, NULL);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&sb_gen), 5);
}

/* A thread blocked in an inline futex wait, unseen by any interposer, costs no one its P. */
static int inline_word;
static atomic_int inline_in, inline_out;

static long inline_futex(int *word, int op, int val)
{
	long ret;
	register long r10 __asm__("r10") = 0;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(SYS_futex), "D"(word), "S"(op), "d"(val), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

static void *inline_waiter(void *arg)
{
	long r;

	(void)arg;
	atomic_fetch_add(&inline_in, 1);
	while (!__atomic_load_n(&inline_word, __ATOMIC_ACQUIRE)) {
		r = inline_futex(&inline_word, FUTEX_WAIT_PRIVATE, 0);
		/* An inline wait is the program's own: EINTR is documented there. */
		CHECK(r == 0 || r == -EAGAIN || r == -EINTR);
	}
	atomic_fetch_add(&inline_out, 1);
	return NULL;
}

CASE_STRESS(inline_futex_wait)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		t[i] = spawn(inline_waiter, NULL);
	hogs_start(4);
	AWAIT(&inline_in, 4);
	for (int i = 0; i < 4; i++) {
		long w = hogs_work(i), before[4];
		long long since = now(CLOCK_MONOTONIC);

		for (int k = 0; k < 4; k++)
			before[k] = hogs_work(k);
		for (int k = 0; k < 5000 && hogs_work(i) <= w + 1000; k++)
			sleep_ns(MS);
		if (hogs_work(i) <= w + 1000)
			fail(__FILE__, __LINE__,
			     "hog %d got no CPU in %lld ms; all of them: %ld %ld %ld %ld", i,
			     (now(CLOCK_MONOTONIC) - since) / MS, hogs_work(0) - before[0],
			     hogs_work(1) - before[1], hogs_work(2) - before[2],
			     hogs_work(3) - before[3]);
	}
	CHECK_EQ(atomic_load(&inline_out), 0);
	__atomic_store_n(&inline_word, 1, __ATOMIC_RELEASE);
	inline_futex(&inline_word, FUTEX_WAKE_PRIVATE, INT_MAX);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	hogs_stop();
}

/* Threads blocked in read(2) cost no one their P; they get their byte when it comes. */
static void *pipe_reader(void *arg)
{
	char c;

	CHECK_EQ(read(*(int *)arg, &c, 1), 1);
	CHECK_EQ(c, 'x');
	return NULL;
}

CASE_STRESS(blocked_read)
{
	int fds[2];
	pthread_t t[8];

	CHECK_EQ(pipe(fds), 0);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(pipe_reader, &fds[0]);
	hogs_start(4);
	for (int i = 0; i < 4; i++) {
		long w = hogs_work(i);

		for (int k = 0; k < 5000 && hogs_work(i) <= w + 1000; k++)
			sleep_ns(MS);
		CHECK(hogs_work(i) > w + 1000);
	}
	CHECK_EQ(write(fds[1], "xxxxxxxx", 8), 8);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	hogs_stop();
}

/* A thread that computes under a lock, without calls, until the others have worked: it starves
 * neither those that want the lock nor those that do not, for the grace has an end. */
static pthread_mutex_t grace_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int grace_others, grace_taken;

static void *grace_holder(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_mutex_lock(&grace_lock), 0);
	while (atomic_load(&grace_others) < 4)
		__asm__ volatile("");
	CHECK_EQ(pthread_mutex_unlock(&grace_lock), 0);
	return NULL;
}

static void *grace_other(void *arg)
{
	(void)arg;
	spin(100000);
	atomic_fetch_add(&grace_others, 1);
	CHECK_EQ(pthread_mutex_lock(&grace_lock), 0);
	atomic_fetch_add(&grace_taken, 1);
	CHECK_EQ(pthread_mutex_unlock(&grace_lock), 0);
	return NULL;
}

CASE_STRESS(lock_grace)
{
	pthread_t h = spawn(grace_holder, NULL), t[4];

	for (int i = 0; i < 4; i++)
		t[i] = spawn(grace_other, NULL);
	join(h);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&grace_taken), 4);
}

/* 1000 threads wait on one condition variable, then all go at once. */
static pthread_mutex_t crowd_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t crowd_go = PTHREAD_COND_INITIALIZER;
static int crowd_open;
static atomic_int crowd_in, crowd_out;

static void *crowd_thread(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_mutex_lock(&crowd_lock), 0);
	atomic_fetch_add(&crowd_in, 1);
	while (!crowd_open)
		CHECK_EQ(pthread_cond_wait(&crowd_go, &crowd_lock), 0);
	CHECK_EQ(pthread_mutex_unlock(&crowd_lock), 0);
	atomic_fetch_add(&crowd_out, 1);
	return NULL;
}

static void crowd(int n)
{
	pthread_t *t = calloc((size_t)n, sizeof(*t));
	pthread_attr_t attr;
	int made = 0, err = 0;

	CHECK(t != NULL);
	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setstacksize(&attr, 65536), 0);
	while (made < n && !(err = pthread_create(&t[made], &attr, crowd_thread, NULL)))
		made++;
	if (err)
		CHECK_EQ(err, EAGAIN);
	AWAIT(&crowd_in, made);
	CHECK_EQ(atomic_load(&crowd_out), 0);
	CHECK_EQ(pthread_mutex_lock(&crowd_lock), 0);
	crowd_open = 1;
	CHECK_EQ(pthread_cond_broadcast(&crowd_go), 0);
	CHECK_EQ(pthread_mutex_unlock(&crowd_lock), 0);
	for (int i = 0; i < made; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&crowd_out), made);
	free(t);
	if (made < n)
		skip("this system does not allow so many threads");
}

CASE(parked_1000)
{
	crowd(1000);
}

/* 4096 threads at once; where the system allows fewer, those that exist are right. */
CASE(threads_4096)
{
	crowd(4096);
}

/* Threads that come and go: create and join 1000 times, 20 at a time. */
static void *passing(void *arg)
{
	return (char *)arg + 1;
}

CASE_STRESS(create_join)
{
	pthread_t t[20];

	for (int k = 0; k < 50; k++) {
		for (int i = 0; i < 20; i++)
			t[i] = spawn(passing, (void *)(intptr_t)(k * 20 + i));
		for (int i = 0; i < 20; i++)
			CHECK_EQ((intptr_t)join(t[i]), k * 20 + i + 1);
	}
}

/* Thread creation as a tree: each thread makes two and joins them. */
static void *tree(void *arg)
{
	intptr_t depth = (intptr_t)arg, sum = 1;

	if (depth > 0) {
		pthread_t a = spawn_small(tree, (void *)(depth - 1));
		pthread_t b = spawn_small(tree, (void *)(depth - 1));

		sum += (intptr_t)join(a) + (intptr_t)join(b);
	}
	return (void *)sum;
}

CASE_STRESS(create_tree)
{
	CHECK_EQ((intptr_t)tree((void *)6), 127);
}

/* A malloc storm in 32 threads: what is written into a block stays until it is freed. */
static void *storm_thread(void *arg)
{
	unsigned seed = (unsigned)(intptr_t)arg * 7919u + 1;
	unsigned char *p[16] = {0};
	size_t len[16] = {0};

	for (int i = 0; i < 2000; i++) {
		int k = rand_r(&seed) & 15;

		if (p[k])
			CHECK(p[k][0] == (unsigned char)k && p[k][len[k] - 1] == (unsigned char)k);
		free(p[k]);
		len[k] = 1 + (size_t)rand_r(&seed) % (i % 100 ? 500 : 200000);
		p[k] = malloc(len[k]);
		CHECK(p[k] != NULL);
		memset(p[k], k, len[k]);
	}
	for (int k = 0; k < 16; k++)
		free(p[k]);
	return NULL;
}

CASE_STRESS(malloc_storm)
{
	pthread_t t[32];

	for (int i = 0; i < 32; i++)
		t[i] = spawn(storm_thread, (void *)(intptr_t)i);
	for (int i = 0; i < 32; i++)
		join(t[i]);
}

/* stdio of many threads on one stream: lines stay whole. */
static FILE *shared_stream;

static void *stdio_thread(void *arg)
{
	for (int i = 0; i < 200; i++)
		CHECK(fprintf(shared_stream, "%02d %04d abcdefghij\n", (int)(intptr_t)arg, i) ==
		      19);
	return NULL;
}

CASE_STRESS(stdio_shared)
{
	char line[64];
	pthread_t t[16];
	int next[16] = {0}, who, nr, n = 0;

	CHECK((shared_stream = tmpfile()) != NULL);
	for (int i = 0; i < 16; i++)
		t[i] = spawn(stdio_thread, (void *)(intptr_t)i);
	for (int i = 0; i < 16; i++)
		join(t[i]);
	rewind(shared_stream);
	while (fgets(line, sizeof(line), shared_stream)) {
		CHECK_EQ(sscanf(line, "%2d %4d abcdefghij\n", &who, &nr), 2);
		CHECK(who >= 0 && who < 16);
		CHECK_EQ(nr, next[who]++);
		n++;
	}
	CHECK_EQ(n, 3200);
	fclose(shared_stream);
}

/* A thread that blocks signals by a raw system call, which nobody sees, for 100 ms while others wait for the CPU, is
 * preempted again afterwards. In every other round it takes what is pending away first, raw as well: a signal on
 * its way is then lost for good. Without calls that could yield. */
static long raw(long nr, long a, const void *b, void *c, long d)
{
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall"
			 : "+a"(nr)
			 : "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return nr;
}

static void *raw_block_thread(void *arg)
{
	const uint64_t all = ~(uint64_t)0, urg = (uint64_t)1 << (SIGURG - 1);
	struct timespec none = {0};
	uint64_t old;

	for (int k = 0; k < 4; k++) {
		long long end = now(CLOCK_MONOTONIC) + 100 * MS;
		long others;

		CHECK_EQ(raw(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8), 0);
		while (now(CLOCK_MONOTONIC) < end)
			spin(1000);
		while (k & 1 && raw(SYS_rt_sigtimedwait, (long)&urg, NULL, &none, 8) == SIGURG)
			;
		CHECK_EQ(raw(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, 8), 0);
		for (int i = 0; i < 4; i++) {
			others = hogs_work(i);
			while (hogs_work(i) == others)
				spin(1000);
		}
	}
	return arg;
}

CASE_STRESS(signal_blocked_raw)
{
	hogs_start(4);
	join(spawn(raw_block_thread, NULL));
	hogs_stop();
}

/* A team that waits by system calls in its own code, as libgomp's do: no interposer sees them. */
static struct {
	atomic_int arrived, round, enough, done;
	int n, rounds;
} team;

static void futex_unseen(atomic_int *word, int op, int value)
{
	register long timeout __asm__("r10") = 0;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(SYS_futex), "D"(word), "S"(op | FUTEX_PRIVATE_FLAG), "d"(value),
			   "r"(timeout)
			 : "rcx", "r11", "memory");
	CHECK(r >= 0 || r == -EAGAIN || r == -EINTR);
}

static void team_meets(void)
{
	int round = atomic_load(&team.round);

	if (atomic_fetch_add(&team.arrived, 1) + 1 == team.n) {
		atomic_store(&team.arrived, 0);
		atomic_store(&team.done, atomic_load(&team.enough));
		atomic_store(&team.round, round + 1);
		futex_unseen(&team.round, FUTEX_WAKE, INT_MAX);
	}
	while (atomic_load(&team.round) == round)
		futex_unseen(&team.round, FUTEX_WAIT, round);
}

static void *team_calls(void *arg)
{
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	static long sum;

	(void)arg;
	for (int i = 0; i < team.rounds; i++) {
		pthread_mutex_lock(&mutex);
		sum++;
		pthread_mutex_unlock(&mutex);
		team_meets();
		CHECK(i + 1 < team.rounds || sum == (long)team.rounds * team.n);
	}
	return NULL;
}

/* Rounds of a barrier that no interposer sees and of calls that one does. */
CASE_STRESS(unseen_barrier)
{
	pthread_t threads[8];

	team.n = ARRAY_SIZE(threads);
	team.rounds = 400;
	for (int i = 0; i < team.n; i++)
		threads[i] = spawn(team_calls, NULL);
	for (int i = 0; i < team.n; i++)
		join(threads[i]);
}

static void *team_busy(void *arg)
{
	long long end = now(CLOCK_MONOTONIC) + 4 * SEC;

	(void)arg;
	pthread_setname_np(pthread_self(), "member");
	do {
		spin(2000);
		if (now(CLOCK_THREAD_CPUTIME_ID) > 30 * MS || now(CLOCK_MONOTONIC) > end)
			atomic_store(&team.enough, 1);
		team_meets();
	} while (!atomic_load(&team.done));
	return NULL;
}

/* The same among busy threads, without calls: bursts of a few microseconds between two waits. */
CASE(unseen_among_busy)
{
	pthread_t threads[2];

	hogs_start(8);
	team.n = ARRAY_SIZE(threads);
	for (int i = 0; i < team.n; i++)
		threads[i] = spawn(team_busy, NULL);
	for (int i = 0; i < team.n; i++)
		join(threads[i]);
	hogs_stop();
}

static atomic_int both;

/* Computes for so long that it is on credit no more, with nobody in a queue. */
static void *overdraws(void *arg)
{
	long long cpu, since;

	if (arg)
		nanosleep(&(struct timespec){.tv_nsec = 5 * MS}, NULL);
	atomic_fetch_add(&both, 1);
	while (atomic_load(&both) < 2)
		spin(1000);
	cpu = now(CLOCK_THREAD_CPUTIME_ID);
	since = now(CLOCK_MONOTONIC);
	while (now(CLOCK_MONOTONIC) < since + 400 * MS)
		spin(1000);
	return (void *)(intptr_t)(now(CLOCK_THREAD_CPUTIME_ID) - cpu);
}

static void two_share_one_p(pthread_t *t)
{
	void *cpu[2];

	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_join(t[i], &cpu[i]), 0);
	CHECK((intptr_t)cpu[0] + (intptr_t)cpu[1] < 520 * MS);
}

/* With one P one of them runs at a time: settings.py. */
HELPER(credit_overdrawn)
{
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		t[i] = spawn(overdraws, i ? t : NULL);
	two_share_one_p(t);
}

/* One of two threads shares a CPU with busy processes, which come first there. It gets a name with its CPU time in us, for settings.py. */
static void *works_late(void *arg)
{
	long long end = now(CLOCK_MONOTONIC) + 2 * SEC;
	char name[16];

	CHECK_EQ(pthread_setaffinity_np(pthread_self(), sizeof(cpu_set_t), arg), 0);
	while (now(CLOCK_MONOTONIC) < end)
		spin(1000);
	snprintf(name, sizeof name, "late %u", (unsigned)(now(CLOCK_THREAD_CPUTIME_ID) / 1000));
	CHECK_EQ(pthread_setname_np(pthread_self(), name), 0);
	sleep_ns(5 * MS); /* the library sees it */
	return NULL;
}

HELPER(late_on_its_cpu)
{
	enum { OTHERS = 3 };
	pid_t others[OTHERS];
	cpu_set_t all, one;
	pthread_t t;
	int cpu = 0;

	CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
	while (!CPU_ISSET(cpu, &all))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	for (int i = 0; i < OTHERS; i++) {
		CHECK((others[i] = fork()) >= 0);
		if (others[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			sched_setaffinity(0, sizeof one, &one);
			for (;;)
				spin(1000);
		}
	}
	hogs_start(1);
	t = spawn(works_late, &one);
	join(t);
	hogs_stop();
	for (int i = 0; i < OTHERS; i++) {
		CHECK_EQ(kill(others[i], SIGKILL), 0);
		wait_child(others[i]);
	}
}

/* Unseen by the library: it does not know the thread yet. */
static void sleeps_raw(int sig)
{
	struct timespec ts = {.tv_nsec = 80 * MS};

	(void)sig;
	raw(SYS_nanosleep, (long)&ts, NULL, NULL, 0);
}

/* The same where one of them begins so late, after a handler, that its P has been taken from it. */
HELPER(started_late)
{
	struct sigaction sa = {.sa_handler = sleeps_raw};
	pthread_attr_t attr;
	sigset_t set, none;
	pthread_t t[2];

	sigemptyset(&none);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
	t[0] = spawn(overdraws, NULL);
	CHECK_EQ(kill(getpid(), SIGUSR1), 0);
	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setsigmask_np(&attr, &none), 0);
	CHECK_EQ(pthread_create(&t[1], &attr, overdraws, NULL), 0);
	pthread_attr_destroy(&attr);
	two_share_one_p(t);
}
