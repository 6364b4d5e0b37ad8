// insn.c: one linear pass over the instructions of a module.
//
// Problem. The unwind tables must be believed for every byte of a function, not only at calls, for a preemption
// signal comes anywhere. Whether they are exact is up to each compiler and each author of assembly, and nothing
// in the file says so. Loops that wait for another thread, inline system calls and lock instructions are not in any
// table at all.
//
// Approach. Functions are known from the CFI (one FDE is one unit) and, where there is none, from symbols. Each is decoded
// once from its first byte to its last, with the decoder that yields no operands; operands are decoded for the few
// instructions where they matter. What is found:
//   stack depth against CFI   stack.c
//   spin loops                spinloop.c, called for each short jump backward
//   system calls              the number is that of the last `mov $n, %eax` or `xor %eax, %eax` before, perhaps by way of another
//                             register, if nothing between them writes it, or jumps away, or is jumped to
//   lock instructions, jumps out of the function: for critical.c
//   places in line            where threads get in line for a lock (enqueue.c)
//   caves                     filling that nobody executes (caves.c)
// A function that does not decode to its end, or in which a CFI row begins inside an instruction, is TABLE_MISMATCH as a
// whole: one of the two is not what it seems. No further facts are taken from it.
//
// Rejected. Following control flow from the entries: jump tables and exception handlers would have to be understood, and
// compilers put no data between the instructions of a function. Decoding operands always: 3 times slower.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "insn.h"

// A syscall instruction whose number is not final until all jumps are known.
struct site {
	uint64_t mov, pc; // mov: behind the instruction that sets eax; 0: no number
	int32_t nr;
};

enum { LAST = 8, REACH = 384 }; // functions, bytes: three short jumps

struct entries { // of functions known by their names
	uint64_t v[16];
	size_t n;
};

struct scan {
	const struct module *m;
	const struct cfi *cfi;
	struct marks *marks;
	struct code_facts *facts;
	struct decoders dec;
	struct site *sites;
	size_t nsites, sites_cap;
	struct entries setjmps, lockers;
	uint64_t sealed; // end of the last unit, if control cannot leave it there; else 0

	// Where caves inside functions are wanted: near what may be rewritten.
	struct unit last[LAST]; // newest last
	unsigned nlast;
	uint64_t wanted; // up to there
};

// Room for one more element. 0 or -ENOMEM.
static int reserve(void *array, size_t n, size_t *cap, size_t size)
{
	void *v;
	size_t want;

	if (n < *cap)
		return 0;
	want = *cap ? *cap * 2 : 256;
	memcpy(&v, array, sizeof(v));
	v = reallocarray(v, want, size);
	if (!v)
		return -ENOMEM;
	memcpy(array, &v, sizeof(v));
	*cap = want;
	return 0;
}

void code_facts_free(struct code_facts *facts)
{
	free(facts->funcs);
	free(facts->jumps);
	free(facts->refs);
	memset(facts, 0, sizeof(*facts));
}

bool insn_decode(const struct decoders *dec, const struct unit *u, uint64_t pc, struct insn *ret_in)
{
	uint64_t left = u->hi - pc;

	ret_in->pc = pc;
	ret_in->bytes = u->bytes + (pc - u->lo);
	if (left > ZYDIS_MAX_INSTRUCTION_LENGTH)
		left = ZYDIS_MAX_INSTRUCTION_LENGTH;
	if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&dec->min, NULL, ret_in->bytes, left,
						      &ret_in->d)))
		return false;
	ret_in->next = pc + ret_in->d.length;
	return true;
}

enum flow insn_flow(const struct insn *in, uint64_t *ret_target)
{
	uint8_t op = in->d.opcode;

