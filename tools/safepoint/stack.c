// stack.c: does the frame description agree with what the instructions do?
//
// Problem. A row that says "the CFA is rsp+16" one instruction too late sends the unwinder to a wrong return address.
// Compilers that describe calls only (-fno-asynchronous-unwind-tables with exceptions, old assembly) have such rows, and
// hand-written code has wrong ones.
//
// Approach. Two numbers are followed through straight code: CFA - rsp and CFA - rbp. They are taken from the row where control
// arrives from elsewhere (STACK_TRUST) and then changed by what push, pop, add, sub, lea, mov, enter, leave and call do.
// Any other write makes the register STACK_LOST. At each instruction they are compared with the row; where they differ a
// contradiction opens, which ends where they agree again, or where control does not come from above:
//   TABLE_PROLOGUE   it began in the function's first straight code by an instruction that builds the frame, and ended by agreement
//   TABLE_EPILOGUE   it began by one that takes the frame down, and ended at a return or jump
//   TABLE_MISMATCH   all others
// A row that bases the CFA on rbp after rbp was lost is a contradiction, and so is one that says that rbp is still the
// caller's (rbp_offset 0) when it was written and not loaded back.
// Direct jumps inside the function are compared with the row at their target. Where they differ, the state is
// kept for that target if it lies ahead (a bounded list), else the whole function is marked.
// A call returns with the depth it was made at; where the next row differs from the row of the call, the call does not return,
// and the next instruction is a place where control arrives from elsewhere.
//
// Rejected. A data-flow analysis to a fixed point: it would also find rows that are wrong in code reached only
// by jump tables, but CFI that is wrong there and right everywhere else was not found in any library looked at.

#include <errno.h>
#include <string.h>

#include "insn.h"

void stack_begin(struct stack *s, const struct unit *u, const struct decoders *dec,
		 struct marks *marks)
{
	memset(s, 0, offsetof(struct stack, pending));
	s->npending = 0;
	s->unit = u;
	s->dec = dec;
	s->marks = marks;
	s->fresh = true;
	s->filler = true;
	s->straight = true;
}

static const struct stack_reg lost = {.state = STACK_LOST}, trust = {.state = STACK_TRUST};

static bool checked(const struct cfi_row *row)
{
	return row && row->reason == TABLE_SAFE &&
	       (row->base == TABLE_CFA_RSP || row->base == TABLE_CFA_RBP);
}

static bool contradicts(const struct stack_state *st, const struct cfi_row *row)
{
	const struct stack_reg *reg = row->base == TABLE_CFA_RSP ? &st->rsp : &st->rbp;

	if (st->rbp_changed && !row->rbp_offset)
		return true;
	if (reg->state == STACK_KNOWN)
		return reg->off != row->cfa_offset;
	if (reg->state == STACK_LOST)
		return row->base == TABLE_CFA_RBP || row->cfa_offset == st->lost_offset;
	return false;
}

// The CFI is believed: what it says is known from here on.
static void adopt(struct stack_state *st, const struct cfi_row *row)
{
	struct stack_reg *reg = row->base == TABLE_CFA_RSP ? &st->rsp : &st->rbp;

	reg->state = STACK_KNOWN;
	reg->off = row->cfa_offset;
}

static void close_range(struct stack *s, uint64_t end, bool agreed)
{
	enum table_reason reason = TABLE_MISMATCH;
	int r;

	if (!s->bad)
		return;
	s->bad = false;
	if (agreed && s->bad_build)
		reason = TABLE_PROLOGUE;
	else if (!agreed && s->bad_down)
		reason = TABLE_EPILOGUE;
	if (s->bad_lo >= end)
		return;
	r = marks_add(s->marks, MARK_UNSAFE, s->bad_lo, end, reason);
	if (r < 0)
		s->err = r;
}

static void lose_rsp(struct stack *s, const struct cfi_row *row)
{
	s->now.rsp = lost;
	s->now.lost_offset = row->base == TABLE_CFA_RSP ? row->cfa_offset : INT32_MIN;
}

static void move_rsp(struct stack *s, int64_t by)
{
	s->now.rsp.off += by;
	if (s->now.rsp.off > INT32_MAX || s->now.rsp.off < INT32_MIN)
		s->now.rsp.off = INT32_MIN; // no row says so
}

