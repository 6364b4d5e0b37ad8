// The rival that needs no library: asks the kernel for a slice of 100 us for itself and runs the
// program, whose threads inherit it. Works without privilege where the scheduler is EEVDF (Linux
// 6.12 and later); an older kernel takes the call and changes nothing.
//
// usage: shortslice PROGRAM [ARGS...]
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// The kernel's struct sched_attr, version 0; glibc 2.36 has no declaration.
struct slice_attr {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};

enum { SLICE_NS = 100000 }; // the shortest the kernel accepts

int main(int argc, char **argv)
{
	struct slice_attr attr = {
		.size = sizeof(attr),
		.policy = 0, // SCHED_OTHER
		.nice = getpriority(PRIO_PROCESS, 0),
		.runtime = SLICE_NS,
	};

	if (argc < 2) {
		fprintf(stderr, "usage: shortslice PROGRAM [ARGS...]\n");
		return 125;
	}
	if (syscall(SYS_sched_setattr, 0, &attr, 0)) {
		fprintf(stderr, "shortslice: sched_setattr: %s\n", strerror(errno));
		return 125;
	}
	execvp(argv[1], argv + 1);
	fprintf(stderr, "shortslice: %s: %s\n", argv[1], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}