	*ret_target = 0;
	if (insn_0f(in)) {
		if ((op & 0xf0) == 0x80) {
			*ret_target = in->next + (uint64_t)in->d.raw.imm[0].value.s;
			return FLOW_COND;
		}
		return op == 0x0b || op == 0xb9 || op == 0xff ? FLOW_STOP : FLOW_NEXT;
	}
	if (!insn_one_byte(in))
		return FLOW_NEXT;
	switch (op) {
	case 0xe0 ... 0xe3:
	case 0x70 ... 0x7f:
		*ret_target = in->next + (uint64_t)in->d.raw.imm[0].value.s;
		return FLOW_COND;
	case 0xe8:
		*ret_target = in->next + (uint64_t)in->d.raw.imm[0].value.s;
		return FLOW_CALL;
	case 0xe9:
	case 0xeb:
		*ret_target = in->next + (uint64_t)in->d.raw.imm[0].value.s;
		return FLOW_JUMP;
	case 0xc2:
	case 0xc3:
	case 0xca:
	case 0xcb:
	case 0xcf:
	case 0xf4:
		return FLOW_STOP;
	case 0xff:
		if (in->d.raw.modrm.reg == 2 || in->d.raw.modrm.reg == 3)
			return FLOW_CALL;
		return in->d.raw.modrm.reg == 4 || in->d.raw.modrm.reg == 5 ? FLOW_STOP : FLOW_NEXT;
	default:
		return FLOW_NEXT;
	}
}

const struct cfi_row *unit_row(const struct unit *u, uint64_t addr)
{
	size_t lo = 0, hi = u->nrows;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (addr >= u->rows[mid].hi)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < u->nrows && addr >= u->rows[lo].lo ? &u->rows[lo] : NULL;
}

// LOCK cmpxchg (also 8b and 16b), or xchg with memory, which needs no prefix.
static bool is_lock(const struct insn *in)
{
	uint8_t op = in->d.opcode, mod = in->d.raw.modrm.mod;

	if (mod == 3)
		return false;
	if (insn_one_byte(in))
		return op == 0x86 || op == 0x87;
	if (!insn_0f(in) || !(op == 0xb0 || op == 0xb1 || (op == 0xc7 && in->d.raw.modrm.reg == 1)))
		return false;
	return insn_has_lock(in);
}

// A number that a register holds, for as long as control goes straight on.
struct number {
	uint64_t from; // behind the instruction that the number is in; 0: none
	uint64_t set;  // behind the one that put it into this register
	int32_t nr;
};

// mov $n, %reg and xor %reg, %reg: which register, or -1.
static int sets_number(const struct insn *in, int32_t *ret_nr)
{
	uint8_t op = in->d.opcode;
	bool both = in->d.raw.modrm.mod == 3;

	if (!insn_one_byte(in) || in->d.operand_width < 32)
		return -1;
	*ret_nr = (int32_t)in->d.raw.imm[0].value.s;
	if ((op & 0xf8) == 0xb8 && in->d.raw.imm[0].size == 32)
		return (op & 7) + 8 * in->d.raw.rex.B;
	if (op == 0xc7 && both && !in->d.raw.modrm.reg)
		return (int)insn_rm(in);
	*ret_nr = 0;
	return (op == 0x31 || op == 0x33) && both && insn_rm(in) == insn_reg(in) ? (int)insn_rm(in)
										 : -1;
}

// mov %reg, %eax: which one, or -1.
static int copies_to_eax(const struct insn *in)
{
	if (!insn_one_byte(in) || in->d.raw.modrm.mod != 3 || in->d.operand_width < 32)
		return -1;
	if (in->d.opcode == 0x89 && insn_rm(in) == 0)
		return (int)insn_reg(in);
	return in->d.opcode == 0x8b && insn_reg(in) == 0 ? (int)insn_rm(in) : -1;
}

// Does nothing from pc to end, exclusive, write general register reg? It is straight code, at most 256 bytes of it.
static bool kept(const struct scan *sc, const struct unit *u, unsigned reg, uint64_t pc,
		 uint64_t end)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction d;

	if (end - pc > 256)
		return false;
	for (; pc < end; pc += d.length) {
		if (ZYAN_FAILED(ZydisDecoderDecodeFull(&sc->dec.full, u->bytes + (pc - u->lo),
						       end - pc, &d, ops)))
			return false;
		for (unsigned i = 0; i < d.operand_count; i++) {
			if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			    ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
			    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
							     ops[i].reg.value) ==
				    (ZydisRegister)(ZYDIS_REGISTER_RAX + reg))
				return false;
		}
	}
	return true;
}

