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

#include "frames.h"

enum {
	MAX_ROWS = 16 * 1024 * 1024, // 512 MB
	MAX_FDES = 8 * 1024 * 1024,
	OFFSET_LIMIT = 1 << 28, // larger frames than that are nonsense
};

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
	cie = frames_cie(src, (size_t)at, cache);
	if (!cie)
		return false;
	enc = cie->fde_encoding;
	ret->lo = frames_pointer(src, &r, enc);
	len = frames_pointer(src, &r, enc & 0x0f);
	if (cie->augmented)
		frames_skip(&r, frames_uleb(&r));
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

	while (offset < src->sec.size && frames_next(src, offset, &e, &next)) {
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
	if (n)
		qsort(fdes, n, sizeof(*fdes), fde_cmp);
	struct output out = {.cfi = cfi};
	for (size_t i = 0; i < n && out.err == 0; i++) {
		const struct fde *f = &fdes[i];
		const struct cie *cie = frames_cie(src, f->cie, &cache);
		struct reader r = {src->sec.bytes + f->code, src->sec.bytes + f->code_end, false};
		struct state s;

		if (!cie || f->hi <= out.from)
			continue;
		s = cie->initial;
		out.cie = cie;
		out.fde = f->lo;
		// For a trampoline one byte was added in front; it has no rows but one kind, so that does not matter.
		frames_run(src, cie, r, &s, &cie->initial, f->lo, f->hi, emit_row, &out);
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
