// site.h: the stubs that rewritten instructions lead to, for site.S and for C (shim/sites.c has the whole story).
//
// A stub is the code behind one rewritten PAUSE or `syscall`, or in front of one by which a thread gets in line; its slot says where that instruction was. Stubs
// lie in our own text, so that all unwinders find them, SITE_STUBS of each kind; the slots lie behind them in pages
// which become data with the first use. A stub finds its slot, and its frame description the place where its caller goes
// on, at a fixed distance.

#pragma once

#define SITE_STUB 32   // bytes of a stub, and of a slot
#define SITE_STUBS 256 // of each kind
#define SITE_KINDS 3   // PAUSE, syscall, getting in line: in this order
#define SITE_DISTANCE (SITE_KINDS * SITE_STUBS * SITE_STUB) // from a stub to its slot: whole pages
#define SITE_DIRECT_OFFSET                                                                         \
	14 // in a stub for `syscall`: from where a call returns to, to the call made as it was meant

#define SITE_COPY_OFFSET 16 // of copy in struct site_slot

#define SITE_RED_ZONE 128

// What site_syscall saves for site_call, from rsp.
#define SITE_CALL_RAX 0
#define SITE_CALL_RDI 8
#define SITE_CALL_RSI 16
#define SITE_CALL_RDX 24
#define SITE_CALL_R10 32
#define SITE_CALL_R8 40
#define SITE_CALL_R9 48
#define SITE_CALL_FLAGS 56
#define SITE_CALL_RBP 64
#define SITE_CALL_SIZE 72

#define SITE_DEMAND_OFFSET 76 // of demand in struct sched

// Numbers below this have a bit in site_gated: the call may block.
#define SITE_NUMBERS 512

#ifndef __ASSEMBLER__

#include <stddef.h>
#include <stdint.h>

enum site_kind { SITE_PAUSE, SITE_SYSCALL, SITE_ENQUEUE };

struct site_slot {
	uintptr_t
		back; // where the program goes on: behind PAUSE and syscall, at the instruction by which it gets in line
	uintptr_t far; // a place near the module that jumps to the stub, or 0
	uintptr_t
		copy; // of the instruction by which a thread gets in line; what such a stub jumps to
	uintptr_t unused;
};
_Static_assert(sizeof(struct site_slot) == SITE_STUB, "slots lie as stubs do");
_Static_assert(offsetof(struct site_slot, copy) == SITE_COPY_OFFSET, "site.S reads it");
_Static_assert(SITE_DISTANCE % 4096 == 0 && SITE_DISTANCE >> 21 == 0, "distance");

struct site_call {
	uint64_t rax, rdi, rsi, rdx, r10, r8, r9, flags, rbp;
};

extern const char site_pause_stubs[] __attribute__((visibility("hidden")));
extern struct site_slot site_slots[SITE_KINDS * SITE_STUBS] __attribute__((visibility("hidden")));

void site_waits(uintptr_t from) __attribute__((visibility("hidden")));
void site_enqueues(uintptr_t from) __attribute__((visibility("hidden")));
long site_call(const struct site_call *c) __attribute__((visibility("hidden")));
extern const uint64_t site_gated[SITE_NUMBERS / 64] __attribute__((visibility("hidden")));

#endif
