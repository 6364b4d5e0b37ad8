// spinloop.c: is a small loop a wait for another thread?
//
// Problem. A thread that waits by spinning looks busy, and its CPU is what the thread it waits for needs. sysmon samples PCs and
// must tell such loops from loops that compute. Taking a computing loop for a wait is worse than the opposite: its thread
// would be stopped at each sample.
//
// Approach. A loop is a jump backward over at most SPIN_MAX bytes. Its body is what lies on a path from its
// top to that jump; what is on the way out only does not count. It waits if
//   1. the body contains PAUSE, TPAUSE or UMWAIT, whatever else it does (also rdtsc delays, bounded back-off, calls); or
//   2. its body is at most PLAIN_MAX bytes, and a round that begins with the same registers and finds the same memory does exactly what the round before did, so that
//      only another thread can end it:
//      - nothing is called, no system call is made, nothing nondeterministic is read (rdtsc, rdrand, cpuid, ...);
//      - something is loaded, and a conditional jump leaves the loop;
//      - no register carries a value from one round to the next: each that is written in the body is written, on every path, before it
//        is read. Sums, scans of strings and arrays, probes of hash tables, walks along lists and CAS loops that
//        use the value that CAS brought all carry one. Two kinds do not matter: one that only bounds the number of rounds (stepped
//        by a constant, and compared with what stays the same), and one whose last value in each round comes from an
//        unchanging address;
//      - nothing is stored, but by instructions that take a lock (next line);
//      - loops inside it, which begin anew in each round, load something: else they are a delay, or the work of a program that
//        does nothing useful.
//   3. as 2, with stores only by xchg, lock cmpxchg or lock bts of a value that is the same in each round: an immediate or a
//      register that the loop does not write. For cmpxchg the expected value must be such a one as well: a loop that loads the old value,
//      computes a new one and exchanges them makes progress, as does one that exchanges whatever is there for a constant.
//
// Counted: `while (!flag) pause`, `while (!flag)`, `while (p->q->flag)`, `while (xchg(&l, 1))`, `while (!cas(&l, 0, 1))`,
// `lock bts; jc`, test-and-test-and-set (its inner loop), ticket wait after the xadd, spinning on a flag in -O0 code, `for (i = 0; i < 1000000; i++)
// if (flag) break`, and waiting until a sum over an array is 0 (the I/O threads of redis, and its main thread).
// Not counted: strlen, memchr, sums, list walks, hash probes, `while (!flag) n++`, `while (rdtsc() < end)`, atomic add by
// CAS, stack push and pop by CAS, loops with calls or stores, `jmp .`.
//
// PLAIN_MAX: real waits are short, and compilers leave longer loops that repeat themselves but cannot be reached as such: in 100 MB of
// code looked at, most finds above 64 bytes were those, and most below were waits.
//
// Rejected. Watching for progress by samples only (two samples at one PC): a hot computing loop looks the same.

#include <errno.h>
#include <string.h>

#include "insn.h"

enum { REGS = ZYDIS_REGISTER_MAX_VALUE + 1, PLAIN_MAX = 64 };

struct body_insn {
	uint64_t pc, next, target; // target: of direct jumps, in the loop or not
	enum flow flow;
	bool reached, returns; // from the top; to the last jump
	bool sure;	       // on every path of a round
};

// What the registers are at a place in the body.
struct regs {
	bool written[REGS];  // somewhere in the body
	bool harmless[REGS]; // what it carries does not matter
	bool killed[REGS];   // before this place, on every path of the round
	bool constant[REGS]; // and with what is the same in each round
};

struct loop {
	const struct unit *u;
	const struct decoders *dec;
	uint64_t top, end;
	struct body_insn body[SPIN_MAX];
	unsigned n;
};

static unsigned index_of(const struct loop *l, uint64_t pc)
{
	unsigned i;

	for (i = 0; i < l->n && l->body[i].pc != pc; i++)
		;
	return i; // l->n: outside, or inside an instruction
}

