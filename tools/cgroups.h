// cgroups.h: what the control groups leave of memory and threads (cgroups.c), for machine.c.

#pragma once

#include <stdbool.h>
#include <stdint.h>

struct limit {
	int64_t max, used; // max -1: there is none
};
// Of our group and those above it, the limit that leaves least. controller: "memory" or "pids". root: "" but in tests.
struct limit limit_of(const char *root, const char *controller);
