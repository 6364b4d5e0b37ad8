// table.c: lookup in a table. Stand-in: no checks yet.

#include "shim.h"

const struct table_row *table_find(const struct table *t, uint64_t address)
{
	const struct table_header *h = t->header;
	uint64_t off = address - h->text_base;
	uint32_t lo, hi;

	if (address < h->text_base || off >= h->text_size)
		return NULL;
	lo = t->blocks[off / TABLE_BLOCK];
	hi = t->blocks[off / TABLE_BLOCK + 1];
	while (lo < hi) {
		uint32_t mid = hi - (hi - lo) / 2;

		if (t->pcs[mid] <= off)
			lo = mid;
		else
			hi = mid - 1;
	}
	return &t->rows[lo];
}
