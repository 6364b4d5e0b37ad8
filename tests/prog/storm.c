/*
 * storm.c - everything at once, for as long as one likes: storm [-s SECONDS] [-r SEED] [-u] MODULE
 *
 * Threads pass tokens round a ring whose links are condition variables, semaphores, pipes and words polled with
 * sched_yield; others compute; threads are born, detached, cancelled (deferred, and of the asynchronous type) and end;
 * children are forked that use threads themselves; MODULE is opened, run and closed; SIGALRM, and with -u SIGURG, hit
 * threads of the ring and the process at random moments.
 *
 * It states what must stay true without knowing of the shim: no token is lost or doubled, results are right, every
 * cleanup handler and every destructor runs, each child ends as it should, everything still gets on (a lost wake-up
 * shows as a role that stands still), and threads, descriptors and memory do not grow. Prints counts and OK.
 *
 * The memory bound leaves room for arenas that malloc makes when it meets contention; what grows with the number of
 * operations passes it within the minutes of a long run.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	RING = 8,
	TOKENS = 3,
	BUSY = 2,
	BIRTHS = 2,
	STUCK = 40,	   /* s without progress of a role; generous, for loaded machines */
	GROWTH = 16 << 20, /* bytes */
};

enum role { HOPS, ROUNDS, BORN, FORKED, OPENED, SENT, ROLES };
static const char *const role_name[ROLES] = {"hops",  "rounds",	 "births",
					     "forks", "dlopens", "signals"};
static atomic_ulong done[ROLES];
static atomic_ulong handled;
static atomic_bool stop;
static const char *module;
static bool use_sigurg;
static uint64_t seed = 1;

#define CHECK(cond) ((cond) ? (void)0 : broken(#cond, __LINE__))

_Noreturn static void broken(const char *what, int line)
{
	fprintf(stderr, "FAIL storm.c:%d: %s (errno %d, seed %lu)\n", line, what, errno,
		(unsigned long)seed);
	_exit(1);
}

static uint64_t next(uint64_t *state) /* xorshift */
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t seeded(uint64_t who)
{
	uint64_t s = (seed + 1) * 0x9e3779b97f4a7c15 ^ (who + 1) * 0xbf58476d1ce4e5b9;

	return s ? s : 1;
}

