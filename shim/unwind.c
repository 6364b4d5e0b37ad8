// unwind.c: one step up the stack, by the tables.
//
// Problem. The preemption handler must look at the callers of the place it interrupted, in a program whose stack
// may be damaged, switched or generated code's, and must not fault, loop or lock.
//
// Approach. A row of the table gives the canonical frame address (CFA): the caller's stack pointer after its call
// instruction has returned. The return address lies just below it, the caller's rbp at a fixed distance. A step is
// one lookup and at most three reads, each of an aligned word between the stack pointer and the top of the stack. The
// walk never goes backwards: the CFA lies above the stack pointer, so it ends.
//
// Rejected: libgcc's unwinder (locks, allocates, runs DWARF programs), frame pointers (most code has none), reads
// through process_vm_readv (a system call each, and forbidden in some sandboxes): within known bounds plain reads
// cannot fault, and outside of them there is nothing to be sure of.

#include "shim.h"

struct stack {
	uintptr_t lo, hi;
};

// Signal-safe. Read the word at address.
static bool stack_word(const struct stack *s, uintptr_t address, uintptr_t *ret)
{
	if (address < s->lo || address >= s->hi || s->hi - address < sizeof *ret ||
	    address % sizeof *ret)
		return false;
	*ret = *(const uintptr_t *)address;
	return true;
}

// Signal-safe. A register that was lost is 0, and then no address made from it lies in the stack.
static bool frame_cfa(const struct stack *s, const struct frame *frame, const struct table_row *row,
		      uintptr_t *ret)
{
	uintptr_t offset = (uintptr_t)(intptr_t)row->cfa_offset;

	switch (table_base(row)) {
	case TABLE_CFA_RSP:
		*ret = frame->sp + offset;
		return true;
	case TABLE_CFA_RBP:
		*ret = frame->bp + offset;
		return true;
	case TABLE_CFA_RBP_DEREF:
		return stack_word(s, frame->bp + offset, ret);
	case TABLE_CFA_NONE:
	case TABLE_CFA_END:
	case TABLE_BASES:
	default:
		return false;
	}
}

static bool frame_bp(const struct stack *s, const struct frame *frame, const struct table_row *row,
		     uintptr_t cfa, uintptr_t *ret)
{
	switch (row->rbp_offset) {
	case 0:
		*ret = frame->bp;
		return true;
	case TABLE_RBP_UNKNOWN:
		*ret = 0;
		return true;
	case TABLE_RBP_AT_RBP:
		return stack_word(s, frame->bp, ret);
	default:
		return stack_word(s, cfa + (uintptr_t)(intptr_t)row->rbp_offset, ret);
	}
}

// Signal-safe; stack under 200 bytes.
int unwind_step(struct frame *frame, bool exact, uintptr_t stack_hi,
		const struct table_row **ret_row)
{
	struct stack s = {frame->sp, stack_hi};
	const struct table *table;
	const struct table_row *row;
	uintptr_t bias, cfa, pc, bp;

	// A return address may be the first byte after the caller's code: a call that never returns.
	pc = exact ? frame->pc : frame->pc - 1;
	table = modules_find(pc, &bias);
	row = table ? table_find(table, pc - bias) : NULL;
	*ret_row = row;
	if (!row)
		return -1;
	if (table_base(row) == TABLE_CFA_END)
		return 0;
	if (!frame_cfa(&s, frame, row, &cfa) || cfa <= frame->sp || cfa > stack_hi ||
	    !stack_word(&s, cfa - sizeof pc, &pc) || !frame_bp(&s, frame, row, cfa, &bp))
		return -1;
	*frame = (struct frame){pc, cfa, bp};
	return 1;
}
