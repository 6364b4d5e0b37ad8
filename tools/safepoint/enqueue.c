// enqueue.c: the instruction by which a thread gets in line for a lock that is had in turn.
//
// Problem. Tickets, MCS and CLH locks are had in the order in which threads came. Whoever loses its CPU in line stops all
// behind it, so a thread in line is to be stopped just before it gets in line once more. Where is that?
//
// Approach. The place in line is taken by one instruction that cannot fail, XCHG with memory or LOCK XADD; a wait with PAUSE follows it. So an
// instruction counts if
//   - what it brings is read before it is overwritten: XCHG is also how compilers store with full ordering, say to let go of a lock;
//   - a PAUSE of a loop that waits is reached from it, within NEAR instructions, without a call or another instruction of its kind;
//   - it is not reached from that PAUSE without a store or a call: then it is a try that is repeated, as of a test-and-set lock, where
//     nobody has a place in line;
//   - no jump leads into it (from elsewhere: caves_entered).
// The arrival at a barrier may look the same. Which it is turns out when it runs (shim/convoy.c); for who is stopped there for no reason, it is a place as
// good as any.
//
// Not counted: LOCK CMPXCHG. It is how such locks are let go of.

#include "insn.h"

enum {
	NEAR = 40,  // instructions from getting in line to the PAUSE, on all paths
	ROUND = 64, // and from the PAUSE to whatever ends the search
	MOST = 64,  // instructions looked at in a function
};

static bool enqueues(const struct insn *in)
{
	uint8_t op = in->d.opcode;

	if (in->d.raw.modrm.mod == 3)
		return false;
	if (insn_one_byte(in))
		return op == 0x86 || op == 0x87;
	return insn_0f(in) && (op == 0xc0 || op == 0xc1) && insn_has_lock(in);
}

static bool stores(const struct decoders *dec, const struct insn *in)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction d;

	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&dec->full, in->bytes, in->next - in->pc, &d, ops)))
		return true;
	for (unsigned i = 0; i < d.operand_count; i++)
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			return true;
	return false;
}

// Instructions to be looked at, and those that have been.
struct search {
	uint64_t pc[ROUND];
	unsigned n, done;
};

static void add(struct search *s, const struct unit *u, unsigned most, uint64_t pc)
{
	if (pc < u->lo || pc >= u->hi || s->n == most)
		return;
	for (unsigned i = 0; i < s->n; i++)
		if (s->pc[i] == pc)
			return;
	s->pc[s->n++] = pc;
}

static void follow(struct search *s, const struct unit *u, unsigned most, const struct insn *in)
{
	uint64_t target;
	enum flow flow = insn_flow(in, &target);

	if (flow == FLOW_NEXT || flow == FLOW_COND)
		add(s, u, most, in->next);
	if (flow == FLOW_COND || flow == FLOW_JUMP)
		add(s, u, most, target);
}

static bool is_pause(const struct insn *in, const struct marks *marks, size_t first)
{
	uint64_t pc = in->pc;

	if (in->next - pc != 2 || in->bytes[0] != 0xf3 || in->bytes[1] != 0x90)
		return false;
	for (size_t i = first; i < marks->n; i++)
		if (marks->v[i].kind == MARK_PAUSE && marks->v[i].lo == pc)
			return true;
	return false;
}

// The PAUSE that is reached from behind in, or 0.
static uint64_t leads_to_pause(const struct decoders *dec, const struct unit *u,
			       const struct insn *in, const struct marks *marks, size_t first)
{
	struct search s = {.n = 0};
	struct insn at;

	add(&s, u, NEAR, in->next);
	while (s.done < s.n) {
		uint64_t pc = s.pc[s.done++];

		if (!insn_decode(dec, u, pc, &at))
			continue;
		if (is_pause(&at, marks, first))
			return pc;
		if (!enqueues(&at))
			follow(&s, u, NEAR, &at);
	}
	return 0;
}

static bool is_register(ZydisRegister reg, ZydisRegister whole)
{
	return reg != ZYDIS_REGISTER_NONE &&
	       ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg) == whole;
}

