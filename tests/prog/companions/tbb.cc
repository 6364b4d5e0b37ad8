// tbb.cc: oneTBB's own pool of threads, with nested parallel loops and a concurrent container.
#include <cstdio>
#include <tbb/blocked_range.h>
#include <tbb/concurrent_vector.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/parallel_reduce.h>

int main()
{
	tbb::global_control threads(tbb::global_control::max_allowed_parallelism, 8);
	tbb::concurrent_vector<long> all;

	for (int round = 0; round < 20; round++) {
		long sum = tbb::parallel_reduce(
			tbb::blocked_range<long>(0, 20000, 100), 0L,
			[&](const tbb::blocked_range<long> &r, long s) {
				for (long i = r.begin(); i < r.end(); i++)
					s += i;
				return s;
			},
			[](long a, long b) { return a + b; });

		if (sum != 19999L * 10000)
			return 1;
		tbb::parallel_for(0, 8, [&](int) {
			tbb::parallel_for(0, 8, [&](int k) { all.push_back(k); });
		});
	}
	if (all.size() != 20 * 64)
		return 1;
	std::puts("OK");
}
