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

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
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

// rdsspq is a no-op without shadow stacks, also on CPUs that know none.
static inline bool has_shadow_stack(void)
{
	uint64_t ssp = 0;

	__asm__ volatile(".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8" : "+a"(ssp)); // rdsspq %rax
	return ssp;
}

// May a call be injected at all? Not into a thread with a shadow stack: ret would find no copy of the
// pushed address there. Not into one that single-steps itself: it would see our instructions.
static inline bool context_can_push_call(const ucontext_t *uc)
{
	return !has_shadow_stack() && !(uc->uc_mcontext.gregs[REG_EFL] & 0x100);
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

typedef void context_handler_fn(int sig, siginfo_t *info, void *uc);

// Goes on as if the kernel had put the frame of the signal onto the stack that it interrupted, and had called handler there.
// All signals must be blocked. Does not return, but where it cannot be: with a shadow stack, which would keep the calls that
// are left here, or if the frame is not as we know it.
//
// The frame, upwards: return address, context, siginfo, then what fpregs points to, aligned to 64 bytes; sigreturn
// takes it from wherever the stack pointer is.
static inline void context_move_frame(context_handler_fn *handler, int sig, siginfo_t *info,
				      ucontext_t *uc)
{
	enum { SW_RESERVED = 464, MAGIC = 0x46505853, LEGACY = 512, SANE = 65536 };
	const char *from = (const char *)uc - sizeof(uintptr_t), *end = (const char *)(info + 1);
	const char *fp = (const char *)uc->uc_mcontext.fpregs;
	uint32_t sw[2] = {0};
	ptrdiff_t shift;
	char *to;

	if (fp) {
		memcpy(sw, fp + SW_RESERVED, sizeof sw);
		end = fp + (sw[0] == MAGIC ? sw[1] : LEGACY);
	}
	if ((const char *)info < from || end < (const char *)(info + 1) || end - from > SANE ||
	    has_shadow_stack())
		return;
	to = (char *)context_sp(uc) - ASYNC_RED_ZONE - (end - from);
	to -= (to - from) & 63;
	shift = to - from;
	memcpy(to, from, (size_t)(end - from));
	uc = (ucontext_t *)(to + sizeof(uintptr_t));
	if (fp)
		uc->uc_mcontext.fpregs = (fpregset_t)(fp + shift);
	__asm__ volatile("mov %[to], %%rsp\n\tjmp *%[handler]"
			 :
			 : [to] "r"(to), [handler] "a"(handler), "D"(sig),
			   "S"((char *)info + shift), "d"(uc)
			 : "memory");
	__builtin_unreachable();
}

#endif
