/*
 * victim.c - small programs for faults.py: victim NAME [ARGUMENT], which prints "OK" and nothing else.
 *
 * Each goes through one part of the library in some milliseconds, and checks what the program may rely on: results, order, that
 * calls are not interrupted. It judges times only where the library, too, has to keep them.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "preempt.h"

#define CHECK(e)                                                                                   \
	do {                                                                                       \
		if (!(e)) {                                                                        \
			dprintf(2, "victim.c:%d: %s, errno %d\n", __LINE__, #e, errno);            \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

enum { MS = 1000000 };

static pthread_t spawn(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t t;

	CHECK(pthread_attr_init(&attr) == 0);
	CHECK(pthread_attr_setstacksize(&attr, 65536) == 0);
	CHECK(pthread_create(&t, &attr, fn, arg) == 0);
	pthread_attr_destroy(&attr);
	return t;
}

static void *join(pthread_t t)
{
	void *ret;

	CHECK(pthread_join(t, &ret) == 0);
	return ret;
}

static long long now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000LL * MS + ts.tv_nsec;
}

static long burn(long long ns)
{
	long long end = now(CLOCK_THREAD_CPUTIME_ID) + ns;
	long n = 0;

	while (now(CLOCK_THREAD_CPUTIME_ID) < end)
		for (volatile int i = 0; i < 1000; i++)
			n++;
	return n;
}

static struct timespec after(clockid_t clock, long long ns)
{
	long long t = now(clock) + ns;

	return (struct timespec){t / (1000 * MS), t % (1000 * MS)};
}

/* --- threads ---------------------------------------------------------------------------------------- */

static atomic_int ended;
static pthread_key_t key;

static void count_end(void *arg)
{
	(void)arg;
	atomic_fetch_add(&ended, 1);
}

static void *short_life(void *arg)
{
	CHECK(pthread_setspecific(key, &key) == 0);
	burn(MS / 2);
	return arg;
}

static void threads(void)
{
	pthread_t t[12];

	CHECK(pthread_key_create(&key, count_end) == 0);
	for (int round = 0; round < 3; round++) {
		for (long i = 0; i < 12; i++)
			t[i] = spawn(short_life, (void *)i);
		for (long i = 0; i < 12; i++)
			CHECK(join(t[i]) == (void *)i);
	}
	CHECK(ended == 36);
}

/* Threads that compute, and are stopped wherever they are. */
static void *busy_life(void *arg)
{
	*(long *)arg = burn(8 * MS);
	return arg;
}

static void busy(void)
{
	pthread_t t[5];
	long n[5];

	for (int i = 0; i < 5; i++)
		t[i] = spawn(busy_life, &n[i]);
	for (int i = 0; i < 5; i++)
		CHECK(join(t[i]) == &n[i] && n[i] > 0);
}

/* --- locks ------------------------------------------------------------------------------------------ */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t sem;
static long counter, written;

static void *locker(void *arg)
{
	for (int i = 0; i < 300; i++) {
		CHECK(pthread_mutex_lock(&mutex) == 0);
		counter++;
		if (i % 64 == 0)
			burn(MS / 20);
		CHECK(pthread_mutex_unlock(&mutex) == 0);
		if (i % 8 == 0) {
			CHECK(pthread_rwlock_wrlock(&rwlock) == 0);
			written++;
			CHECK(pthread_rwlock_unlock(&rwlock) == 0);
		} else {
			CHECK(pthread_rwlock_rdlock(&rwlock) == 0);
			CHECK(pthread_rwlock_unlock(&rwlock) == 0);
		}
		if (i % 50 == 0) {
			int r = pthread_barrier_wait(&barrier);

			CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
		}
		CHECK(sem_wait(&sem) == 0);
		CHECK(sem_post(&sem) == 0);
	}
	return arg;
}

static void locks(void)
{
	pthread_t t[6];

	CHECK(pthread_barrier_init(&barrier, NULL, 6) == 0);
	CHECK(sem_init(&sem, 0, 2) == 0);
	for (int i = 0; i < 6; i++)
		t[i] = spawn(locker, NULL);
	for (int i = 0; i < 6; i++)
		join(t[i]);
	CHECK(counter == 6 * 300 && written == 6 * 38);
}

