// thread_local.cc: C++ thread_local objects of threads that are preempted, also in their constructors and destructors.
//
// Each thread makes its objects on first use, and they are destroyed once, in reverse order, when it ends: by return or by
// cancellation. Destructors lock, wait and use other thread_local objects, as loggers and allocators do, so a thread is still
// scheduled then. Alone, with the same usage and verdict as a case of progs.

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <pthread.h>
#include <string>
#include <unistd.h>
#include <vector>

namespace
{

constexpr int threads = 32;

void check(bool good, const char *what)
{
	if (good)
		return;
	std::fprintf(stderr, "FAIL %s\n", what);
	_exit(1);
}

void busy(long n)
{
	for (volatile long i = 0; i < n; i++)
		;
}

std::mutex mutex;
std::condition_variable cond;
int leaving;			   // threads in the last destructor; under mutex
std::atomic<long> made, destroyed; // objects

struct object {
	std::string trail; // which destructors ran, in this thread

	object()
	{
		busy(2000);
		made++;
	}
	~object()
	{
		busy(2000);
		check(trail == "ba", "destructors ran in another order");
		// All wait here for all: each must be scheduled in its destructor.
		std::unique_lock<std::mutex> guard(mutex);
		leaving++;
		cond.notify_all();
		cond.wait(guard, [] { return leaving % threads == 0 || leaving > threads; });
		destroyed++;
	}
};

thread_local object first;

struct later {
	char name;

	explicit later(char n) : name(n)
	{
		first.trail.reserve(8); // makes it before
		made++;
	}
	~later()
	{
		busy(2000);
		std::lock_guard<std::mutex> guard(mutex);
		first.trail += name;
		destroyed++;
	}
};

thread_local later second('a');
thread_local later third('b');

void use_objects()
{
	check(second.name == 'a' && third.name == 'b', "an object is not made");
}

void *returns(void *arg)
{
	use_objects();
	busy(20000);
	return arg;
}

void *is_cancelled(void *arg)
{
	use_objects();
	if (arg) { // some in a wait, some while they run
		static std::mutex m;
		static std::condition_variable never;
		std::unique_lock<std::mutex> guard(m);
		for (;;)
			never.wait(guard);
	}
	for (;;) {
		busy(1000);
		pthread_testcancel();
	}
}

void round(void *(*fn)(void *), bool cancel)
{
	std::vector<pthread_t> t(threads);

	leaving = 0;
	made = destroyed = 0;
	for (long i = 0; i < threads; i++)
		check(!pthread_create(&t[i], nullptr, fn, reinterpret_cast<void *>(i & 1)),
		      "pthread_create");
	if (cancel) {
		while (made < 3 * threads)
			usleep(1000);
		for (pthread_t one : t)
			check(!pthread_cancel(one), "pthread_cancel");
	}
	for (pthread_t one : t) {
		void *ret;

		check(!pthread_join(one, &ret), "pthread_join");
		check((ret == PTHREAD_CANCELED) == cancel, "a thread ended in another way");
	}
	check(made == 3 * threads && destroyed == 3 * threads,
	      "objects are left or were destroyed twice");
}

} // namespace

int main(int argc, char **argv)
{
	const char *limit = std::getenv("PROGS_TIMEOUT");
	bool cancel = argc == 2 && !std::strcmp(argv[1], "cxx_thread_local_cancel");

	alarm(limit ? static_cast<unsigned>(std::atoi(limit)) : 30); // SIGALRM ends the program
	if (!cancel && (argc != 2 || std::strcmp(argv[1], "cxx_thread_local") != 0))
		return 2;
	for (int i = 0; i < 5; i++)
		round(cancel ? is_cancelled : returns, cancel);
	std::puts("OK");
	return 0;
}
