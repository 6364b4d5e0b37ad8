// rows.c: merges frame descriptions and marks into the table of shim/table.h.
//
// Problem. Rows from CFI are sorted and do not overlap; marks come in any order and overlap as they like; sections
// have gaps. The table wants every byte between the first and the last executable one covered exactly once, and
// neighbours that say the same merged.
//
// Approach. Each mark becomes two edges, where it begins and where it ends; the edges are sorted. One sweep walks
// sections, CFI rows and edges together. Between two stops nothing changes: that is a row. Counters say how many marks
// of each kind are open. A system call is a row of its own, exactly as long as its instruction, whatever else
// begins inside it.
//
// Addresses are offsets of 32 bits from here on, edges 8 bytes, so memory is about 40 bytes for a row of the table.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compiler.h"

enum { MAX_INSTRUCTION = 15 };

// --- marks --------------------------------------------------------------------------------------

int marks_add(struct marks *marks, enum mark_kind kind, uint64_t lo, uint64_t hi, int value)
{
	if (lo >= hi)
		return 0;
	if (marks->n == marks->cap) {
		size_t cap = marks->cap ? marks->cap + marks->cap / 2 : 1024;
		void *v = realloc(marks->v, cap * sizeof(*marks->v));

		if (!v)
			return -ENOMEM;
		marks->v = v;
		marks->cap = cap;
	}
	marks->v[marks->n++] =
		(struct mark){.lo = lo, .hi = hi, .value = value, .kind = (uint8_t)kind};
	return 0;
}

void marks_free(struct marks *marks)
{
	free(marks->v);
	*marks = (struct marks){0};
}

// --- edges --------------------------------------------------------------------------------------

struct edge {
	uint32_t pc;
	uint8_t kind; // enum mark_kind, but not MARK_SYSCALL
	uint8_t reason;
	int8_t step; // 1 begins, -1 ends
};

static int edge_cmp(const void *a, const void *b)
{
	const struct edge *x = a, *y = b;

	return x->pc < y->pc ? -1 : x->pc > y->pc;
}

struct call {
	uint32_t pc, len;
	int32_t nr;
};

static int call_cmp(const void *a, const void *b)
{
	const struct call *x = a, *y = b;

	if (x->pc != y->pc)
		return x->pc < y->pc ? -1 : 1;
	return x->len < y->len ? -1 : x->len > y->len;
}

// The table under construction.
struct build {
	const struct module *m;
	const struct cfi *cfi;
	uint64_t base, size;
	struct edge *edges;
	size_t nedges;
	struct call *calls;
	size_t ncalls;

	uint32_t *pcs;
	struct table_row *rows;
	size_t nrows, cap;

	uint32_t open[TABLE_REASONS], critical, spin, pause, enqueue,
		cave; // marks open at the sweep's place
};

// Sort what the marks say. System calls that do not lie in one section, or overlap another, are not instructions.
static int sort_marks(struct build *b, const struct marks *marks)
{
	size_t n = 0;

	b->edges = calloc(2 * marks->n + 1, sizeof(*b->edges));
	b->calls = calloc(marks->n + 1, sizeof(*b->calls));
	if (!b->edges || !b->calls)
		return -ENOMEM;
	for (size_t i = 0; i < marks->n; i++) {
		const struct mark *mark = &marks->v[i];
		uint64_t lo = mark->lo < b->base ? b->base : mark->lo;
		uint64_t hi = mark->hi > b->base + b->size ? b->base + b->size : mark->hi;
		uint8_t reason =
			mark->kind == MARK_UNSAFE && mark->value > 0 && mark->value < TABLE_REASONS
				? (uint8_t)mark->value
				: 0;

		if (lo >= hi || (mark->kind == MARK_UNSAFE && reason == 0))
			continue;
		if (mark->kind == MARK_SYSCALL) {
			const struct section *s = module_text(b->m, mark->lo);

			if (s && mark->hi - mark->lo <= MAX_INSTRUCTION &&
			    mark->hi - s->addr <= s->size)
				b->calls[b->ncalls++] =
					(struct call){(uint32_t)(lo - b->base), (uint32_t)(hi - lo),
						      mark->value < 0 ? -1 : mark->value};
			continue;
		}
		b->edges[b->nedges++] =
			(struct edge){(uint32_t)(lo - b->base), mark->kind, reason, 1};
		b->edges[b->nedges++] =
			(struct edge){(uint32_t)(hi - b->base), mark->kind, reason, -1};
	}
	qsort(b->edges, b->nedges, sizeof(*b->edges), edge_cmp);
	qsort(b->calls, b->ncalls, sizeof(*b->calls), call_cmp);
	for (size_t i = 0; i < b->ncalls; i++) {
		if (n > 0 && b->calls[i].pc == b->calls[n - 1].pc &&
		    b->calls[i].nr != b->calls[n - 1].nr)
			b->calls[n - 1].nr = -1; // not constant, then
		if (n == 0 || b->calls[i].pc - b->calls[n - 1].pc >= b->calls[n - 1].len)
			b->calls[n++] = b->calls[i];
	}
	b->ncalls = n;
	return 0;
}

