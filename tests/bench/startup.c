// Start of /bin/true until its end, over and over. The library, if one is named, is put into the
// children's environment only, so that the measuring program is the same in every case.
//
// usage: startup [SECONDS] [LIBRARY]
#include "bench.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void spawn_true(void *arg, unsigned n)
{
	char *argv[] = {(char *)"/bin/true", NULL};

	(void)arg;
	while (n--) {
		int status;
		pid_t pid;
		int err = posix_spawn(&pid, argv[0], NULL, NULL, argv, environ);

		if (err)
			die("posix_spawn", err);
		if (waitpid(pid, &status, 0) != pid || status)
			die("/bin/true failed", ECHILD);
	}
}

int main(int argc, char **argv)
{
	double seconds = arg_seconds(argc, argv, 1, 1);

	unsetenv("LD_PRELOAD");
	if (argc > 2)
		setenv("LD_PRELOAD", argv[2], 1);
	time_batches("start", spawn_true, NULL, 1, seconds, "ms", 1e6);
	return 0;
}
