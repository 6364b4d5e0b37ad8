// The injected call, instruction by instruction. The test stands in for the handler: it pushes the call at the first
// instruction of a function and enters async_preempt, single-stepping by the trap flag. At every instruction of
// async_preempt the SIGTRAP handler unwinds with libgcc's unwinder. It fails if
//  - the interrupted function, at its exact PC, or its callers are not found, or with another CFA,
//  - a general register of the interrupted function is not found with its value (wrong CFI),
//  - a register, the flags, the stack pointer or the red zone come back changed,
//  - async_preempt2 is entered with a misaligned stack or with the direction flag set.

#include <signal.h>
#include <unwind.h>

#include "unit.h"
#include "frame.h"

#include <check.h>

enum { RBP = 6, NREGS = 15, FLAGS = 15, RSP = 16 };
// DWARF numbers of rax, rdx, rcx, rbx, rsi, rdi, rbp, r8 ... r15: as in the frame.
struct state {
	uint64_t regs[17];
};
extern struct state inject_in, inject_out;
struct state inject_in __attribute__((visibility("hidden")));
struct state inject_out __attribute__((visibility("hidden")));

void inject(void) __attribute__((visibility("hidden")));
extern const char victim[] __attribute__((visibility("hidden")));
extern const char victim_returns[] __attribute__((visibility("hidden")));
extern const char async_preempt_end[] __attribute__((visibility("hidden")));

// inject() switches to the stack in inject_in, calls victim as by a call instruction, and injects there. In victim and
// its stack all registers but rsp are the test's; rbp stays inject's frame pointer, by which it finds back.
__asm__(".text\n"
	".type inject, @function\n"
	".globl inject\n"
	"inject:\n"
	"	.cfi_startproc\n"
	"	push %rbp\n"
	"	.cfi_def_cfa_offset 16\n"
	"	.cfi_offset %rbp, -16\n"
	"	mov %rsp, %rbp\n"
	"	.cfi_def_cfa_register %rbp\n"
	"	push %rbx\n"
	"	.cfi_offset %rbx, -24\n"
	"	push %r12\n"
	"	.cfi_offset %r12, -32\n"
	"	push %r13\n"
	"	.cfi_offset %r13, -40\n"
	"	push %r14\n"
	"	.cfi_offset %r14, -48\n"
	"	push %r15\n"
	"	.cfi_offset %r15, -56\n"
	"	mov %rbp, 48+inject_in(%rip)\n"
	"	mov 128+inject_in(%rip), %rsp\n"
	"	lea victim_returns(%rip), %rax\n"
	"	mov %rax, (%rsp)\n" // call victim
	"	lea -128(%rsp), %rsp\n"
	"	lea victim(%rip), %rax\n"
	"	push %rax\n"
	"	pushq 120+inject_in(%rip)\n"
	"	popfq\n"
	"	mov 0+inject_in(%rip), %rax\n"
	"	mov 8+inject_in(%rip), %rdx\n"
	"	mov 16+inject_in(%rip), %rcx\n"
	"	mov 24+inject_in(%rip), %rbx\n"
	"	mov 32+inject_in(%rip), %rsi\n"
	"	mov 40+inject_in(%rip), %rdi\n"
	"	mov 56+inject_in(%rip), %r8\n"
	"	mov 64+inject_in(%rip), %r9\n"
	"	mov 72+inject_in(%rip), %r10\n"
	"	mov 80+inject_in(%rip), %r11\n"
	"	mov 88+inject_in(%rip), %r12\n"
	"	mov 96+inject_in(%rip), %r13\n"
	"	mov 104+inject_in(%rip), %r14\n"
	"	mov 112+inject_in(%rip), %r15\n"
	"	jmp async_preempt\n"
	"victim_returns:\n"
	"	lea -40(%rbp), %rsp\n"
	"	pop %r15\n"
	"	.cfi_restore %r15\n"
	"	pop %r14\n"
	"	.cfi_restore %r14\n"
	"	pop %r13\n"
	"	.cfi_restore %r13\n"
	"	pop %r12\n"
	"	.cfi_restore %r12\n"
	"	pop %rbx\n"
	"	.cfi_restore %rbx\n"
	"	pop %rbp\n"
	"	.cfi_def_cfa %rsp, 8\n"
	"	.cfi_restore %rbp\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size inject, . - inject\n"
	".type victim, @function\n"
	"victim:\n"
	"	.cfi_startproc\n"
	"	mov %rsp, 128+inject_out(%rip)\n"
	"	lea -512(%rsp), %rsp\n"
	"	.cfi_adjust_cfa_offset 512\n"
	"	pushfq\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	popq 120+inject_out(%rip)\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	pushq $0x202\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	popfq\n" // no trap flag from here on
	"	.cfi_adjust_cfa_offset -8\n"
	"	lea 512(%rsp), %rsp\n"
	"	.cfi_adjust_cfa_offset -512\n"
	"	mov %rax, 0+inject_out(%rip)\n"
	"	mov %rdx, 8+inject_out(%rip)\n"
	"	mov %rcx, 16+inject_out(%rip)\n"
	"	mov %rbx, 24+inject_out(%rip)\n"
	"	mov %rsi, 32+inject_out(%rip)\n"
	"	mov %rdi, 40+inject_out(%rip)\n"
	"	mov %rbp, 48+inject_out(%rip)\n"
	"	mov %r8, 56+inject_out(%rip)\n"
	"	mov %r9, 64+inject_out(%rip)\n"
	"	mov %r10, 72+inject_out(%rip)\n"
	"	mov %r11, 80+inject_out(%rip)\n"
	"	mov %r12, 88+inject_out(%rip)\n"
	"	mov %r13, 96+inject_out(%rip)\n"
	"	mov %r14, 104+inject_out(%rip)\n"
	"	mov %r15, 112+inject_out(%rip)\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size victim, . - victim\n");

