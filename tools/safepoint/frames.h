// frames.h: what cfi.c and frames.c share: entries of a frame section, and the interpreter of their instructions.

#pragma once

#include "compiler.h"

enum { RBP = 6, RSP = 7, RA = 16 }; // DWARF's register numbers

// A cursor. A read past the end gives 0 and sets bad for good.
struct reader {
	const uint8_t *p, *end;
	bool bad;
};

// One of the two sections.
struct source {
	const struct module *m;
	struct section sec;
	bool eh;
	uint64_t text, got;
	uint64_t budget; // bytes of instructions that may still be run
};

enum rule_kind {
	RULE_SAME, // also: nothing said
	RULE_UNDEFINED,
	RULE_OFFSET,	 // saved at CFA + value
	RULE_VAL_OFFSET, // is CFA + value
	RULE_AT_RBP,	 // saved where rbp points to
	RULE_OTHER,
};
struct rule {
	uint8_t kind;
	int64_t value;
};

enum cfa_kind { CFA_IS_OTHER, CFA_IS_REG, CFA_IS_RBP_DEREF };

// What is known at one address.
struct state {
	uint8_t cfa_kind;
	uint64_t cfa_reg;
	int64_t cfa_offset;
	struct rule rbp, rsp, ra;
};

struct cie {
	size_t offset; // in the section; SIZE_MAX: none
	bool valid;
	uint8_t fde_encoding;
	bool augmented; // FDEs have augmentation data to skip
	bool signal;
	uint64_t code_align;
	int64_t data_align;
	uint64_t ra_reg;
	struct state initial;
};

// An entry's length and id. In .eh_frame the id is 4 bytes even where the length is 64-bit.
struct entry {
	struct reader r;  // at what follows the id
	size_t id_offset; // of the id, in the section
	uint64_t id;
	bool is_cie, wide;
};

uint64_t frames_uleb(struct reader *r);
void frames_skip(struct reader *r, uint64_t n);
// A pointer in one of the encodings. Indirect, function-relative and aligned ones are not for code addresses.
uint64_t frames_pointer(const struct source *src, struct reader *r, uint8_t enc);

// The entry at offset; false at the end. An entry with no content (a terminator) has r.p == r.end.
bool frames_next(const struct source *src, size_t offset, struct entry *ret, size_t *ret_next);
// The CIE at offset, or NULL. cache is the one read last; it starts with offset SIZE_MAX.
const struct cie *frames_cie(struct source *src, size_t offset, struct cie *cache);

// Run the instructions of r. With emit, each range of constant state in [lo, hi) is handed over, until emit returns
// something else than 0; the instructions of a CIE may not move. False if one is not understood; what was emitted
// before is right.
typedef int frames_emit(void *arg, uint64_t lo, uint64_t hi, const struct state *s);
bool frames_run(struct source *src, const struct cie *cie, struct reader r, struct state *s,
		const struct state *initial, uint64_t lo, uint64_t hi, frames_emit *emit,
		void *arg);
