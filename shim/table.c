// table.c: looking a PC up in a safe-point table, and never trusting one.
//
// A table comes from a file that somebody may have damaged or made up. table_check() therefore goes through all of it
// once: sizes, order, the block index, every row, every system call, the sums. After that a lookup
// needs no checks, and whatever the file says, it reads inside the table only and ends. What a wrong but well-formed
// table could do is stop a thread at a bad place: that is why cache.c wants file and directory to be the user's own.
//
// Signal-safe throughout: no memory, no libc.

#include "table.h"

enum {
	MACHINE_X86_64 = 62,
	SOURCE_ALL = TABLE_EH_FRAME | TABLE_DEBUG_FRAME | TABLE_DEBUG_LINE | TABLE_DEBUG_INFO |
		     TABLE_DEBUG_SEPARATE | TABLE_DEBUG_ALT | TABLE_SYMTAB,
	FLAGS_ALL = TABLE_CRITICAL | TABLE_SPIN | TABLE_SYSCALL | TABLE_PAUSE | TABLE_CAVE |
		    TABLE_ENQUEUE,
	MAX_INSTRUCTION = 15,
	PAGE = 4096,
};

uint64_t table_checksum(uint64_t hash, const void *data, size_t size)
{
	typedef uint64_t __attribute__((may_alias, aligned(1))) word;
	const word *p = data;

	for (size_t i = 0; i < size / 8; i++)
		hash = (hash ^ p[i]) * 0x100000001b3u;
	return hash;
}

static uint64_t align8(uint64_t n)
{
	return (n + 7) & ~(uint64_t)7;
}

// Sizes and places. All of the arithmetic is in 64 bits on 32-bit numbers, so nothing wraps.
static const char *check_header(const struct table_header *h, size_t size)
{
	static const char magic[] = TABLE_MAGIC;
	uint64_t at;

	for (unsigned i = 0; i < sizeof(h->magic); i++) {
		if (h->magic[i] != magic[i])
			return "not a table";
	}
	if (h->version != TABLE_VERSION || h->header_size != sizeof(*h))
		return "another version";
	if (h->file_size != size)
		return "cut off";
	if (h->checksum !=
	    table_checksum(TABLE_CHECKSUM_INIT, h->id, size - offsetof(struct table_header, id)))
		return "wrong checksum";
	if (h->machine != MACHINE_X86_64 || (h->source & ~(uint32_t)SOURCE_ALL))
		return "another machine or source";
	if (h->id_size > TABLE_ID_MAX)
		return "bad id";
	for (uint32_t i = h->id_size; h->id_size && i < TABLE_ID_MAX; i++) {
		if (h->id[i])
			return "bad id";
	}
	if (h->head_size == 0 || h->head_size > TABLE_HEAD_MAX)
		return "bad head";
	if (h->load_vaddr % PAGE || h->text_base < h->load_vaddr || h->text_size == 0 ||
	    h->text_size >= UINT32_MAX || h->text_base > UINT64_MAX - h->text_size)
		return "bad addresses";
	if (h->nblocks != (h->text_size + TABLE_BLOCK - 1) / TABLE_BLOCK || h->nrows == 0 ||
	    h->nrows > h->text_size || h->nsyscalls > h->nrows)
		return "bad counts";
	at = sizeof(*h);
	if (h->off_head != at)
		return "bad layout";
	at = align8(at + h->head_size);
	if (h->off_blocks != at)
		return "bad layout";
	at = align8(at + ((uint64_t)h->nblocks + 1) * sizeof(uint32_t));
	if (h->off_pcs != at)
		return "bad layout";
	at = align8(at + (uint64_t)h->nrows * sizeof(uint32_t));
	if (h->off_rows != at)
		return "bad layout";
	at += (uint64_t)h->nrows * sizeof(struct table_row);
	if (h->off_syscalls != at)
		return "bad layout";
	at += (uint64_t)h->nsyscalls * sizeof(struct table_syscall);
	return at == size ? NULL : "bad layout";
}

// Can the unwinder use it as it is?
static bool row_ok(const struct table_row *row)
{
	enum table_base base = table_base(row);
	enum table_reason reason = table_reason(row);

	if (base >= TABLE_BASES || reason >= TABLE_REASONS || (row->flags & ~FLAGS_ALL))
		return false;
	// Never executed means that nobody is stopped there either.
	if (row->flags & TABLE_CAVE && (row->flags & ~TABLE_CAVE || reason != TABLE_PADDING))
		return false;
	// They are different instructions.
	if (!!(row->flags & TABLE_PAUSE) + !!(row->flags & TABLE_SYSCALL) +
		    !!(row->flags & TABLE_ENQUEUE) >
	    1)
		return false;
	if (reason == TABLE_SAFE && base != TABLE_CFA_RSP && base != TABLE_CFA_RBP)
		return false;
	if (base == TABLE_CFA_NONE || base == TABLE_CFA_END)
		return row->cfa_offset == 0 && row->rbp_offset == 0;
	if (row->cfa_offset % 8 || (base != TABLE_CFA_RBP_DEREF && row->cfa_offset < 8))
		return false;
	return row->rbp_offset % 8 == 0 || row->rbp_offset == TABLE_RBP_AT_RBP;
}

