// vdso.c: the file of a module; that of the vDSO, which has none.
//
// Problem. clock_gettime and its like are code that the kernel maps into every process from no file. A thread that reads the clock
// in a loop spends most of its time there, and without a table it is stopped by force only.
// Approach. All processes of a kernel have the same one, this one, too: its bytes are copied into a file in memory,
// which is then read as any other. What asked for it sees by the build-id whether its own is another one.
// The name is the kernel's, as /proc/PID/maps has it; a file that is really called so is ./[vdso].

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compiler.h"

bool module_is_vdso(const char *path)
{
	return strcmp(path, "[vdso]") == 0;
}

// Where this process's lies.
static bool find_vdso(const char **ret_at, size_t *ret_size)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	bool found = false;
	char *line = NULL;
	size_t cap = 0;

	while (!found && maps && getline(&line, &cap, maps) > 0) {
		line[strcspn(line, "\n")] = 0;
		if (!strrchr(line, ' ') || !module_is_vdso(strrchr(line, ' ') + 1) ||
		    sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		*ret_at = (const char *)start;
		*ret_size = end - start;
		found = true;
	}
	free(line);
	if (maps)
		fclose(maps);
	return found;
}

static int copy_vdso(void)
{
	const char *at;
	size_t size;
	int fd;

	if (!find_vdso(&at, &size)) {
		errno = ENOENT;
		return -1;
	}
	fd = memfd_create("vdso", MFD_CLOEXEC);
	while (fd >= 0 && size > 0) {
		ssize_t n = write(fd, at, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int err = errno;

			close(fd);
			errno = err;
			return -1;
		}
		at += n;
		size -= (size_t)n;
	}
	return fd;
}

int module_file(const char *path)
{
	if (module_is_vdso(path))
		return copy_vdso();
	return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); // a FIFO must not hang us
}