static bool read_body(struct loop *l)
{
	struct insn in;

	for (uint64_t pc = l->top; pc < l->end; pc = in.next) {
		struct body_insn *b = &l->body[l->n];

		if (l->n == SPIN_MAX || !insn_decode(l->dec, l->u, pc, &in))
			return false;
		memset(b, 0, sizeof(*b));
		b->pc = pc;
		b->next = in.next;
		b->flow = insn_flow(&in, &b->target);
		l->n++;
	}
	return l->n && l->body[l->n - 1].next == l->end;
}

// Which instructions lie on a way from the top to the last jump.
static void find_paths(struct loop *l)
{
	bool changed = true;

	l->body[0].reached = true;
	while (changed) {
		changed = false;
		for (unsigned i = 0; i < l->n; i++) {
			const struct body_insn *b = &l->body[i];
			unsigned t;

			if (!b->reached)
				continue;
			if (i + 1 < l->n && b->flow != FLOW_JUMP && b->flow != FLOW_STOP &&
			    !l->body[i + 1].reached)
				changed = l->body[i + 1].reached = true;
			t = b->flow == FLOW_COND || b->flow == FLOW_JUMP ? index_of(l, b->target)
									 : l->n;
			if (t < l->n && !l->body[t].reached)
				changed = l->body[t].reached = true;
		}
	}
	l->body[l->n - 1].returns = true;
	changed = true;
	while (changed) {
		changed = false;
		for (unsigned i = l->n - 1; i-- > 0;) {
			struct body_insn *b = &l->body[i];
			unsigned t;

			if (b->returns)
				continue;
			t = b->flow == FLOW_COND || b->flow == FLOW_JUMP ? index_of(l, b->target)
									 : l->n;
			b->returns = (b->flow != FLOW_JUMP && b->flow != FLOW_STOP &&
				      l->body[i + 1].returns) ||
				     (t < l->n && l->body[t].returns);
			changed |= b->returns;
		}
	}
	// Not sure: what a jump forward inside the loop may skip.
	for (unsigned i = 0; i < l->n; i++)
		l->body[i].sure = true;
	for (unsigned i = 0; i < l->n; i++) {
		const struct body_insn *b = &l->body[i];

		if (b->flow != FLOW_COND && b->flow != FLOW_JUMP)
			continue;
		for (unsigned k = i + 1;
		     k < l->n && l->body[k].pc < b->target && b->target < l->end; k++)
			l->body[k].sure = false;
	}
}

static bool in_loop(const struct body_insn *b)
{
	return b->reached && b->returns;
}

static ZydisRegister whole(ZydisRegister reg)
{
	ZydisRegister r = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

	return r == ZYDIS_REGISTER_NONE ? reg : r;
}

// The program counter and the flags do not count: flags are set before each jump that reads them, or the loop loads nothing.
static bool counts(ZydisRegister reg)
{
	ZydisRegisterClass class = ZydisRegisterGetClass(reg);

	return reg != ZYDIS_REGISTER_NONE && class != ZYDIS_REGCLASS_FLAGS &&
	       class != ZYDIS_REGCLASS_IP && class != ZYDIS_REGCLASS_SEGMENT && (int)reg < REGS;
}

// Does reading reg here bring a value from the round before?
static bool carried(const struct regs *r, ZydisRegister reg)
{
	return counts(reg) && r->written[whole(reg)] && !r->killed[whole(reg)] && !r->killed[reg] &&
	       !r->harmless[whole(reg)];
}

// The same in each round: not written in the loop, or with a constant before.
static bool same(const struct regs *r, ZydisRegister reg)
{
	return counts(reg) && (!r->written[whole(reg)] || r->constant[whole(reg)]);
}

