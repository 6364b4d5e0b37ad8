// async_preempt.S: the call that the preemption handler injects.
//
// Entered as if the interrupted instruction had called it, below the red zone (frame.h has the picture). All general
// registers and the flags are saved, for any of them may be in use; vector, mask and x87 registers are
// not, for the C code below uses none (-mgeneral-regs-only) and the kernel keeps them while the thread waits.
//
// The frame is a signal frame to unwinders: the interrupted PC is looked up as it is, not as a return address, and
// every register is found. Exceptions, cancellation, backtraces and debuggers pass through it at every instruction;
// a test single-steps it.
//
// The program's own flags come back with popfq before ret; neither ret nor lea changes any. If the program
// runs with AC set (alignment checks), so does the C code, whose accesses are aligned.

#include "frame.h"

	.hidden	async_preempt2

	.text
	.globl	async_preempt
	.hidden	async_preempt
	.type	async_preempt, @function
	.p2align 4
async_preempt:
	.cfi_startproc
	.cfi_signal_frame
	.cfi_def_cfa %rsp, 8 + ASYNC_RED_ZONE
	.cfi_offset %rip, -(8 + ASYNC_RED_ZONE)
	pushfq					// before anything that changes them
	.cfi_adjust_cfa_offset 8
	leaq	-ASYNC_REGS(%rsp), %rsp
	.cfi_adjust_cfa_offset ASYNC_REGS
	movq	%rax, ASYNC_RAX(%rsp)
	.cfi_offset %rax, ASYNC_RAX - ASYNC_CFA
	movq	%rdx, ASYNC_RDX(%rsp)
	.cfi_offset %rdx, ASYNC_RDX - ASYNC_CFA
	movq	%rcx, ASYNC_RCX(%rsp)
	.cfi_offset %rcx, ASYNC_RCX - ASYNC_CFA
	movq	%rbx, ASYNC_RBX(%rsp)
	.cfi_offset %rbx, ASYNC_RBX - ASYNC_CFA
	movq	%rsi, ASYNC_RSI(%rsp)
	.cfi_offset %rsi, ASYNC_RSI - ASYNC_CFA
	movq	%rdi, ASYNC_RDI(%rsp)
	.cfi_offset %rdi, ASYNC_RDI - ASYNC_CFA
	movq	%rbp, ASYNC_RBP(%rsp)
	.cfi_offset %rbp, ASYNC_RBP - ASYNC_CFA
	movq	%r8, ASYNC_R8(%rsp)
	.cfi_offset %r8, ASYNC_R8 - ASYNC_CFA
	movq	%r9, ASYNC_R9(%rsp)
	.cfi_offset %r9, ASYNC_R9 - ASYNC_CFA
	movq	%r10, ASYNC_R10(%rsp)
	.cfi_offset %r10, ASYNC_R10 - ASYNC_CFA
	movq	%r11, ASYNC_R11(%rsp)
	.cfi_offset %r11, ASYNC_R11 - ASYNC_CFA
	movq	%r12, ASYNC_R12(%rsp)
	.cfi_offset %r12, ASYNC_R12 - ASYNC_CFA
	movq	%r13, ASYNC_R13(%rsp)
	.cfi_offset %r13, ASYNC_R13 - ASYNC_CFA
	movq	%r14, ASYNC_R14(%rsp)
	.cfi_offset %r14, ASYNC_R14 - ASYNC_CFA
	movq	%r15, ASYNC_R15(%rsp)
	.cfi_offset %r15, ASYNC_R15 - ASYNC_CFA
	movq	%rsp, %rbp			// callee-saved: keeps the frame over the call
	.cfi_def_cfa_register %rbp
	andq	$-16, %rsp
	cld					// as C code expects
	call	async_preempt2
	movq	%rbp, %rsp
	.cfi_def_cfa_register %rsp
	movq	ASYNC_RAX(%rsp), %rax
	.cfi_restore %rax
	movq	ASYNC_RDX(%rsp), %rdx
	.cfi_restore %rdx
	movq	ASYNC_RCX(%rsp), %rcx
	.cfi_restore %rcx
	movq	ASYNC_RBX(%rsp), %rbx
	.cfi_restore %rbx
	movq	ASYNC_RSI(%rsp), %rsi
	.cfi_restore %rsi
	movq	ASYNC_RDI(%rsp), %rdi
	.cfi_restore %rdi
	movq	ASYNC_RBP(%rsp), %rbp
	.cfi_restore %rbp
	movq	ASYNC_R8(%rsp), %r8
	.cfi_restore %r8
	movq	ASYNC_R9(%rsp), %r9
	.cfi_restore %r9
	movq	ASYNC_R10(%rsp), %r10
	.cfi_restore %r10
	movq	ASYNC_R11(%rsp), %r11
	.cfi_restore %r11
	movq	ASYNC_R12(%rsp), %r12
	.cfi_restore %r12
	movq	ASYNC_R13(%rsp), %r13
	.cfi_restore %r13
	movq	ASYNC_R14(%rsp), %r14
	.cfi_restore %r14
	movq	ASYNC_R15(%rsp), %r15
	.cfi_restore %r15
	leaq	ASYNC_REGS(%rsp), %rsp
	.cfi_adjust_cfa_offset -ASYNC_REGS
	popfq
	.cfi_adjust_cfa_offset -8
	ret	$ASYNC_RED_ZONE
	.cfi_endproc
	.globl	async_preempt_end		// for the test
	.hidden	async_preempt_end
async_preempt_end:
	.size	async_preempt, . - async_preempt

	.section .note.GNU-stack, "", @progbits