static void nap(long us)
{
	struct timespec ts = {us / 1000000, us % 1000000 * 1000};

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

/* --- the ring ------------------------------------------------------------------------------------ */

enum link_kind { LINK_COND, LINK_SEM, LINK_PIPE, LINK_YIELD };
static struct link {
	enum link_kind kind;
	pthread_mutex_t lock;
	pthread_cond_t filled;
	int waiting; /* tokens; under lock */
	sem_t sem;
	int pipe[2];
	atomic_int word;
} links[RING];
static pthread_t ring[RING];
static atomic_int ended; /* members that saw stop */

static void put(struct link *l)
{
	switch (l->kind) {
	case LINK_COND:
		pthread_mutex_lock(&l->lock);
		l->waiting++;
		pthread_cond_signal(&l->filled);
		pthread_mutex_unlock(&l->lock);
		break;
	case LINK_SEM:
		CHECK(sem_post(&l->sem) == 0);
		break;
	case LINK_PIPE:
		while (write(l->pipe[1], "t", 1) != 1)
			CHECK(errno == EINTR);
		break;
	case LINK_YIELD:
		atomic_fetch_add(&l->word, 1);
	}
}

static void get(struct link *l)
{
	char c;
	int n;

	switch (l->kind) {
	case LINK_COND:
		pthread_mutex_lock(&l->lock);
		while (l->waiting == 0)
			CHECK(pthread_cond_wait(&l->filled, &l->lock) == 0);
		l->waiting--;
		pthread_mutex_unlock(&l->lock);
		break;
	case LINK_SEM:
		while (sem_wait(&l->sem) != 0)
			CHECK(errno == EINTR);
		break;
	case LINK_PIPE:
		while (read(l->pipe[0], &c, 1) != 1)
			CHECK(errno == EINTR);
		CHECK(c == 't');
		break;
	case LINK_YIELD:
		for (;;) {
			n = atomic_load(&l->word);
			if (n > 0 && atomic_compare_exchange_weak(&l->word, &n, n - 1))
				break;
			sched_yield();
		}
	}
}

static void *member(void *arg)
{
	struct link *in = arg, *out = &links[(in - links + 1) % RING];

	/* The tokens go on until all have seen stop. */
	for (bool seen = false; atomic_load(&ended) < RING;) {
		get(in);
		atomic_fetch_add(&done[HOPS], 1);
		if (!seen && atomic_load(&stop)) {
			seen = true;
			atomic_fetch_add(&ended, 1);
		}
		put(out);
	}
	return NULL;
}

static void ring_start(void)
{
	for (int i = 0; i < RING; i++) {
		struct link *l = &links[i];

		l->kind = (enum link_kind)(i % (LINK_YIELD + 1));
		pthread_mutex_init(&l->lock, NULL);
		pthread_cond_init(&l->filled, NULL);
		CHECK(sem_init(&l->sem, 0, 0) == 0);
		CHECK(pipe(l->pipe) == 0);
	}
	for (int i = 0; i < RING; i++)
		CHECK(pthread_create(&ring[i], NULL, member, &links[i]) == 0);
	for (int i = 0; i < TOKENS; i++)
		put(&links[i * RING / TOKENS]);
}

static void ring_end(void)
{
	int tokens = 0, v;
	char c[TOKENS + RING + 1];

	while (atomic_load(&ended) < RING)
		nap(1000);
	/* Who went on to wait just before would do so for ever, if its neighbour did not. */
	for (int i = 0; i < RING; i++)
		put(&links[i]);
	for (int i = 0; i < RING; i++)
		CHECK(pthread_join(ring[i], NULL) == 0);
	for (int i = 0; i < RING; i++) {
		struct link *l = &links[i];

		CHECK(sem_getvalue(&l->sem, &v) == 0);
		tokens += l->waiting + v + atomic_load(&l->word);
		close(l->pipe[1]);
		tokens += (int)read(l->pipe[0], c, sizeof(c));
		close(l->pipe[0]);
	}
	CHECK(tokens == TOKENS + RING);
}

/* --- computing ----------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t n)
{
	__asm__ volatile(""
			 : "+r"(n)); /* the compiler is not to know that it is the same each time */

	double d = (double)n;
	uint64_t x = n;

	for (int i = 0; i < 20000; i++) {
		d = d * 1.0000001 + 1;
		x = x * 6364136223846793005 + 1442695040888963407;
	}
	return x ^ (uint64_t)d;
}

static void *computes(void *arg)
{
	uint64_t n = (uint64_t)(uintptr_t)arg, first = mix(n);

	while (!atomic_load(&stop)) {
		CHECK(mix(n) == first);
		atomic_fetch_add(&done[ROUNDS], 1);
	}
	return NULL;
}

/* --- births and deaths --------------------------------------------------------------------------- */

static pthread_key_t key;
static atomic_ulong keys_set, keys_destroyed, detached;

static void destroyed(void *value)
{
	free(value);
	atomic_fetch_add(&keys_destroyed, 1);
}

static void set_key(void)
{
	CHECK(pthread_setspecific(key, malloc(100)) == 0);
	atomic_fetch_add(&keys_set, 1);
}

static void *returns(void *arg)
{
	set_key();
	return arg;
}

static void *exits(void *arg)
{
	set_key();
	pthread_exit(arg);
}

static void *is_detached(void *arg)
{
	set_key();
	atomic_fetch_sub(&detached, 1);
	return arg;
}

struct victim {
	int kind;
	sem_t ready, never;
	atomic_int cleaned;
};

static void cleanup(void *arg)
{
	atomic_fetch_add(&((struct victim *)arg)->cleaned, 1);
}

static void *waits(void *arg) /* until it is cancelled */
{
	struct victim *v = arg;

	pthread_cleanup_push(cleanup, v);
	CHECK(sem_post(&v->ready) == 0);
	for (;;) {
		if (v->kind == 0)
			sem_wait(&v->never);
		else if (v->kind == 1)
			pause();
		else
			nap(1000000);
	}
	pthread_cleanup_pop(0);
	return NULL;
}

static void *spins(void *arg) /* as above */
{
	struct victim *v = arg;

	pthread_cleanup_push(cleanup, v);
	CHECK(sem_post(&v->ready) == 0);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;)
		__asm__ volatile("");
	pthread_cleanup_pop(0);
	return NULL;
}