// Follow numbers through one instruction that control goes straight through.
static void follow_numbers(const struct scan *sc, const struct unit *u, const struct insn *in,
			   struct number numbers[16])
{
	int32_t nr;
	int reg = sets_number(in, &nr);

	if (reg >= 0) {
		numbers[reg] = (struct number){in->next, in->next, nr};
		return;
	}
	reg = copies_to_eax(in);
	if (reg > 0) {
		const struct number *n = &numbers[reg];

		numbers[0].from = 0;
		if (n->from && kept(sc, u, (unsigned)reg, n->set, in->pc))
			numbers[0] = (struct number){n->from, in->next, n->nr};
	}
}

static int add_site(struct scan *sc, const struct unit *u, uint64_t pc, const struct number *eax)
{
	int r = reserve(&sc->sites, sc->nsites, &sc->sites_cap, sizeof(*sc->sites));

	if (r < 0)
		return r;
	sc->sites[sc->nsites].pc = pc;
	sc->sites[sc->nsites].nr = eax->nr;
	sc->sites[sc->nsites].mov = eax->from && kept(sc, u, 0, eax->set, pc) ? eax->from : 0;
	sc->nsites++;
	return 0;
}

// A jump to target: numbers set before it and used behind it are not known. sites ascend.
static void site_target(struct site *sites, size_t n, uint64_t target)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (sites[mid].pc < target)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < n && sites[lo].mov && sites[lo].mov <= target)
		sites[lo].mov = 0;
}

// Jumps inside the unit, for its system calls.
static void site_jumps(struct scan *sc, const struct unit *u, size_t first)
{
	struct insn in;
	uint64_t target;

	for (uint64_t pc = u->lo; pc < u->hi && insn_decode(&sc->dec, u, pc, &in); pc = in.next) {
		enum flow flow = insn_flow(&in, &target);

		if ((flow == FLOW_COND || flow == FLOW_JUMP) && target >= u->lo && target < u->hi)
			site_target(sc->sites + first, sc->nsites - first, target);
	}
}

// The instruction mentions an address relative to itself. What lies in text and is neither jumped to nor called, but mentioned, is
// data, or compared with the PC of a signal.
static int refers(struct scan *sc, const struct insn *in)
{
	const struct module *m = sc->m;
	struct code_facts *facts = sc->facts;
	uint64_t target = in->next + (uint64_t)in->d.raw.disp.value;
	int r;

	if (in->d.raw.disp.size != 32 || in->d.raw.modrm.mod != 0 || in->d.raw.modrm.rm != 5 ||
	    target < m->text[0].addr ||
	    target > m->text[m->ntext - 1].addr + m->text[m->ntext - 1].size)
		return 0;
	r = reserve(&facts->refs, facts->nrefs, &facts->refs_cap, sizeof(*facts->refs));
	if (r == 0)
		facts->refs[facts->nrefs++] = target;
	return r;
}

// Who asks whether a PC is before or behind a system call wants it to be made there: emulators do so, and libraries with cancellation of
// their own.
static int site_mentioned(struct scan *sc, uint64_t target)
{
	size_t lo = 0, hi = sc->nsites;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (sc->sites[mid].pc + 2 < target)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == sc->nsites || sc->sites[lo].pc > target)
		return 0;
	return marks_add(sc->marks, MARK_CRITICAL, sc->sites[lo].pc, sc->sites[lo].pc + 2, 0);
}

static int jump_out(struct scan *sc, struct code_func *f, uint64_t target)
{
	struct code_facts *facts = sc->facts;
	int r = reserve(&facts->jumps, facts->njumps, &facts->jumps_cap, sizeof(*facts->jumps));

	if (r < 0)
		return r;
	facts->jumps[facts->njumps++] = target;
	f->njumps++;
	return 0;
}

