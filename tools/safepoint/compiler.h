// compiler.h: the safe-point compiler: from one ELF file to the table of shim/table.h.
//
//   elf.c       opens the module and its debug file: sections, symbols, identity        (libelf)
//   vdso.c      opens the file of a module, or of the vDSO
//   cfi.c       reads .eh_frame and .debug_frame into one row per address range;
//   frames.c    their entries, and the interpreter of their instructions
//   insn.c      one pass over the instructions: stack depth against CFI, spin loops, syscalls, calls  (Zydis)
//   stack.c     the stack depth part of it
//   spinloop.c  the spin loop part of it
//   enqueue.c   where threads get in line for a lock
//   caves.c     filling that is never executed
//   critical.c  which functions are critical: names, lock instructions in libc, tail calls
//   debuginfo.c inlined instances of critical functions                                 (libdwarf)
//   rows.c      merges rows and marks, lays out the table
//   compile.c   the order of all this
//   dump.c      prints a table
//
// Everything in the file is untrusted: no reader may crash, loop or use memory out of proportion.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "table.h"

struct section {
	const char *name;
	uint64_t addr, size;
	const uint8_t *bytes; // mapped; NULL for SHT_NOBITS
};

// A function symbol. Names may be NULL for functions known from CFI alone.
struct func {
	uint64_t lo, hi; // hi == lo: size unknown
	const char *name;
	bool ifunc;
	bool exported; // by .dynsym
};

// One opened module. Everything lives until module_close.
struct module {
	const char *path;
	int fd;
	void *elf;	 // Elf *
	void *debug_elf; // Elf * of the separate debug file, or NULL
	int debug_fd;
	char *debug_path;

	uint8_t id[TABLE_ID_MAX]; // as in struct table_header
	uint32_t id_size;
	uint32_t machine;
	uint64_t load_vaddr;
	const uint8_t *
		head; // first head_size bytes of the image: ELF header, program headers, build-id note
	uint32_t head_size;

	struct section *text; // executable sections, ascending, not overlapping
	size_t ntext;
	struct section eh_frame, debug_frame; // size 0: there is none
	uint64_t got;	    // DT_PLTGOT, what DW_EH_PE_datarel counts from; 0: there is none
	struct func *funcs; // ascending by lo, from .symtab (either file) or .dynsym
	size_t nfuncs;
	uint32_t source; // TABLE_SYMTAB, TABLE_DEBUG_SEPARATE
	char soname[64]; // base name of DT_SONAME, else of path
};

// A descriptor of the file, to be read; "[vdso]": of the caller's own vDSO. Or -1, with errno.
int module_file(const char *path);
bool module_is_vdso(const char *path);
// 0, or -errno with one line about it in *ret_why (static or in a buffer of the module).
int module_open(struct module *m, const char *path, const char **ret_why);
void module_close(struct module *m);
// The executable section that contains addr, or NULL.
const struct section *module_text(const struct module *m, uint64_t addr);
const struct func *module_func(const struct module *m,
			       uint64_t addr); // that contains addr, or NULL

// What CFI says of [lo, hi). reason is TABLE_SAFE, TABLE_BAD_CFA, TABLE_BAD_RA or TABLE_TRAMPOLINE.
struct cfi_row {
	uint64_t lo, hi;
	uint64_t fde; // lo of the FDE (function or part of one) it belongs to
	int32_t cfa_offset;
	int16_t rbp_offset; // as in struct table_row
	uint8_t base;	    // enum table_base
	uint8_t reason;
};
struct cfi {
	struct cfi_row *rows; // ascending, not overlapping; gaps have no CFI
	size_t n, cap;
};

int cfi_read(struct cfi *cfi, const struct module *m); // 0 or -errno; bad entries are left out
void cfi_free(struct cfi *cfi);
const struct cfi_row *cfi_find(const struct cfi *cfi, uint64_t addr);

// What the other passes say about ranges of addresses, in any order, overlapping as they like.
enum mark_kind {
	MARK_CRITICAL,
	MARK_SPIN,
	MARK_SYSCALL, // value: number or -1; the range is the instruction
	MARK_UNSAFE,  // value: enum table_reason
	MARK_PAUSE,   // the range is the instruction
	MARK_CAVE,    // filling, never executed
	MARK_ENQUEUE, // the range is the instruction
};
struct mark {
	uint64_t lo, hi;
	int32_t value;
	uint8_t kind;
};
struct marks {
	struct mark *v;
	size_t n, cap;
};
int marks_add(struct marks *marks, enum mark_kind kind, uint64_t lo, uint64_t hi,
	      int value); // 0 or -ENOMEM
void marks_free(struct marks *marks);

// critical.c needs from insn.c, for each FDE or symbol: does it contain lock instructions, where does it jump to.
struct code_func {
	uint64_t lo, hi;
	uint32_t first_jump,
		njumps; // in code_facts.jumps: targets of jumps that leave the function (tail calls, .cold parts)
	bool locks; // contains a LOCK cmpxchg, an xchg with memory, or calls pthread_mutex_lock or the like
	bool outermost; // calls setjmp, as the function does in which libc runs a whole thread (critical.c)
};
struct code_facts {
	struct code_func *funcs; // ascending
	size_t n, cap;
	uint64_t *jumps;
	size_t njumps, jumps_cap;
	uint64_t *refs; // addresses in text that instructions mention, but for jumps and calls
	size_t nrefs, refs_cap;
};
void code_facts_free(struct code_facts *facts);

int insn_scan(const struct module *m, const struct cfi *cfi, struct marks *marks,
	      struct code_facts *facts);
int critical_mark(const struct module *m, const struct code_facts *facts, const char *globs,
		  struct marks *marks);
bool critical_name(const char *name,
		   const char *globs); // built-in names and the user's globs, joined by ':'
int debuginfo_mark(struct module *m, const char *globs,
		   struct marks *marks); // adds TABLE_DEBUG_* to m->source

struct buffer {
	uint8_t *data;
	size_t size;
};
int rows_build(const struct module *m, const struct cfi *cfi, const struct marks *marks,
	       uint64_t globs_hash, struct buffer *ret_table);

// The whole: FILE to table. globs: PREEMPT_CRITICAL or "". debug_info false: do without, as damaged one may crash
// libdwarf. 0, or -errno with one line in *ret_why.
int compile_module(const char *path, const char *globs, bool debug_info, struct buffer *ret_table,
		   const char **ret_why);

// One line per row, as `preempt tables dump` prints them: LO HI CFA RA FLAGS. 0, or -EIO.
int dump_table(const struct table *t, FILE *out);
