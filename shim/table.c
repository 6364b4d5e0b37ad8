// table.c: looking at tables.

#include "table.h"

const struct table_row *table_find(const struct table *t, uint64_t address)
{
	uint64_t offset = address - t->header->text_base;
	uint32_t lo = 0, hi = t->header->nrows;

	if (address < t->header->text_base || offset >= t->header->text_size)
		return 0;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (t->pcs[mid] <= offset)
			lo = mid;
		else
			hi = mid;
	}
	return &t->rows[lo];
}
