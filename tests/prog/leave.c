/*
 * leave.c - what runs last: handlers of exit and quick_exit while threads are at work, destructors of threads, libraries
 * that are closed under their threads.
 */
#include "prog.h"

#include <dlfcn.h>
#include <libgen.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int trail;

static void trail_is(int want, int next)
{
	CHECK_EQ(pthread_mutex_lock(&lock), 0);
	CHECK_EQ(trail, want);
	sleep_ns(100000);
	trail = next;
	CHECK_EQ(pthread_mutex_unlock(&lock), 0);
}

static void third(void)
{
	trail_is(2, 3);
	_exit(31);
}

static void second(void)
{
	trail_is(1, 2);
}

static void first(void)
{
	trail_is(0, 1);
	lives(); /* threads can still be had */
}

static void *uses_lock(void *arg)
{
	for (;;) {
		CHECK_EQ(pthread_mutex_lock(&lock), 0);
		spin(1000);
		CHECK_EQ(pthread_mutex_unlock(&lock), 0);
		spin(1000);
	}
	return arg;
}

static void *leaves_quickly(void *arg)
{
	(void)arg;
	quick_exit(30);
}

static void *leaves(void *arg)
{
	(void)arg;
	exit(30);
}

static void ends_by(void *arg)
{
	int (*at)(void (*)(void)) = arg ? atexit : at_quick_exit;

	CHECK_EQ(at(third), 0);
	CHECK_EQ(at(second), 0);
	CHECK_EQ(at(first), 0);
	for (int i = 0; i < 8; i++)
		spawn(uses_lock, NULL);
	spawn(arg ? leaves : leaves_quickly, NULL);
	for (;;)
		pause();
}

/* Handlers run last in first out, in the thread that ends the process, and may use what the others use. */
CASE_STRESS(exit_handlers)
{
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(in_child(ends_by, (void *)1), 31 << 8);
		CHECK_EQ(in_child(ends_by, NULL), 31 << 8);
	}
}

/* exit while threads are being made, joined, and forked from. */
static void *some_work(void *arg)
{
	spin(10000);
	return arg;
}

static void *makes(void *arg)
{
	for (;;)
		join(spawn(some_work, NULL));
	return arg;
}

static void *forks(void *arg)
{
	for (;;) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid > 0)
			wait_child(pid);
	}
	return arg;
}

static void ends_in_turmoil(void *arg)
{
	for (int i = 0; i < 4; i++)
		spawn(makes, NULL);
	spawn(forks, NULL);
	sleep_ns((intptr_t)arg * MS / 2);
	exit(32);
}

CASE_STRESS(exit_in_turmoil)
{
	for (intptr_t i = 0; i < 8; i++)
		CHECK_EQ(in_child(ends_in_turmoil, (void *)i), 32 << 8);
}

/* --- libraries -------------------------------------------------------------------------------------------- */

static void *module_open(void)
{
	char path[PATH_MAX + 32], dir[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
	void *h;

	CHECK(n > 0);
	dir[n] = 0;
	snprintf(path, sizeof(path), "%s/libmodule.so", dirname(dir));
	h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!h)
		fail(__FILE__, __LINE__, "%s", dlerror());
	return h;
}

static void *module_symbol(void *h, const char *name)
{
	void *p = dlsym(h, name);

	CHECK(p != NULL);
	return p;
}

/* dlclose runs a destructor that waits for the library's threads, whose code is gone afterwards. */
CASE_STRESS(dlclose_joins)
{
	hogs_start(2);
	for (int i = 0; i < 10; i++) {
		void *h = module_open();
		void (*start)(atomic_long *);
		atomic_long count = 0;

		*(void **)&start = module_symbol(h, "module_start");
		start(&count);
		while (atomic_load(&count) < 100)
			sleep_ns(100000);
		CHECK_EQ(dlclose(h), 0);
	}
	hogs_stop();
}

/* A thread with a thread_local object of the library keeps it, though it was closed meanwhile. */
static atomic_long held;
static sem_t closed, running;

static void *holds(void *arg)
{
	void (*hold)(atomic_long *);
	long (*busy)(long);

	*(void **)&hold = module_symbol(arg, "module_hold");
	*(void **)&busy = module_symbol(arg, "module_busy");
	hold(&held);
	CHECK_EQ(sem_post(&running), 0);
	while (sem_trywait(&closed))
		CHECK_EQ(busy(1000), 1000);
	CHECK_EQ(busy(100000), 100000);
	return NULL;
}

CASE_STRESS(dlclose_held)
{
	pthread_t t[4];

	CHECK_EQ(sem_init(&closed, 0, 0), 0);
	CHECK_EQ(sem_init(&running, 0, 0), 0);
	for (int i = 0; i < 5; i++) {
		void *h = module_open(), *busy = module_symbol(h, "module_busy");
		Dl_info info;

		atomic_store(&held, 0);
		for (int k = 0; k < 4; k++)
			t[k] = spawn(holds, h);
		for (int k = 0; k < 4; k++)
			CHECK_EQ(sem_wait(&running), 0);
		CHECK_EQ(dlclose(h), 0);
		CHECK(dladdr(busy, &info) != 0);
		for (int k = 0; k < 4; k++)
			CHECK_EQ(sem_post(&closed), 0);
		for (int k = 0; k < 4; k++)
			join(t[k]);
		CHECK_EQ(atomic_load(&held), 4);
	}
}