// What an instruction does with a register.
static enum {
	LEAVES_IT,
	READS_IT,
	WRITES_IT
} use_of(const struct decoders *dec, const struct insn *in, ZydisRegister whole)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction d;
	bool writes = false;

	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&dec->full, in->bytes, in->next - in->pc, &d, ops)))
		return WRITES_IT;
	for (unsigned i = 0; i < d.operand_count; i++) {
		const ZydisDecodedOperand *op = &ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (is_register(op->mem.base, whole) || is_register(op->mem.index, whole)))
			return READS_IT;
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !is_register(op->reg.value, whole))
			continue;
		// A register is zeroed by xor with itself, which reads nothing; one that is compared with itself is read.
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ &&
		    !(d.mnemonic == ZYDIS_MNEMONIC_XOR &&
		      ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		      ops[0].reg.value == ops[1].reg.value))
			return READS_IT;
		writes |= op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	}
	return writes ? WRITES_IT : LEAVES_IT;
}

// Is what in brings into its register used near by?
static bool is_used(const struct decoders *dec, const struct unit *u, const struct insn *in)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction d;
	ZydisRegister whole = ZYDIS_REGISTER_NONE;
	struct search s = {.n = 0};
	struct insn at;

	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&dec->full, in->bytes, in->next - in->pc, &d, ops)))
		return false;
	for (unsigned i = 0; i < 2 && i < d.operand_count; i++)
		if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
								 ops[i].reg.value);
	add(&s, u, NEAR, in->next);
	while (whole != ZYDIS_REGISTER_NONE && s.done < s.n) {
		if (!insn_decode(dec, u, s.pc[s.done++], &at))
			continue;
		switch (use_of(dec, &at, whole)) {
		case READS_IT:
			return true;
		case WRITES_IT:
			break;
		case LEAVES_IT:
			follow(&s, u, NEAR, &at);
		}
	}
	return false;
}

// Is pc reached from the PAUSE with nothing done in between?
static bool is_retried(const struct decoders *dec, const struct unit *u, uint64_t pause,
		       uint64_t pc)
{
	struct search s = {.n = 0};
	struct insn at;

	add(&s, u, ROUND, pause);
	while (s.done < s.n) {
		uint64_t here = s.pc[s.done++];

		if (here == pc)
			return true;
		if (insn_decode(dec, u, here, &at) && !stores(dec, &at))
			follow(&s, u, ROUND, &at);
	}
	return false;
}

// Take back those of marks->v[first..] that a jump of u leads into.
static void not_jumped_into(const struct decoders *dec, const struct unit *u, struct marks *marks,
			    size_t first)
{
	struct insn in;
	uint64_t target;

	for (uint64_t pc = u->lo; pc < u->hi && insn_decode(dec, u, pc, &in); pc = in.next) {
		insn_flow(&in, &target);
		for (size_t i = first; target && i < marks->n; i++)
			if (target > marks->v[i].lo && target < marks->v[i].hi)
				marks->v[i].hi = marks->v[i].lo; // empty: no mark
	}
}

int enqueue_marks(const struct decoders *dec, const struct unit *u, struct marks *marks,
		  size_t first)
{
	size_t mine = marks->n;
	unsigned tries = 0;
	struct insn in;

	for (uint64_t pc = u->lo; pc < u->hi && tries < MOST; pc = in.next) {
		uint64_t pause;
		int r;

		if (!insn_decode(dec, u, pc, &in))
			break;
		if (!enqueues(&in))
			continue;
		tries++;
		if (!is_used(dec, u, &in))
			continue;
		pause = leads_to_pause(dec, u, &in, marks, first);
		if (!pause || is_retried(dec, u, pause, pc))
			continue;
		r = marks_add(marks, MARK_ENQUEUE, pc, in.next, 0);
		if (r < 0)
			return r;
	}
	if (marks->n > mine)
		not_jumped_into(dec, u, marks, mine);
	return 0;
}