struct decoded {
	ZydisDecodedInstruction d;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

static bool is_reg(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER;
}

// xor, sub, pxor of a register with itself: nothing is read
static bool is_zeroing(const struct decoded *x)
{
	switch ((int)x->d.mnemonic) {
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_PXOR:
	case ZYDIS_MNEMONIC_XORPS:
		return is_reg(&x->ops[0]) && is_reg(&x->ops[1]) &&
		       x->ops[0].reg.value == x->ops[1].reg.value;
	default:
		return false;
	}
}

// A register is set to what is the same in each round.
static bool sets_constant(const struct regs *r, const struct decoded *x)
{
	if (!is_reg(&x->ops[0]))
		return false;
	if (is_zeroing(x))
		return true;
	if (x->d.mnemonic != ZYDIS_MNEMONIC_MOV)
		return false;
	return x->ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
	       (is_reg(&x->ops[1]) && same(r, x->ops[1].reg.value));
}

// A store that is the same in each round and tells whether it took the lock. Case 3 above.
static bool takes_lock(const struct regs *r, const struct decoded *x)
{
	const ZydisDecodedOperand *src = &x->ops[1];

	if (x->d.mnemonic == ZYDIS_MNEMONIC_XCHG) // the memory operand may be either
		return same(r, x->ops[is_reg(&x->ops[0]) ? 0 : 1].reg.value);
	if (!(x->d.attributes & ZYDIS_ATTRIB_HAS_LOCK))
		return false;
	if (x->d.mnemonic == ZYDIS_MNEMONIC_CMPXCHG)
		return is_reg(src) && same(r, src->reg.value) && same(r, ZYDIS_REGISTER_RAX);
	if (x->d.mnemonic == ZYDIS_MNEMONIC_BTS)
		return src->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
		       (is_reg(src) && same(r, src->reg.value));
	return false;
}

static bool is_opaque(const struct decoded *x)
{
	switch ((int)x->d.mnemonic) {
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
	case ZYDIS_MNEMONIC_RDPID:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_XBEGIN:
	case ZYDIS_MNEMONIC_XEND:
	case ZYDIS_MNEMONIC_XTEST:
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_RDFSBASE:
		return true;
	default:
		return false;
	}
}

static bool decode(const struct loop *l, const struct body_insn *b, struct decoded *ret_x)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&l->dec->full, l->u->bytes + (b->pc - l->u->lo),
						   b->next - b->pc, &ret_x->d, ret_x->ops));
}

static bool is_write(const ZydisDecodedOperand *op)
{
	return is_reg(op) && op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE && counts(op->reg.value);
}

static bool is_load(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
	       op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
}

// The register that is changed by a constant, or none.
static ZydisRegister stepped(const struct decoded *x)
{
	bool by_one = x->d.mnemonic == ZYDIS_MNEMONIC_INC || x->d.mnemonic == ZYDIS_MNEMONIC_DEC;
	bool by_constant =
		(x->d.mnemonic == ZYDIS_MNEMONIC_ADD || x->d.mnemonic == ZYDIS_MNEMONIC_SUB) &&
		x->ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	return is_reg(&x->ops[0]) && x->ops[0].size >= 32 && (by_one || by_constant)
		       ? whole(x->ops[0].reg.value)
		       : ZYDIS_REGISTER_NONE;
}

// Compares a register with itself or with what the loop does not change.
static bool compares_with_fixed(const struct regs *r, const struct decoded *x)
{
	const ZydisDecodedOperand *a = &x->ops[0], *b = &x->ops[1];

	if ((x->d.mnemonic != ZYDIS_MNEMONIC_CMP && x->d.mnemonic != ZYDIS_MNEMONIC_TEST) ||
	    !is_reg(a))
		return false;
	return b->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
	       (is_reg(b) && (a->reg.value == b->reg.value || !r->written[whole(b->reg.value)] ||
			      !r->written[whole(a->reg.value)]));
}

// Is a register loaded from an address that the loop does not change?
static bool loads_unchanging(const struct regs *r, const struct decoded *x)
{
	const ZydisDecodedOperand *from = &x->ops[1];

	return x->d.mnemonic == ZYDIS_MNEMONIC_MOV && is_reg(&x->ops[0]) && x->ops[0].size >= 32 &&
	       from->type == ZYDIS_OPERAND_TYPE_MEMORY && !r->written[whole(from->mem.base)] &&
	       !r->written[whole(from->mem.index)];
}