static void apply(struct build *b, const struct edge *e)
{
	uint32_t *counter = e->kind == MARK_CRITICAL  ? &b->critical
			    : e->kind == MARK_SPIN    ? &b->spin
			    : e->kind == MARK_PAUSE   ? &b->pause
			    : e->kind == MARK_ENQUEUE ? &b->enqueue
			    : e->kind == MARK_CAVE    ? &b->cave
						      : &b->open[e->reason];

	*counter += (uint32_t)(int32_t)e->step;
}

// --- padding ------------------------------------------------------------------------------------

static uint64_t padding_end(const struct section *s, uint64_t lo, uint64_t hi)
{
	while (lo < hi) {
		size_t n = table_filler(s->bytes + (lo - s->addr), (size_t)(hi - lo));

		if (n == 0)
			break;
		lo += n;
	}
	return lo;
}

// --- the sweep ----------------------------------------------------------------------------------

static bool is_plt(const struct section *s)
{
	return s->name && strncmp(s->name, ".plt", 4) == 0 &&
	       (s->name[4] == 0 || s->name[4] == '.');
}

// Append what is true from pc on, if it differs from what was before. nr: a system call begins here.
static int push_row(struct build *b, uint64_t addr, struct table_row row)
{
	if (b->nrows && !((row.flags | b->rows[b->nrows - 1].flags) & TABLE_SYSCALL) &&
	    memcmp(&row, &b->rows[b->nrows - 1], sizeof(row)) == 0)
		return 0;
	if (b->nrows == b->cap) {
		size_t cap = b->cap ? b->cap + b->cap / 2 : 4096;
		void *pcs = realloc(b->pcs, cap * sizeof(*b->pcs)), *rows;

		if (!pcs)
			return -ENOMEM;
		b->pcs = pcs;
		rows = realloc(b->rows, cap * sizeof(*b->rows));
		if (!rows)
			return -ENOMEM;
		b->rows = rows;
		b->cap = cap;
	}
	b->pcs[b->nrows] = (uint32_t)(addr - b->base);
	b->rows[b->nrows++] = row;
	return 0;
}

// The row for what is open now. cfi NULL: none here, for this reason.
static struct table_row make_row(const struct build *b, const struct section *s,
				 const struct cfi_row *cfi, enum table_reason reason)
{
	enum table_base base = TABLE_CFA_NONE;
	struct table_row row = {0};

	if (cfi) {
		row.cfa_offset = cfi->cfa_offset;
		row.rbp_offset = cfi->rbp_offset;
		base = (enum table_base)cfi->base;
		reason = (enum table_reason)cfi->reason;
	}
	if (s && is_plt(s))
		reason = TABLE_PLT;
	// What the instructions say counts where the CFI was content; of several reasons the strongest.
	for (int i = TABLE_REASONS - 1; i > 0 && reason == TABLE_SAFE; i--) {
		if (b->open[i])
			reason = (enum table_reason)i;
	}
	if (b->cave && !b->critical && reason != TABLE_PLT) {
		row.base_reason = (uint8_t)(base | TABLE_PADDING << 4);
		row.flags = TABLE_CAVE;
		return row;
	}
	row.base_reason = (uint8_t)(base | reason << 4);
	row.flags = (uint8_t)((b->critical ? TABLE_CRITICAL : 0) | (b->spin ? TABLE_SPIN : 0) |
			      (b->pause	    ? TABLE_PAUSE
			       : b->enqueue ? TABLE_ENQUEUE
					    : 0));
	return row;
}

static int sweep(struct build *b)
{
	const struct module *m = b->m;
	const struct cfi_row *cfi = b->cfi->rows, *cfi_end = cfi ? cfi + b->cfi->n : NULL;
	const struct section *s = m->text, *s_end = s + m->ntext;
	size_t edge = 0, call = 0;
	uint64_t pos = b->base, end = b->base + b->size, gap_seen = 0, padding = 0;
	int err = 0;

	while (pos < end && err == 0) {
		const struct section *in;
		const struct cfi_row *row;
		struct table_row out;
		uint64_t stop = end;

		while (s < s_end && s->addr + s->size <= pos)
			s++;
		in = s < s_end && s->addr <= pos ? s : NULL;
		if (s < s_end)
			stop = in ? s->addr + s->size : s->addr;
		while (cfi < cfi_end && cfi->hi <= pos)
			cfi++;
		row = in && cfi < cfi_end && cfi->lo <= pos ? cfi : NULL;
		if (cfi < cfi_end) {
			uint64_t at = cfi->lo <= pos ? cfi->hi : cfi->lo;

			stop = at < stop ? at : stop;
		}
		// Padding is looked for once for each gap, at its start, and without regard to marks.
		if (in && !row && pos >= gap_seen) {
			padding = padding_end(in, pos, stop);
			gap_seen = stop;
		}
		if (in && !row && pos < padding && padding < stop)
			stop = padding;
		while (edge < b->nedges && b->edges[edge].pc <= pos - b->base)
			apply(b, &b->edges[edge++]);
		if (edge < b->nedges && b->edges[edge].pc < stop - b->base)
			stop = b->base + b->edges[edge].pc;
		out = make_row(b, in, row,
			       in && !row && pos < padding ? TABLE_PADDING : TABLE_NO_CFI);
		if (call < b->ncalls && b->calls[call].pc == pos - b->base) {
			out.flags = (uint8_t)((out.flags &
					       ~(TABLE_PAUSE | TABLE_CAVE | TABLE_ENQUEUE)) |
					      TABLE_SYSCALL);
			stop = pos + b->calls[call++].len;
		} else if (call < b->ncalls && b->calls[call].pc < stop - b->base) {
			stop = b->base + b->calls[call].pc;
		}
		err = push_row(b, pos, out);
		pos = stop;
	}
	return err;
}

