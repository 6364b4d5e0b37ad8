// frames.c: the entries of .eh_frame and .debug_frame, and the interpreter of their instructions.
//
// Everything is read through a cursor that cannot leave its entry. A read past the end gives 0 and sets a flag, so
// that only the ends of larger steps look at it. Numbers that overflow become one that no rule accepts. The
// interpreter's state is a few words, with a bounded stack for remember_state; only the three registers that a row
// is made of are followed. The work is bounded by src->budget, as many FDEs may name one long CIE.
//
// Delicate: .eh_frame and .debug_frame differ in what the CIE pointer counts from, in what marks a CIE, and
// in the width of both where the length has 64 bits (4 bytes in .eh_frame even then).

#include <string.h>

#include "frames.h"

enum { STACK = 16 }; // nested remember_state; compilers use one

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

uint64_t frames_uleb(struct reader *r)
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

void frames_skip(struct reader *r, uint64_t n)
{
	if (have(r, n))
		r->p += n;
}

uint64_t frames_pointer(const struct source *src, struct reader *r, uint8_t enc)
{
	uint64_t at = src->sec.addr + (uint64_t)(r->p - src->sec.bytes), v;

	switch (enc & 0x0f) {
	case PE_ABSPTR:
	case PE_UDATA8:
	case PE_SDATA8:
		v = fixed(r, 8);
		break;
	case PE_ULEB128:
		v = frames_uleb(r);
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

bool frames_next(const struct source *src, size_t offset, struct entry *ret, size_t *ret_next)
{
	struct reader r = {src->sec.bytes + offset, src->sec.bytes + src->sec.size, false};
	uint64_t len = fixed(&r, 4);
	unsigned id_bytes;

	*ret = (struct entry){0};
	ret->wide = len == 0xffffffff;
	if (ret->wide)
		len = fixed(&r, 8);
	if (!have(&r, len))
		return false;
	r.end = r.p + len;
	*ret_next = (size_t)(r.end - src->sec.bytes);
	if (len == 0) {
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
	uint64_t len = frames_uleb(r);
	struct reader e = *r;

	frames_skip(r, len);
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

bool frames_run(struct source *src, const struct cie *cie, struct reader r, struct state *s,
		const struct state *initial, uint64_t lo, uint64_t hi, frames_emit *emit, void *arg)
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
			to = frames_pointer(src, &r, cie->fde_encoding & 0x7f);
			if (!emit || cie->fde_encoding & 0x80)
				return false;
			moves = true;
			break;
		case CFA_OFFSET:
			n = scaled(clamp(frames_uleb(&r)), cie->data_align);
			set_rule(s, cie, byte & 0x3f, RULE_OFFSET, n);
			break;
		case CFA_OFFSET_EXTENDED:
			reg = frames_uleb(&r);
			n = scaled(clamp(frames_uleb(&r)), cie->data_align);
			set_rule(s, cie, reg, RULE_OFFSET, n);
			break;
		case CFA_OFFSET_EXTENDED_SF:
			reg = frames_uleb(&r);
			n = scaled(sleb(&r), cie->data_align);
			set_rule(s, cie, reg, RULE_OFFSET, n);
			break;
		case CFA_GNU_NEGATIVE_OFFSET_EXTENDED:
			reg = frames_uleb(&r);
			n = scaled(scaled(clamp(frames_uleb(&r)), -1), cie->data_align);
			set_rule(s, cie, reg, RULE_OFFSET, n);
			break;
		case CFA_VAL_OFFSET:
			reg = frames_uleb(&r);
			n = scaled(clamp(frames_uleb(&r)), cie->data_align);
			set_rule(s, cie, reg, RULE_VAL_OFFSET, n);
			break;
		case CFA_VAL_OFFSET_SF:
			reg = frames_uleb(&r);
			n = scaled(sleb(&r), cie->data_align);
			set_rule(s, cie, reg, RULE_VAL_OFFSET, n);
			break;
		case CFA_RESTORE:
		case CFA_RESTORE_EXTENDED:
			reg = op == CFA_RESTORE ? byte & 0x3f : frames_uleb(&r);
			if (!initial)
				return false;
			rule = rule_of(s, cie, reg);
			if (rule) {
				struct state first = *initial;

				*rule = *rule_of(&first, cie, reg);
			}
			break;
		case CFA_UNDEFINED:
			set_rule(s, cie, frames_uleb(&r), RULE_UNDEFINED, 0);
			break;
		case CFA_SAME_VALUE:
			set_rule(s, cie, frames_uleb(&r), RULE_SAME, 0);
			break;
		case CFA_REGISTER:
			reg = frames_uleb(&r);
			frames_uleb(&r);
			set_rule(s, cie, reg, RULE_OTHER, 0);
			break;
		case CFA_EXPRESSION:
			reg = frames_uleb(&r);
			if (is_breg6(&r, false, &n) && n == 0)
				set_rule(s, cie, reg, RULE_AT_RBP, 0);
			else
				set_rule(s, cie, reg, RULE_OTHER, 0);
			break;
		case CFA_VAL_EXPRESSION:
			reg = frames_uleb(&r);
			frames_skip(&r, frames_uleb(&r));
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
			s->cfa_reg = frames_uleb(&r);
			s->cfa_offset = clamp(frames_uleb(&r));
			break;
		case CFA_DEF_CFA_SF:
			s->cfa_kind = CFA_IS_REG;
			s->cfa_reg = frames_uleb(&r);
			s->cfa_offset = scaled(sleb(&r), cie->data_align);
			break;
		// These three change one half of a rule; there is nothing to change in an expression.
		case CFA_DEF_CFA_REGISTER:
			reg = frames_uleb(&r);
			if (s->cfa_kind == CFA_IS_REG)
				s->cfa_reg = reg;
			else
				s->cfa_kind = CFA_IS_OTHER;
			break;
		case CFA_DEF_CFA_OFFSET:
			n = clamp(frames_uleb(&r));
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
			frames_uleb(&r);
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

// --- CIEs ---------------------------------------------------------------------------------------

static bool augmentation(const struct source *src, struct reader *r, const char *aug,
			 struct cie *cie)
{
	struct reader data;
	uint64_t len = frames_uleb(r);

	data = *r;
	frames_skip(r, len);
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
				frames_pointer(&any, &data, enc & 0x7f);
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
	if (offset >= src->sec.size || !frames_next(src, offset, &e, &next) || !e.is_cie)
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
	frames_skip(&r, 1);
	if (r.bad)
		return;
	if (version == 4 && (fixed(&r, 1) != 8 || fixed(&r, 1) != 0)) // address, segment size
		return;
	if (strcmp(aug, "eh") == 0) {
		frames_skip(&r, 8);
		aug = "";
	}
	ret->code_align = frames_uleb(&r);
	ret->data_align = sleb(&r);
	ret->ra_reg = version == 1 ? fixed(&r, 1) : frames_uleb(&r);
	if (*aug == 'z') {
		if (!augmentation(src, &r, aug + 1, ret))
			return;
	} else if (*aug) {
		return;
	}
	if (r.bad)
		return;
	ret->valid = frames_run(src, ret, r, &ret->initial, NULL, 0, UINT64_MAX, NULL, NULL);
}

const struct cie *frames_cie(struct source *src, size_t offset, struct cie *cache)
{
	if (cache->offset != offset)
		read_cie(src, offset, cache);
	return cache->valid ? cache : NULL;
}