// The two kinds of registers under 2. in the file header.
static void find_harmless(const struct loop *l, struct regs *r)
{
	bool bounds[REGS] = {0}, other[REGS] = {0}, settled[REGS] = {0};

	for (unsigned i = 0; i < l->n; i++) {
		bool leads = i + 1 < l->n && l->body[i + 1].flow == FLOW_COND, fixed;
		struct decoded x;
		ZydisRegister step;

		if (!in_loop(&l->body[i]) || !decode(l, &l->body[i], &x))
			continue;
		step = stepped(&x);
		fixed = compares_with_fixed(r, &x);
		for (unsigned k = 0; k < x.d.operand_count; k++) {
			const ZydisDecodedOperand *op = &x.ops[k];

			if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
				other[whole(op->mem.base)] = other[whole(op->mem.index)] = true;
			if (!is_reg(op) || !counts(op->reg.value))
				continue;
			if (fixed || (whole(op->reg.value) == step && leads))
				bounds[whole(op->reg.value)] = true;
			else if (whole(op->reg.value) != step)
				other[whole(op->reg.value)] = true;
			if (is_write(op))
				settled[whole(op->reg.value)] =
					l->body[i].sure && loads_unchanging(r, &x);
		}
	}
	for (int i = 0; i < REGS; i++)
		r->harmless[i] = (bounds[i] && !other[i]) || settled[i];
}

static bool reads(const struct regs *r, const struct decoded *x)
{
	for (unsigned i = 0; i < x->d.operand_count; i++) {
		const ZydisDecodedOperand *op = &x->ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (carried(r, op->mem.base) || carried(r, op->mem.index)))
			return true;
		// A write of 8 or 16 bits keeps the rest, but the rest is nobody's business until it is read.
		if (is_reg(op) && op->actions & ZYDIS_OPERAND_ACTION_MASK_READ && !is_zeroing(x) &&
		    carried(r, op->reg.value))
			return true;
	}
	return false;
}

static void writes(struct regs *r, const struct decoded *x, bool sure)
{
	bool constant = sure && sets_constant(r, x);

	for (unsigned i = 0; i < x->d.operand_count; i++) {
		const ZydisDecodedOperand *op = &x->ops[i];

		if (!is_write(op))
			continue;
		r->constant[whole(op->reg.value)] = constant;
		if (!sure || op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE)
			continue;
		r->killed[op->reg.value] = true;
		if (op->size >= 32)
			r->killed[whole(op->reg.value)] = true;
	}
}

static bool loads_between(const struct loop *l, uint64_t from, unsigned last)
{
	for (unsigned i = 0; i <= last; i++) {
		struct decoded x;

		if (l->body[i].pc < from || !decode(l, &l->body[i], &x))
			continue;
		for (unsigned k = 0; k < x.d.operand_count; k++)
			if (is_load(&x.ops[k]))
				return true;
	}
	return false;
}

static bool inner_loops_load(const struct loop *l)
{
	for (unsigned i = 0; i + 1 < l->n; i++) {
		const struct body_insn *b = &l->body[i];

		if (in_loop(b) && (b->flow == FLOW_COND || b->flow == FLOW_JUMP) &&
		    b->target <= b->pc && b->target > l->top && !loads_between(l, b->target, i))
			return false;
	}
	return true;
}

