/*
 * stuck.c - for dump.py: threads that wait in all ways, some of them for ever.
 *
 * stuck WHAT...: each WHAT adds threads; main then joins them. "ready" is printed when all are where they stay. What is said
 * to be no deadlock ends by itself, after about SECONDS (first argument), and prints "done".
 */
#define _GNU_SOURCE 1

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX = 1200 };

static pthread_mutex_t cond_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t m[8] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
			       PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
			       PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
			       PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static sem_t sem;
static pthread_t threads[MAX];
static int nthreads;
static int seconds;
static atomic_int arrived, done;
static int pipe_fds[2];

#define KEEP_FRAME __asm__ volatile("" ::: "memory")

static void add(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 * 1024);
	if (pthread_create(&threads[nthreads++], &attr, fn, arg) != 0)
		abort();
	pthread_attr_destroy(&attr);
}

/* The members of a ring and of a pair meet apart from those that only say that they are there. */
static void arrive_and_wait(int n)
{
	static atomic_int met;

	atomic_fetch_add(&met, 1);
	while (atomic_load(&met) < n)
		usleep(1000);
	atomic_fetch_add(&arrived, 1);
}

__attribute__((noinline)) static void lock_next(pthread_mutex_t *mutex)
{
	pthread_mutex_lock(mutex);
	KEEP_FRAME;
}

/* Thread i of a ring holds one mutex and wants the next one. */
static int ring;
static void *in_ring(void *arg)
{
	int i = (int)(intptr_t)arg;

	pthread_mutex_lock(&m[i]);
	arrive_and_wait(ring);
	lock_next(&m[(i + 1) % ring]);
	return NULL;
}

static void *relocks(void *arg)
{
	pthread_mutex_lock(&m[0]);
	arrive_and_wait(1);
	lock_next(&m[0]);
	return arg;
}

static void *lost_wake_up(void *arg)
{
	pthread_mutex_lock(&cond_mutex);
	atomic_fetch_add(&arrived, 1);
	pthread_cond_wait(&cond, &cond_mutex);
	KEEP_FRAME;
	return arg;
}

static void *no_post(void *arg)
{
	atomic_fetch_add(&arrived, 1);
	sem_wait(&sem);
	KEEP_FRAME;
	return arg;
}

/* One holds a mutex and joins the other, who wants it. */
static void *wants(void *arg)
{
	arrive_and_wait(2);
	lock_next(&m[0]);
	return arg;
}

static void *holds_and_joins(void *arg)
{
	pthread_mutex_lock(&m[0]);
	arrive_and_wait(2);
	pthread_join(*(pthread_t *)arg, NULL);
	KEEP_FRAME;
	return NULL;
}

static void *writes_twice(void *arg)
{
	pthread_rwlock_wrlock(&rw);
	arrive_and_wait(2);
	lock_next(&m[0]);
	return arg;
}

static void *mutex_then_rwlock(void *arg)
{
	pthread_mutex_lock(&m[0]);
	arrive_and_wait(2);
	pthread_rwlock_rdlock(&rw);
	KEEP_FRAME;
	return arg;
}

static void *sleeps(void *arg)
{
	usleep((useconds_t)seconds * 1000000);
	if (arg) {
		pthread_mutex_lock(&cond_mutex);
		pthread_cond_signal(&cond);
		pthread_mutex_unlock(&cond_mutex);
	}
	return arg;
}

/* --- no deadlocks: each waits for longer than it takes to be taken for one --------------------------- */

static void *waits_with_deadline(void *arg)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += seconds;
	pthread_mutex_lock(&cond_mutex);
	pthread_cond_timedwait(&cond, &cond_mutex, &until);
	pthread_mutex_unlock(&cond_mutex);
	return arg;
}

static void *waits_for_signal(void *arg)
{
	while (sem_wait(&sem) != 0)
		;
	return arg;
}

static void on_alarm(int sig)
{
	(void)sig;
	sem_post(&sem);
}

static void by_timer_thread(union sigval v)
{
	(void)v;
	sem_post(&sem);
}

static void *waits_for_pipe(void *arg)
{
	char c;

	pthread_mutex_lock(&m[1]);
	if (read(pipe_fds[0], &c, 1) != 1)
		abort();
	pthread_mutex_unlock(&m[1]);
	return arg;
}

