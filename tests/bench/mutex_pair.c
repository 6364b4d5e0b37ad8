// One uncontended pthread_mutex_lock and unlock, while a second thread is alive and asleep.
//
// usage: mutex_pair [SECONDS]
#include "bench.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void pairs(void *arg, unsigned n)
{
	(void)arg;
	while (n--) {
		pthread_mutex_lock(&lock);
		pthread_mutex_unlock(&lock);
	}
}

int main(int argc, char **argv)
{
	double seconds = arg_seconds(argc, argv, 1, 1);

	start_sleeper();
	time_batches("pair", pairs, NULL, 1000, seconds, "ns", 1);
	return 0;
}
