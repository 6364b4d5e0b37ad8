// relocate.c: a copy of one instruction that does at another place what it did.
//
// Problem. Where threads get in line the program's instruction becomes a jump (sites.c), and is still to be executed: with the program's
// registers, flags and stack, so by itself, somewhere else.
//
// Approach. Only XCHG and XADD with memory are known, and only in the forms that compilers write; of these all prefixes, the address and
// the length are understood, and whatever does not fit to the byte is refused. If its address is relative to itself, the distance
// is corrected. Behind it comes a jump to what came behind it.

#include <string.h>

#include "shim.h"

// Where in XCHG or XADD with memory, exactly n bytes, the distance is from itself to what it changes; 0: it has none. -1: it is something else.
static int relative_at(const uint8_t *b, uint32_t n)
{
	uint32_t i = 0, at, mod, rm;

	while (i < n && (b[i] == 0xf0 || b[i] == 0x66 || b[i] == 0x64 || b[i] == 0x65))
		i++;
	if (i < n && (b[i] & 0xf0) == 0x40)
		i++;
	if (i + 1 < n && b[i] == 0x0f && (b[i + 1] & 0xfe) == 0xc0)
		i += 2;
	else if (i < n && (b[i] & 0xfe) == 0x86)
		i++;
	else
		return -1;
	if (i + 1 >= n)
		return i + 1 == n && b[i] >> 6 == 0 && (b[i] & 7) != 4 && (b[i] & 7) != 5 ? 0 : -1;
	mod = b[i] >> 6;
	rm = b[i] & 7;
	at = ++i;
	if (mod == 3)
		return -1;
	if (rm == 4) { // SIB
		at = 0;
		i += mod == 0 && (b[i] & 7) == 5 ? 5 : 1;
	} else if (mod == 0 && rm == 5) {
		i += 4;
	} else {
		at = 0;
	}
	i += mod == 1 ? 1 : mod == 2 ? 4 : 0;
	return i == n ? (int)at : -1;
}

bool relocate(const uint8_t *was, uint32_t size, uintptr_t from, uintptr_t to, uint8_t *ret)
{
	int relative = size <= RELOCATED_MOST ? relative_at(was, size) : -1;
	int32_t distance;
	intptr_t d;

	if (relative < 0)
		return false;
	memcpy(ret, was, size);
	if (relative > 0) {
		memcpy(&distance, was + relative, sizeof distance);
		d = distance + (intptr_t)(from - to);
		distance = (int32_t)d;
		if (distance != d)
			return false;
		memcpy(ret + relative, &distance, sizeof distance);
	}
	distance = (int32_t)(from - (to + RELOCATED_MORE)); // both begin size further on
	ret[size] = 0xe9;
	memcpy(ret + size + 1, &distance, sizeof distance);
	return true;
}
