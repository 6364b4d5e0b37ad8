// One thread writes a byte into a pipe and reads it back, while a second thread is alive and
// asleep. Nothing here ever blocks.
//
// usage: pipe_byte [SECONDS]
#include "bench.h"

#include <errno.h>
#include <unistd.h>

static void bytes(void *arg, unsigned n)
{
	int *fd = arg;
	char byte = 'x';

	while (n--)
		if (write(fd[1], &byte, 1) != 1 || read(fd[0], &byte, 1) != 1)
			die("pipe", errno);
}

int main(int argc, char **argv)
{
	double seconds = arg_seconds(argc, argv, 1, 1);
	int fd[2];

	if (pipe(fd))
		die("pipe", errno);
	start_sleeper();
	time_batches("byte", bytes, fd, 100, seconds, "ns", 1);
	return 0;
}
