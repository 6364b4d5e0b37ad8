// fuzz_table.c: table_check() and table_find() on arbitrary bytes.
//
// Nothing random gets past a checksum, so the bytes are tried as they are, then with the fields of the header put right that
// say the same thing twice: size, checksum, sums.

#include "fuzz.h"

static void try(const uint8_t *bytes, size_t size)
{
	struct table t;

	if (!table_check(bytes, size, &t))
		fuzz_lookups(&t);
}

// The sums over the rows, if there are rows where the header says.
static void put_sums_right(uint8_t *bytes, size_t size)
{
	struct table_header *h = (struct table_header *)bytes;
	const uint32_t *pcs = (const uint32_t *)(bytes + h->off_pcs);
	const struct table_row *rows = (const struct table_row *)(bytes + h->off_rows);

	if (h->off_pcs % 8 || h->off_rows % 8 || h->nrows > size / 8 || h->off_pcs > size ||
	    h->off_rows > size || size - h->off_pcs < 4 * (size_t)h->nrows ||
	    size - h->off_rows < sizeof(*rows) * (size_t)h->nrows)
		return;
	memset(h->bytes, 0, sizeof(h->bytes));
	h->bytes_critical = h->bytes_spin = 0;
	for (uint32_t i = 0; i < h->nrows; i++) {
		uint64_t len = (i + 1 < h->nrows ? pcs[i + 1] : h->text_size) - pcs[i];
		unsigned reason = rows[i].base_reason >> 4;

		if (reason < TABLE_REASONS &&
		    (reason != TABLE_SAFE || !(rows[i].flags & TABLE_CRITICAL)))
			h->bytes[reason] += len;
		h->bytes_critical += rows[i].flags & TABLE_CRITICAL ? len : 0;
		h->bytes_spin += rows[i].flags & TABLE_SPIN ? len : 0;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size ? size : 1); // aligned, and its end is watched
	struct table_header *h = (struct table_header *)bytes;

	if (!bytes)
		return 0;
	memcpy(bytes, data, size);
	try(bytes, size);
	size &= ~(size_t)7;
	if (size >= sizeof(*h)) {
		memcpy(h->magic, TABLE_MAGIC, sizeof(h->magic));
		h->version = TABLE_VERSION;
		h->header_size = sizeof(*h);
		h->file_size = size;
		put_sums_right(bytes, size);
		h->checksum = table_checksum(TABLE_CHECKSUM_INIT, h->id,
					     size - offsetof(struct table_header, id));
		try(bytes, size);
	}
	free(bytes);
	return 0;
}