static bool is_entry(const struct entries *e, uint64_t target)
{
	for (size_t i = 0; i < e->n; i++) {
		if (e->v[i] == target)
			return true;
	}
	return false;
}

static bool has_pause(const struct marks *marks, size_t first)
{
	while (first < marks->n && marks->v[first].kind != MARK_PAUSE)
		first++;
	return first < marks->n;
}

// Nobody needs caves where there is nothing near to be rewritten. has: there is in u, which has been scanned.
static int caves(struct scan *sc, const struct unit *u, bool has)
{
	int r = 0;

	if (has) {
		for (unsigned i = 0; r == 0 && i < sc->nlast; i++)
			if (sc->last[i].hi + REACH > u->lo)
				r = caves_inside(&sc->dec, &sc->last[i], sc->marks);
		sc->nlast = 0;
		sc->wanted = u->hi + REACH;
	}
	if (r < 0)
		return r;
	if (u->lo < sc->wanted)
		return caves_inside(&sc->dec, u, sc->marks);
	if (sc->nlast == LAST)
		memmove(sc->last, sc->last + 1, --sc->nlast * sizeof(*sc->last));
	sc->last[sc->nlast++] = *u;
	return 0;
}

static int scan_unit(struct scan *sc, const struct unit *u)
{
	size_t first_site = sc->nsites, first_mark = sc->marks->n, row = 0;
	struct code_func f = {.lo = u->lo, .hi = u->hi};
	struct stack stack;
	struct insn in;
	// Code made to have a loop at each byte is not worth the time and memory.
	int64_t loops = (int64_t)((u->hi - u->lo) / 8 + 64);
	struct number numbers[16] = {0};
	enum flow flow = FLOW_NEXT;
	uint64_t target;
	bool ok = true, waits;
	int r;

	if (sc->facts->njumps > UINT32_MAX - (u->hi - u->lo))
		return -EOVERFLOW;
	f.first_jump = (uint32_t)sc->facts->njumps;
	if (u->rows)
		stack_begin(&stack, u, &sc->dec, sc->marks);
	for (uint64_t pc = u->lo; pc < u->hi; pc = in.next) {
		const struct cfi_row *here = NULL, *next = NULL;

		ok = insn_decode(&sc->dec, u, pc, &in);
		if (!ok)
			break;
		flow = insn_flow(&in, &target);
		if (u->rows) {
			while (row < u->nrows && u->rows[row].hi <= pc)
				row++;
			if (row < u->nrows && u->rows[row].lo <= pc)
				here = &u->rows[row];
			while (row < u->nrows && u->rows[row].hi <= in.next)
				row++;
			if (row < u->nrows && u->rows[row].lo <= in.next)
				next = &u->rows[row];
			// The row behind begins, and the row here ends, at the end of the instruction.
			ok = (!next || next == here || next->lo == in.next) &&
			     (!here || next == here || here->hi >= in.next);
			if (!ok)
				break;
			stack_step(&stack, &in, flow, target, here, next);
		}
		if (is_lock(&in))
			f.locks = true;
		r = refers(sc, &in);
		if (r < 0)
			return r;
		if ((flow == FLOW_COND || flow == FLOW_JUMP)) {
			if (target < u->lo || target >= u->hi)
				r = jump_out(sc, &f, target);
			else if (target <= pc && in.next - target <= SPIN_MAX && loops-- > 0 &&
				 sc->marks->n - first_mark <= (u->hi - u->lo) / 8 + 64)
				r = spin_loop(&sc->dec, u, target, pc, in.next, sc->marks);
			else
				r = 0;
			if (r < 0)
				return r;
		} else if (flow == FLOW_CALL && target) {
			f.outermost |= is_entry(&sc->setjmps, target);
			f.locks |= is_entry(&sc->lockers, target);
		}
		if (flow != FLOW_NEXT) {
			memset(numbers, 0, sizeof(numbers));
		} else if (in.d.opcode == 0x05 && insn_0f(&in)) {
			r = add_site(sc, u, pc, &numbers[0]);
			if (r < 0)
				return r;
			numbers[0].from = 0;
		} else {
			follow_numbers(sc, u, &in, numbers);
		}
	}
	sc->sealed = ok && (flow == FLOW_STOP || flow == FLOW_JUMP) ? u->hi : 0;
	if (!ok) {
		// Nothing found so far is sure, but the jumps and locks, which only make code more critical.
		sc->nsites = first_site;
		sc->marks->n = first_mark;
		if (u->rows) {
			r = marks_add(sc->marks, MARK_UNSAFE, u->lo, u->hi, TABLE_MISMATCH);
			if (r < 0)
				return r;
		}
	} else {
		if (u->rows) {
			r = stack_end(&stack);
			if (r < 0)
				return r;
		}
		if (sc->nsites > first_site)
			site_jumps(sc, u, first_site);
		waits = has_pause(sc->marks, first_mark);
		r = waits ? enqueue_marks(&sc->dec, u, sc->marks, first_mark) : 0;
		if (r < 0)
			return r;
		r = caves(sc, u, sc->nsites > first_site || waits);
		if (r < 0)
			return r;
	}
	r = reserve(&sc->facts->funcs, sc->facts->n, &sc->facts->cap, sizeof(*sc->facts->funcs));
	if (r < 0)
		return r;
	sc->facts->funcs[sc->facts->n++] = f;
	return 0;
}

