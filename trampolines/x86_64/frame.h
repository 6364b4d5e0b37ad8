// frame.h: the frame of an injected call, for async_preempt.S and for C; and what of a signal's context is needed to
// inject one. Every architecture has a file of this name with the same names in it.
//
// The stack of the interrupted thread, once async_preempt has saved everything:
//
//	interrupted rsp ->	(the CFA of async_preempt)
//				red zone, 128 bytes
//				interrupted rip		pushed by the handler
//				rflags
//				rax ... r15
//	rsp ->

#pragma once

#define ASYNC_RED_ZONE 128

// Offsets from rsp of what is saved.
#define ASYNC_RAX 0
#define ASYNC_RDX 8
#define ASYNC_RCX 16
#define ASYNC_RBX 24
#define ASYNC_RSI 32
#define ASYNC_RDI 40
#define ASYNC_RBP 48
#define ASYNC_R8 56
#define ASYNC_R9 64
#define ASYNC_R10 72
#define ASYNC_R11 80
#define ASYNC_R12 88
#define ASYNC_R13 96
#define ASYNC_R14 104
#define ASYNC_R15 112
#define ASYNC_REGS 120	// size of the general registers
#define ASYNC_FLAGS 120 // pushed first
#define ASYNC_PC 128	// pushed by the handler
#define ASYNC_CFA 264	// interrupted rsp

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

struct async_frame {
	uint64_t rax, rdx, rcx, rbx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t flags, pc;
	char red_zone[ASYNC_RED_ZONE];
};
#define ASYNC_AT(field, offset)                                                                    \
	_Static_assert(offsetof(struct async_frame, field) == (offset), #field)
ASYNC_AT(rax, ASYNC_RAX);
ASYNC_AT(rdx, ASYNC_RDX);
ASYNC_AT(rcx, ASYNC_RCX);
ASYNC_AT(rbx, ASYNC_RBX);
ASYNC_AT(rsi, ASYNC_RSI);
ASYNC_AT(rdi, ASYNC_RDI);
ASYNC_AT(rbp, ASYNC_RBP);
ASYNC_AT(r8, ASYNC_R8);
ASYNC_AT(r9, ASYNC_R9);
ASYNC_AT(r10, ASYNC_R10);
ASYNC_AT(r11, ASYNC_R11);
ASYNC_AT(r12, ASYNC_R12);
ASYNC_AT(r13, ASYNC_R13);
ASYNC_AT(r14, ASYNC_R14);
ASYNC_AT(r15, ASYNC_R15);
ASYNC_AT(flags, ASYNC_FLAGS);
ASYNC_AT(pc, ASYNC_PC);
_Static_assert(ASYNC_FLAGS == ASYNC_REGS,
	       "the flags are pushed before room is made for the registers");
_Static_assert(sizeof(struct async_frame) == ASYNC_CFA, "the CFA is the interrupted rsp");

// Saves all registers, calls async_preempt2 and goes back to where the thread was. Not to be called.
void async_preempt(void) __attribute__((visibility("hidden")));
void async_preempt2(void) __attribute__((visibility("hidden")));

// May a call be injected at all? Not into a thread with a shadow stack: ret would find no copy of the
// pushed address there. Not into one that single-steps itself: it would see our instructions.
// rdsspq is a no-op without shadow stacks, also on CPUs that know none.
static inline bool context_can_push_call(const ucontext_t *uc)
{
	uint64_t ssp = 0;

	__asm__ volatile(".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8" : "+a"(ssp)); // rdsspq %rax
	return !ssp && !(uc->uc_mcontext.gregs[REG_EFL] & 0x100);
}

static inline uintptr_t context_pc(const ucontext_t *uc)
{
	return (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
}
static inline uintptr_t context_sp(const ucontext_t *uc)
{
	return (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
}
static inline uintptr_t context_bp(const ucontext_t *uc)
{
	return (uintptr_t)uc->uc_mcontext.gregs[REG_RBP];
}

// Go's pushCall: when the handler returns, the thread is as if it had called async_preempt where it was.
static inline void context_push_call(ucontext_t *uc)
{
	uintptr_t sp = context_sp(uc) - ASYNC_RED_ZONE - sizeof(uintptr_t);

	*(uintptr_t *)sp = context_pc(uc);
	uc->uc_mcontext.gregs[REG_RSP] = (greg_t)sp;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)async_preempt;
}

#endif
