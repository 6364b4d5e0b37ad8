// site.S: what is executed instead of a PAUSE or a `syscall` instruction, or before one by which a thread gets in line, where that was rewritten (shim/sites.c).
//
// The stub is jumped to with all registers and the stack as the instruction found them. It steps over the red zone and calls
// what all stubs of its kind share; so a return address of ours is on the stack, and below it all is ordinary. Nothing
// of the program's is changed: PAUSE changes no register and no flag, `syscall` rax, rcx and r11. The third kind goes on at a copy of its
// instruction.
//
// For unwinders a stub is a signal frame whose caller goes on at the address in its slot, which lies SITE_DISTANCE behind
// it: DW_OP_breg16 is the stub's own PC. That holds at every instruction; a test single-steps it.

#include <asm/unistd.h>

#include "site.h"

	.hidden	sched
	.hidden	site_waits
	.hidden	site_enqueues
	.hidden	site_call
	.hidden	site_gated

// The CFI of a stub: DW_CFA_expression rip: DW_OP_breg16 0; const1s -SITE_STUB; and; plus_uconst SITE_DISTANCE
	.macro	STUB_CFI
	.cfi_startproc
	.cfi_signal_frame
	.cfi_def_cfa %rsp, 0
	.cfi_escape 0x10, 16, 9, 0x80, 0, 0x09, 0x100 - SITE_STUB, 0x1a, 0x23, \
		0x80 | (SITE_DISTANCE & 0x7f), 0x80 | ((SITE_DISTANCE >> 7) & 0x7f), SITE_DISTANCE >> 14
	.endm

// hook: what they call; to: where in the slot the address is that they jump to
	.macro	STUBS hook, to
	STUB_CFI
	.rept	SITE_STUBS
	.p2align 5
0:	leaq	-SITE_RED_ZONE(%rsp), %rsp
	.cfi_def_cfa_offset SITE_RED_ZONE
	call	\hook
	leaq	SITE_RED_ZONE(%rsp), %rsp
	.cfi_def_cfa_offset 0
	jmp	*0b + SITE_DISTANCE + \to(%rip)
	.p2align 5
	.endr
	.cfi_endproc
	.endm

	.section .text.sites, "ax", @progbits
	.p2align 12
	.globl	site_pause_stubs
	.hidden	site_pause_stubs
	.type	site_pause_stubs, @function
site_pause_stubs:
	STUBS	site_pause, 0
	.size	site_pause_stubs, . - site_pause_stubs

	.type	site_syscall_stubs, @function
site_syscall_stubs:
	STUB_CFI
	.rept	SITE_STUBS
	.p2align 5
0:	leaq	-SITE_RED_ZONE(%rsp), %rsp
	.cfi_def_cfa_offset SITE_RED_ZONE
	call	site_syscall
1:	leaq	SITE_RED_ZONE(%rsp), %rsp
	.cfi_def_cfa_offset 0
2:	jmp	*0b + SITE_DISTANCE(%rip)
	.org	1b + SITE_DIRECT_OFFSET
	syscall					// the child of a clone goes on here, on its own stack
	jmp	2b
	.p2align 5
	.endr
	.cfi_endproc
	.size	site_syscall_stubs, . - site_syscall_stubs

	.type	site_enqueue_stubs, @function
site_enqueue_stubs:
	STUBS	site_enqueue, SITE_COPY_OFFSET
	.size	site_enqueue_stubs, . - site_enqueue_stubs

	// Whole pages, which become data.
	.p2align 12
	.globl	site_slots
	.hidden	site_slots
	.type	site_slots, @object
site_slots:
	.zero	SITE_DISTANCE
	.size	site_slots, . - site_slots
	.p2align 12
	.org	site_pause_stubs + 2 * SITE_DISTANCE	// an error if the slots are not where they should be

	.text
// Without demand a PAUSE is a PAUSE, and who gets in line does. No flag is changed here: jrcxz looks at none.
// name: what the stubs call; function: what is called with demand, with where the stub goes on; last: what is executed in any case.
	.macro	HOOK name, function, last
	.type	\name, @function
	.p2align 4