// Cases 2 and 3 of the file header.
static bool waits(const struct loop *l)
{
	struct regs r = {0};
	struct decoded x;
	bool load = false, leaves = false;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < l->n; i++)
		bytes += in_loop(&l->body[i]) ? l->body[i].next - l->body[i].pc : 0;
	if (bytes > PLAIN_MAX || !inner_loops_load(l))
		return false;

	for (unsigned i = 0; i < l->n; i++) {
		if (!in_loop(&l->body[i]))
			continue;
		if (l->body[i].flow == FLOW_CALL || !decode(l, &l->body[i], &x) || is_opaque(&x))
			return false;
		for (unsigned k = 0; k < x.d.operand_count; k++)
			if (is_write(&x.ops[k]))
				r.written[whole(x.ops[k].reg.value)] = true;
	}
	find_harmless(l, &r);
	for (unsigned i = 0; i < l->n; i++) {
		const struct body_insn *b = &l->body[i];
		unsigned t;

		if (!in_loop(b))
			continue;
		if (b->flow == FLOW_COND) {
			t = index_of(l, b->target);
			leaves |= t == l->n || !in_loop(&l->body[t]);
			leaves |= i + 1 == l->n || !in_loop(&l->body[i + 1]);
		}
		if (!decode(l, b, &x) || reads(&r, &x))
			return false;
		for (unsigned k = 0; k < x.d.operand_count; k++) {
			const ZydisDecodedOperand *op = &x.ops[k];

			if (op->type != ZYDIS_OPERAND_TYPE_MEMORY ||
			    op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
				continue;
			if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE && !takes_lock(&r, &x))
				return false;
			// A fixed low address is a null pointer that a compiler saw: never executed.
			if (op->mem.base == ZYDIS_REGISTER_NONE &&
			    op->mem.index == ZYDIS_REGISTER_NONE &&
			    op->mem.segment != ZYDIS_REGISTER_FS &&
			    op->mem.segment != ZYDIS_REGISTER_GS)
				return false;
			load |= is_load(op);
		}
		writes(&r, &x, b->sure);
	}
	return load && leaves;
}

static bool is_pause(const struct loop *l, const struct body_insn *b)
{
	const uint8_t *p = l->u->bytes + (b->pc - l->u->lo);

	return b->next - b->pc == 2 && p[0] == 0xf3 && p[1] == 0x90;
}

// One mark for each run of instructions of the body, and one for each PAUSE.
static int mark_body(const struct loop *l, struct marks *marks)
{
	for (unsigned i = 0; i < l->n; i++) {
		int r = 0;

		if (in_loop(&l->body[i]) && is_pause(l, &l->body[i]))
			r = marks_add(marks, MARK_PAUSE, l->body[i].pc, l->body[i].next, 0);
		if (r < 0)
			return r;
	}
	for (unsigned i = 0, k; i < l->n; i = k + 1) {
		int r;

		for (k = i; k < l->n && in_loop(&l->body[k]); k++)
			;
		if (k == i)
			continue;
		r = marks_add(marks, MARK_SPIN, l->body[i].pc, l->body[k - 1].next, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

int spin_loop(const struct decoders *dec, const struct unit *u, uint64_t top, uint64_t last_pc,
	      uint64_t end, struct marks *marks)
{
	struct loop l;
	bool pause = false;

	l.u = u;
	l.dec = dec;
	l.top = top;
	l.end = end;
	l.n = 0;
	if (end - top > SPIN_MAX || !read_body(&l) || l.body[l.n - 1].pc != last_pc)
		return 0; // or it jumps into the middle of an instruction
	find_paths(&l);
	if (!in_loop(&l.body[l.n - 1]))
		return 0;
	for (unsigned i = 0; i < l.n && !pause; i++) {
		const uint8_t *b = u->bytes + (l.body[i].pc - u->lo);
		uint64_t len = l.body[i].next - l.body[i].pc;

		if (!in_loop(&l.body[i]))
			continue;
		// F3 90; F2 or 66 0F AE /6 with a register: umwait, tpause
		pause = is_pause(&l, &l.body[i]) ||
			(len >= 4 && (b[0] == 0xf2 || b[0] == 0x66) && b[1] == 0x0f &&
			 b[2] == 0xae && (b[3] & 0xf8) == 0xf0);
	}
	if (!pause && !waits(&l))
		return 0;
	return mark_body(&l, marks);
}