// One walk over all rows, with the block index, the system calls and the sums beside it.
static const char *check_rows(const struct table *t)
{
	const struct table_header *h = t->header;
	uint64_t bytes[TABLE_REASONS], critical = 0, spin = 0;
	uint32_t block = 0, call = 0;

	for (unsigned i = 0; i < TABLE_REASONS; i++)
		bytes[i] = 0;
	if (t->pcs[0] != 0)
		return "rows do not begin with the text";
	for (uint32_t i = 0; i < h->nrows; i++) {
		const struct table_row *row = &t->rows[i];
		uint64_t next = i + 1 < h->nrows ? t->pcs[i + 1] : h->text_size, len;

		if (next <= t->pcs[i] || next > h->text_size)
			return "rows not in order";
		len = next - t->pcs[i];
		if (!row_ok(row))
			return "bad row";
		for (; block < h->nblocks && (uint64_t)block * TABLE_BLOCK < next; block++) {
			if (t->blocks[block] != i)
				return "bad block index";
		}
		if (row->flags & TABLE_SYSCALL) {
			if (call == h->nsyscalls || t->syscalls[call].pc != t->pcs[i] ||
			    t->syscalls[call].nr < -1 || len > MAX_INSTRUCTION)
				return "bad system call";
			call++;
		}
		if (table_reason(row) != TABLE_SAFE || !(row->flags & TABLE_CRITICAL))
			bytes[table_reason(row)] += len;
		critical += row->flags & TABLE_CRITICAL ? len : 0;
		spin += row->flags & TABLE_SPIN ? len : 0;
	}
	if (call != h->nsyscalls)
		return "bad system call";
	if (t->blocks[h->nblocks] != h->nrows - 1)
		return "bad block index";
	for (unsigned i = 0; i < TABLE_REASONS; i++) {
		if (bytes[i] != h->bytes[i])
			return "wrong sums";
	}
	if (critical != h->bytes_critical || spin != h->bytes_spin)
		return "wrong sums";
	return NULL;
}

const char *table_check(const void *data, size_t size, struct table *ret_table)
{
	const struct table_header *h = data;
	const uint8_t *base = data;
	struct table t;
	const char *why;

	if ((uintptr_t)data % 8 || size < sizeof(*h) || size % 8)
		return "cut off";
	why = check_header(h, size);
	if (why)
		return why;
	t = (struct table){
		.header = h,
		.head = base + h->off_head,
		.blocks = (const uint32_t *)(base + h->off_blocks),
		.pcs = (const uint32_t *)(base + h->off_pcs),
		.rows = (const struct table_row *)(base + h->off_rows),
		.syscalls = (const struct table_syscall *)(base + h->off_syscalls),
	};
	why = check_rows(&t);
	if (why)
		return why;
	*ret_table = t;
	return NULL;
}

// The last row of the block's that begins at or before the address. The next block's first row is the last it can be,
// so the search covers some tens of rows.
const struct table_row *table_find(const struct table *t, uint64_t address)
{
	uint64_t offset = address - t->header->text_base; // below it, a huge number
	uint32_t lo, hi;

	if (offset >= t->header->text_size)
		return NULL;
	lo = t->blocks[offset / TABLE_BLOCK];
	hi = t->blocks[offset / TABLE_BLOCK + 1];
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo + 1) / 2;

		if (t->pcs[mid] <= offset)
			lo = mid;
		else
			hi = mid - 1;
	}
	return &t->rows[lo];
}

uint64_t table_row_start(const struct table *t, uint32_t i)
{
	return t->header->text_base + (i < t->header->nrows ? t->pcs[i] : t->header->text_size);
}

const char *table_reason_name(enum table_reason reason)
{
	static const char *const names[TABLE_REASONS] = {
		[TABLE_SAFE] = "safe",
		[TABLE_NO_CFI] = "no-cfi",
		[TABLE_PADDING] = "padding",
		[TABLE_BAD_CFA] = "cfa",
		[TABLE_BAD_RA] = "ra",
		[TABLE_PROLOGUE] = "prologue",
		[TABLE_EPILOGUE] = "epilogue",
		[TABLE_PLT] = "plt",
		[TABLE_TRAMPOLINE] = "trampoline",
		[TABLE_MISMATCH] = "mismatch",
	};

	return (unsigned)reason < TABLE_REASONS ? names[reason] : "?";
}

static bool is(const uint8_t *p, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != (uint8_t)bytes[i])
			return false;
	return true;
}

// All the forms that assemblers and linkers fill with.
size_t table_filler(const uint8_t *p, size_t n)
{
	size_t i = 0;

	if (n == 0)
		return 0;
	if (p[0] == 0xcc || p[0] == 0)
		return 1;
	while (i < n && i < 11 && (p[i] == 0x66 || p[i] == 0x2e))
		i++;
	if (i < n && p[i] == 0x90)
		return i + 1;
	if (n - i >= 3 && p[i] == 0x0f && p[i + 1] == 0x1f && (p[i + 2] & 0x38) == 0) {
		uint8_t modrm = p[i + 2], mod = modrm >> 6;
		size_t len = i + 3;

		if (mod != 3 && (modrm & 7) == 4)
			len++;
		len += mod == 1 ? 1 : mod == 2 ? 4 : 0;
		return len <= n ? len : 0;
	}
	// Older assemblers: lea 0(%rsi),%rsi with no displacement that counts.
	if (n >= 4 && is(p, "\x48\x8d\x76\x00", 4))
		return 4;
	if (n >= 7 && is(p, "\x48\x8d\xb6\0\0\0\0", 7))
		return 7;
	if (n >= 8 && is(p, "\x48\x8d\xb4\x26\0\0\0\0", 8))
		return 8;
	return 0;
}