// --- layout -------------------------------------------------------------------------------------

static uint64_t align8(uint64_t n)
{
	return (n + 7) & ~(uint64_t)7;
}

static void count_bytes(const struct build *b, struct table_header *h)
{
	for (size_t i = 0; i < b->nrows; i++) {
		uint64_t next = i + 1 < b->nrows ? b->pcs[i + 1] : b->size;
		uint64_t len = next - b->pcs[i];
		const struct table_row *row = &b->rows[i];

		if (table_reason(row) != TABLE_SAFE || !(row->flags & TABLE_CRITICAL))
			h->bytes[table_reason(row)] += len;
		if (row->flags & TABLE_CRITICAL)
			h->bytes_critical += len;
		if (row->flags & TABLE_SPIN)
			h->bytes_spin += len;
	}
}

static int lay_out(const struct build *b, uint64_t globs_hash, struct buffer *ret)
{
	const struct module *m = b->m;
	uint64_t nblocks = (b->size + TABLE_BLOCK - 1) / TABLE_BLOCK;
	uint64_t head = sizeof(struct table_header), blocks = align8(head + m->head_size),
		 pcs = align8(blocks + (nblocks + 1) * sizeof(uint32_t)),
		 rows = align8(pcs + b->nrows * sizeof(uint32_t)),
		 calls = rows + b->nrows * sizeof(struct table_row),
		 size = calls + b->ncalls * sizeof(struct table_syscall);
	struct table_header *h;
	struct table_syscall *call;
	uint32_t *block;
	size_t row = 0;

	if (size > UINT32_MAX)
		return -EFBIG;
	h = calloc(1, size);
	if (!h)
		return -ENOMEM;
	memcpy(h->magic, TABLE_MAGIC, sizeof(h->magic));
	h->version = TABLE_VERSION;
	h->header_size = sizeof(*h);
	h->file_size = size;
	memcpy(h->id, m->id, sizeof(h->id));
	h->id_size = m->id_size;
	h->machine = m->machine;
	h->globs_hash = globs_hash;
	h->source = m->source;
	h->head_size = m->head_size;
	h->load_vaddr = m->load_vaddr;
	h->text_base = b->base;
	h->text_size = b->size;
	h->off_head = (uint32_t)head;
	h->off_blocks = (uint32_t)blocks;
	h->off_pcs = (uint32_t)pcs;
	h->off_rows = (uint32_t)rows;
	h->off_syscalls = (uint32_t)calls;
	h->nblocks = (uint32_t)nblocks;
	h->nrows = (uint32_t)b->nrows;
	h->nsyscalls = (uint32_t)b->ncalls;
	count_bytes(b, h);

	memcpy((uint8_t *)h + head, m->head, m->head_size);
	block = (uint32_t *)((uint8_t *)h + blocks);
	for (uint64_t i = 0; i < nblocks; i++) {
		while (row + 1 < b->nrows && b->pcs[row + 1] <= i * TABLE_BLOCK)
			row++;
		block[i] = (uint32_t)row;
	}
	block[nblocks] = (uint32_t)(b->nrows - 1);
	memcpy((uint8_t *)h + pcs, b->pcs, b->nrows * sizeof(*b->pcs));
	memcpy((uint8_t *)h + rows, b->rows, b->nrows * sizeof(*b->rows));
	call = (struct table_syscall *)((uint8_t *)h + calls);
	for (size_t i = 0; i < b->ncalls; i++)
		call[i] = (struct table_syscall){b->calls[i].pc, b->calls[i].nr};
	h->checksum = table_checksum(TABLE_CHECKSUM_INIT, h->id,
				     size - offsetof(struct table_header, id));
	*ret = (struct buffer){(uint8_t *)h, size};
	return 0;
}

int rows_build(const struct module *m, const struct cfi *cfi, const struct marks *marks,
	       uint64_t globs_hash, struct buffer *ret_table)
{
	const struct section *last = &m->text[m->ntext - 1];
	struct build b = {.m = m, .cfi = cfi, .base = m->text[0].addr};
	int err;

	b.size = last->addr + last->size - b.base;
	err = sort_marks(&b, marks);
	if (err == 0)
		err = sweep(&b);
	if (err == 0)
		err = lay_out(&b, globs_hash, ret_table);
	free(b.edges);
	free(b.calls);
	free(b.pcs);
	free(b.rows);
	return err;
}
