// fibres.cc: Boost.Context fibres that switch stacks inside threads, and move between threads. Their stacks are not the
// threads' own, so they are stopped in no way but forced parks.
#include <atomic>
#include <boost/context/fiber.hpp>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace ctx = boost::context;

static std::mutex mutex;
static std::vector<ctx::fiber> ready;
static std::atomic<int> done{0};
static long work[32];

static ctx::fiber body(int i, ctx::fiber &&caller)
{
	for (int turn = 0; turn < 20; turn++) {
		for (volatile int k = 0; k < 20000; k++)
			;
		{
			std::lock_guard<std::mutex> guard(mutex);
			work[i]++;
		}
		caller = std::move(caller).resume();
	}
	done++;
	return std::move(caller);
}

static void worker()
{
	while (done < 32) {
		ctx::fiber f;
		{
			std::lock_guard<std::mutex> guard(mutex);
			if (!ready.empty()) {
				f = std::move(ready.front());
				ready.erase(ready.begin());
			}
		}
		if (!f) {
			std::this_thread::yield();
			continue;
		}
		f = std::move(f).resume();
		if (f) {
			std::lock_guard<std::mutex> guard(mutex);
			ready.push_back(std::move(f));
		}
	}
}

int main()
{
	std::vector<std::thread> threads;

	for (int i = 0; i < 32; i++)
		ready.emplace_back([i](ctx::fiber &&c) { return body(i, std::move(c)); });
	for (int i = 0; i < 4; i++)
		threads.emplace_back(worker);
	for (auto &t : threads)
		t.join();
	for (long n : work)
		if (n != 20)
			return 1;
	std::puts("OK");
}