static void *wants_that(void *arg)
{
	usleep(100000);
	lock_next(&m[1]);
	pthread_mutex_unlock(&m[1]);
	return arg;
}

/* Holds what the joined thread wants, but does not join it any more: a handler left that by a jump, or it was cancelled. */
static sigjmp_buf left;
static void on_usr1(int sig)
{
	(void)sig;
	siglongjmp(left, 1);
}

static void release_late(void *arg)
{
	(void)arg;
	usleep((useconds_t)seconds * 1000000);
	pthread_mutex_unlock(&m[0]);
}

static void *leaves_join(void *arg)
{
	pthread_mutex_lock(&m[0]);
	arrive_and_wait(2);
	if (sigsetjmp(left, 1) == 0)
		pthread_join(threads[(intptr_t)arg], NULL);
	release_late(NULL);
	return NULL;
}

static void *cancelled_in_join(void *arg)
{
	pthread_mutex_lock(&m[0]);
	arrive_and_wait(2);
	pthread_cleanup_push(release_late, NULL);
	pthread_join(threads[(intptr_t)arg], NULL);
	pthread_cleanup_pop(1);
	return NULL;
}

static void *wants_and_unlocks(void *arg)
{
	arrive_and_wait(2);
	lock_next(&m[0]);
	pthread_mutex_unlock(&m[0]);
	return arg;
}

/* Another process posts. */
static void *shared_sem(void *arg)
{
	sem_wait(arg);
	return NULL;
}

static void raw_thread(void)
{
	struct timespec ts = {.tv_sec = seconds};

	syscall(SYS_nanosleep, &ts, NULL);
	sem_post(&sem);
	syscall(SYS_exit, 0);
}

/* A thread that the library does not know posts. */
extern int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
static int raw_main(void *arg)
{
	(void)arg;
	raw_thread();
	return 0;
}

/* --- places from which it is harder to find the callers ---------------------------------------- */

/* libc makes the system call by itself. */
static void *reads_line(void *arg)
{
	FILE *f = fdopen(pipe_fds[0], "r");
	char line[64];

	if (!fgets(line, sizeof(line), f))
		abort();
	KEEP_FRAME;
	return arg;
}

__attribute__((noinline)) static void handler_sleeps(int sig)
{
	(void)sig;
	sleep(1000);
	KEEP_FRAME;
}

static void *raises(void *arg)
{
	raise(SIGUSR2);
	KEEP_FRAME;
	return arg;
}

/* --- for comparison with a debugger --------------------------------------------------------------- */

__attribute__((noinline)) static int deep(int depth, int how)
{
	volatile char pad[64];
	int r;

	pad[0] = (char)depth;
	if (depth > 0) {
		r = deep(depth - 1, how) + pad[0];
		KEEP_FRAME;
		return r;
	}
	switch (how % 6) {
	case 0:
		pthread_mutex_lock(&m[7]);
		break;
	case 1:
		sem_wait(&sem);
		break;
	case 2:
		sleep(1000);
		break;
	case 3:
		poll(NULL, 0, -1);
		break;
	case 4:
		pthread_mutex_lock(&m[how % 2 + 5]);
		pthread_cond_wait(&cond, &m[how % 2 + 5]);
		break;
	default:
		pause();
		break;
	}
	KEEP_FRAME;
	return pad[0];
}

/* alloca needs a frame pointer, as -O0 code has everywhere. */
__attribute__((noinline)) static int framed(int depth, int how)
{
	volatile char *p = __builtin_alloca((size_t)depth + 1);

	p[0] = 1;
	return deep(depth, how) + p[0];
}

static void *deep_main(void *arg)
{
	int i = (int)(intptr_t)arg;

	atomic_fetch_add(&arrived, 1);
	return (void *)(intptr_t)(i % 2 ? framed(i % 11, i) : deep(i % 7, i));
}

static void *hog(void *arg)
{
	while (!atomic_load_explicit(&done, memory_order_relaxed))
		;
	return arg;
}

/* --- */