// Which of rsp and rbp are written, by operands.
static unsigned written(const struct stack *s, const struct insn *in)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction d;
	unsigned mask = 0;

	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&s->dec->full, in->bytes, in->d.length, &d, ops)))
		return 1u << REG_RSP | 1u << REG_RBP;
	for (unsigned i = 0; i < d.operand_count; i++) {
		ZydisRegister reg;

		if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		reg = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
						       ops[i].reg.value);
		if (reg == ZYDIS_REGISTER_RSP)
			mask |= 1u << REG_RSP;
		else if (reg == ZYDIS_REGISTER_RBP)
			mask |= 1u << REG_RBP;
	}
	return mask;
}

enum kind { OTHER, BUILD, DOWN, DONE };

// Base register of a plain disp(%reg) operand, or -1.
static int plain_base(const struct insn *in)
{
	unsigned mod = in->d.raw.modrm.mod, rm = in->d.raw.modrm.rm;

	if (mod == 3 || (mod == 0 && rm == 5))
		return -1;
	if (rm != 4)
		return (int)insn_rm(in);
	if (in->d.raw.sib.index != 4 || in->d.raw.rex.X || (mod == 0 && in->d.raw.sib.base == 5))
		return -1;
	return in->d.raw.sib.base + 8 * in->d.raw.rex.B;
}

static enum kind step_leave(struct stack *s, const struct cfi_row *row)
{
	struct stack_reg rbp = s->now.rbp;

	s->now.rsp = rbp;
	if (rbp.state == STACK_LOST)
		lose_rsp(s, row);
	move_rsp(s, -8);
	s->now.rbp = lost;
	s->now.rbp_changed = false;
	return DOWN;
}

static enum kind step_lea(struct stack *s, const struct insn *in, const struct cfi_row *row)
{
	int base = plain_base(in);
	int64_t disp = in->d.raw.disp.value;
	struct stack_reg from = base == REG_RSP ? s->now.rsp : base == REG_RBP ? s->now.rbp : lost;

	if (insn_reg(in) == REG_RSP) {
		s->now.rsp = from;
		if (from.state == STACK_LOST)
			lose_rsp(s, row);
		move_rsp(s, -disp);
		return base == REG_RSP && disp < 0 ? BUILD : DOWN;
	}
	if (insn_reg(in) == REG_RBP) {
		s->now.rbp = from;
		s->now.rbp.off -= disp;
		s->now.rbp_changed = true;
		return BUILD;
	}
	return DONE;
}

// mov between two registers
static enum kind step_mov(struct stack *s, unsigned dst, unsigned src, const struct cfi_row *row)
{
	struct stack_reg from = src == REG_RSP ? s->now.rsp : src == REG_RBP ? s->now.rbp : lost;

	if (dst == REG_RSP) {
		s->now.rsp = from;
		if (from.state == STACK_LOST)
			lose_rsp(s, row);
		return DOWN;
	}
	if (dst == REG_RBP) {
		s->now.rbp = from;
		s->now.rbp_changed = true;
		return BUILD;
	}
	return DONE;
}

// Instructions whose effect on rsp and rbp is known. DONE: neither is touched. OTHER: not one of them.
static enum kind step_known(struct stack *s, const struct insn *in, const struct cfi_row *row)
{
	uint8_t op = in->d.opcode, mod = in->d.raw.modrm.mod, reg = in->d.raw.modrm.reg;
	int64_t imm = in->d.raw.imm[0].value.s, word = in->d.operand_width == 16 ? 2 : 8;
	unsigned n = (op & 7u) + 8u * in->d.raw.rex.B;

