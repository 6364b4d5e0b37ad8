// pthread_create of a thread that returns at once, then pthread_join.
//
// usage: create_join [SECONDS]
#include "bench.h"

static void *nothing(void *arg)
{
	return arg;
}

static void create_join(void *arg, unsigned n)
{
	(void)arg;
	while (n--) {
		pthread_t t;
		int err = pthread_create(&t, NULL, nothing, NULL);

		if (err)
			die("pthread_create", err);
		pthread_join(t, NULL);
	}
}

int main(int argc, char **argv)
{
	double seconds = arg_seconds(argc, argv, 1, 1);

	time_batches("thread", create_join, NULL, 20, seconds, "us", 1000);
	return 0;
}
