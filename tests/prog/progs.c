/*
 * progs.c - the list of cases, the watchdog and the small helpers.
 *
 * The watchdog is a kernel timer that sends SIGKILL: no handler, mask or parked thread can
 * swallow it, and it leaves SIGALRM and ITIMER_REAL to the cases. PROGS_TIMEOUT=seconds changes
 * it, 0 switches it off (for a debugger). With PROGS_STOP a case that fails stops there, for a debugger, too.
 */
#include "prog.h"

#include <stdarg.h>
#include <sys/prctl.h>

#define MAX_CASES 512
#define MAX_HOGS 256

struct prog_case {
	const char *name;
	void (*fn)(void);
	enum case_kind kind;
};

static struct prog_case cases[MAX_CASES];
static int ncases;
static const char *running = "?";
char **prog_argv;

void register_case(const char *name, void (*fn)(void), enum case_kind kind)
{
	if (ncases == MAX_CASES)
		abort();
	cases[ncases++] = (struct prog_case){name, fn, kind};
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct prog_case *)a)->name, ((const struct prog_case *)b)->name);
}

void fail(const char *file, int line, const char *fmt, ...)
{
	char buf[512];
	int n = snprintf(buf, sizeof(buf), "FAIL %s: %s:%d: ", running, file, line);
	va_list ap;

	va_start(ap, fmt);
	n += vsnprintf(buf + n, sizeof(buf) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(buf) - 2)
		n = (int)sizeof(buf) - 2;
	buf[n++] = '\n';
	if (write(2, buf, (size_t)n) < 0)
		_exit(2);
	if (getenv("PROGS_STOP"))
		raise(SIGSTOP);
	_exit(1);
}

void skip(const char *why)
{
	fprintf(stderr, "SKIP %s: %s\n", running, why);
	_exit(EXIT_SKIP);
}

static void watchdog_timer(void)
{
	const char *s = getenv("PROGS_TIMEOUT");
	int seconds = s ? atoi(s) : 30;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	struct itimerspec its = {.it_value.tv_sec = seconds};
	timer_t timer;

	if (!seconds)
		return;
	CHECK_EQ(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
	CHECK_EQ(timer_settime(timer, 0, &its, NULL), 0);
}

void watchdog(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	watchdog_timer();
}

long long now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * SEC + ts.tv_nsec;
}

struct timespec after(clockid_t clock, long long ns)
{
	long long t = now(clock) + ns;

	return (struct timespec){.tv_sec = t / SEC, .tv_nsec = t % SEC};
}

void sleep_ns(long long ns)
{
	struct timespec ts = {.tv_sec = ns / SEC, .tv_nsec = ns % SEC};
	long long t0 = now(CLOCK_MONOTONIC);

	CHECK_EQ(nanosleep(&ts, NULL), 0);
	CHECK(now(CLOCK_MONOTONIC) - t0 >= ns);
}

void spin(long loops)
{
	for (volatile long i = 0; i < loops; i++)
		;
}

void burn(long long ns)
{
	long long end = now(CLOCK_THREAD_CPUTIME_ID) + ns;

	while (now(CLOCK_THREAD_CPUTIME_ID) < end)
		spin(1000);
}

bool wait_until(atomic_int *word, int value, long long ns)
{
	long long end = now(CLOCK_MONOTONIC) + ns;
	struct timespec ts = {.tv_nsec = 200000};

	while (atomic_load(word) != value) {
		if (now(CLOCK_MONOTONIC) > end)
			return false;
		nanosleep(&ts, NULL);
	}
	return true;
}

pthread_t spawn(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	CHECK_EQ(pthread_create(&t, NULL, fn, arg), 0);
	return t;
}

pthread_t spawn_small(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t t;

	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setstacksize(&attr, 65536), 0);
	CHECK_EQ(pthread_create(&t, &attr, fn, arg), 0);
	pthread_attr_destroy(&attr);
	return t;
}

void *join(pthread_t t)
{
	void *ret;

	CHECK_EQ(pthread_join(t, &ret), 0);
	return ret;
}

void *locks_own(void *arg)
{
	static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;

	for (int i = 0; i < 50; i++) {
		CHECK_EQ(pthread_mutex_lock(&m), 0);
		free(malloc(1000));
		CHECK_EQ(pthread_mutex_unlock(&m), 0);
	}
	return arg;
}

int wait_child(pid_t pid)
{
	int status;
	pid_t r;

	do
		r = waitpid(pid, &status, 0);
	while (r < 0 && errno == EINTR);
	CHECK_EQ(r, pid);
	return status;
}

void exec_self(const char *name, const char *arg)
{
	char exe[] = "/proc/self/exe";
	char *argv[] = {prog_argv[0], (char *)(uintptr_t)name, (char *)(uintptr_t)arg, NULL};

	execv(exe, argv);
	fail(__FILE__, __LINE__, "execv: errno %d", errno);
}

static struct {
	_Alignas(64) atomic_long work;
} hog[MAX_HOGS];
static pthread_t hog_threads[MAX_HOGS];
static atomic_int hogs_end;
static int nhogs;

static void *hog_main(void *arg)
{
	atomic_long *work = arg;
	long n = 0;

	while (!atomic_load_explicit(&hogs_end, memory_order_relaxed))
		atomic_store_explicit(work, ++n, memory_order_relaxed);
	return NULL;
}

void hogs_start(int n)
{
	CHECK(nhogs == 0 && n <= MAX_HOGS);
	atomic_store(&hogs_end, 0);
	for (int i = 0; i < n; i++) {
		atomic_store(&hog[i].work, 0);
		hog_threads[i] = spawn(hog_main, &hog[i].work);
	}
	nhogs = n;
}

void hogs_stop(void)
{
	atomic_store(&hogs_end, 1);
	for (int i = 0; i < nhogs; i++)
		join(hog_threads[i]);
	nhogs = 0;
}

long hogs_work(int i)
{
	return atomic_load(&hog[i].work);
}

void lives(void)
{
	pthread_t t[4];

	sched_yield();
	sleep_ns(100000);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(locks_own, NULL);
	sched_yield();
	sleep_ns(100000);
	for (int i = 0; i < 4; i++)
		join(t[i]);
}

int in_child(void (*fn)(void *), void *arg)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		watchdog();
		nhogs = 0; /* they are the parent's */
		fn(arg);
		_exit(0);
	}
	return wait_child(pid);
}

int main(int argc, char **argv)
{
	prog_argv = argv;
	qsort(cases, (size_t)ncases, sizeof(cases[0]), by_name);
	if (argc >= 2 && !strcmp(argv[1], "-l")) {
		for (int i = 0; i < ncases; i++)
			if (cases[i].kind == CASE_CONC ||
			    (cases[i].kind == CASE_PLAIN && argc == 2))
				puts(cases[i].name);
		return 0;
	}
	for (int i = 0; argc >= 2 && i < ncases; i++) {
		if (strcmp(cases[i].name, argv[1]))
			continue;
		running = cases[i].name;
		if (cases[i].kind == CASE_HELPER)
			watchdog_timer(); /* who started it may end first; if not, it has set the rest */
		else
			watchdog();
		cases[i].fn();
		puts("OK");
		return fflush(stdout) ? 1 : 0;
	}
	fprintf(stderr,
		"usage: progs NAME | -l (list all) | -l stress (list those for stress.sh)\n");
	return 2;
}