static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int turn;

static void *player(void *arg)
{
	int me = (int)(long)arg;

	for (int i = 0; i < 100; i++) {
		CHECK(pthread_mutex_lock(&mutex) == 0);
		while (turn % 3 != me)
			CHECK(pthread_cond_wait(&cond, &mutex) == 0);
		turn++;
		CHECK(pthread_cond_broadcast(&cond) == 0);
		CHECK(pthread_mutex_unlock(&mutex) == 0);
	}
	return arg;
}

static void cond_turns(void)
{
	static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
	struct timespec at;
	pthread_t t[3];

	for (long i = 0; i < 3; i++)
		t[i] = spawn(player, (void *)i);
	for (int i = 0; i < 3; i++)
		join(t[i]);
	CHECK(turn == 300);
	for (int i = 0; i < 3; i++) {
		at = after(CLOCK_REALTIME, 2 * MS);
		CHECK(pthread_mutex_lock(&mutex) == 0);
		CHECK(pthread_cond_timedwait(&never, &mutex, &at) == ETIMEDOUT);
		CHECK(now(CLOCK_REALTIME) >= at.tv_sec * 1000LL * MS + at.tv_nsec);
		CHECK(pthread_mutex_unlock(&mutex) == 0);
	}
}

/* --- processes ---------------------------------------------------------------------------------------- */

static void child_threads(void)
{
	pthread_t t = spawn(short_life, &t), u = spawn(short_life, &u);

	CHECK(join(t) == &t && join(u) == &u);
}

static atomic_int stop;

static void *hum(void *arg)
{
	while (!stop) {
		burn(MS / 10);
		CHECK(pthread_mutex_lock(&mutex) == 0);
		counter++;
		CHECK(pthread_mutex_unlock(&mutex) == 0);
	}
	return arg;
}

static int status_of(pid_t pid)
{
	int status;

	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	return status;
}

static void forks(void)
{
	pthread_t t[2];
	pid_t pid;

	CHECK(pthread_key_create(&key, count_end) == 0);
	for (int i = 0; i < 2; i++)
		t[i] = spawn(hum, NULL);
	for (int i = 0; i < 3; i++) {
		pid = fork();
		if (pid == 0) {
			child_threads();
			_exit(7);
		}
		CHECK(status_of(pid) == 7 << 8);
	}
	pid = fork();
	if (pid == 0) {
		execl("/bin/true", "true", NULL);
		_exit(8);
	}
	CHECK(status_of(pid) == 0);
	CHECK(system("exit 3") == 3 << 8);
	CHECK(wait(NULL) == -1 && errno == ECHILD); /* nobody else's child */
	stop = 1;
	for (int i = 0; i < 2; i++)
		join(t[i]);
}

/* --- modules ------------------------------------------------------------------------------------------ */

static const char *module_path;

