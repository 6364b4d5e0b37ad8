// cfi.c: reads .eh_frame and .debug_frame into one row per range of addresses.
//
// Problem. Frame descriptions are programs: each FDE runs instructions that move an address on and change rules. We
// want, for each address, three things only: the CFA, whether the return address is at CFA-8, and where the caller's
// rbp is. The sections are untrusted and may have tens of megabytes.
//
// Approach. Two steps. The first walks the entries and notes where each FDE is and which addresses it describes; these
// notes are sorted. The second interprets the FDEs in order of address, so rows come out sorted, and gives
// each address to one FDE only: the one that begins first, among equals the earlier one. The state of the
// interpreter is a few words, with a bounded stack for remember_state; the instructions of a CIE run once for all FDEs
// that follow it. Equal neighbours become one row. Nothing is allocated but the notes and the rows.
//
// .debug_frame only fills the gaps that .eh_frame leaves: that one is what exceptions use, so it is the better tested.
//
// An entry that is not understood is left out. If an instruction is not, the rows before it stay and the rest of its
// function has no CFI. Work is bounded by a budget in proportion to the section, as many FDEs may name one long CIE.
//
// Rejected: libdwarf's frame interface. It allocates for each FDE and interprets anew for each row it is asked for, it
// cannot be bounded in memory, and an interpreter of three registers is small enough to fuzz well.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compiler.h"

enum {
	RBP = 6,
	RSP = 7,
	RA = 16,
	STACK = 16,		     // nested remember_state; compilers use one
	MAX_ROWS = 16 * 1024 * 1024, // 512 MB
	MAX_FDES = 8 * 1024 * 1024,
	OFFSET_LIMIT = 1 << 28, // larger frames than that are nonsense
};

// Pointer encodings (DW_EH_PE_*).
enum {
	PE_ABSPTR = 0x00,
	PE_ULEB128 = 0x01,
	PE_UDATA2 = 0x02,
	PE_UDATA4 = 0x03,
	PE_UDATA8 = 0x04,
	PE_SLEB128 = 0x09,
	PE_SDATA2 = 0x0a,
	PE_SDATA4 = 0x0b,
	PE_SDATA8 = 0x0c,
	PE_PCREL = 0x10,
	PE_TEXTREL = 0x20,
	PE_DATAREL = 0x30,
	PE_OMIT = 0xff,
};

// Call frame instructions; the first three have their operand in the low six bits.
enum {
	CFA_ADVANCE_LOC = 0x40,
	CFA_OFFSET = 0x80,
	CFA_RESTORE = 0xc0,
	CFA_NOP = 0x00,
	CFA_SET_LOC = 0x01,
	CFA_ADVANCE_LOC1 = 0x02,
	CFA_ADVANCE_LOC2 = 0x03,
	CFA_ADVANCE_LOC4 = 0x04,
	CFA_OFFSET_EXTENDED = 0x05,
	CFA_RESTORE_EXTENDED = 0x06,
	CFA_UNDEFINED = 0x07,
	CFA_SAME_VALUE = 0x08,
	CFA_REGISTER = 0x09,
	CFA_REMEMBER_STATE = 0x0a,
	CFA_RESTORE_STATE = 0x0b,
	CFA_DEF_CFA = 0x0c,
	CFA_DEF_CFA_REGISTER = 0x0d,
	CFA_DEF_CFA_OFFSET = 0x0e,
	CFA_DEF_CFA_EXPRESSION = 0x0f,
	CFA_EXPRESSION = 0x10,
	CFA_OFFSET_EXTENDED_SF = 0x11,
	CFA_DEF_CFA_SF = 0x12,
	CFA_DEF_CFA_OFFSET_SF = 0x13,
	CFA_VAL_OFFSET = 0x14,
	CFA_VAL_OFFSET_SF = 0x15,
	CFA_VAL_EXPRESSION = 0x16,
	CFA_GNU_ARGS_SIZE = 0x2e,
	CFA_GNU_NEGATIVE_OFFSET_EXTENDED = 0x2f,
};

