// table.h: the safe-point table of one ELF module, as it lies in its file and in memory.
//
// Problem. The preemption handler must know, for any PC and without a lock, an allocation or a libc call,
// whether the thread may be stopped there, and how to find the callers. DWARF answers that, at the price of an
// interpreter and of reading untrusted megabytes. So a compiler (tools/safepoint) answers it beforehand for every
// byte of executable code, and the handler does one binary search in one block of 4 KiB.
//
// One file is: header, head, blocks, PCs, rows, system calls, in this order, each 8-byte aligned, little-endian, no
// pointers. HACKING.md, section 6, specifies every byte. All addresses are 32-bit offsets from text_base.
//
// A table is never trusted: table_check() looks at everything once, before the first lookup.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TABLE_MAGIC "preempt\1"
enum {
	TABLE_VERSION = 6,
	TABLE_BLOCK = 4096, // bytes of text for each entry of the block index
	TABLE_ID_MAX = 32,  // bytes of build-id that count
	TABLE_HEAD_MAX = 4096,
};

// What the table was made from (table_header.source).
enum {
	TABLE_EH_FRAME = 1,
	TABLE_DEBUG_FRAME = 2,
	TABLE_DEBUG_LINE = 4,
	TABLE_DEBUG_INFO = 8,
	TABLE_DEBUG_SEPARATE = 16, // debug information from another file, found by build-id
	TABLE_DEBUG_ALT = 32,	   // and its .gnu_debugaltlink
	TABLE_SYMTAB = 64,	   // a full symbol table, not only .dynsym
};

// How the canonical frame address (the caller's stack pointer after its call) is found in a row.
enum table_base {
	TABLE_CFA_NONE, // not known: unwinding stops here, unsuccessfully
	TABLE_CFA_RSP,	// rsp + cfa_offset
	TABLE_CFA_RBP,	// rbp + cfa_offset
	TABLE_CFA_RBP_DEREF, // *(rbp + cfa_offset): functions that realign their stack. Never a safe point
	TABLE_CFA_END, // outermost frame: the return address is undefined
	TABLE_BASES,
};

// Why a PC is not a safe point. TABLE_SAFE: it is one, unless TABLE_CRITICAL.
enum table_reason {
	TABLE_SAFE,
	TABLE_NO_CFI,	// no frame description
	TABLE_PADDING,	// between functions, never executed: no-ops, int3, zeros
	TABLE_BAD_CFA,	// the CFA is not rsp or rbp plus a constant
	TABLE_BAD_RA,	// the return address is not at CFA-8
	TABLE_PROLOGUE, // the frame is being built, and the CFI is not exact there
	TABLE_EPILOGUE, // or is being taken down
	TABLE_PLT,
	TABLE_TRAMPOLINE, // signal trampolines
	TABLE_MISMATCH, // instructions and frame description contradict each other, or do not decode
	TABLE_REASONS,
};

// Flags of a row.
enum {
	TABLE_CRITICAL = 1, // parking here, or while this is a caller, would hurt other threads
	TABLE_SPIN = 2,	    // in a loop that waits for another thread
	TABLE_SYSCALL = 4,  // an inline syscall instruction begins here; the row is as long as it
	TABLE_PAUSE =
		8, // PAUSE instructions in a loop that waits, and nothing else, if its length is even
	TABLE_CAVE = 16, // filling that is proven never to be executed: sites.c may write there
	TABLE_ENQUEUE =
		32, // XCHG or LOCK XADD by which a thread gets in line for a lock, if the row is as long
};

// The row of a PC says what is true just before the instruction at PC executes. The caller's rbp is at
// CFA + rbp_offset, or still in rbp when that is 0, or elsewhere: see below. The return address is at CFA - 8.
struct table_row {
	int32_t cfa_offset;
	int16_t rbp_offset;
	uint8_t base_reason; // enum table_base | enum table_reason << 4
	uint8_t flags;
};

// Values of rbp_offset that are none. Unknown: the walk may go on, but not through a frame that needs rbp. At rbp: saved
// where rbp points to, at no constant distance from the CFA (functions that realign their stack).
enum {
	TABLE_RBP_UNKNOWN = INT16_MIN,
	TABLE_RBP_AT_RBP = INT16_MIN + 1,
};

struct table_syscall {
	uint32_t pc;
	int32_t nr; // -1: not constant
};

struct table_header {
	char magic[8];
	uint32_t version;
	uint32_t header_size; // sizeof(struct table_header)
	uint64_t file_size;
	uint64_t checksum; // of all that follows this field: table_checksum()

	// Which module. Build-id, or device, inode, size and mtime in ns, as four 64-bit numbers.
	uint8_t id[TABLE_ID_MAX]; // rest is 0
	uint32_t id_size;	  // of the build-id; 0: there is none, id is the other kind
	uint32_t machine;	  // e_machine
	uint64_t globs_hash;	  // of the PREEMPT_CRITICAL it was made with; 0: none
	uint32_t source;	  // TABLE_EH_FRAME | ...
	uint32_t head_size;	  // bytes of the first page of the module's image that identify it

	uint64_t load_vaddr; // link-time address of the first PT_LOAD, rounded down to its page
	uint64_t text_base;  // link-time address of the first byte of executable sections
	uint64_t text_size;  // to the end of the last one, below 4 GiB

	uint32_t off_head, off_blocks, off_pcs, off_rows,
		off_syscalls; // from the start of the file
	uint32_t nblocks;     // text_size / TABLE_BLOCK, rounded up; the index has one entry more
	uint32_t nrows;	      // rows cover [0, text_size); pcs[0] is 0, pcs ascend strictly
	uint32_t nsyscalls;   // ascending by pc

	uint64_t bytes[TABLE_REASONS]; // of text by reason; safe without the critical ones
	uint64_t bytes_critical, bytes_spin;
};

// A table in memory, checked.
struct table {
	const struct table_header *header;
	const uint8_t *head;
	const uint32_t *
		blocks; // blocks[b] is the row of the first byte of block b; blocks[nblocks] is nrows - 1
	const uint32_t *pcs;
	const struct table_row *rows;
	const struct table_syscall *syscalls;
};

static inline enum table_base table_base(const struct table_row *row)
{
	return (enum table_base)(row->base_reason & 15);
}
static inline enum table_reason table_reason(const struct table_row *row)
{
	return (enum table_reason)(row->base_reason >> 4);
}
static inline bool table_is_safe(const struct table_row *row)
{
	return table_reason(row) == TABLE_SAFE && !(row->flags & TABLE_CRITICAL);
}

// --- table.c ------------------------------------------------------------------------------------
// FNV-1a over 64-bit little-endian words; size must be a multiple of 8.
uint64_t table_checksum(uint64_t hash, const void *data, size_t size);
#define TABLE_CHECKSUM_INIT 0xcbf29ce484222325u
// Look at size bytes at data, all of them untrusted, and fill ret_table. NULL, or why it is refused.
const char *table_check(const void *data, size_t size, struct table *ret_table);
// The row of a link-time address, or NULL outside. Signal-safe.
const struct table_row *table_find(const struct table *t, uint64_t address);
// Bounds of that row, and by index, for printing.
uint64_t table_row_start(const struct table *t, uint32_t i);
const char *table_reason_name(enum table_reason reason);
// Length of the no-op, int3 or zeros at p, of n bytes: what assemblers and linkers fill with; or 0.
size_t table_filler(const uint8_t *p, size_t n);
