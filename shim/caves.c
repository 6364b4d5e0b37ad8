// caves.c: ways from an instruction that is rewritten to its stub.
//
// Problem. A short jump, which is all that two bytes have room for, goes 128 bytes far, and stubs are far away.
//
// Approach. It goes to a *cave*, filling that the module's table proves never to be executed, and there a long jump does the rest. If
// no cave in reach has five bytes, two lead to the next cave. A cave that has such a jump already, from when the module was here before or
// from a plan that was broken off, is used as it is. Only what is still filling in memory is written to.

#include <string.h>

#include "caves.h"

enum {
	NEAREST = 8,   // looked at for each hop
	CAVE_MAX = 64, // bytes of one that are used
};

void caves_begin(struct caves *c, const struct table *t, uintptr_t bias)
{
	c->t = t;
	c->bias = bias;
	c->ntaken = c->njumps = 0;
}

static uint8_t *taken(struct caves *c, uint32_t row)
{
	for (uint32_t i = 0; i < c->ntaken; i++)
		if (c->taken[i].row == row)
			return &c->taken[i].used;
	if (c->ntaken == sizeof c->taken / sizeof *c->taken)
		return NULL;
	c->taken[c->ntaken].row = row;
	c->taken[c->ntaken].used = 0;
	return &c->taken[c->ntaken++].used;
}

// How many of the size bytes there are still filling in the program's memory?
static size_t filling(uintptr_t at, size_t size)
{
	uint8_t bytes[CAVE_MAX];
	size_t i, n;

	if (memory_read(at, bytes, size) < 0)
		return 0;
	for (i = 0; i < size; i += n) {
		n = table_filler(bytes + i, size - i);
		if (n == 0)
			break;
	}
	return i;
}

// Room for size bytes in the cave that is row, in reach of a short jump that ends at from; 0: no. Never over the end of a page.
static uintptr_t room(struct caves *c, uint32_t row, uintptr_t from, uint32_t size)
{
	uintptr_t lo = c->bias + table_row_start(c->t, row), at;
	uint64_t len = table_row_start(c->t, row + 1) - table_row_start(c->t, row);
	const uint8_t *used = taken(c, row);

	if (!used)
		return 0;
	if (len > CAVE_MAX)
		len = CAVE_MAX;
	at = lo + *used;
	if ((intptr_t)(at - from) < -128)
		at = from - 128;
	if (at / 4096 != (at + size - 1) / 4096)
		at = (at + size - 1) & -(uintptr_t)4096;
	if (at + size > lo + len || (intptr_t)(at - from) > 127)
		return 0;
	return filling(lo, len) >= at + size - lo ? at : 0;
}

// The same for a long jump to target that is there already, from a plan that was broken off.
static uintptr_t holds(const struct caves *c, uint32_t row, uintptr_t from, uintptr_t target)
{
	uintptr_t lo = c->bias + table_row_start(c->t, row);
	uint64_t len = table_row_start(c->t, row + 1) - table_row_start(c->t, row);
	uint8_t bytes[CAVE_MAX];
	int32_t distance;

	len = len < CAVE_MAX ? len : CAVE_MAX;
	if (memory_read(lo, bytes, len) < 0)
		return 0;
	for (uint64_t i = 0; i + JMP_LONG <= len; i++) {
		memcpy(&distance, bytes + i + 1, sizeof distance);
		if (bytes[i] == 0xe9 &&
		    lo + i + JMP_LONG + (uintptr_t)(intptr_t)distance == target &&
		    (intptr_t)(lo + i - from) >= -128 && (intptr_t)(lo + i - from) <= 127)
			return lo + i;
	}
	return 0;
}

// Caves with such room, or with a jump to target, the next ones on both sides in turn.
static uint32_t caves_near(struct caves *c, uintptr_t from, uint32_t size, uintptr_t target,
			   uint32_t rows[NEAREST], uintptr_t at[NEAREST])
{
	const struct table_row *here = table_find(c->t, from - 1 - c->bias);
	uint32_t n = 0, up, down;
	bool more = here != NULL;

	if (!here)
		return 0;
	up = down = (uint32_t)(here - c->t->rows);
	while (more && n < NEAREST) {
		more = false;
		if (up + 1 < c->t->header->nrows &&
		    (intptr_t)(c->bias + table_row_start(c->t, up + 1) - from) <= 127) {
			more = true;
			if (c->t->rows[++up].flags & TABLE_CAVE &&
			    (at[n] = target ? holds(c, up, from, target)
					    : room(c, up, from, size)) != 0)
				rows[n++] = up;
		}
		if (n < NEAREST && down > 0 &&
		    (intptr_t)(c->bias + table_row_start(c->t, down) - from) > -128) {
			more = true;
			if (c->t->rows[--down].flags & TABLE_CAVE &&
			    (at[n] = target ? holds(c, down, from, target)
					    : room(c, down, from, size)) != 0)
				rows[n++] = down;
		}
	}
	return n;
}

void caves_jump(struct text_patch *v, uintptr_t at, uint32_t size, uintptr_t target)
{
	uint32_t distance = (uint32_t)(target - (at + size));

	v->at = at;
	v->size = (uint8_t)size;
	memory_read(at, v->was, size);
	v->is[0] = size == JMP_LONG ? 0xe9 : 0xeb;
	memcpy(v->is + 1, &distance, size - 1);
}

// A way by which a short jump that ends at from gets to target, over so many caves at most. 0: there is none.
static uintptr_t way(struct caves *c, uintptr_t from, uintptr_t target, int hops)
{
	uintptr_t at[NEAREST];
	uint32_t rows[NEAREST], n;

	if (c->njumps + HOPS > sizeof c->jumps / sizeof *c->jumps)
		return 0;
	if (caves_near(c, from, JMP_LONG, target, rows, at))
		return at[0];
	n = caves_near(c, from, JMP_LONG, 0, rows, at);
	if (n) {
		*taken(c, rows[0]) =
			(uint8_t)(at[0] + JMP_LONG - c->bias - table_row_start(c->t, rows[0]));
		caves_jump(&c->jumps[c->njumps++], at[0], JMP_LONG, target);
		return at[0];
	}
	n = hops > 1 ? caves_near(c, from, JMP_SHORT, 0, rows, at) : 0;
	for (uint32_t i = 0; i < n; i++) {
		uint8_t *used = taken(c, rows[i]), before = *used;
		uintptr_t next;

		*used = (uint8_t)(at[i] + JMP_SHORT - c->bias - table_row_start(c->t, rows[i]));
		next = way(c, at[i] + JMP_SHORT, target, hops - 1);
		if (next) {
			caves_jump(&c->jumps[c->njumps++], at[i], JMP_SHORT, next);
			return at[i];
		}
		*used = before;
	}
	return 0;
}

uintptr_t caves_way(struct caves *c, uintptr_t from, uintptr_t target)
{
	return way(c, from, target, HOPS);
}
