// sites_plugin.S: functions around instructions that sites.c may rewrite, with caves where the test says so and nowhere else.
// A wall is code of 400 bytes without filling, so that what is behind it is out of reach of a short jump.

	.text

	.macro	begin name
	.globl	\name
	.type	\name, @function
\name:	.cfi_startproc
	.endm

	.macro	end name
	.cfi_endproc
	.size	\name, . - \name
	.endm

	.macro	wall name
	begin	\name
	.rept	200
	inc	%eax
	.endr
	ret
	end	\name
	.endm

	// void name(long n): n rounds of a loop that waits
	.macro	spin name
	begin	\name
	.globl	site_of_\name
site_of_\name:
1:	pause
	dec	%rdi
	jnz	1b
	ret
	end	\name
	.endm

	wall	wall1
	spin	spin_plain
	.nops	8			// a cave: behind ret, before the next function
	wall	wall2
	spin	spin_nocave
	wall	wall3

	spin	spin_chain
	.nops	3			// room for a short jump only
	begin	between
	.rept	60
	inc	%eax
	.endr
	nop
	ret
	end	between
	.nops	8			// out of the first site's reach
	wall	wall4

	spin	spin_differs
	.nops	8
	wall	wall5
	spin	critical_spin
	.nops	8
	wall	wall6

	// Filling that is executed, and filling that is jumped to: no caves.
	begin	spin_fall
	.globl	site_of_spin_fall
site_of_spin_fall:
1:	pause
	dec	%rdi
	jnz	1b
	.nops	8
	jmp	3f
	inc	%eax
3:	.nops	8
	jmp	4f
5:	.nops	8
	ret
4:	jmp	5b
	end	spin_fall
	wall	wall7

	// And a cave inside a function.
	begin	spin_inside
	.globl	site_of_spin_inside
	jmp	1f
	.globl	cave_inside
cave_inside:
	.nops	8
site_of_spin_inside:
1:	pause
	dec	%rdi
	jnz	1b
	ret
	end	spin_inside
	wall	wall8

	// Over the border of a page.
	.p2align 12, 0xcc
	begin	spin_cross
	.rept	2047
	inc	%eax
	.endr
	nop
	.globl	site_of_spin_cross
site_of_spin_cross:
1:	pause
	dec	%rdi
	jnz	1b
	ret
	end	spin_cross
	.nops	8
	wall	wall9

	// void step(void): all registers from state_in, the instruction, all registers to state_out; the red zone is filled before
	// and compared behind. Order: rax rdx rcx rbx rsi rdi rbp r8 ... r15, flags.
	.macro	loads
	movq	0+state_in(%rip), %rax
	movq	8+state_in(%rip), %rdx
	movq	16+state_in(%rip), %rcx
	movq	24+state_in(%rip), %rbx
	movq	32+state_in(%rip), %rsi
	movq	40+state_in(%rip), %rdi
	movq	48+state_in(%rip), %rbp
	movq	56+state_in(%rip), %r8
	movq	64+state_in(%rip), %r9
	movq	72+state_in(%rip), %r10
	movq	80+state_in(%rip), %r11
	movq	88+state_in(%rip), %r12
	movq	96+state_in(%rip), %r13
	movq	104+state_in(%rip), %r14
	movq	112+state_in(%rip), %r15
	.endm
	.macro	stores
	movq	%rax, 0+state_out(%rip)
	movq	%rdx, 8+state_out(%rip)
	movq	%rcx, 16+state_out(%rip)
	movq	%rbx, 24+state_out(%rip)
	movq	%rsi, 32+state_out(%rip)
	movq	%rdi, 40+state_out(%rip)
	movq	%rbp, 48+state_out(%rip)
	movq	%r8, 56+state_out(%rip)
	movq	%r9, 64+state_out(%rip)
	movq	%r10, 72+state_out(%rip)
	movq	%r11, 80+state_out(%rip)
	movq	%r12, 88+state_out(%rip)
	movq	%r13, 96+state_out(%rip)
	movq	%r14, 104+state_out(%rip)
	movq	%r15, 112+state_out(%rip)
	.endm
	.macro	step name, instruction, before
	begin	\name
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rbx, -16
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rbp, -24
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_offset %r12, -32
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_offset %r13, -40
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_offset %r14, -48
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_offset %r15, -56
	movq	%rsp, state_sp(%rip)
	pushq	120+state_in(%rip)
	.cfi_adjust_cfa_offset 8
	popfq				// perhaps with the trap flag
	.cfi_adjust_cfa_offset -8
	movq	$-1, %rcx
	movabsq	$0x1122334455667788, %rax
	.set	at, 8
	.rept	16
	movq	%rax, -at(%rsp)
	.set	at, at + 8
	.endr
	loads
	jmp	site_of_\name
	\before
	.nops	8
	.nops	8
	.globl	site_of_\name
	.protected site_of_\name