// --- reading ------------------------------------------------------------------------------------

// A cursor. A read past the end gives 0 and sets bad for good.
struct reader {
	const uint8_t *p, *end;
	bool bad;
};

static bool have(struct reader *r, uint64_t n)
{
	if (r->bad || n > (uint64_t)(r->end - r->p))
		r->bad = true;
	return !r->bad;
}

static uint64_t fixed(struct reader *r, unsigned n)
{
	uint64_t v = 0;

	if (!have(r, n))
		return 0;
	memcpy(&v, r->p, n); // little-endian file, little-endian host
	r->p += n;
	return v;
}

static uint64_t uleb(struct reader *r)
{
	uint64_t v = 0;

	for (unsigned shift = 0; have(r, 1); shift += 7) {
		uint8_t byte = *r->p++;

		// Bits beyond 64 must be zero.
		if (shift >= 64 ? (byte & 0x7f) != 0 : shift == 63 && (byte & 0x7e) != 0)
			break;
		if (shift < 64)
			v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return v;
	}
	r->bad = true;
	return 0;
}

static int64_t sleb(struct reader *r)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70 && have(r, 1); shift += 7) {
		uint8_t byte = *r->p++;

		if (shift < 64)
			v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			if (shift + 7 < 64 && (byte & 0x40))
				v |= UINT64_MAX << (shift + 7);
			return (int64_t)v;
		}
	}
	r->bad = true;
	return 0;
}

static void skip(struct reader *r, uint64_t n)
{
	if (have(r, n))
		r->p += n;
}

// One of the two sections.
struct source {
	const struct module *m;
	struct section sec;
	bool eh;
	uint64_t text, got;
	uint64_t budget; // bytes of instructions that may still be run
};

// A pointer in one of the encodings. Indirect, function-relative and aligned ones are not for code addresses.
static uint64_t encoded(const struct source *src, struct reader *r, uint8_t enc)
{
	uint64_t at = src->sec.addr + (uint64_t)(r->p - src->sec.bytes), v;

	switch (enc & 0x0f) {
	case PE_ABSPTR:
	case PE_UDATA8:
	case PE_SDATA8:
		v = fixed(r, 8);
		break;
	case PE_ULEB128:
		v = uleb(r);
		break;
	case PE_SLEB128:
		v = (uint64_t)sleb(r);
		break;
	case PE_UDATA2:
		v = fixed(r, 2);
		break;
	case PE_UDATA4:
		v = fixed(r, 4);
		break;
	case PE_SDATA2:
		v = (uint64_t)(int16_t)fixed(r, 2);
		break;
	case PE_SDATA4:
		v = (uint64_t)(int32_t)fixed(r, 4);
		break;
	default:
		r->bad = true;
		return 0;
	}
	switch (enc & 0xf0) {
	case 0:
		return v;
	case PE_PCREL:
		return at + v;
	case PE_TEXTREL:
		r->bad |= src->text == 0;
		return src->text + v;
	case PE_DATAREL:
		r->bad |= src->got == 0;
		return src->got + v;
	default:
		r->bad = true;
		return 0;
	}
}

// --- entries ------------------------------------------------------------------------------------

enum rule_kind {
	RULE_SAME, // also: nothing said
	RULE_UNDEFINED,
	RULE_OFFSET,	 // saved at CFA + value
	RULE_VAL_OFFSET, // is CFA + value
	RULE_AT_RBP,	 // saved where rbp points to
	RULE_OTHER,
};
struct rule {
	uint8_t kind;
	int64_t value;
};

enum cfa_kind { CFA_IS_OTHER, CFA_IS_REG, CFA_IS_RBP_DEREF };

// What is known at one address.
struct state {
	uint8_t cfa_kind;
	uint64_t cfa_reg;
	int64_t cfa_offset;
	struct rule rbp, rsp, ra;
};

