// fuzz_cfi.c: cfi_read() on arbitrary bytes as .eh_frame and .debug_frame, and the table that is made of the result.
//
// The first byte says which: bit 0: as .debug_frame; bit 1: half and half.

#include <elf.h>

#include "fuzz.h"

enum { TEXT = 0x1000, TEXT_SIZE = 3 * TABLE_BLOCK + 40, FRAME = 0x20000 };

static struct section part(const uint8_t *data, size_t size)
{
	return (struct section){".eh_frame", FRAME, size, data};
}

static void check_rows(const struct cfi *cfi)
{
	uint64_t at = 0;

	for (size_t i = 0; i < cfi->n; i++) {
		const struct cfi_row *r = &cfi->rows[i];

		MUST(r->lo < r->hi && r->lo >= at);
		MUST(r->base < TABLE_BASES && r->reason < TABLE_REASONS);
		MUST(cfi_find(cfi, r->lo) == r && cfi_find(cfi, r->hi - 1) == r);
		at = r->hi;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t code[TEXT_SIZE], head[64];
	struct section text[] = {
		{".plt", TEXT, 40, code},
		{".text", TEXT + 64, TEXT_SIZE - 64, code + 64},
	};
	struct module m = {
		.path = "fuzz",
		.machine = EM_X86_64,
		.head = head,
		.head_size = sizeof(head),
		.text = text,
		.ntext = 2,
		.id_size = 20,
	};
	struct marks marks = {0};
	struct cfi cfi = {0};
	struct buffer buffer = {0};
	struct table table;
	uint8_t *bytes;

	if (size < 1)
		return 0;
	bytes = malloc(size);
	if (!bytes)
		return 0;
	memcpy(bytes, data + 1, --size);
	if (data[0] & 2) {
		m.eh_frame = part(bytes, size / 2);
		m.debug_frame = part(bytes + size / 2, size - size / 2);
	} else if (data[0] & 1) {
		m.debug_frame = part(bytes, size);
	} else {
		m.eh_frame = part(bytes, size);
	}
	if (cfi_read(&cfi, &m) == 0) {
		check_rows(&cfi);
		if (rows_build(&m, &cfi, &marks, 0, &buffer) == 0) {
			MUST(!table_check(buffer.data, buffer.size, &table));
			fuzz_lookups(&table);
		}
		free(buffer.data);
	}
	cfi_free(&cfi);
	free(bytes);
	return 0;
}