	if (insn_0f(in)) {
		if (op != 0xa0 && op != 0xa8 && op != 0xa1 && op != 0xa9)
			return OTHER;
		move_rsp(s, op & 1 ? -word : word); // push, pop fs, gs
		return op & 1 ? DOWN : BUILD;
	}
	switch (op) {
	case 0x50 ... 0x57:
	case 0x68:
	case 0x6a:
	case 0x9c:
		move_rsp(s, word);
		return BUILD;
	case 0x58 ... 0x5f:
		move_rsp(s, -word);
		if (n == REG_RSP)
			lose_rsp(s, row);
		if (n == REG_RBP) {
			s->now.rbp = lost;
			s->now.rbp_changed = false;
		}
		return DOWN;
	case 0x9d:
		move_rsp(s, -word);
		return DOWN;
	case 0x8f:
		move_rsp(s, -word);
		return mod == 3 ? OTHER : DOWN;
	case 0xff:
		if (reg != 6)
			return OTHER;
		move_rsp(s, word);
		return BUILD;
	case 0x81:
	case 0x83:
		if (mod != 3 || insn_rm(in) != REG_RSP || !in->d.raw.rex.W ||
		    (reg != 0 && reg != 5))
			return OTHER;
		if (reg == 0)
			imm = -imm;
		move_rsp(s, imm);
		return imm > 0 ? BUILD : DOWN;
	case 0x87: // xchg %rsp, %rbp
		if (mod == 3 && in->d.raw.rex.W &&
		    insn_reg(in) + insn_rm(in) == REG_RSP + REG_RBP &&
		    (insn_reg(in) == REG_RSP || insn_rm(in) == REG_RSP)) {
			struct stack_reg rsp = s->now.rsp;

			s->now.rsp = s->now.rbp;
			if (s->now.rsp.state != STACK_KNOWN)
				lose_rsp(s, row);
			s->now.rbp = rsp;
			s->now.rbp_changed = true;
			return BUILD;
		}
		return OTHER;
	case 0x89:
		if (mod != 3 || !in->d.raw.rex.W)
			return OTHER;
		return step_mov(s, insn_rm(in), insn_reg(in), row);
	case 0x8b:
		if (mod == 3)
			return in->d.raw.rex.W ? step_mov(s, insn_reg(in), insn_rm(in), row)
					       : OTHER;
		// Loaded back from the frame.
		if (insn_reg(in) == REG_RBP && in->d.raw.rex.W && plain_base(in) == REG_RSP) {
			s->now.rbp = lost;
			s->now.rbp_changed = false;
			return DOWN;
		}
		return OTHER;
	case 0x8d:
		return in->d.raw.rex.W ? step_lea(s, in, row) : OTHER;
	case 0xc8: {
		int64_t size = (int64_t)(in->d.raw.imm[0].value.u & 0xffff);

		if (in->d.raw.imm[1].value.u & 31) {
			lose_rsp(s, row);
			s->now.rbp = lost;
			return BUILD;
		}
		move_rsp(s, 8);
		s->now.rbp = s->now.rsp;
		s->now.rbp_changed = true;
		move_rsp(s, size);
		return BUILD;
	}
	case 0xc9:
		return step_leave(s, row);
	case 0xe8:
		if (imm == 0) {
			move_rsp(s, 8); // call of the next instruction, to learn the PC
			return BUILD;
		}
		return DONE;
	default:
		return OTHER;
	}
}

// Does the encoding name rsp or rbp where something may be written?
static bool may_write(const struct insn *in, bool rbp)
{
	uint8_t op = in->d.opcode;
	unsigned mask = 1u << REG_RSP | (rbp ? 1u << REG_RBP : 0);

	if (insn_one_byte(in) && ((op & 0xf8) == 0x90 || (op & 0xf8) == 0xb8) &&
	    mask >> ((op & 7u) + 8u * in->d.raw.rex.B) & 1)
		return true;
	if (insn_0f(in) && (op & 0xf8) == 0xc8) // bswap
		return mask >> ((op & 7u) + 8u * in->d.raw.rex.B) & 1;
	if (!(in->d.attributes & ZYDIS_ATTRIB_HAS_MODRM))
		return false;
	if (!insn_legacy(in)) // VEX and the like name general registers in more places
		return mask >> in->d.raw.modrm.reg & 1 ||
		       (in->d.raw.modrm.mod == 3 && mask >> in->d.raw.modrm.rm & 1) ||
		       in->d.opcode_map == ZYDIS_OPCODE_MAP_0F38;
	return mask >> insn_reg(in) & 1 || (in->d.raw.modrm.mod == 3 && mask >> insn_rm(in) & 1);
}

static void step(struct stack *s, const struct insn *in, enum flow flow, const struct cfi_row *row,
		 enum kind *ret_kind)
{
	// rbp counts where it is the base, or about to be, or said to be the caller's still.
	bool rbp =
		row->base == TABLE_CFA_RBP || !row->rbp_offset || s->now.rbp.state == STACK_KNOWN;
	unsigned mask;

