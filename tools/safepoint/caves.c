// caves.c: filling between instructions that is never executed.
//
// Problem. Two bytes are enough for a jump over 128 bytes, not for one to this library. So a rewritten instruction
// (shim/sites.c) needs five more near by that mean nothing to anybody: what compilers put in to align functions and
// loops. No-ops are executed, though, wherever control falls into them: before a loop it usually does.
//
// Approach. Filling counts as a cave if control does not come from above, because the instruction before is a jump or a
// return, and does not come from elsewhere:
//  - between two functions: nothing but filling from the end of one to the beginning of the other, no symbol in it,
//    and no jump of any function into it;
//  - inside a function: no direct jump into it or to its beginning, and no indirect jump in the function, whose table may
//    lead anywhere;
//  - no instruction mentions an address in it.
// int3 counts as no-ops do, for it is no code either way. Zeros do not: hand-written assembly keeps constants in text.
//
// Rejected: filling after calls of functions that do not return (nothing says that they do not); after the last
// function, and in the gaps of hand-written assembly without CFI (who knows what is there).

#include <stdlib.h>

#include "insn.h"

enum { MIN_CAVE = 2 }; // bytes: a jump to another cave

static size_t filler(const uint8_t *p, size_t n)
{
	return n > 0 && p[0] == 0 ? 0 : table_filler(p, n);
}

bool only_filler(const uint8_t *bytes, size_t n)
{
	size_t i = 0;

	while (i < n) {
		size_t len = filler(bytes + i, n - i);

		if (len == 0)
			return false;
		i += len;
	}
	return n > 0;
}

// jmp or call through a register or memory. A return is none; a call comes back behind itself.
static bool indirect_jump(const struct insn *in)
{
	return insn_one_byte(in) && in->d.opcode == 0xff &&
	       (in->d.raw.modrm.reg == 4 || in->d.raw.modrm.reg == 5);
}

struct cave {
	uint64_t lo, hi;
};
enum { MAX_CAVES = 512 }; // in one function

// A jump to target: what begins there, or has it inside, is no cave from there on.
static void jumped_to(struct cave *v, size_t n, uint64_t target)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (v[mid].hi <= target)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < n && target >= v[lo].lo)
		v[lo].hi = target;
}

int caves_inside(const struct decoders *dec, const struct unit *u, struct marks *marks)
{
	struct cave v[MAX_CAVES];
	enum flow flow = FLOW_NEXT;
	struct insn in;
	uint64_t target;
	size_t n = 0;

	for (uint64_t pc = u->lo; pc < u->hi; pc = in.next) {
		bool after = flow == FLOW_STOP || flow == FLOW_JUMP;
		bool more = n > 0 && v[n - 1].hi == pc;

		if (!insn_decode(dec, u, pc, &in) || indirect_jump(&in))
			return 0;
		flow = insn_flow(&in, &target);
		if (!(after || more) || filler(in.bytes, in.next - pc) != in.next - pc)
			continue;
		if (more) {
			v[n - 1].hi = in.next;
		} else if (n < MAX_CAVES) {
			v[n++] = (struct cave){pc, in.next};
		}
	}
	for (uint64_t pc = u->lo; n > 0 && pc < u->hi; pc = in.next) {
		if (!insn_decode(dec, u, pc, &in))
			return 0;
		flow = insn_flow(&in, &target);
		if (target >= u->lo && target < u->hi)
			jumped_to(v, n, target);
	}
	for (size_t i = 0; i < n; i++) {
		int r = 0;

		if (v[i].hi >= v[i].lo + MIN_CAVE)
			r = marks_add(marks, MARK_CAVE, v[i].lo, v[i].hi, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

static int by_address(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

void caves_entered(struct marks *marks, const struct code_facts *facts)
{
	size_t n = facts->njumps + facts->nrefs;
	uint64_t *jumps = malloc((n + 1) * sizeof(*jumps));

	for (size_t i = 0; jumps && i < n; i++)
		jumps[i] = i < facts->njumps ? facts->jumps[i] : facts->refs[i - facts->njumps];
	if (jumps)
		qsort(jumps, n, sizeof(*jumps), by_address);
	for (size_t i = 0; i < marks->n; i++) {
		struct mark *m = &marks->v[i];
		size_t lo = 0, hi = n;
		uint64_t first; // that must not be led to

		if (m->kind != MARK_CAVE && m->kind != MARK_ENQUEUE)
			continue;
		first = m->lo + (m->kind == MARK_ENQUEUE);
		while (jumps && lo < hi) {
			size_t mid = lo + (hi - lo) / 2;

			if (jumps[mid] < first)
				lo = mid + 1;
			else
				hi = mid;
		}
		if (!jumps || (lo < n && jumps[lo] < m->hi))
			m->hi = m->lo; // empty: no mark
	}
	free(jumps);
}