static void cancelled(void *(*start)(void *), uint64_t r)
{
	struct victim v = {.kind = (int)(r % 3)};
	pthread_t t;
	void *result;

	sem_init(&v.ready, 0, 0);
	sem_init(&v.never, 0, 0);
	CHECK(pthread_create(&t, NULL, start, &v) == 0);
	while (sem_wait(&v.ready) != 0)
		CHECK(errno == EINTR);
	nap((long)(r % 300));
	CHECK(pthread_cancel(t) == 0);
	CHECK(pthread_join(t, &result) == 0);
	CHECK(result == PTHREAD_CANCELED);
	CHECK(atomic_load(&v.cleaned) == 1);
}

static void *gives_birth(void *arg)
{
	uint64_t r = seeded(100 + (uintptr_t)arg);
	pthread_t t;
	void *result;

	while (!atomic_load(&stop)) {
		uint64_t kind = next(&r) % 5;

		if (kind == 0 || kind == 1) {
			CHECK(pthread_create(&t, NULL, kind ? exits : returns, &r) == 0);
			CHECK(pthread_join(t, &result) == 0);
			CHECK(result == &r);
		} else if (kind == 2) {
			if (atomic_fetch_add(&detached, 1) > 50) { /* they get behind */
				atomic_fetch_sub(&detached, 1);
				nap(1000);
				continue;
			}
			CHECK(pthread_create(&t, NULL, is_detached, NULL) == 0);
			CHECK(pthread_detach(t) == 0);
		} else {
			cancelled(kind == 3 ? waits : spins, next(&r));
		}
		atomic_fetch_add(&done[BORN], 1);
	}
	return NULL;
}

/* --- children ------------------------------------------------------------------------------------ */

static pthread_mutex_t child_lock = PTHREAD_MUTEX_INITIALIZER;

static void *child_thread(void *arg)
{
	for (int i = 0; i < 100; i++) {
		pthread_mutex_lock(&child_lock);
		++*(int *)arg;
		pthread_mutex_unlock(&child_lock);
	}
	return NULL;
}