static int calls;
static uint64_t entry_flags;
static bool aligned;

__attribute__((noinline)) static void clobber(void)
{
	__asm__ volatile(
		"xor %%eax, %%eax; mov %%rax, %%rcx; mov %%rax, %%rdx; mov %%rax, %%rsi\n\t"
		"mov %%rax, %%rdi; mov %%rax, %%r8; mov %%rax, %%r9; mov %%rax, %%r10\n\t"
		"mov %%rax, %%r11; mov %%rax, %%rbx; mov %%rax, %%r12; mov %%rax, %%r13\n\t"
		"mov %%rax, %%r14; mov %%rax, %%r15" ::
			: "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "rbx", "r12",
			  "r13", "r14", "r15", "cc");
}

void async_preempt2(void)
{
	__asm__ volatile("pushfq; pop %0" : "=r"(entry_flags));
	aligned = (uintptr_t)__builtin_frame_address(0) % 16 == 0;
	calls++;
	clobber();
}

static char stack[16384] __attribute__((aligned(16)));
static int steps, bad_steps, first_bad;

struct walk {
	bool victim, caller, test, regs, cfa;
};

static void test_function(void);

static _Unwind_Reason_Code visit(struct _Unwind_Context *context, void *arg)
{
	struct walk *w = arg;
	int before;
	uintptr_t ip = _Unwind_GetIPInfo(context, &before);

	if (ip == (uintptr_t)victim && before) {
		w->victim = true;
		w->regs = true;
		for (int i = 0; i < NREGS; i++) {
			static const int dwarf[] = {0, 1,  2,  3,  4,  5,  6, 8,
						    9, 10, 11, 12, 13, 14, 15};

			if (_Unwind_GetGR(context, dwarf[i]) != inject_in.regs[i])
				w->regs = false;
		}
		w->cfa = _Unwind_GetCFA(context) == inject_in.regs[RSP];
	} else if (w->victim && ip == (uintptr_t)victim_returns) {
		w->caller = true;
	} else if (w->caller && (uintptr_t)_Unwind_FindEnclosingFunction((void *)ip) ==
					(uintptr_t)test_function) {
		w->test = true;
	}
	return _URC_NO_REASON;
}

static void on_trap(int sig, siginfo_t *info, void *uc)
{
	uintptr_t pc = context_pc(uc);
	struct walk w = {0};

	(void)sig;
	(void)info;
	if (pc < (uintptr_t)async_preempt || pc >= (uintptr_t)async_preempt_end)
		return;
	_Unwind_Backtrace(visit, &w);
	if (!(w.victim && w.caller && w.test && w.regs && w.cfa)) {
		if (!bad_steps)
			first_bad = (int)(pc - (uintptr_t)async_preempt);
		bad_steps++;
	}
	steps++;
}

__attribute__((noinline)) static void test_function(void)
{
	inject();
	__asm__ volatile(""); // no tail call
}

// flags: of the interrupted code, without the trap flag. shift: of the stack, for its alignment.
static void one(uint64_t flags, bool step, size_t shift)
{
	char *top = stack + sizeof stack - 4096 - shift;

	for (int i = 0; i < NREGS; i++)
		inject_in.regs[i] = 0x1111111111111111u * (uint64_t)(i + 1);
	memset(stack, 0xa5, sizeof stack);
	for (int i = 0; i < ASYNC_RED_ZONE; i++)
		top[-1 - i] = (char)i;
	inject_in.regs[RSP] = (uintptr_t)top;
	inject_in.regs[FLAGS] = flags | (step ? 0x100 : 0);
	steps = bad_steps = calls = 0;
	test_function();
	ck_assert_int_eq(calls, 1);
	ck_assert(aligned);
	ck_assert(!(entry_flags & 0x400));
	for (int i = 0; i < NREGS; i++)
		ck_assert_msg(inject_out.regs[i] == inject_in.regs[i], "register %d: %lx, was %lx",
			      i, inject_out.regs[i], inject_in.regs[i]);
	ck_assert_uint_eq(inject_out.regs[RSP], inject_in.regs[RSP]);
	ck_assert_uint_eq(inject_out.regs[FLAGS] & ~(uint64_t)0x100, flags);
	for (int i = 0; i < ASYNC_RED_ZONE; i++)
		ck_assert_int_eq((unsigned char)top[-1 - i], i);
	for (int i = 8; i < 1024; i++)
		ck_assert_int_eq((unsigned char)top[i], 0xa5);
}

START_TEST(registers_come_back)
{
	for (size_t shift = 0; shift < 64; shift += 8) {
		one(0x202, false, shift);
		one(0x202 | 0x8d5, false, shift);	  // OF SF ZF AF PF CF
		one(0x202 | 0x8d5 | 0x400, false, shift); // and DF
	}
}
END_TEST

START_TEST(every_instruction_unwinds)
{
	static char alt[65536];
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
	struct sigaction sa = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	ck_assert_int_eq(sigaltstack(&ss, NULL), 0);
	ck_assert_int_eq(sigaction(SIGTRAP, &sa, NULL), 0);
	for (size_t shift = 0; shift < 16; shift += 8) {
		one(0x202 | 0x8d5, true, shift);
		ck_assert_int_ge(steps, 40); // 15 saves, 15 restores, and the rest
		ck_assert_msg(bad_steps == 0, "%d of %d, first at async_preempt+%d", bad_steps,
			      steps, first_bad);
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, registers_come_back);
	tcase_add_test(tc, every_instruction_unwinds);
}

int main(void)
{
	return unit_run("async_preempt", add);
}