// The bytes of [lo, hi), cut off at the end of the section lo is in; NULL outside.
static const uint8_t *text_bytes(const struct module *m, uint64_t lo, uint64_t *hi)
{
	size_t a = 0, b = m->ntext;

	while (a < b) {
		size_t mid = a + (b - a) / 2;

		if (lo - m->text[mid].addr < m->text[mid].size && lo >= m->text[mid].addr) {
			const struct section *s = &m->text[mid];

			if (!s->bytes)
				return NULL;
			if (*hi - s->addr > s->size)
				*hi = s->addr + s->size;
			return s->bytes + (lo - s->addr);
		}
		if (lo < m->text[mid].addr)
			b = mid;
		else
			a = mid + 1;
	}
	return NULL;
}

// [lo, hi) is in no function. If there is nothing but filling, up to the next function or the end of the section, and control does
// not come from before, it is a cave.
static int outside(struct scan *sc, uint64_t lo, uint64_t hi)
{
	const uint8_t *bytes;

	if (lo >= hi || sc->sealed != lo)
		return 0;
	bytes = text_bytes(sc->m, lo, &hi);
	return bytes && only_filler(bytes, hi - lo) ? marks_add(sc->marks, MARK_CAVE, lo, hi, 0)
						    : 0;
}

// Functions that only symbols know, in [lo, hi), where there is no CFI. *i is the first symbol to look at.
static int scan_gap(struct scan *sc, size_t *i, uint64_t lo, uint64_t hi)
{
	const struct module *m = sc->m;

	for (; *i < m->nfuncs && m->funcs[*i].lo < hi; (*i)++) {
		const struct func *f = &m->funcs[*i];
		struct unit u = {.lo = f->lo, .hi = f->hi};
		size_t k = *i + 1;
		int r;

		if (f->lo < lo)
			continue;
		r = outside(sc, lo, f->lo);
		if (r < 0)
			return r;
		while (k < m->nfuncs && m->funcs[k].lo == f->lo)
			k++; // aliases
		if (u.hi <= u.lo || u.hi > hi)
			u.hi = hi;
		if (k < m->nfuncs && u.hi > m->funcs[k].lo)
			u.hi = m->funcs[k].lo;
		u.bytes = text_bytes(m, u.lo, &u.hi);
		if (u.bytes) {
			r = scan_unit(sc, &u);
			if (r < 0)
				return r;
		}
		lo = u.hi;
	}
	return outside(sc, lo, hi);
}