	*ret_kind = OTHER;
	if (insn_one_byte(in) || insn_0f(in)) {
		*ret_kind = step_known(s, in, row);
		if (*ret_kind != OTHER)
			return;
	}
	if (flow != FLOW_NEXT || !may_write(in, rbp))
		return;
	mask = written(s, in);
	if (mask & 1u << REG_RSP)
		lose_rsp(s, row);
	if (mask & 1u << REG_RBP) {
		s->now.rbp = lost;
		s->now.rbp_changed = true;
	}
}

static void check_jump(struct stack *s, const struct insn *in, uint64_t target)
{
	const struct cfi_row *row;

	if (target < s->unit->lo || target >= s->unit->hi)
		return;
	row = unit_row(s->unit, target);
	if (!checked(row) || !contradicts(&s->now, row))
		return;
	if (target <= in->pc || s->npending == STACK_PENDING) {
		s->wrong = true;
		return;
	}
	s->pending[s->npending].target = target;
	s->pending[s->npending++].state = s->now;
}

// A jump from where the CFI was wrong may lead to pc.
static bool take_pending(struct stack *s, uint64_t pc)
{
	bool found = false;

	for (unsigned i = 0; i < s->npending;) {
		if (s->pending[i].target > pc) {
			i++;
			continue;
		}
		if (s->pending[i].target == pc) {
			s->now = s->pending[i].state;
			found = true;
		} else {
			s->wrong = true; // into the middle of an instruction
		}
		s->pending[i] = s->pending[--s->npending];
	}
	return found;
}

// Control arrives at pc, with row; kind is that of the instruction before.
static void arrive(struct stack *s, uint64_t pc, const struct cfi_row *row, enum kind kind)
{
	bool pending;

	if (s->fresh) {
		close_range(s, pc, false);
		s->now = (struct stack_state){.rsp = trust, .rbp = trust};
		s->fresh = false;
	}
	pending = take_pending(s, pc);
	if (pending)
		s->filler = false;
	if (!checked(row)) {
		close_range(s, pc, false);
		s->now = (struct stack_state){.rsp = trust, .rbp = trust};
		return;
	}
	if (!contradicts(&s->now, row)) {
		close_range(s, pc, true);
		adopt(&s->now, row);
		return;
	}
	if (s->bad)
		return;
	s->bad = true;
	s->bad_lo = pc;
	s->bad_build = !pending && kind == BUILD && s->straight;
	s->bad_down = !pending && kind == DOWN;
}

// Filler: 90 with any prefixes, 0f 1f.
static bool is_nop(const struct insn *in)
{
	return (insn_one_byte(in) && in->d.opcode == 0x90 && !in->d.raw.rex.B) ||
	       (insn_0f(in) && in->d.opcode == 0x1f);
}

void stack_step(struct stack *s, const struct insn *in, enum flow flow, uint64_t target,
		const struct cfi_row *row, const struct cfi_row *next)
{
	enum kind kind = OTHER;

	if (s->wrong || s->err)
		return;
	if (in->pc == s->unit->lo)
		arrive(s, in->pc, row, OTHER);
	if (checked(row))
		step(s, in, flow, row, &kind);
	if (flow == FLOW_COND || flow == FLOW_JUMP)
		check_jump(s, in, target);
	if (flow == FLOW_JUMP || flow == FLOW_STOP)
		s->fresh = true;
	else if (s->filler && is_nop(in))
		s->fresh = true; // between blocks: the row in front of a block often covers it
	s->called = (flow == FLOW_CALL && kind != BUILD) || (s->called && is_nop(in));
	if (s->called && row != next)
		s->fresh = true; // the call does not return, see above
	s->filler = s->fresh;
	if (flow != FLOW_NEXT)
		s->straight = false;
	if (in->next < s->unit->hi)
		arrive(s, in->next, next, kind);
	else
		close_range(s, in->next, false);
}

int stack_end(struct stack *s)
{
	int r;

	if (s->err)
		return s->err;
	if (!s->wrong)
		return 0;
	r = marks_add(s->marks, MARK_UNSAFE, s->unit->lo, s->unit->hi, TABLE_MISMATCH);
	return r < 0 ? r : 0;
}