\name:
	.cfi_startproc
	pushq	%rcx
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rcx, -16
	movl	sched + SITE_DEMAND_OFFSET(%rip), %ecx	// a hint; \function looks at it as it should
	jrcxz	1f
	pushfq
	.cfi_adjust_cfa_offset 8
	pushq	%rax
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rax, -32
	pushq	%rdx
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rdx, -40
	pushq	%rsi
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rsi, -48
	pushq	%rdi
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rdi, -56
	pushq	%r8
	.cfi_adjust_cfa_offset 8
	.cfi_offset %r8, -64
	pushq	%r9
	.cfi_adjust_cfa_offset 8
	.cfi_offset %r9, -72
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	.cfi_offset %r10, -80
	pushq	%r11
	.cfi_adjust_cfa_offset 8
	.cfi_offset %r11, -88
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rbp, -96
	movq	%rsp, %rbp			// callee-saved: keeps the frame over the call
	.cfi_def_cfa_register %rbp
	movq	88(%rbp), %rdi			// where the stub goes on
	andq	$-16, %rsp
	cld					// as C code expects
	call	\function
	movq	%rbp, %rsp
	.cfi_def_cfa_register %rsp
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	popq	%r11
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r11
	popq	%r10
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r10
	popq	%r9
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r9
	popq	%r8
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r8
	popq	%rdi
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rdi
	popq	%rsi
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rsi
	popq	%rdx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rdx
	popq	%rax
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rax
	popfq
	.cfi_adjust_cfa_offset -8
1:	\last
	popq	%rcx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rcx
	ret
	.cfi_endproc
	.size	\name, . - \name
	.endm

	HOOK	site_pause, site_waits, pause
	HOOK	site_enqueue, site_enqueues

// rcx and r11 are the instruction's to change: r11 keeps the flags, as it does with the instruction itself.
	.type	site_syscall, @function
	.p2align 4
site_syscall:
	.cfi_startproc
	pushfq
	.cfi_adjust_cfa_offset 8
	popq	%r11
	.cfi_adjust_cfa_offset -8
	cmpq	$SITE_NUMBERS, %rax
	jae	.Ldirect
	leaq	site_gated(%rip), %rcx
	btq	%rax, (%rcx)
	jnc	.Ldirect
	leaq	-SITE_CALL_SIZE(%rsp), %rsp
	.cfi_adjust_cfa_offset SITE_CALL_SIZE
	movq	%rax, SITE_CALL_RAX(%rsp)
	movq	%rdi, SITE_CALL_RDI(%rsp)
	.cfi_rel_offset %rdi, SITE_CALL_RDI
	movq	%rsi, SITE_CALL_RSI(%rsp)
	.cfi_rel_offset %rsi, SITE_CALL_RSI
	movq	%rdx, SITE_CALL_RDX(%rsp)
	.cfi_rel_offset %rdx, SITE_CALL_RDX
	movq	%r10, SITE_CALL_R10(%rsp)
	.cfi_rel_offset %r10, SITE_CALL_R10
	movq	%r8, SITE_CALL_R8(%rsp)
	.cfi_rel_offset %r8, SITE_CALL_R8
	movq	%r9, SITE_CALL_R9(%rsp)
	.cfi_rel_offset %r9, SITE_CALL_R9
	movq	%r11, SITE_CALL_FLAGS(%rsp)
	movq	%rbp, SITE_CALL_RBP(%rsp)
	.cfi_rel_offset %rbp, SITE_CALL_RBP
	movq	%rsp, %rdi			// struct site_call *
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	andq	$-16, %rsp
	cld
	call	site_call
	movq	%rbp, %rsp			// rax = the result
	.cfi_def_cfa_register %rsp
	movq	SITE_CALL_RDI(%rsp), %rdi
	.cfi_restore %rdi
	movq	SITE_CALL_RSI(%rsp), %rsi
	.cfi_restore %rsi
	movq	SITE_CALL_RDX(%rsp), %rdx
	.cfi_restore %rdx
	movq	SITE_CALL_R10(%rsp), %r10
	.cfi_restore %r10
	movq	SITE_CALL_R8(%rsp), %r8
	.cfi_restore %r8
	movq	SITE_CALL_R9(%rsp), %r9
	.cfi_restore %r9
	movq	SITE_CALL_FLAGS(%rsp), %r11
	movq	SITE_CALL_RBP(%rsp), %rbp
	.cfi_restore %rbp
	leaq	SITE_CALL_SIZE(%rsp), %rsp
	.cfi_adjust_cfa_offset -SITE_CALL_SIZE
	pushq	%r11
	.cfi_adjust_cfa_offset 8
	popfq
	.cfi_adjust_cfa_offset -8
	ret

	// With the stack pointer that the program has there, and nothing of ours on the stack.
.Ldirect:
	pushq	%r11
	.cfi_adjust_cfa_offset 8
	popfq
	.cfi_adjust_cfa_offset -8
	popq	%rcx				// rcx = where the stub goes on
	.cfi_adjust_cfa_offset -8
	.cfi_register %rip, %rcx
	leaq	SITE_RED_ZONE(%rsp), %rsp
	.cfi_def_cfa_offset -SITE_RED_ZONE	// the stub's frame begins above
	leaq	SITE_DIRECT_OFFSET(%rcx), %rcx
	.cfi_def_cfa_offset 0
	jmp	*%rcx
	.cfi_endproc
	.size	site_syscall, . - site_syscall

	.section .note.GNU-stack, "", @progbits