static void child(bool threads)
{
	pthread_t t[2];
	int n = 0;

	signal(SIGALRM, SIG_DFL);
	alarm(STUCK);
	if (threads) {
		for (int i = 0; i < 2; i++)
			if (pthread_create(&t[i], NULL, child_thread, &n))
				_exit(1);
		for (int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		if (n != 200)
			_exit(2);
	}
	_exit(7);
}

static void *forks(void *arg)
{
	uint64_t r = seeded(200);
	int status;

	while (!atomic_load(&stop)) {
		pid_t pid = fork();

		if (pid == 0)
			child(next(&r) % 2);
		CHECK(pid > 0);
		while (waitpid(pid, &status, 0) != pid)
			CHECK(errno == EINTR);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
			fprintf(stderr, "storm: the child's status is %#x\n", (unsigned)status);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
		atomic_fetch_add(&done[FORKED], 1);
		nap((long)(next(&r) % 20000));
	}
	return arg;
}

/* --- modules ------------------------------------------------------------------------------------- */

static void *runs_module(void *fn)
{
	uint64_t (*sum)(uint64_t) = (uint64_t(*)(uint64_t))(uintptr_t)fn;

	for (uint64_t i = 0; i < 20; i++)
		CHECK(sum(i + 1000) == (i + 1000) * (i + 1001) / 2);
	return NULL;
}

static void *opens(void *arg)
{
	uint64_t r = seeded(300);
	pthread_t t[2];

	while (!atomic_load(&stop)) {
		void *handle = dlopen(module, next(&r) % 2 ? RTLD_NOW : RTLD_LAZY), *fn;

		if (!handle)
			fprintf(stderr, "storm: %s\n", dlerror());
		CHECK(handle);
		fn = dlsym(handle, "storm_sum");
		CHECK(fn);
		for (int i = 0; i < 2; i++)
			CHECK(pthread_create(&t[i], NULL, runs_module, fn) == 0);
		for (int i = 0; i < 2; i++)
			CHECK(pthread_join(t[i], NULL) == 0);
		CHECK(dlclose(handle) == 0);
		atomic_fetch_add(&done[OPENED], 1);
		nap((long)(next(&r) % 5000));
	}
	return arg;
}

/* --- signals ------------------------------------------------------------------------------------- */

static void handler(int sig)
{
	int saved = errno;

	(void)sig;
	atomic_fetch_add(&handled, 1);
	errno = saved;
}

static void *signals(void *arg)
{
	uint64_t r = seeded(400);

	while (!atomic_load(&stop)) {
		uint64_t kind = next(&r) % 4;
		int sig = kind & 1 ? SIGURG : SIGALRM;

		if (kind & 2)
			CHECK(pthread_kill(ring[next(&r) % RING], sig) == 0);
		else
			CHECK(kill(getpid(), sig) == 0);
		atomic_fetch_add(&done[SENT], 1);
		nap((long)(next(&r) % 1000));
	}
	return arg;
}

/* --- what must not grow -------------------------------------------------------------------------- */

static int entries(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static long resident(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	long size, pages;

	CHECK(f && fscanf(f, "%ld %ld", &size, &pages) == 2);
	fclose(f);
	return pages * sysconf(_SC_PAGESIZE);
}

/* Detached threads and the like are on their way out: wait for them. */
static int settled(const char *path, int least)
{
	int n = 0;

	for (int i = 0; i < STUCK * 100 && (n = entries(path)) > least; i++)
		nap(10000);
	return n;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = handler};
	pthread_t busy[BUSY], births[BIRTHS], forker, opener, signaller;
	unsigned long last[ROLES] = {0};
	int seconds = 5, opt, quiet[ROLES] = {0}, threads, fds;
	long before = 0, after;

	while ((opt = getopt(argc, argv, "s:r:u")) != -1) {
		if (opt == 's')
			seconds = atoi(optarg);
		else if (opt == 'r')
			seed = strtoull(optarg, NULL, 0);
		else if (opt == 'u')
			use_sigurg = true;
		else
			return 2;
	}
	if (optind + 1 != argc || seconds < 1) {
		fprintf(stderr, "usage: storm [-s SECONDS] [-r SEED] [-u] MODULE\n");
		return 2;
	}
	module = argv[optind];

	sa.sa_flags = seed % 2 ? SA_RESTART : 0;
	CHECK(sigaction(SIGALRM, &sa, NULL) == 0);
	if (use_sigurg) /* else it is ignored */
		CHECK(sigaction(SIGURG, &sa, NULL) == 0);
	CHECK(pthread_key_create(&key, destroyed) == 0);
	/* Whatever starts once has started: what is there now is what is there in the end. */
	CHECK(pthread_create(&forker, NULL, returns, NULL) == 0 && pthread_join(forker, NULL) == 0);
	nap(100000);
	threads = entries("/proc/self/task");
	fds = entries("/proc/self/fd");

	ring_start();
	for (uintptr_t i = 0; i < BUSY; i++)
		CHECK(pthread_create(&busy[i], NULL, computes, (void *)(i + 1)) == 0);
	for (uintptr_t i = 0; i < BIRTHS; i++)
		CHECK(pthread_create(&births[i], NULL, gives_birth, (void *)i) == 0);
	CHECK(pthread_create(&forker, NULL, forks, NULL) == 0);
	CHECK(pthread_create(&opener, NULL, opens, NULL) == 0);
	CHECK(pthread_create(&signaller, NULL, signals, NULL) == 0);

	for (int s = 0; s < seconds; s++) {
		nap(1000000);
		for (int i = 0; i < ROLES; i++) {
			unsigned long n = atomic_load(&done[i]);

			quiet[i] = n == last[i] ? quiet[i] + 1 : 0;
			last[i] = n;
			if (quiet[i] == STUCK) {
				fprintf(stderr, "FAIL: no %s for %d s (seed %lu)\n", role_name[i],
					STUCK, (unsigned long)seed);
				abort();
			}
		}
		if (s == seconds / 4)
			before = resident();
	}
	atomic_store(&stop, true);
	for (int i = 0; i < BUSY; i++)
		pthread_join(busy[i], NULL);
	for (int i = 0; i < BIRTHS; i++)
		pthread_join(births[i], NULL);
	pthread_join(forker, NULL);
	pthread_join(opener, NULL);
	pthread_join(signaller, NULL);
	ring_end();

	for (int i = 0; i < ROLES; i++) {
		printf("%s %lu\n", role_name[i], atomic_load(&done[i]));
		CHECK(seconds < STUCK || atomic_load(&done[i]) > 0);
	}
	printf("handled %lu\n", atomic_load(&handled));
	CHECK(settled("/proc/self/task", threads) <= threads);
	CHECK(settled("/proc/self/fd", fds) <= fds);
	CHECK(atomic_load(&detached) == 0);
	CHECK(atomic_load(&keys_destroyed) == atomic_load(&keys_set));
	after = resident();
	printf("resident %ld KiB, %ld KiB after a quarter of the time\n", after / 1024,
	       before / 1024);
	CHECK(after - before < GROWTH);
	puts("OK");
	return 0;
}