static void modules(void)
{
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		t[i] = spawn(hum, NULL);
	for (int i = 0; i < 5; i++) {
		void *lib = dlopen(module_path, RTLD_NOW);
		long (*run)(long);

		CHECK(lib);
		run = (long (*)(long))dlsym(lib, "victim_module");
		CHECK(run);
		CHECK(run(1000) == 499500);
		burn(2 * MS);
		CHECK(dlclose(lib) == 0);
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		join(t[i]);
}

/* --- signals ------------------------------------------------------------------------------------------ */

static volatile sig_atomic_t handled;
static sem_t posted;

static void handler(int sig)
{
	(void)sig;
	handled++;
	CHECK(sem_post(&posted) == 0);
}

static void signals(void)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK}, old;
	static char stack[65536];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
	pthread_t t[2];
	sigset_t set;
	int got;

	CHECK(sem_init(&posted, 0, 0) == 0);
	CHECK(sigaltstack(&ss, NULL) == 0);
	for (int i = 0; i < 2; i++)
		t[i] = spawn(hum, NULL);
	if (sigaction(SIGUSR1, &sa, NULL) != 0) { /* and says so: else the signal would end us */
		CHECK(errno == EPERM);
		printf("OK\n");
		exit(0);
	}
	CHECK(sigaction(SIGUSR1, NULL, &old) == 0);
	CHECK(old.sa_handler == handler && (old.sa_flags & 0xffffff) == (sa.sa_flags & 0xffffff));
	for (int i = 0; i < 50; i++) {
		CHECK(pthread_kill(t[i % 2], SIGUSR1) == 0);
		while (sem_wait(&posted) != 0)
			CHECK(errno == EINTR);
		CHECK(pthread_kill(pthread_self(), SIGUSR1) == 0);
		CHECK(handled == 2 * i + 2);
		CHECK(sem_wait(&posted) == 0);
	}
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	CHECK(pthread_kill(pthread_self(), SIGUSR2) == 0);
	CHECK(sigwait(&set, &got) == 0 && got == SIGUSR2);
	stop = 1;
	for (int i = 0; i < 2; i++)
		join(t[i]);
	CHECK(sigaltstack(NULL, &ss) == 0 && ss.ss_sp == stack);
}

/* --- calls that block ----------------------------------------------------------------------------------- */

static void *echo(void *arg)
{
	int *fd = arg;
	char c;

	while (read(fd[0], &c, 1) == 1)
		CHECK(write(fd[3], &c, 1) == 1);
	return arg;
}

static void calls(void)
{
	int fd[4];
	pthread_t t[2];
	char c;

	CHECK(pipe(fd) == 0 && pipe(fd + 2) == 0);
	t[0] = spawn(echo, fd);
	t[1] = spawn(hum, NULL);
	for (int i = 0; i < 100; i++) {
		struct pollfd p = {fd[2], POLLIN, 0};
		struct timespec ts = {0, MS / 10};

		CHECK(write(fd[1], "x", 1) == 1);
		CHECK(poll(&p, 1, -1) == 1);
		CHECK(read(fd[2], &c, 1) == 1 && c == 'x');
		if (i % 10 == 0)
			CHECK(nanosleep(&ts, NULL) == 0);
	}
	close(fd[1]);
	stop = 1;
	CHECK(join(t[0]) == fd);
	join(t[1]);
}

/* --- what preempt.h has ----------------------------------------------------------------------------------- */

static void world(void)
{
	pthread_t t[2];
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC), r;

	CHECK(fd >= 0);
	for (int i = 0; i < 2; i++)
		t[i] = spawn(hum, NULL);
	for (int i = 0; preempt_dump && i < 3; i++) {
		r = preempt_dump(fd);
		CHECK(r == 0 || r == EBUSY || r == ENOTSUP);
		burn(3 * MS);
		r = preempt_stop_the_world(1000LL * MS, NULL);
		CHECK(r == 0 || r == ETIMEDOUT || r == ENOTSUP);
		if (r == 0)
			CHECK(preempt_start_the_world() == 0);
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		join(t[i]);
}

/* A world that is said to stand still does. */
enum { COUNTERS = 4 };
static atomic_long locked[COUNTERS];

static void *counts_locks(void *arg)
{
	while (!stop) {
		CHECK(pthread_mutex_lock(&mutex) == 0);
		atomic_fetch_add((atomic_long *)arg, 1);
		CHECK(pthread_mutex_unlock(&mutex) == 0);
		atomic_fetch_add((atomic_long *)arg, 1);
	}
	return NULL;
}

static void still(void)
{
	struct timespec ts = {.tv_nsec = 2 * MS};
	pthread_t t[COUNTERS];
	long was[COUNTERS];

	if (!preempt_stop_the_world)
		return;
	for (int i = 0; i < COUNTERS; i++)
		t[i] = spawn(counts_locks, &locked[i]);
	for (int i = 0; i < 10; i++) {
		burn(MS);
		CHECK(preempt_stop_the_world(10000LL * MS, NULL) == 0);
		for (int k = 0; k < COUNTERS; k++)
			was[k] = atomic_load(&locked[k]);
		nanosleep(&ts, NULL);
		for (int k = 0; k < COUNTERS; k++)
			CHECK(atomic_load(&locked[k]) == was[k]);
		CHECK(preempt_start_the_world() == 0);
	}
	stop = 1;
	for (int i = 0; i < COUNTERS; i++)
		join(t[i]);
}

