/* vfork.S: the child returns on the parent's stack and overwrites it, so no frame of ours may be there
 * across the system call: the return address waits in rdi, which the kernel keeps for both. */

	.text
	.globl	vfork
	.type	vfork, @function
	.globl	__vfork
	.set	__vfork, vfork
	.hidden	vfork_prepare
	.hidden	vfork_parent
vfork:
	.cfi_startproc
	endbr64
	sub	$8, %rsp
	.cfi_adjust_cfa_offset 8
	call	vfork_prepare
	add	$8, %rsp
	.cfi_adjust_cfa_offset -8
	pop	%rdi			/* rdi = return address */
	.cfi_adjust_cfa_offset -8
	.cfi_register %rip, %rdi
	mov	$58, %eax		/* SYS_vfork */
	syscall
	push	%rdi
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rip, -8
	test	%eax, %eax
	jz	1f			/* child */
	mov	%rax, %rdi
	sub	$8, %rsp
	.cfi_adjust_cfa_offset 8
	call	vfork_parent
	add	$8, %rsp
	.cfi_adjust_cfa_offset -8
1:	ret
	.cfi_endproc
	.size	vfork, .-vfork

	.section .note.GNU-stack, "", @progbits
