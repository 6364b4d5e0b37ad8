// table.c: stand-in until the real one is merged.

#include "table.h"

uint64_t table_checksum(uint64_t hash, const void *data, size_t size)
{
	const uint64_t *p = data;

	for (; size >= 8; size -= 8)
		hash = (hash ^ *p++) * 0x100000001b3;
	return hash;
}

static bool part(uint64_t size, uint64_t off, uint64_t n, uint64_t each)
{
	return off % 8 == 0 && off >= sizeof(struct table_header) && off <= size &&
	       n * each <= size - off;
}

const char *table_check(const void *data, size_t size, struct table *ret_table)
{
	const struct table_header *h = data;
	const char *base = data;
	struct table t;
	size_t skip = offsetof(struct table_header, checksum) + 8;

	if (size < sizeof *h || size % 8)
		return "too short";
	for (int i = 0; i < 8; i++)
		if (h->magic[i] != TABLE_MAGIC[i])
			return "no table";
	if (h->version != TABLE_VERSION || h->header_size != sizeof *h)
		return "another version";
	if (h->file_size != size)
		return "cut";
	if (h->checksum != table_checksum(TABLE_CHECKSUM_INIT, base + skip, size - skip))
		return "checksum";
	if (h->id_size > TABLE_ID_MAX || h->head_size > TABLE_HEAD_MAX || !h->nrows ||
	    !h->text_size || h->text_size > UINT32_MAX ||
	    h->nblocks != (h->text_size + TABLE_BLOCK - 1) / TABLE_BLOCK)
		return "sizes";
	if (!part(size, h->off_head, h->head_size, 1) ||
	    !part(size, h->off_blocks, h->nblocks + 1, 4) || !part(size, h->off_pcs, h->nrows, 4) ||
	    !part(size, h->off_rows, h->nrows, 8) || !part(size, h->off_syscalls, h->nsyscalls, 8))
		return "offsets";
	t = (struct table){h,
			   (const void *)(base + h->off_head),
			   (const void *)(base + h->off_blocks),
			   (const void *)(base + h->off_pcs),
			   (const void *)(base + h->off_rows),
			   (const void *)(base + h->off_syscalls)};
	for (uint32_t i = 0; i < h->nrows; i++)
		if ((i ? t.pcs[i] <= t.pcs[i - 1] : t.pcs[0] != 0) || t.pcs[i] >= h->text_size ||
		    table_base(&t.rows[i]) >= TABLE_BASES ||
		    table_reason(&t.rows[i]) >= TABLE_REASONS)
			return "rows";
	for (uint32_t b = 0; b < h->nblocks; b++) {
		uint32_t r = t.blocks[b];
		if (r >= h->nrows || t.pcs[r] > b * TABLE_BLOCK ||
		    (r + 1 < h->nrows && t.pcs[r + 1] <= b * TABLE_BLOCK))
			return "blocks";
	}
	if (t.blocks[h->nblocks] != h->nrows - 1)
		return "blocks";
	*ret_table = t;
	return NULL;
}

uint64_t table_row_start(const struct table *t, uint32_t i)
{
	return t->header->text_base + (i < t->header->nrows ? t->pcs[i] : t->header->text_size);
}

const struct table_row *table_find(const struct table *t, uint64_t address)
{
	uint64_t off = address - t->header->text_base;
	uint32_t lo, hi;

	if (off >= t->header->text_size)
		return NULL;
	lo = t->blocks[off / TABLE_BLOCK], hi = t->blocks[off / TABLE_BLOCK + 1];
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo + 1) / 2;
		if (t->pcs[mid] <= off)
			lo = mid;
		else
			hi = mid - 1;
	}
	return &t->rows[lo];
}

const char *table_reason_name(enum table_reason reason)
{
	static const char names[TABLE_REASONS][12] = {
		"safe",	    "no-cfi",	"padding", "bad-cfa",	 "bad-ra",
		"prologue", "epilogue", "plt",	   "trampoline", "mismatch"};

	return names[reason];
}
