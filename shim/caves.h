// caves.h: ways from an instruction that is rewritten to its stub, for sites.c. Sysmon's.

#pragma once

#include "shim.h"
#include "site.h"

enum {
	JMP_SHORT = 2,
	JMP_LONG = 5,
	HOPS = 3,
	CAVES = HOPS * SITE_STUBS
}; // HOPS: caves on the way at most

// Of one module.
struct caves {
	const struct table *t;
	uintptr_t bias;
	struct {
		uint32_t row;
		uint8_t used; // bytes
	} taken[CAVES];
	uint32_t ntaken;
	struct text_patch jumps[CAVES]; // to be written to them
	uint32_t njumps;
};

void caves_begin(struct caves *c, const struct table *t, uintptr_t bias);

// Where a short jump that ends at from has to go to get to target; 0: there is no way. What has to be written for it is in c->jumps.
uintptr_t caves_way(struct caves *c, uintptr_t from, uintptr_t target);

// v: a jump of size bytes, JMP_SHORT or JMP_LONG, at `at` to target, in the place of what is there now.
void caves_jump(struct text_patch *v, uintptr_t at, uint32_t size, uintptr_t target);