site_of_\name:
	\instruction
	.globl	behind_\name
behind_\name:
	stores
	leaq	-128(%rsp), %rsp
	.cfi_adjust_cfa_offset 128
	pushfq
	.cfi_adjust_cfa_offset 8
	popq	120+state_out(%rip)
	.cfi_adjust_cfa_offset -8
	pushq	$0x202
	.cfi_adjust_cfa_offset 8
	popfq
	.cfi_adjust_cfa_offset -8
	leaq	128(%rsp), %rsp
	.cfi_adjust_cfa_offset -128
	movabsq	$0x1122334455667788, %rax
	xorl	%edx, %edx
	.set	at, 16			// the word that pushfq used is not compared
	.rept	15
	cmpq	%rax, -at(%rsp)
	setne	%cl
	orb	%cl, %dl
	.set	at, at + 8
	.endr
	movq	%rsp, %rax
	cmpq	%rax, state_sp(%rip)
	setne	%cl
	orb	%cl, %dl
	movb	%dl, state_damaged(%rip)
	popq	%r15
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r15
	popq	%r14
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r14
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r13
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r12
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbx
	ret
	end	\name
	.endm

	// The jump back is never taken: rcx is not 0. It makes a loop of it, and no flag matters.
	.macro	pause_in_loop
	pause
	.byte	0xe3, 0xfc		// jrcxz to the pause
	.endm
	step	step_pause, pause_in_loop
	wall	wall10
	step	step_call, syscall
	wall	wall11

	// By which a thread gets in line, and the wait behind it, to which no way leads. One is too short for a long jump, and one says
	// where its word is by the distance.
	.macro	gets_in_line
	xchgl	%edx, (%r12)
	.byte	0xe3, waits_in_line - . - 1	// jrcxz
	.endm
	.macro	wait_in_line
waits_in_line:
	pause
	jmp	waits_in_line
	.endm
	step	step_line, gets_in_line, wait_in_line
	wall	wall16
	.macro	takes_ticket
	lock xaddl %edx, state_tickets(%rip)
	.byte	0xe3, waits_its_turn - . - 1
	.endm
	.macro	wait_its_turn
waits_its_turn:
	pause
	jmp	waits_its_turn
	.endm
	step	step_ticket, takes_ticket, wait_its_turn
	wall	wall17

	// Of the cave only bytes 47 to 54 are in reach.
	.globl	cave_tail
cave_tail:
	.rept	55
	nop
	.endr
	begin	spin_tail
	.globl	site_of_spin_tail
	.rept	59
	inc	%eax
	.endr
site_of_spin_tail:
1:	pause
	dec	%rdi
	jnz	1b
	ret
	end	spin_tail
	wall	wall12

	// Data: no filling.
	spin	spin_zeros
	.zero	16
	wall	wall13

	// Filling that somebody looks at, and a system call.
	spin	spin_mentioned
mentioned:
	.nops	8
	begin	mentions
	leaq	mentioned+4(%rip), %rax
	leaq	behind_call_mentioned(%rip), %rdx
	ret
	end	mentions
	wall	wall14
	begin	call_mentioned
	movl	%edi, %eax
	.globl	site_of_call_mentioned
site_of_call_mentioned:
	syscall
behind_call_mentioned:
	ret
	end	call_mentioned
	.nops	8
	wall	wall15

	.data
	.p2align 6
	.globl	state_in, state_out, state_sp, state_damaged, state_tickets
	.protected state_in, state_out, state_sp, state_damaged, state_tickets
state_in:
	.zero	128
state_out:
	.zero	128
state_sp:
	.quad	0
state_damaged:
	.byte	0
	.p2align 2
state_tickets:
	.long	0

	.section .note.GNU-stack, "", @progbits
