// fuzz_insn.c: arbitrary bytes as instructions, with frame descriptions that may contradict them.
//
// The first byte is the size of the pieces that the frame description cuts the code into, 0 for none at all; the second
// says how they differ.

#include <elf.h>

#include "fuzz.h"

enum { TEXT = 0x1000, MAX_SIZE = 4 * TABLE_BLOCK };

// Offsets as of pushes, frames by rbp and gaps, all of one function.
static int describe(struct cfi *cfi, size_t size, uint8_t piece, uint8_t how)
{
	size_t n = piece ? (size + piece - 1) / piece : 0;

	cfi->rows = calloc(n ? n : 1, sizeof(*cfi->rows));
	if (!cfi->rows)
		return -1;
	for (size_t i = 0; i < n; i++) {
		uint64_t lo = TEXT + i * piece, end = TEXT + size;

		if ((how & 64) && i % 5 == 4)
			continue;
		cfi->rows[cfi->n++] = (struct cfi_row){
			.lo = lo,
			.hi = lo + piece < end ? lo + piece : end,
			.fde = how & 128 ? lo : TEXT,
			.cfa_offset = 8 + 8 * (int)(i * (how & 7) % 13),
			.rbp_offset = how & 8 ? -16 : 0,
			.base = (how & 16) && i % 3 == 2 ? TABLE_CFA_RBP : TABLE_CFA_RSP,
			.reason = (how & 32) && i % 7 == 6 ? TABLE_BAD_RA : TABLE_SAFE,
		};
	}
	cfi->cap = cfi->n;
	return 0;
}

static void compile(const struct module *m, const struct cfi *cfi)
{
	struct marks marks = {0};
	struct code_facts facts = {0};
	struct buffer buffer = {0};
	struct table table;

	if (insn_scan(m, cfi, &marks, &facts) == 0 && critical_mark(m, &facts, "f*", &marks) == 0 &&
	    rows_build(m, cfi, &marks, 0, &buffer) == 0) {
		MUST(!table_check(buffer.data, buffer.size, &table));
		fuzz_lookups(&table);
	}
	free(buffer.data);
	code_facts_free(&facts);
	marks_free(&marks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t head[64];
	struct func funcs[2] = {{.lo = TEXT, .name = "pthread_mutex_lock"}, {.name = "f"}};
	struct section text = {.name = ".text", .addr = TEXT};
	struct module m = {
		.path = "fuzz",
		.machine = EM_X86_64,
		.head = head,
		.head_size = sizeof(head),
		.text = &text,
		.ntext = 1,
		.funcs = funcs,
		.nfuncs = 2,
		.id_size = 20,
		.soname = "libc.so.6",
	};
	struct cfi cfi = {0};
	uint8_t *bytes;

	if (size < 4 || size > MAX_SIZE)
		return 0;
	size -= 2;
	bytes = malloc(size); // of its own, so that reading beyond is seen
	if (!bytes)
		return 0;
	memcpy(bytes, data + 2, size);
	text.size = size;
	text.bytes = bytes;
	funcs[0].hi = funcs[1].lo = TEXT + size / 2;
	funcs[1].hi = TEXT + size;
	if (describe(&cfi, size, data[0], data[1]) == 0)
		compile(&m, &cfi);
	cfi_free(&cfi);
	free(bytes);
	return 0;
}
