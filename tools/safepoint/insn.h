// insn.h: what insn.c, stack.c, spinloop.c, enqueue.c and caves.c share: one decoded instruction, one function.

#pragma once

#include <Zydis/Zydis.h>

#include "compiler.h"

// A function or a part of one: an FDE, or a symbol where there is none.
struct unit {
	uint64_t lo, hi;
	const uint8_t *bytes;	    // of lo
	const struct cfi_row *rows; // NULL: no CFI
	size_t nrows;
};

// One instruction, without operands.
struct insn {
	uint64_t pc, next;
	const uint8_t *bytes;
	ZydisDecodedInstruction d;
};

struct decoders {
	ZydisDecoder min;  // length, opcode and raw fields: three times as fast
	ZydisDecoder full; // operands with their actions
};

// Register numbers in the encodings.
enum { REG_RSP = 4, REG_RBP = 5 };

static inline bool insn_legacy(const struct insn *in)
{
	return in->d.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
}
// Legacy one-byte opcode.
static inline bool insn_one_byte(const struct insn *in)
{
	return insn_legacy(in) && in->d.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}
static inline bool insn_0f(const struct insn *in)
{
	return insn_legacy(in) && in->d.opcode_map == ZYDIS_OPCODE_MAP_0F;
}
// Registers named by ModRM, with their REX bit.
static inline unsigned insn_reg(const struct insn *in)
{
	return in->d.raw.modrm.reg + 8u * in->d.raw.rex.R;
}
static inline unsigned insn_rm(const struct insn *in)
{
	return in->d.raw.modrm.rm + 8u * in->d.raw.rex.B;
}

static inline bool insn_has_lock(const struct insn *in)
{
	for (unsigned i = 0; i < in->d.raw.prefix_count; i++)
		if (in->d.raw.prefixes[i].value == 0xf0)
			return true;
	return false;
}

enum flow {
	FLOW_NEXT, // goes on; also calls
	FLOW_CALL,
	FLOW_COND, // direct conditional jump
	FLOW_JUMP, // direct jump
	FLOW_STOP, // ret, indirect jump, ud2, hlt: the next instruction is not reached from here
};

// --- insn.c -------------------------------------------------------------------------------------
bool insn_decode(const struct decoders *dec, const struct unit *u, uint64_t pc,
		 struct insn *ret_in);
// How control goes on. *ret_target is set for direct jumps and calls, else 0.
enum flow insn_flow(const struct insn *in, uint64_t *ret_target);

// --- stack.c ------------------------------------------------------------------------------------
enum { STACK_PENDING = 64 };

// A stack or frame pointer as far as the instructions tell.
struct stack_reg {
	enum {
		STACK_TRUST, // nothing known: whatever the CFI says
		STACK_KNOWN, // CFA - off
		STACK_LOST,  // overwritten with something else
	} state;
	int64_t off;
};
struct stack_state {
	struct stack_reg rsp, rbp;
	bool rbp_changed;    // and not restored, since the function was entered
	int32_t lost_offset; // what the CFI said when rsp was lost
};
struct stack {
	const struct unit *unit;
	const struct decoders *dec;
	struct marks *marks;
	struct stack_state now;
	bool fresh;    // control does not come from the instruction before
	bool filler;   // nor to the instruction before, nothing but no-ops since
	bool called;   // a call, and nothing but no-ops since
	bool straight; // no jump or call yet since the beginning
	bool wrong;    // the whole function is to be marked
	int err;

	// The contradiction that is open, if bad.
	bool bad, bad_build, bad_down;
	uint64_t bad_lo;

	// Jumps forward from places where the CFI is wrong.
	struct {
		uint64_t target;
		struct stack_state state;
	} pending[STACK_PENDING];
	unsigned npending;
};
void stack_begin(struct stack *s, const struct unit *u, const struct decoders *dec,
		 struct marks *marks);
// For each instruction in turn; row is that of in->pc, next that of in->next, or NULL.
void stack_step(struct stack *s, const struct insn *in, enum flow flow, uint64_t target,
		const struct cfi_row *row, const struct cfi_row *next);
int stack_end(struct stack *s); // 0 or -errno; marks are added here and in stack_step

// --- spinloop.c ---------------------------------------------------------------------------------
enum { SPIN_MAX = 96 }; // bytes of a loop

// The jump at last_pc, which ends at end, goes back to top: marks the loop if it waits. 0 or -errno.
int spin_loop(const struct decoders *dec, const struct unit *u, uint64_t top, uint64_t last_pc,
	      uint64_t end, struct marks *marks);

// --- enqueue.c ----------------------------------------------------------------------------------
// Marks where threads get in line, in u, whose own marks are those from first on. 0 or -errno.
int enqueue_marks(const struct decoders *dec, const struct unit *u, struct marks *marks,
		  size_t first);

// --- caves.c ------------------------------------------------------------------------------------
bool only_filler(const uint8_t *bytes, size_t n); // and something
int caves_inside(const struct decoders *dec, const struct unit *u,
		 struct marks *marks); // 0 or -errno
// Takes back those that a jump from another function leads to, or whose address is taken anywhere; likewise
// what enqueue.c has found, if it is led into.
void caves_entered(struct marks *marks, const struct code_facts *facts);

const struct cfi_row *unit_row(const struct unit *u, uint64_t addr); // or NULL