static void start(const char *what)
{
	if (!strncmp(what, "ring", 4)) {
		ring = atoi(what + 4);
		for (int i = 0; i < ring; i++)
			add(in_ring, (void *)(intptr_t)i);
	} else if (!strcmp(what, "relock")) {
		add(relocks, NULL);
	} else if (!strcmp(what, "lost")) {
		add(lost_wake_up, NULL);
	} else if (!strcmp(what, "nopost")) {
		add(no_post, NULL);
	} else if (!strcmp(what, "join")) {
		add(wants, NULL);
		add(holds_and_joins, &threads[nthreads - 1]);
	} else if (!strcmp(what, "rwlock")) {
		add(writes_twice, NULL);
		add(mutex_then_rwlock, NULL);
	} else if (!strcmp(what, "sleep")) {
		add(sleeps, NULL);
	} else if (!strcmp(what, "hog")) {
		add(hog, NULL);
	} else if (!strcmp(what, "woken")) {
		add(lost_wake_up, NULL);
		add(sleeps, &cond);
	} else if (!strcmp(what, "jumped") || !strcmp(what, "cancelled")) {
		signal(SIGUSR1, on_usr1);
		add(wants_and_unlocks, NULL);
		add(*what == 'j' ? leaves_join : cancelled_in_join,
		    (void *)(intptr_t)(nthreads - 1));
		usleep(200000);
		if (*what == 'j')
			pthread_kill(threads[nthreads - 1], SIGUSR1);
		else
			pthread_cancel(threads[nthreads - 1]);
	} else if (!strcmp(what, "deadline")) {
		add(waits_with_deadline, NULL);
	} else if (!strcmp(what, "alarm")) {
		struct itimerval it = {.it_value.tv_sec = seconds};

		signal(SIGALRM, on_alarm);
		add(waits_for_signal, NULL);
		setitimer(ITIMER_REAL, &it, NULL);
	} else if (!strcmp(what, "timer")) {
		struct sigevent ev = {.sigev_notify = SIGEV_THREAD,
				      .sigev_notify_function = by_timer_thread};
		struct itimerspec its = {.it_value.tv_sec = seconds};
		timer_t t;

		add(waits_for_signal, NULL);
		if (timer_create(CLOCK_MONOTONIC, &ev, &t) != 0 ||
		    timer_settime(t, 0, &its, NULL) != 0)
			abort();
	} else if (!strcmp(what, "pipe")) {
		if (pipe(pipe_fds) != 0)
			abort();
		add(waits_for_pipe, NULL);
		add(wants_that, NULL);
		if (fork() == 0) {
			sleep((unsigned)seconds);
			_exit(write(pipe_fds[1], "", 1) != 1);
		}
	} else if (!strcmp(what, "shared")) {
		sem_t *s =
			mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		sem_init(s, 1, 0);
		if (fork() == 0) {
			sleep((unsigned)seconds);
			_exit(sem_post(s));
		}
		add(shared_sem, s);
	} else if (!strcmp(what, "foreign")) {
		char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				   -1, 0);

		add(waits_for_signal, NULL);
		if (clone(raw_main, stack + 65536,
			  CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
				  CLONE_SYSVSEM,
			  NULL) < 0)
			abort();
	} else if (!strcmp(what, "fgets")) {
		if (pipe(pipe_fds) != 0)
			abort();
		add(reads_line, NULL);
		usleep(200000);
	} else if (!strcmp(what, "handler")) {
		signal(SIGUSR2, handler_sleeps);
		add(raises, NULL);
		usleep(200000);
	} else if (!strncmp(what, "deep", 4)) {
		int n = atoi(what + 4);

		pthread_mutex_lock(&m[7]);
		for (int i = 0; i < n; i++)
			add(deep_main, (void *)(intptr_t)i);
		while (atomic_load(&arrived) < n)
			usleep(10000);
	} else {
		fprintf(stderr, "stuck: %s?\n", what);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	seconds = argc > 1 ? atoi(argv[1]) : 0;
	sem_init(&sem, 0, 0);
	for (int i = 2; i < argc; i++)
		start(argv[i]);
	puts("ready");
	fflush(stdout);
	for (int i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);
	while (wait(NULL) > 0)
		;
	puts("done");
	return 0;
}