struct cie {
	size_t offset; // in the section; SIZE_MAX: none
	bool valid;
	uint8_t fde_encoding;
	bool augmented; // FDEs have augmentation data to skip
	bool signal;
	uint64_t code_align;
	int64_t data_align;
	uint64_t ra_reg;
	struct state initial;
};

// An entry's length and id. In .eh_frame the id is 4 bytes even where the length is 64-bit.
struct entry {
	struct reader r;  // at what follows the id
	size_t id_offset; // of the id, in the section
	uint64_t id;
	bool is_cie, wide;
};

// The entry at offset; false at the end. An entry with no content (a terminator) has r.p == r.end.
static bool next_entry(const struct source *src, size_t offset, struct entry *ret, size_t *ret_next)
{
	struct reader r = {src->sec.bytes + offset, src->sec.bytes + src->sec.size, false};
	uint64_t len = fixed(&r, 4);
	unsigned id_bytes;

	ret->wide = len == 0xffffffff;
	if (ret->wide)
		len = fixed(&r, 8);
	if (!have(&r, len))
		return false;
	r.end = r.p + len;
	*ret_next = (size_t)(r.end - src->sec.bytes);
	if (len == 0) {
		ret->is_cie = false; // another entry may name it as its CIE
		ret->r = r;
		return true;
	}
	ret->id_offset = (size_t)(r.p - src->sec.bytes);
	id_bytes = ret->wide && !src->eh ? 8 : 4;
	ret->id = fixed(&r, id_bytes);
	ret->is_cie = src->eh	      ? ret->id == 0
		      : id_bytes == 8 ? ret->id == UINT64_MAX
				      : ret->id == 0xffffffff;
	if (r.bad)
		r.p = r.end;
	ret->r = r;
	return true;
}

static bool run(struct source *src, const struct cie *cie, struct reader r, struct state *state,
		const struct state *initial, uint64_t lo, uint64_t hi,
		int (*emit)(void *, uint64_t, uint64_t, const struct state *), void *arg);

static bool augmentation(const struct source *src, struct reader *r, const char *aug,
			 struct cie *cie)
{
	struct reader data;
	uint64_t len = uleb(r);

	data = *r;
	skip(r, len);
	if (r->bad)
		return false;
	data.end = r->p;
	cie->augmented = true;
	for (; *aug; aug++) {
		uint8_t enc;

		switch (*aug) {
		case 'R':
			cie->fde_encoding = (uint8_t)fixed(&data, 1);
			break;
		case 'P':
			enc = (uint8_t)fixed(&data, 1);
			if ((enc & 0x70) == 0x50) // aligned
				return false;
			if (enc != PE_OMIT) {
				struct source any = *src;

				any.text = any.got = 1; // only its length matters
				encoded(&any, &data, enc & 0x7f);
			}
			break;
		case 'L':
			fixed(&data, 1);
			break;
		case 'S':
			cie->signal = true;
			break;
		default:
			return false;
		}
	}
	return !data.bad;
}

// Parse the CIE at offset and run its instructions.
static void read_cie(struct source *src, size_t offset, struct cie *ret)
{
	struct entry e;
	struct reader r;
	size_t next;
	const char *aug;
	uint64_t version;

	*ret = (struct cie){.offset = offset};
	if (offset >= src->sec.size || !next_entry(src, offset, &e, &next) || !e.is_cie)
		return;
	r = e.r;
	if ((uint64_t)(r.end - r.p) > src->budget)
		return;
	src->budget -= (uint64_t)(r.end - r.p);
	version = fixed(&r, 1);
	if (version != 1 && version != 3 && (src->eh || version != 4))
		return;
	aug = (const char *)r.p;
	while (have(&r, 1) && *r.p)
		r.p++;
	skip(&r, 1);
	if (r.bad)
		return;
	if (version == 4 && (fixed(&r, 1) != 8 || fixed(&r, 1) != 0)) // address, segment size
		return;
	if (strcmp(aug, "eh") == 0) {
		skip(&r, 8);
		aug = "";
	}
	ret->code_align = uleb(&r);
	ret->data_align = sleb(&r);
	ret->ra_reg = version == 1 ? fixed(&r, 1) : uleb(&r);
	if (*aug == 'z') {
		if (!augmentation(src, &r, aug + 1, ret))
			return;
	} else if (*aug) {
		return;
	}
	if (r.bad)
		return;
	ret->valid = run(src, ret, r, &ret->initial, NULL, 0, UINT64_MAX, NULL, NULL);
}