/* --- waiting in a loop, whose instructions are rewritten ------------------------------------------------------ */

static atomic_int flag;

static void *spinner(void *arg)
{
	int me = (int)(long)arg;

	for (int i = 0; i < 8; i++) {
		while (atomic_load(&flag) % 3 != me)
			__builtin_ia32_pause();
		atomic_fetch_add(&flag, 1);
	}
	return arg;
}

static void spins(void)
{
	pthread_t t[3];

	burn(MS);
	for (long i = 0; i < 3; i++)
		t[i] = spawn(spinner, (void *)i);
	for (int i = 0; i < 3; i++)
		join(t[i]);
	CHECK(flag == 24);
}

/* --- many threads; and some under load until the time is up --------------------------------------------------- */

static void *crowd_life(void *arg)
{
	CHECK(pthread_mutex_lock(&mutex) == 0);
	counter++;
	if (counter == (long)arg)
		CHECK(pthread_cond_broadcast(&cond) == 0);
	while (counter < (long)arg)
		CHECK(pthread_cond_wait(&cond, &mutex) == 0);
	CHECK(pthread_mutex_unlock(&mutex) == 0);
	return NULL;
}

static void crowd(long n)
{
	pthread_t *t = calloc((size_t)n, sizeof *t);
	pthread_attr_t attr;
	long made;

	CHECK(t && pthread_attr_init(&attr) == 0);
	CHECK(pthread_attr_setstacksize(&attr, 16384) == 0);
	for (made = 0; made < n; made++)
		if (pthread_create(&t[made], &attr, crowd_life, (void *)n) != 0) {
			dprintf(2, "SKIP: only %ld threads can be made here\n", made);
			_exit(77);
		}
	for (long i = 0; i < n; i++)
		join(t[i]);
	CHECK(counter == n);
}

static void *sleeper(void *arg)
{
	while (!stop) {
		struct timespec ts = {0, 3 * MS};

		CHECK(nanosleep(&ts, NULL) == 0); /* not interrupted by anybody's signal */
		CHECK(sem_post(&posted) == 0);
	}
	return arg;
}

static void *taker(void *arg)
{
	for (;;) {
		CHECK(sem_wait(&posted) == 0);
		if (stop)
			return arg;
	}
}

static void load(long ms)
{
	long long end = now(CLOCK_MONOTONIC) + ms * MS;
	pthread_t t[6];

	CHECK(sem_init(&posted, 0, 0) == 0);
	for (int i = 0; i < 3; i++)
		t[i] = spawn(hum, NULL);
	t[3] = spawn(sleeper, NULL);
	t[4] = spawn(taker, NULL);
	t[5] = spawn(hum, NULL);
	while (now(CLOCK_MONOTONIC) < end) {
		struct timespec at = after(CLOCK_MONOTONIC, 5 * MS);

		CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == 0);
		join(spawn(busy_life, (long[1]){0}));
	}
	stop = 1;
	CHECK(sem_post(&posted) == 0);
	for (int i = 0; i < 6; i++)
		join(t[i]);
	CHECK(counter > 0);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*fn)(void);
	} parts[] = {
		{"threads", threads}, {"busy", busy},	{"locks", locks},
		{"cond", cond_turns}, {"forks", forks}, {"modules", modules},
		{"signals", signals}, {"calls", calls}, {"world", world},
		{"still", still},     {"spins", spins},
	};

	CHECK(argc >= 2);
	module_path = argc > 2 ? argv[2] : "";
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
		if (strcmp(argv[1], parts[i].name) == 0)
			parts[i].fn();
	if (strcmp(argv[1], "crowd") == 0)
		crowd(atol(argv[2]));
	if (strcmp(argv[1], "load") == 0)
		load(atol(argv[2]));
	printf("OK\n");
	return 0;
}