static int scan_units(struct scan *sc)
{
	const struct cfi *cfi = sc->cfi;
	size_t symbol = 0;
	uint64_t done = 0;
	int r;

	for (size_t i = 0, k; i < cfi->n; i = k) {
		struct unit u = {
			.lo = cfi->rows[i].lo, .hi = cfi->rows[i].hi, .rows = cfi->rows + i};

		for (k = i + 1; k < cfi->n && cfi->rows[k].fde == cfi->rows[i].fde; k++)
			u.hi = cfi->rows[k].hi;
		// The first row of an FDE may be missing: its code begins at the FDE's address all the same.
		if (cfi->rows[i].fde < u.lo && cfi->rows[i].fde >= done)
			u.lo = cfi->rows[i].fde;
		u.nrows = k - i;
		r = scan_gap(sc, &symbol, done, u.lo);
		if (r < 0)
			return r;
		done = u.hi;
		u.bytes = text_bytes(sc->m, u.lo, &u.hi);
		if (!u.bytes)
			continue;
		if (u.hi < done)
			r = marks_add(sc->marks, MARK_UNSAFE, u.lo, done, TABLE_MISMATCH);
		else
			r = scan_unit(sc, &u);
		if (r < 0)
			return r;
	}
	return scan_gap(sc, &symbol, done, UINT64_MAX);
}

// setjmp and its kin, and what takes locks. Each has several names, with versions behind them.
static void find_entries(struct scan *sc)
{
	static const char *const setjmps[] = {"_setjmp", "setjmp", "__sigsetjmp", NULL};
	static const char *const lockers[] = {"pthread_mutex_lock",
					      "__pthread_mutex_lock",
					      "pthread_rwlock_rdlock",
					      "__pthread_rwlock_rdlock",
					      "pthread_rwlock_wrlock",
					      "__pthread_rwlock_wrlock",
					      NULL};
	const struct {
		const char *const *names;
		struct entries *entries;
	} kinds[] = {{setjmps, &sc->setjmps}, {lockers, &sc->lockers}};

	for (size_t i = 0; i < sc->m->nfuncs; i++) {
		const struct func *f = &sc->m->funcs[i];
		size_t len = f->name ? strcspn(f->name, "@") : 0;

		for (size_t k = 0; len && k < sizeof(kinds) / sizeof(*kinds); k++) {
			struct entries *e = kinds[k].entries;

			for (const char *const *n = kinds[k].names; *n; n++) {
				if (strlen(*n) == len && !memcmp(f->name, *n, len) &&
				    e->n < sizeof(e->v) / sizeof(*e->v) && !is_entry(e, f->lo))
					e->v[e->n++] = f->lo;
			}
		}
	}
}

int insn_scan(const struct module *m, const struct cfi *cfi, struct marks *marks,
	      struct code_facts *facts)
{
	struct scan sc = {.m = m, .cfi = cfi, .marks = marks, .facts = facts};
	int r;

	if (ZYAN_FAILED(ZydisDecoderInit(&sc.dec.min, ZYDIS_MACHINE_MODE_LONG_64,
					 ZYDIS_STACK_WIDTH_64)) ||
	    ZYAN_FAILED(
		    ZydisDecoderEnableMode(&sc.dec.min, ZYDIS_DECODER_MODE_MINIMAL, ZYAN_TRUE)) ||
	    ZYAN_FAILED(ZydisDecoderInit(&sc.dec.full, ZYDIS_MACHINE_MODE_LONG_64,
					 ZYDIS_STACK_WIDTH_64)))
		return -EINVAL;
	find_entries(&sc);
	r = scan_units(&sc);
	// Jumps from other functions, say from their .cold parts.
	for (size_t i = 0; !r && sc.nsites && i < facts->njumps; i++)
		site_target(sc.sites, sc.nsites, facts->jumps[i]);
	for (size_t i = 0; !r && i < sc.nsites; i++)
		r = marks_add(marks, MARK_SYSCALL, sc.sites[i].pc, sc.sites[i].pc + 2,
			      sc.sites[i].mov ? sc.sites[i].nr : -1);
	for (size_t i = 0; !r && sc.nsites && i < facts->nrefs; i++)
		r = site_mentioned(&sc, facts->refs[i]);
	if (!r)
		caves_entered(marks, facts);
	free(sc.sites);
	return r;
}