static const struct cie *cie_at(struct source *src, size_t offset, struct cie *cache)
{
	if (cache->offset != offset)
		read_cie(src, offset, cache);
	return cache->valid ? cache : NULL;
}

// --- the interpreter ----------------------------------------------------------------------------

// value * factor, or something that no rule accepts.
static int64_t scaled(int64_t value, int64_t factor)
{
	int64_t v;

	if (__builtin_mul_overflow(value, factor, &v))
		return INT64_MAX;
	return v;
}

static int64_t clamp(uint64_t v)
{
	return v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

static struct rule *rule_of(struct state *s, const struct cie *cie, uint64_t reg)
{
	// A return address column other than RA is refused when the row is made.
	if (reg == cie->ra_reg)
		return &s->ra;
	return reg == RBP ? &s->rbp : reg == RSP ? &s->rsp : NULL;
}

static void set_rule(struct state *s, const struct cie *cie, uint64_t reg, enum rule_kind kind,
		     int64_t value)
{
	struct rule *rule = rule_of(s, cie, reg);

	if (rule)
		*rule = (struct rule){(uint8_t)kind, value};
}

// Is the expression DW_OP_breg6 N, and then, with deref, DW_OP_deref, and nothing else?
static bool is_breg6(struct reader *r, bool deref, int64_t *ret_n)
{
	uint64_t len = uleb(r);
	struct reader e = *r;

	skip(r, len);
	if (r->bad)
		return false;
	e.end = r->p;
	if (fixed(&e, 1) != 0x76)
		return false;
	*ret_n = sleb(&e);
	if (deref && fixed(&e, 1) != 0x06)
		return false;
	return !e.bad && e.p == e.end;
}

// Run the instructions of r. With emit, each range of constant state in [lo, hi) is handed over, and the instructions
// of a CIE may not move. False if one is not understood; what was emitted before is right.
static bool run(struct source *src, const struct cie *cie, struct reader r, struct state *s,
		const struct state *initial, uint64_t lo, uint64_t hi,
		int (*emit)(void *, uint64_t, uint64_t, const struct state *), void *arg)
{
	struct state stack[STACK];
	size_t depth = 0;
	uint64_t loc = lo;

	if ((uint64_t)(r.end - r.p) > src->budget)
		return false;
	src->budget -= (uint64_t)(r.end - r.p);
	while (r.p < r.end) {
		uint8_t byte = (uint8_t)fixed(&r, 1), op = byte & 0xc0 ? byte & 0xc0 : byte;
		uint64_t reg, delta = 0, to = 0;
		bool moves = false;
		struct rule *rule;
		int64_t n;

		switch (op) {
		case CFA_NOP:
			break;
		case CFA_ADVANCE_LOC:
			delta = byte & 0x3f;
			moves = true;
			break;
		case CFA_ADVANCE_LOC1:
		case CFA_ADVANCE_LOC2:
		case CFA_ADVANCE_LOC4:
			delta = fixed(&r, 1u << (op - CFA_ADVANCE_LOC1));
			moves = true;
			break;
		case CFA_SET_LOC:
			to = encoded(src, &r, cie->fde_encoding & 0x7f);
			if (!emit || cie->fde_encoding & 0x80)
				return false;
			moves = true;
			break;
		case CFA_OFFSET:
			n = scaled(clamp(uleb(&r)), cie->data_align);
			set_rule(s, cie, byte & 0x3f, RULE_OFFSET, n);
			break;
		case CFA_OFFSET_EXTENDED:
			reg = uleb(&r);
			n = scaled(clamp(uleb(&r)), cie->data_align);
			set_rule(s, cie, reg, RULE_OFFSET, n);
			break;
		case CFA_OFFSET_EXTENDED_SF:
			reg = uleb(&r);
			n = scaled(sleb(&r), cie->data_align);
			set_rule(s, cie, reg, RULE_OFFSET, n);
			break;
		case CFA_GNU_NEGATIVE_OFFSET_EXTENDED:
			reg = uleb(&r);
			n = scaled(scaled(clamp(uleb(&r)), -1), cie->data_align);
			set_rule(s, cie, reg, RULE_OFFSET, n);
			break;
		case CFA_VAL_OFFSET:
			reg = uleb(&r);
			n = scaled(clamp(uleb(&r)), cie->data_align);
			set_rule(s, cie, reg, RULE_VAL_OFFSET, n);
			break;
		case CFA_VAL_OFFSET_SF:
			reg = uleb(&r);
			n = scaled(sleb(&r), cie->data_align);
			set_rule(s, cie, reg, RULE_VAL_OFFSET, n);
			break;
		case CFA_RESTORE:
		case CFA_RESTORE_EXTENDED:
			reg = op == CFA_RESTORE ? byte & 0x3f : uleb(&r);
			if (!initial)
				return false;
			rule = rule_of(s, cie, reg);
			if (rule) {
				struct state first = *initial;

				*rule = *rule_of(&first, cie, reg);
			}
			break;
		case CFA_UNDEFINED:
			set_rule(s, cie, uleb(&r), RULE_UNDEFINED, 0);
			break;
		case CFA_SAME_VALUE:
			set_rule(s, cie, uleb(&r), RULE_SAME, 0);
			break;
		case CFA_REGISTER:
			reg = uleb(&r);
			uleb(&r);
			set_rule(s, cie, reg, RULE_OTHER, 0);
			break;
		case CFA_EXPRESSION:
			reg = uleb(&r);
			if (is_breg6(&r, false, &n) && n == 0)
				set_rule(s, cie, reg, RULE_AT_RBP, 0);
			else
				set_rule(s, cie, reg, RULE_OTHER, 0);
			break;
		case CFA_VAL_EXPRESSION:
			reg = uleb(&r);
			skip(&r, uleb(&r));
			set_rule(s, cie, reg, RULE_OTHER, 0);
			break;
		case CFA_REMEMBER_STATE:
			if (depth == STACK)
				return false;
			stack[depth++] = *s;
			break;
		case CFA_RESTORE_STATE:
			if (depth == 0)
				return false;
			*s = stack[--depth];
			break;
		case CFA_DEF_CFA:
			s->cfa_kind = CFA_IS_REG;
			s->cfa_reg = uleb(&r);
			s->cfa_offset = clamp(uleb(&r));
			break;
		case CFA_DEF_CFA_SF:
			s->cfa_kind = CFA_IS_REG;
			s->cfa_reg = uleb(&r);
			s->cfa_offset = scaled(sleb(&r), cie->data_align);
			break;
		// These three change one half of a rule; there is nothing to change in an expression.
		case CFA_DEF_CFA_REGISTER:
			reg = uleb(&r);
			if (s->cfa_kind == CFA_IS_REG)
				s->cfa_reg = reg;
			else
				s->cfa_kind = CFA_IS_OTHER;
			break;
		case CFA_DEF_CFA_OFFSET:
			n = clamp(uleb(&r));
			if (s->cfa_kind == CFA_IS_REG)
				s->cfa_offset = n;
			else
				s->cfa_kind = CFA_IS_OTHER;
			break;
		case CFA_DEF_CFA_OFFSET_SF:
			n = scaled(sleb(&r), cie->data_align);
			if (s->cfa_kind == CFA_IS_REG)
				s->cfa_offset = n;
			else
				s->cfa_kind = CFA_IS_OTHER;
			break;
		case CFA_DEF_CFA_EXPRESSION:
			if (is_breg6(&r, true, &n)) {
				s->cfa_kind = CFA_IS_RBP_DEREF;
				s->cfa_offset = n;
			} else {
				s->cfa_kind = CFA_IS_OTHER;
			}
			break;
		case CFA_GNU_ARGS_SIZE: // for landing pads only
			uleb(&r);
			break;
		default:
			return false;
		}
		if (r.bad)
			return false;
		if (!moves)
			continue;
		if (!emit)
			return false;
		if (op != CFA_SET_LOC) {
			if (__builtin_mul_overflow(delta, cie->code_align, &delta) ||
			    __builtin_add_overflow(loc, delta, &to))
				return false;
		}
		if (to < loc)
			return false;
		if (to >= hi)
			break;
		if (to > loc && emit(arg, loc, to, s))
			return false;
		loc = to;
	}
	return !emit || emit(arg, loc, hi, s) == 0;
}

// --- rows ---------------------------------------------------------------------------------------

struct output {
	struct cfi *cfi;
	const struct cie *cie;
	uint64_t fde;
	uint64_t from; // what lies before belongs to an earlier FDE
	int err;
};

static int16_t rbp_offset(const struct rule *rule)
{
	switch ((enum rule_kind)rule->kind) {
	case RULE_SAME:
		return 0;
	case RULE_AT_RBP:
		return TABLE_RBP_AT_RBP;
	case RULE_OFFSET:
		if (rule->value != 0 && rule->value % 8 == 0 && rule->value > INT16_MIN &&
		    rule->value <= INT16_MAX)
			return (int16_t)rule->value;
		return TABLE_RBP_UNKNOWN;
	case RULE_UNDEFINED:
	case RULE_VAL_OFFSET:
	case RULE_OTHER:
		break;
	}
	return TABLE_RBP_UNKNOWN;
}

// A full state to what a row can hold.
static void simplify(const struct cie *cie, const struct state *s, struct cfi_row *row)
{
	row->cfa_offset = 0;
	row->rbp_offset = 0;
	row->base = TABLE_CFA_NONE;
	if (cie->signal) {
		row->reason = TABLE_TRAMPOLINE;
		return;
	}
	row->reason = TABLE_BAD_RA;
	if (cie->ra_reg == RA && s->ra.kind == RULE_UNDEFINED) {
		row->base = TABLE_CFA_END;
		return;
	}
	if (cie->ra_reg != RA || s->ra.kind != RULE_OFFSET || s->ra.value != -8)
		return;
	row->reason = TABLE_BAD_CFA;
	// The CFA is the caller's stack pointer unless somebody says otherwise.
	if (s->rsp.kind != RULE_SAME && !(s->rsp.kind == RULE_VAL_OFFSET && s->rsp.value == 0))
		return;
	if (s->cfa_kind == CFA_IS_OTHER || s->cfa_offset % 8 || s->cfa_offset >= OFFSET_LIMIT ||
	    s->cfa_offset <= -OFFSET_LIMIT)
		return;
	if (s->cfa_kind == CFA_IS_RBP_DEREF) {
		row->base = TABLE_CFA_RBP_DEREF;
	} else {
		// Below CFA-8 the stack would be free, and the return address could be overwritten.
		if ((s->cfa_reg != RSP && s->cfa_reg != RBP) || s->cfa_offset < 8)
			return;
		row->base = s->cfa_reg == RSP ? TABLE_CFA_RSP : TABLE_CFA_RBP;
		row->reason = TABLE_SAFE;
	}
	row->cfa_offset = (int32_t)s->cfa_offset;
	row->rbp_offset = rbp_offset(&s->rbp);
}

static bool same(const struct cfi_row *a, const struct cfi_row *b)
{
	return a->fde == b->fde && a->cfa_offset == b->cfa_offset &&
	       a->rbp_offset == b->rbp_offset && a->base == b->base && a->reason == b->reason;
}

static int push_row(struct cfi *cfi, const struct cfi_row *row)
{
	struct cfi_row *last = cfi->n ? &cfi->rows[cfi->n - 1] : NULL;

	if (last && last->hi == row->lo && same(last, row)) {
		last->hi = row->hi;
		return 0;
	}
	if (cfi->n == cfi->cap) {
		size_t cap = cfi->cap ? cfi->cap + cfi->cap / 2 : 1024;
		void *v;

		if (cfi->n >= MAX_ROWS)
			return -EFBIG;
		if (cap > MAX_ROWS)
			cap = MAX_ROWS;
		v = realloc(cfi->rows, cap * sizeof(*cfi->rows));
		if (!v)
			return -ENOMEM;
		cfi->rows = v;
		cfi->cap = cap;
	}
	cfi->rows[cfi->n++] = *row;
	return 0;
}

static int emit_row(void *arg, uint64_t lo, uint64_t hi, const struct state *s)
{
	struct output *out = arg;
	struct cfi_row row = {.lo = lo < out->from ? out->from : lo, .hi = hi, .fde = out->fde};

	if (row.lo >= row.hi)
		return 0;
	simplify(out->cie, s, &row);
	out->err = push_row(out->cfi, &row);
	return out->err;
}

// --- the two steps --------------------------------------------------------------------------------

struct fde {
	uint64_t lo, hi;
	uint32_t order;
	uint32_t cie; // offsets in the section, which is below 4 GiB
	uint32_t code, code_end;
};

static int fde_cmp(const void *a, const void *b)
{
	const struct fde *x = a, *y = b;

	if (x->lo != y->lo)
		return x->lo < y->lo ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static const struct section *text_at(const struct module *m, uint64_t addr)
{
	size_t lo = 0, hi = m->ntext;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (addr < m->text[mid].addr)
			hi = mid;
		else if (addr - m->text[mid].addr >= m->text[mid].size)
			lo = mid + 1;
		else
			return &m->text[mid];
	}
	return NULL;
}

// One FDE's note: true if it describes code.
static bool note_fde(struct source *src, const struct entry *e, struct cie *cache, struct fde *ret)
{
	struct reader r = e->r;
	uint64_t at = src->eh ? e->id_offset - e->id : e->id, len;
	const struct section *text;
	const struct cie *cie;
	uint8_t enc;

	// Backwards in .eh_frame, so that a wrong id cannot pass for an offset beyond the end.
	if (at >= src->sec.size || (src->eh && e->id > e->id_offset))
		return false;
	cie = cie_at(src, (size_t)at, cache);
	if (!cie)
		return false;
	enc = cie->fde_encoding;
	ret->lo = encoded(src, &r, enc);
	len = encoded(src, &r, enc & 0x0f);
	if (cie->augmented)
		skip(&r, uleb(&r));
	text = r.bad || len == 0 ? NULL : text_at(src->m, ret->lo);
	if (!text)
		return false;
	ret->hi = text->addr + text->size;
	if (len < ret->hi - ret->lo)
		ret->hi = ret->lo + len;
	// Unwinders look the byte before a return address up; here it is the one before the trampoline.
	if (cie->signal && ret->lo > text->addr)
		ret->lo--;
	ret->cie = (uint32_t)at;
	ret->code = (uint32_t)(r.p - src->sec.bytes);
	ret->code_end = (uint32_t)(r.end - src->sec.bytes);
	return true;
}

static int note_fdes(struct source *src, struct fde **ret, size_t *ret_n)
{
	struct cie cache = {.offset = SIZE_MAX};
	struct fde *v = NULL;
	size_t n = 0, cap = 0, offset = 0, next;
	struct entry e;

	while (offset < src->sec.size && next_entry(src, offset, &e, &next)) {
		offset = next;
		if (e.r.p == e.r.end || e.is_cie)
			continue;
		if (n == cap) {
			void *bigger;

			cap = cap ? cap + cap / 2 : 1024;
			bigger = n < MAX_FDES ? realloc(v, cap * sizeof(*v)) : NULL;
			if (!bigger) {
				free(v);
				return n < MAX_FDES ? -ENOMEM : -EFBIG;
			}
			v = bigger;
		}
		v[n].order = (uint32_t)n;
		if (note_fde(src, &e, &cache, &v[n]))
			n++;
	}
	*ret = v;
	*ret_n = n;
	return 0;
}

static int read_source(struct source *src, struct cfi *cfi)
{
	struct cie cache = {.offset = SIZE_MAX};
	struct fde *fdes;
	size_t n;
	int err;

	if (src->sec.size == 0 || src->sec.size > UINT32_MAX)
		return 0;
	src->budget = 64 * src->sec.size + 65536;
	err = note_fdes(src, &fdes, &n);
	if (err)
		return err;
	qsort(fdes, n, sizeof(*fdes), fde_cmp);
	struct output out = {.cfi = cfi};
	for (size_t i = 0; i < n && out.err == 0; i++) {
		const struct fde *f = &fdes[i];
		const struct cie *cie = cie_at(src, f->cie, &cache);
		struct reader r = {src->sec.bytes + f->code, src->sec.bytes + f->code_end, false};
		struct state s;

		if (!cie || f->hi <= out.from)
			continue;
		s = cie->initial;
		out.cie = cie;
		out.fde = f->lo;
		// For a trampoline one byte was added in front; it has no rows but one kind, so that does not matter.
		run(src, cie, r, &s, &cie->initial, f->lo, f->hi, emit_row, &out);
		out.from = f->hi;
	}
	free(fdes);
	return out.err;
}

// Fill the gaps of cfi from more; both are sorted.
static int fill_gaps(struct cfi *cfi, const struct cfi *more)
{
	struct cfi merged = {0};
	size_t a = 0, b = 0;
	uint64_t from = 0;
	int err = 0;

	while (err == 0 && (a < cfi->n || b < more->n)) {
		struct cfi_row row;

		if (b < more->n && more->rows[b].hi <= from) {
			b++;
		} else if (b == more->n ||
			   (a < cfi->n &&
			    cfi->rows[a].lo <=
				    (more->rows[b].lo > from ? more->rows[b].lo : from))) {
			row = cfi->rows[a++];
			from = row.hi;
			err = push_row(&merged, &row);
		} else {
			row = more->rows[b];
			if (row.lo < from)
				row.lo = from;
			if (a < cfi->n && row.hi > cfi->rows[a].lo)
				row.hi = cfi->rows[a].lo;
			from = row.hi;
			err = push_row(&merged, &row);
		}
	}
	if (err) {
		cfi_free(&merged);
		return err;
	}
	cfi_free(cfi);
	*cfi = merged;
	return 0;
}

int cfi_read(struct cfi *cfi, const struct module *m)
{
	struct source src = {.m = m, .sec = m->eh_frame, .eh = true, .got = m->got};
	struct cfi more = {0};
	int err;

	*cfi = (struct cfi){0};
	for (size_t i = 0; i < m->ntext; i++) {
		if (m->text[i].name && strcmp(m->text[i].name, ".text") == 0)
			src.text = m->text[i].addr;
	}
	err = read_source(&src, cfi);
	if (err == 0 && m->debug_frame.size) {
		src.sec = m->debug_frame;
		src.eh = false;
		err = read_source(&src, &more);
		if (err == 0 && more.n)
			err = fill_gaps(cfi, &more);
		cfi_free(&more);
	}
	if (err)
		cfi_free(cfi);
	return err;
}

void cfi_free(struct cfi *cfi)
{
	free(cfi->rows);
	*cfi = (struct cfi){0};
}

const struct cfi_row *cfi_find(const struct cfi *cfi, uint64_t addr)
{
	size_t lo = 0, hi = cfi->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (addr < cfi->rows[mid].lo)
			hi = mid;
		else if (addr >= cfi->rows[mid].hi)
			lo = mid + 1;
		else
			return &cfi->rows[mid];
	}
	return NULL;
}
