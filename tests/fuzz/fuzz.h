// fuzz.h: what the targets share. Each fuzz_X.c is one libFuzzer target; replay.c runs the same function over the files
// of tests/fuzz/corpus, so that what was once found is tested everywhere.

#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler.h"
#include "table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                 \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

// What must hold of every table that was accepted, whatever it says: lookups end inside it, find the row that covers
// the address, and nothing outside.
static inline void fuzz_lookups(const struct table *t)
{
	const struct table_header *h = t->header;
	uint64_t at = h->text_base;

	for (uint32_t i = 0; i < h->nrows; i++) {
		uint64_t lo = table_row_start(t, i), hi = table_row_start(t, i + 1);

		MUST(lo == at && hi > lo);
		at = hi;
	}
	MUST(at == h->text_base + h->text_size);
	for (uint32_t b = 0; b < h->nblocks; b++) {
		uint64_t lo = h->text_base + (uint64_t)b * TABLE_BLOCK;
		const uint64_t tries[] = {lo, lo + 1, lo + TABLE_BLOCK / 2, lo + TABLE_BLOCK - 1};

		for (int i = 0; i < 4; i++) {
			const struct table_row *row = table_find(t, tries[i]);
			uint32_t n;

			if (!row) {
				MUST(tries[i] - h->text_base >= h->text_size);
				continue;
			}
			n = (uint32_t)(row - t->rows);
			MUST(n < h->nrows && table_row_start(t, n) <= tries[i] &&
			     tries[i] < table_row_start(t, n + 1));
		}
	}
	MUST(!table_find(t, h->text_base - 1) && !table_find(t, h->text_base + h->text_size));
}
