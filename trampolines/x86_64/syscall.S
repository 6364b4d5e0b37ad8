// syscall.S: the exported syscall(2).
//
// Some calls must not have a frame of ours below them: after vfork and clone with CLONE_VM or another stack two
// threads use it, or the child does not find it; exit never comes back to it, and rt_sigreturn expects the caller's stack pointer.
// They jump to libc's function with registers and stack as they came. All others jump to
// syscall_slow(nr, a, b, c, d, e, f), which has the same argument registers and stack slot: no copy
// is needed, and the entry has no frame at all.

#include <asm/unistd.h>

	.hidden	real_syscall
	.hidden	real_resolve
	.hidden	syscall_slow

	.hidden	clone_is_fork
	.hidden	shim_thread_exits

	.text

	// Around a call of C, which may change all argument registers.
	//   rsp+56  return address of the caller; seven slots keep rsp 16-byte aligned at the call
	.macro	save_args
	pushq	%rdi				// nr
	.cfi_adjust_cfa_offset 8
	pushq	%rsi				// a
	.cfi_adjust_cfa_offset 8
	pushq	%rdx				// b
	.cfi_adjust_cfa_offset 8
	pushq	%rcx				// c
	.cfi_adjust_cfa_offset 8
	pushq	%r8				// d
	.cfi_adjust_cfa_offset 8
	pushq	%r9				// e
	.cfi_adjust_cfa_offset 8
	subq	$8, %rsp			// alignment
	.cfi_adjust_cfa_offset 8
	.endm

	.macro	restore_args
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
	popq	%r9
	.cfi_adjust_cfa_offset -8
	popq	%r8
	.cfi_adjust_cfa_offset -8
	popq	%rcx
	.cfi_adjust_cfa_offset -8
	popq	%rdx
	.cfi_adjust_cfa_offset -8
	popq	%rsi
	.cfi_adjust_cfa_offset -8
	popq	%rdi
	.cfi_adjust_cfa_offset -8
	.endm

	.globl	syscall
	.type	syscall, @function
	.p2align 4
syscall:
	.cfi_startproc
	endbr64
	cmpq	$__NR_clone, %rdi
	je	.Lclone
	cmpq	$__NR_clone3, %rdi
	je	.Lclone
	cmpq	$__NR_vfork, %rdi
	je	vfork
	cmpq	$__NR_exit, %rdi
	je	.Lexit
	cmpq	$__NR_exit_group, %rdi
	je	.Lreal
	cmpq	$__NR_rt_sigreturn, %rdi
	je	.Lreal
.Lslow:
	jmp	syscall_slow

.Lclone:
	save_args
	call	clone_is_fork			// (nr, a, b): may be called with a frame of ours
	restore_args
	testb	%al, %al
	jnz	.Lslow

	jmp	.Lreal

.Lexit:
	save_args
	call	shim_thread_exits
	restore_args

.Lreal:
	movq	real_syscall(%rip), %rax
	testq	%rax, %rax
	jz	.Lresolve
	jmp	*%rax

	// Before the constructor.
.Lresolve:
	save_args
	call	real_resolve
	restore_args
	jmp	*real_syscall(%rip)
	.cfi_endproc
	.size	syscall, . - syscall

	.section .note.GNU-stack, "", @progbits
