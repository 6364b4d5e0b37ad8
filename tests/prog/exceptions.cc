// exceptions.cc: C++ exceptions through functions that are being preempted.
//
// Threads throw from the bottom of some busy frames, with objects to destroy on the way, while all of them are stopped
// at any instruction of those frames, and others unwind at the same time. Every exception must reach its handler with its
// value, every object must be destroyed once. A second set of threads is cancelled in such frames: the forced unwind
// must run the same destructors. Alone (without C++ in progs), with the same usage and verdict as a case of progs.

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

using clock_type = std::chrono::steady_clock;

void check(bool good, const char *what)
{
	if (good)
		return;
	std::fprintf(stderr, "FAIL %s\n", what);
	_exit(1);
}

struct counted {
	std::atomic<long> &live;
	explicit counted(std::atomic<long> &l) : live(l)
	{
		live++;
	}
	counted(const counted &) = delete;
	counted &operator=(const counted &) = delete;
	~counted()
	{
		live--;
	}
};

__attribute__((noinline)) void busy(long n)
{
	for (volatile long i = 0; i < n; i++)
		;
}

__attribute__((noinline)) long thrower(int depth, long value, std::atomic<long> &live)
{
	counted here(live);

	busy(300);
	if (depth == 0)
		throw std::runtime_error(std::to_string(value));
	long r = thrower(depth - 1, value, live) + 1;
	busy(300);
	return r;
}

__attribute__((noinline)) long catcher(int depth, long value, std::atomic<long> &live)
{
	long caught = 0;

	for (int d = 0; d <= depth; d++) {
		try {
			thrower(d, value + d, live);
			check(false, "an exception was lost");
		} catch (const std::runtime_error &e) {
			check(std::stol(e.what()) == value + d, "an exception has another value");
			caught++;
		}
	}
	return caught;
}

void throw_for(clock_type::time_point end)
{
	std::atomic<long> live{0};

	for (long n = 0; clock_type::now() < end; n += 100) {
		check(catcher(12, n, live) == 13, "exceptions caught");
		check(live == 0, "objects destroyed");
	}
}

void throwing()
{
	auto end = clock_type::now() + std::chrono::milliseconds(400);
	std::vector<std::thread> threads;

	for (int i = 0; i < 6; i++)
		threads.emplace_back(throw_for, end);
	throw_for(end);
	for (auto &t : threads)
		t.join();
}

std::atomic<long> cancelled_live{0};
std::atomic<int> spinning{0};
std::atomic<bool> never{false};

// No destructor here: the compiler expects exceptions from calls only, and this one may come from any instruction.
__attribute__((noinline)) long spin()
{
	long n = 0;

	spinning++;
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
	while (!never.load(std::memory_order_relaxed))
		n++;
	return n;
}

__attribute__((noinline)) long spin_below(int depth)
{
	counted here(cancelled_live);

	return (depth ? spin_below(depth - 1) : spin()) + 1;
}

void *to_cancel(void *)
{
	spin_below(5);
	return nullptr;
}

void cancelling()
{
	for (int round = 0; round < 4; round++) {
		pthread_t t[5];

		spinning = 0;
		for (auto &p : t)
			check(pthread_create(&p, nullptr, to_cancel, nullptr) == 0,
			      "pthread_create");
		while (spinning < 5)
			std::this_thread::sleep_for(std::chrono::microseconds(200));
		for (auto &p : t)
			check(pthread_cancel(p) == 0, "pthread_cancel");
		for (auto &p : t) {
			void *ret;

			check(pthread_join(p, &ret) == 0 && ret == PTHREAD_CANCELED, "cancelled");
		}
		check(cancelled_live == 0, "objects destroyed by a cancellation");
	}
}

} // namespace

int main(int argc, char **argv)
{
	const char *limit = std::getenv("PROGS_TIMEOUT");

	alarm(limit ? (unsigned)std::atoi(limit) : 30); // SIGALRM ends the program
	if (argc == 2 && !std::strcmp(argv[1], "cxx_throw"))
		throwing();
	else if (argc == 2 && !std::strcmp(argv[1], "cxx_cancel"))
		cancelling();
	else
		return 2;
	std::puts("OK");
	return 0;
}
