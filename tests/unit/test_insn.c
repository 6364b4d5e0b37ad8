// test_insn.c: the pass over the instructions. The snippets are assembled into this program's own text, and the
// frame descriptions are made by hand.

#include <time.h>

#include "safepoint.h"

#define SNIPPET(name, code)                                                                        \
	__asm__(".pushsection .text, \"ax\"\n" #name ":\n" code "\n" #name                         \
		"_end:\n\tnop\n.popsection");                                                      \
	extern const uint8_t name[] __attribute__((visibility("hidden")));                         \
	extern const uint8_t name##_end[] __attribute__((visibility("hidden")))
#define LABEL(name) extern const uint8_t name[] __attribute__((visibility("hidden")))

static struct marks marks;
static struct code_facts facts;
static struct cfi_row rows[16];
static struct cfi cfi = {.rows = rows};
static struct func funcs[4];
static size_t nfuncs;

static uint64_t at(const uint8_t *p)
{
	return (uintptr_t)p;
}

static void setup(void)
{
	cfi.n = 0;
	nfuncs = 0;
	memset(&marks, 0, sizeof(marks));
	memset(&facts, 0, sizeof(facts));
}

static void teardown(void)
{
	marks_free(&marks);
	code_facts_free(&facts);
}

// A row from where the last one ended, or from lo.
static void row(const uint8_t *lo, const uint8_t *hi, enum table_base base, int cfa, int rbp)
{
	rows[cfi.n] = (struct cfi_row){
		.lo = at(lo),
		.hi = at(hi),
		.fde = cfi.n ? rows[0].fde : at(lo),
		.cfa_offset = cfa,
		.rbp_offset = (int16_t)rbp,
		.base = (uint8_t)base,
	};
	cfi.n++;
}

static void scan(const uint8_t *lo, const uint8_t *hi)
{
	struct section text = {".text", at(lo), (uint64_t)(hi - lo), lo};
	struct module m = {.text = &text, .ntext = 1, .funcs = funcs, .nfuncs = nfuncs};

	ck_assert_int_eq(insn_scan(&m, &cfi, &marks, &facts), 0);
}

// --- Spin loops. Each snippet is one loop.

// Waits.
SNIPPET(w_pause, "1: pause\n cmpl $0, (%rdi)\n je 1b");
SNIPPET(w_pause_counted, "1: pause\n dec %ecx\n jnz 1b"); // bounded back-off
SNIPPET(w_pause_tsc, "1: pause\n rdtsc\n cmp %eax, %r8d\n ja 1b");
SNIPPET(w_pause_call, "1: pause\n call 2f\n2: pop %rax\n test %eax, %eax\n jz 1b");
SNIPPET(w_tpause, "1: .byte 0x66, 0x0f, 0xae, 0xf1\n cmpl $0, (%rdi)\n je 1b");
SNIPPET(w_flag, "1: cmpl $0, (%rdi)\n je 1b");
SNIPPET(w_load, "1: mov (%rdi), %eax\n test %eax, %eax\n jz 1b");
SNIPPET(w_byte, "1: movzbl 5(%rdi), %eax\n test %al, %al\n jz 1b");
SNIPPET(w_rip, "1: mov w_rip(%rip), %eax\n test $2, %al\n jz 1b");
SNIPPET(w_pointers, "1: mov (%rdi), %rax\n mov 8(%rax), %rax\n cmpb $0, 3(%rax)\n jne 1b");
SNIPPET(w_frame, "1: mov -8(%rbp), %rax\n mov (%rax), %eax\n test %eax, %eax\n je 1b"); // as at -O0
SNIPPET(w_ticket, "1: mov (%rdi), %eax\n cmp %eax, %esi\n jne 1b");
SNIPPET(w_two_exits,
	"1: mov (%rdi), %eax\n test %eax, %eax\n jnz 2f\n cmpl $0, (%rsi)\n je 1b\n2:");
SNIPPET(w_xchg, "1: mov $1, %eax\n xchg %eax, (%rdi)\n test %eax, %eax\n jnz 1b");
SNIPPET(w_xchg_reg, "1: mov %ecx, %eax\n xchg %al, (%rdi)\n test %al, %al\n jnz 1b");
SNIPPET(w_cmpxchg, "1: xor %eax, %eax\n lock cmpxchg %ecx, (%rdi)\n jnz 1b");
SNIPPET(w_cmpxchg_reg, "1: mov %edx, %eax\n mov $1, %ecx\n lock cmpxchg %ecx, (%rdi)\n jnz 1b");
SNIPPET(w_ttas, "1: mov $1, %eax\n xchg %eax, (%rdi)\n test %eax, %eax\n jz 3f\n"
		"2: mov (%rdi), %eax\n test %eax, %eax\n jnz 2b\n jmp 1b\n3:");
SNIPPET(w_tls, "1: mov %fs:16, %eax\n test %eax, %eax\n jz 1b");
SNIPPET(w_counted, "1: cmpl $0, (%rdi)\n jne 2f\n dec %ecx\n jnz 1b\n2:");
SNIPPET(w_counted_up, "1: add $1, %ecx\n cmp %ecx, %esi\n je 2f\n cmpl $0, (%rdi)\n je 1b\n2:");
// An I/O thread of redis waits for work, and its main thread until all have done theirs: from an array, as many as configured.
SNIPPET(w_redis_io, "1: sub $1, %eax\n je 2f\n mov (%rbp), %rdx\n test %rdx, %rdx\n je 1b\n2:");
SNIPPET(w_redis_main,
	"1: cmp $1, %esi\n jle 3f\n lea w_redis_main(%rip), %rdx\n xor %ecx, %ecx\n mov $1, %eax\n"
	"2: add $1, %eax\n add $64, %rdx\n mov -64(%rdx), %rsi\n add %rsi, %rcx\n mov "
	"w_redis_main(%rip), %esi\n"
	"cmp %esi, %eax\n jl 2b\n test %rcx, %rcx\n jne 1b\n3:");
SNIPPET(w_nested, "1: xor %ecx, %ecx\n2: inc %ecx\n cmp (%rdi,%rcx,4), %eax\n jne 2b\n cmpl $0, "
		  "(%rdi)\n je 1b");
SNIPPET(w_bts, "1: lock btsl $0, (%rdi)\n jc 1b");

// Do not wait.
SNIPPET(n_strlen, "1: inc %rdi\n cmpb $0, (%rdi)\n jne 1b");
SNIPPET(n_index, "1: inc %rcx\n cmpb %al, (%rdi,%rcx)\n jne 1b");
SNIPPET(n_sum, "1: add (%rdi), %eax\n add $4, %rdi\n cmp %rdi, %rsi\n jne 1b");
SNIPPET(n_sum_fp, "1: addsd (%rdi,%rcx,8), %xmm0\n inc %rcx\n cmp %rcx, %rsi\n jne 1b");
SNIPPET(n_list, "1: mov (%rdi), %rdi\n test %rdi, %rdi\n jnz 1b");
SNIPPET(n_probe, "1: add $1, %rax\n and %rdx, %rax\n cmp (%rdi,%rax,8), %rsi\n jne 1b");
SNIPPET(n_counted_by_load,
	"1: add $1, %ecx\n cmp (%rsi), %ecx\n je 2f\n cmpl $0, (%rdi)\n je 1b\n2:");
SNIPPET(n_counted_index,
	"1: add $1, %rcx\n cmp %rcx, %rsi\n je 2f\n cmpl $0, (%rdi,%rcx,4)\n je 1b\n2:");
SNIPPET(n_counted_used, "1: add $1, %ecx\n cmp %ecx, %esi\n je 2f\n lea 5(%rcx), %eax\n cmpl $0, "
			"(%rdi)\n je 1b\n2:");
SNIPPET(n_work,
	"1: inc %rax\n cmpl $0, (%rdi)\n je 1b"); // counts while it waits: useful, for all we know
SNIPPET(n_float, "1: mulsd %xmm1, %xmm0\n cmpl $0, (%rdi)\n je 1b");
SNIPPET(n_memory, "1: incl (%rsi)\n cmpl $0, (%rdi)\n je 1b");
SNIPPET(n_store, "1: mov %eax, (%rsi)\n cmpl $0, (%rdi)\n je 1b");
SNIPPET(n_stos, "1: lodsb\n stosb\n test %al, %al\n jnz 1b");
SNIPPET(n_call, "1: call 2f\n2: pop %rax\n cmpl $0, (%rdi)\n je 1b");
SNIPPET(n_syscall, "1: xor %eax, %eax\n syscall\n cmpl $0, (%rdi)\n je 1b");
SNIPPET(n_tsc, "1: rdtsc\n cmp %eax, 8(%rsp)\n ja 1b");
SNIPPET(n_random, "1: rdrand %eax\n cmp (%rdi), %eax\n jne 1b");
SNIPPET(n_forever, "1: jmp 1b");
SNIPPET(n_registers, "1: test %eax, %eax\n jz 1b"); // nothing loaded
SNIPPET(n_atomic_add, "1: lea 1(%rax), %ecx\n lock cmpxchg %ecx, (%rdi)\n jnz 1b");
SNIPPET(n_atomic_add2,
	"1: mov (%rdi), %eax\n lea 1(%rax), %ecx\n lock cmpxchg %ecx, (%rdi)\n jnz 1b");
SNIPPET(n_atomic_set, "1: mov (%rdi), %eax\n mov $1, %ecx\n lock cmpxchg %ecx, (%rdi)\n jnz 1b");
SNIPPET(n_pop, "1: mov (%rdi), %rax\n mov (%rax), %rcx\n lock cmpxchg %rcx, (%rdi)\n jnz 1b");
SNIPPET(n_push, "1: mov (%rdi), %rax\n mov %rax, (%rsi)\n lock cmpxchg %rsi, (%rdi)\n jnz 1b");
SNIPPET(n_xadd, "1: mov $1, %eax\n lock xadd %eax, (%rdi)\n test %eax, %eax\n jnz 1b");
SNIPPET(n_xchg_carried, "1: xchg %eax, (%rdi)\n test %eax, %eax\n jnz 1b");
SNIPPET(n_maybe,
	"1: cmpl $0, (%rdi)\n je 2f\n mov $3, %eax\n2: add $1, %eax\n cmp %eax, %esi\n jne 1b");
SNIPPET(n_long, "1: cmpl $0, (%rdi)\n .fill 100, 1, 0x90\n je 1b");
SNIPPET(n_null, "1: mov 8, %eax\n test %eax, %eax\n jz 1b");
SNIPPET(n_plain_long, "1: cmpl $0, (%rdi)\n .fill 64, 1, 0x90\n je 1b");
// A delay, or all that a program does until it is told to end.
SNIPPET(n_nested, "1: mov $1000, %ecx\n2: dec %ecx\n jnz 2b\n cmpl $0, (%rdi)\n je 1b");
SNIPPET(n_split, "1: cmpl $0, (%rdi)\n .byte 0xeb, 0xfc"); // into the middle of the cmpl
// Not a loop: the jump backward cannot be reached from where it goes.
SNIPPET(n_join, "jmp 2f\n1: cmpl $0, (%rdi)\n je 3f\n ret\n2: xor %eax, %eax\n jmp 1b\n3: ret");
// PAUSE on the way out only.
SNIPPET(n_pause_outside, "1: inc %rdi\n cmpb $0, (%rdi)\n jne 2f\n pause\n ret\n2: jmp 1b");

struct spin_case {
	const char *name;
	const uint8_t *lo, *hi;
};
#define CASE(name)                                                                                 \
	{                                                                                          \
#name, name, name##_end                                                            \
	}

// Each kind of wait is found, over the whole loop.
START_TEST(spin_yes)
{
	static const struct spin_case cases[] = {
		CASE(w_pause),	     CASE(w_pause_counted), CASE(w_pause_tsc), CASE(w_pause_call),
		CASE(w_tpause),	     CASE(w_flag),	    CASE(w_load),      CASE(w_byte),
		CASE(w_rip),	     CASE(w_pointers),	    CASE(w_frame),     CASE(w_ticket),
		CASE(w_two_exits),   CASE(w_xchg),	    CASE(w_xchg_reg),  CASE(w_cmpxchg),
		CASE(w_cmpxchg_reg), CASE(w_bts),	    CASE(w_ttas),      CASE(w_tls),
		CASE(w_counted),     CASE(w_counted_up),    CASE(w_redis_io),  CASE(w_redis_main),
		CASE(w_nested)};
	const struct spin_case *c = &cases[_i];

	row(c->lo, c->hi, TABLE_CFA_NONE, 0, 0);
	scan(c->lo, c->hi);
	ck_assert_msg(marked(&marks, MARK_SPIN, at(c->lo), at(c->hi), ANY), "%s", c->name);
}
END_TEST

// And no loop that makes progress by itself.
START_TEST(spin_no)
{
	static const struct spin_case cases[] = {CASE(n_strlen),
						 CASE(n_index),
						 CASE(n_sum),
						 CASE(n_sum_fp),
						 CASE(n_list),
						 CASE(n_probe),
						 CASE(n_counted_by_load),
						 CASE(n_counted_index),
						 CASE(n_counted_used),
						 CASE(n_work),
						 CASE(n_float),
						 CASE(n_memory),
						 CASE(n_store),
						 CASE(n_stos),
						 CASE(n_call),
						 CASE(n_syscall),
						 CASE(n_tsc),
						 CASE(n_random),
						 CASE(n_forever),
						 CASE(n_registers),
						 CASE(n_atomic_add),
						 CASE(n_atomic_add2),
						 CASE(n_atomic_set),
						 CASE(n_pop),
						 CASE(n_push),
						 CASE(n_xadd),
						 CASE(n_xchg_carried),
						 CASE(n_maybe),
						 CASE(n_long),
						 CASE(n_split),
						 CASE(n_plain_long),
						 CASE(n_null),
						 CASE(n_nested),
						 CASE(n_join),
						 CASE(n_pause_outside)};
	const struct spin_case *c = &cases[_i];

	row(c->lo, c->hi, TABLE_CFA_NONE, 0, 0);
	scan(c->lo, c->hi);
	ck_assert_msg(count_marks(&marks, MARK_SPIN) == 0, "%s", c->name);
}
END_TEST

// --- Getting in line. The instruction in question is at NAME_in.
SNIPPET(l_ticket,
	"mov $1, %eax\nl_ticket_in: lock xadd %eax, (%rdi)\nl_ticket_behind: jmp 2f\n1: pause\n"
	"2: cmp 4(%rdi), %eax\n jne 1b\n incl (%rsi)\n incl 4(%rdi)\n ret");
SNIPPET(l_mcs, "movq $0, (%rsi)\nl_mcs_in: xchg %rsi, (%rdi)\nl_mcs_behind: test %rsi, %rsi\n je "
	       "2f\n mov %rdx, (%rsi)\n"
	       "1: mov 8(%rdx), %eax\n test %eax, %eax\n je 2f\n pause\n jmp 1b\n2: ret");
SNIPPET(l_loop, "1: mov $1, %eax\nl_loop_in: lock xadd %eax, l_loop(%rip)\nl_loop_behind: jmp "
		"3f\n2: pause\n"
		"3: cmp (%rsi), %eax\n jne 2b\n movl $0, (%rsi)\n dec %ecx\n jnz 1b\n ret");
// No line: a try that is repeated, a wait without PAUSE or behind a call, what may fail.
SNIPPET(x_tas,
	"1: mov $1, %eax\n xchg %eax, (%rdi)\n test %eax, %eax\n jz 2f\n pause\n jmp 1b\n2: ret");
SNIPPET(x_ttas, "1: mov $1, %eax\n xchg %al, (%rdi)\n test %al, %al\n jz 3f\n jmp 2f\n4: pause\n"
		"2: mov (%rdi), %al\n test %al, %al\n jnz 4b\n jmp 1b\n3: ret");
SNIPPET(x_plain, "lock xadd %eax, (%rdi)\n1: cmp 4(%rdi), %eax\n jne 1b\n ret");
SNIPPET(x_call, "lock xadd %eax, (%rdi)\n call 2f\n2: pop %rcx\n1: pause\n cmp 4(%rdi), %eax\n jne "
		"1b\n ret");
SNIPPET(x_cas, "lock cmpxchg %rsi, (%rdi)\n je 2f\n1: pause\n cmpl $0, (%rdx)\n je 1b\n2: ret");
// Full ordering only: what XCHG brings is never read. The second lets go of a lock that is tried for.
SNIPPET(x_store, "xchg %eax, (%rdi)\n1: pause\n mov (%rsi), %eax\n test %eax, %eax\n je 1b\n ret");
SNIPPET(x_unlock,
	"1: cmpl $0, (%rdi)\n jne 2f\n mov $1, %ecx\n xor %eax, %eax\n lock cmpxchg %ecx, (%rdi)\n "
	"je 3f\n"
	"2: pause\n jmp 1b\n3: incl (%rsi)\n xor %eax, %eax\n xchg %eax, (%rdi)\n jmp 1b");
SNIPPET(x_unlocked, "xadd %eax, (%rdi)\n1: pause\n cmp 4(%rdi), %eax\n jne 1b\n ret");
SNIPPET(x_far,
	"lock xadd %eax, (%rdi)\n .fill 41, 1, 0x90\n1: pause\n cmp 4(%rdi), %eax\n jne 1b\n ret");
SNIPPET(x_two, "lock xadd %eax, (%rdi)\n lock xadd %eax, (%rsi)\nx_two_behind: test %eax, %eax\n1: "
	       "pause\n jmp 1b");
// The prefix is jumped over, as where there is one thread only.
SNIPPET(x_inside, "test %ecx, %ecx\n jz 2f\n lock\n2: xadd %eax, (%rdi)\n1: pause\n cmp 4(%rdi), "
		  "%eax\n jne 1b\n ret");
LABEL(x_two_behind);
LABEL(l_ticket_in);
LABEL(l_ticket_behind);
LABEL(l_mcs_in);
LABEL(l_mcs_behind);
LABEL(l_loop_in);
LABEL(l_loop_behind);

START_TEST(line_yes)
{
#define LINE(name)                                                                                 \
	{                                                                                          \
		name, name##_end, name##_in, name##_behind                                         \
	}
	static const struct {
		const uint8_t *lo, *hi, *in, *behind;
	} cases[] = {LINE(l_ticket), LINE(l_mcs), LINE(l_loop)};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		teardown();
		setup();
		row(cases[i].lo, cases[i].hi, TABLE_CFA_NONE, 0, 0);
		scan(cases[i].lo, cases[i].hi);
		ck_assert_uint_eq(count_marks(&marks, MARK_ENQUEUE), 1);
		ck_assert(marked(&marks, MARK_ENQUEUE, at(cases[i].in), at(cases[i].behind), ANY));
	}
}
END_TEST

START_TEST(line_no)
{
	static const struct spin_case cases[] = {
		CASE(x_tas),	  CASE(x_ttas), CASE(x_plain),	CASE(x_call),  CASE(x_cas),
		CASE(x_unlocked), CASE(x_far),	CASE(x_inside), CASE(x_store), CASE(x_unlock)};
	const struct spin_case *c = &cases[_i];

	row(c->lo, c->hi, TABLE_CFA_NONE, 0, 0);
	scan(c->lo, c->hi);
	ck_assert_msg(marked_bytes(&marks, MARK_ENQUEUE, at(c->lo), at(c->hi)) == 0, "%s", c->name);
}
END_TEST

// Of two in a row the one counts that is next to the wait: with the first a thread is in no line yet, for all we know.
START_TEST(line_last)
{
	row(x_two, x_two_end, TABLE_CFA_NONE, 0, 0);
	scan(x_two, x_two_end);
	ck_assert_uint_eq(count_marks(&marks, MARK_ENQUEUE), 1);
	ck_assert(marked(&marks, MARK_ENQUEUE, at(x_two_behind) - 4, at(x_two_behind), ANY));
}
END_TEST

// --- Stack depth.

SNIPPET(frame,
	"push %rbx\nframe_1: sub $16, %rsp\nframe_2: test %edi, %edi\n jz frame_3\n call frame\n"
	"frame_3: add $16, %rsp\nframe_4: pop %rbx\nframe_5: ret");
LABEL(frame_1);
LABEL(frame_2);
LABEL(frame_3);
LABEL(frame_4);
LABEL(frame_5);

static void frame_rows(const uint8_t *second)
{
	row(frame, frame_1, TABLE_CFA_RSP, 8, 0);
	row(frame_1, second, TABLE_CFA_RSP, 16, 0);
	row(second, frame_4, TABLE_CFA_RSP, 32, 0);
	row(frame_4, frame_5, TABLE_CFA_RSP, 16, 0);
	row(frame_5, frame_end, TABLE_CFA_RSP, 8, 0);
}

// Exact CFI is confirmed: not one byte is unsafe.
START_TEST(stack_exact)
{
	frame_rows(frame_2);
	scan(frame, frame_end);
	ck_assert_uint_eq(count_marks(&marks, MARK_UNSAFE), 0);
}
END_TEST

// CFI that learns of the frame one instruction late is wrong for that instruction: the prologue.
START_TEST(stack_late)
{
	const uint8_t *late = frame_2 + 2; // behind the test

	frame_rows(late);
	scan(frame, frame_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(frame_2), at(late), TABLE_PROLOGUE));
	ck_assert_uint_eq(marked_bytes(&marks, MARK_UNSAFE, at(frame), at(frame_end)),
			  (size_t)(late - frame_2));
}
END_TEST

// CFI that describes no epilogue: wrong from the first pop to the ret.
START_TEST(stack_no_epilogue)
{
	row(frame, frame_1, TABLE_CFA_RSP, 8, 0);
	row(frame_1, frame_2, TABLE_CFA_RSP, 16, 0);
	row(frame_2, frame_end, TABLE_CFA_RSP, 32, 0);
	scan(frame, frame_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(frame_4), at(frame_end), TABLE_EPILOGUE));
	ck_assert_uint_eq(marked_bytes(&marks, MARK_UNSAFE, at(frame), at(frame_end)),
			  (size_t)(frame_end - frame_4));
}
END_TEST

// CFI that never learns of the frame: all behind the first push, by whatever way it is reached.
START_TEST(stack_never)
{
	row(frame, frame_end, TABLE_CFA_RSP, 8, 0);
	scan(frame, frame_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(frame_1), at(frame_5), ANY));
	ck_assert(!marked(&marks, MARK_UNSAFE, at(frame), at(frame_1), ANY));
}
END_TEST

SNIPPET(rbp, "push %rbp\nrbp_1: mov %rsp, %rbp\nrbp_2: and $-32, %rsp\n sub %rax, %rsp\n call rbp\n"
	     "rbp_3: leave\nrbp_4: ret\nrbp_5: nopw 8(%rax)\nrbp_6: lea -8(%rbp), %rsp\n pop "
	     "%rbx\n pop %rbp\nrbp_7: ret");
LABEL(rbp_1);
LABEL(rbp_2);
LABEL(rbp_3);
LABEL(rbp_4);
LABEL(rbp_5);
LABEL(rbp_6);
LABEL(rbp_7);

// A frame on rbp: rsp may go anywhere, leave and pop are understood, filler between blocks does not matter.
START_TEST(stack_rbp)
{
	row(rbp, rbp_1, TABLE_CFA_RSP, 8, 0);
	row(rbp_1, rbp_2, TABLE_CFA_RSP, 16, -16);
	row(rbp_2, rbp_4, TABLE_CFA_RBP, 16, -16);
	row(rbp_4, rbp_6, TABLE_CFA_RSP, 8, -16);
	row(rbp_6, rbp_7, TABLE_CFA_RBP, 16, -16);
	row(rbp_7, rbp_end, TABLE_CFA_RSP, 8, -16);
	scan(rbp, rbp_end);
	ck_assert_uint_eq(count_marks(&marks, MARK_UNSAFE), 0);
}
END_TEST

// After leave the CFA cannot be based on rbp.
START_TEST(stack_rbp_gone)
{
	row(rbp, rbp_1, TABLE_CFA_RSP, 8, 0);
	row(rbp_1, rbp_2, TABLE_CFA_RSP, 16, -16);
	row(rbp_2, rbp_end, TABLE_CFA_RBP, 16, -16);
	scan(rbp, rbp_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(rbp_4), at(rbp_5), TABLE_EPILOGUE));
	ck_assert(marked(&marks, MARK_UNSAFE, at(rbp_7), at(rbp_end), TABLE_EPILOGUE));
	ck_assert(!marked(&marks, MARK_UNSAFE, at(rbp_3), at(rbp_4), ANY));
}
END_TEST

SNIPPET(clobber, "mov %edi, %eax\nclobber_1: lea 4(%rdi), %rbp\nclobber_2: mov (%rbp), %eax\nret");
LABEL(clobber_1);
LABEL(clobber_2);

// rbp is written though the CFI says that it is still the caller's: the callers could not be found.
START_TEST(stack_rbp_clobbered)
{
	row(clobber, clobber_end, TABLE_CFA_RSP, 8, 0);
	scan(clobber, clobber_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(clobber_2), at(clobber_end), TABLE_MISMATCH));
	ck_assert(!marked(&marks, MARK_UNSAFE, at(clobber), at(clobber_2), ANY));
}
END_TEST

SNIPPET(pivot, "push %rbx\npivot_1: mov (%rdi), %rsp\npivot_2: nop\n pop %rbx\npivot_3: ret");
LABEL(pivot_1);
LABEL(pivot_2);
LABEL(pivot_3);

// rsp goes to another stack: unsafe until the CFI says something new.
START_TEST(stack_pivot)
{
	row(pivot, pivot_1, TABLE_CFA_RSP, 8, 0);
	row(pivot_1, pivot_3, TABLE_CFA_RSP, 16, 0);
	row(pivot_3, pivot_end, TABLE_CFA_RSP, 8, 0);
	scan(pivot, pivot_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(pivot_2), at(pivot_3), ANY));
	ck_assert_uint_eq(marked_bytes(&marks, MARK_UNSAFE, at(pivot), at(pivot_end)),
			  (size_t)(pivot_3 - pivot_2));
}
END_TEST

SNIPPET(noreturn,
	"sub $8, %rsp\nnoreturn_1: call noreturn\n nopw 8(%rax)\nnoreturn_2: xor %eax, %eax\n ret");
LABEL(noreturn_1);
LABEL(noreturn_2);

// A call that does not return, filler, and the next block with another depth.
START_TEST(stack_noreturn)
{
	row(noreturn, noreturn_1, TABLE_CFA_RSP, 8, 0);
	row(noreturn_1, noreturn_2, TABLE_CFA_RSP, 16, 0);
	row(noreturn_2, noreturn_end, TABLE_CFA_RSP, 8, 0);
	scan(noreturn, noreturn_end);
	ck_assert_uint_eq(count_marks(&marks, MARK_UNSAFE), 0);
}
END_TEST

SNIPPET(jump, "test %edi, %edi\njump_1: push %rax\n jz jump_3\n pop %rax\njump_2: ret\njump_3: "
	      "nop\njump_4: ret");
LABEL(jump_1);
LABEL(jump_2);
LABEL(jump_3);
LABEL(jump_4);

// The row at the target of a jump must have the depth of the jump.
START_TEST(stack_jump)
{
	row(jump, jump_1, TABLE_CFA_RSP, 8, 0);
	row(jump_1, jump_1 + 1, TABLE_CFA_RSP, 8, 0);
	row(jump_1 + 1, jump_2, TABLE_CFA_RSP, 16, 0);
	row(jump_2, jump_end, TABLE_CFA_RSP, 8, 0);
	scan(jump, jump_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(jump_3), at(jump_end), TABLE_MISMATCH));
	ck_assert_uint_eq(marked_bytes(&marks, MARK_UNSAFE, at(jump), at(jump_3)), 0);
}
END_TEST

SNIPPET(bad, "nop\n nop\n .byte 0x06\n ret"); // push es: not in 64-bit mode

// What does not decode is not trusted as a whole, and no facts are taken from it.
START_TEST(undecodable)
{
	row(bad, bad_end, TABLE_CFA_RSP, 8, 0);
	scan(bad, bad_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(bad), at(bad_end), TABLE_MISMATCH));
}
END_TEST

// A row that begins inside an instruction, and a function that ends inside one.
START_TEST(inside_instruction)
{
	row(frame, frame_1 + 2, TABLE_CFA_RSP, 8, 0);
	row(frame_1 + 2, frame_end, TABLE_CFA_RSP, 16, 0);
	scan(frame, frame_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(frame), at(frame_end), TABLE_MISMATCH));
	teardown();
	setup();
	row(frame, frame_1 + 2, TABLE_CFA_RSP, 8, 0);
	scan(frame, frame_end);
	ck_assert(marked(&marks, MARK_UNSAFE, at(frame), at(frame_1) + 2, TABLE_MISMATCH));
}
END_TEST

// --- System calls.

SNIPPET(sys, "mov $202, %eax\n mov %rdi, %rsi\nsys_1: syscall\n"
	     " xor %eax, %eax\nsys_2: syscall\n"
	     "sys_3: syscall\n"
	     " mov $1, %eax\n mov %edi, %eax\nsys_4: syscall\n"
	     " mov $1, %eax\n test %esi, %esi\n jz 1f\n1:\nsys_5: syscall\n"
	     " mov $7, %rax\n2: nop\nsys_6: syscall\n jmp 2b\n"
	     "3: mov $9, %eax\nsys_7: syscall\n jmp 3b\n"
	     " mov $10, %r8d\n mov %r8d, %eax\nsys_8: syscall\n"
	     " mov $11, %ebp\n inc %ebp\n mov %ebp, %eax\nsys_9: syscall\n"
	     " mov $12, %ebp\n4: mov %ebp, %eax\nsys_10: syscall\n jmp 4b");
LABEL(sys_1);
LABEL(sys_2);
LABEL(sys_3);
LABEL(sys_4);
LABEL(sys_5);
LABEL(sys_6);
LABEL(sys_7);
LABEL(sys_8);
LABEL(sys_9);
LABEL(sys_10);

// The number is known where nothing comes between, neither a write of eax nor a jump from or to there.
START_TEST(syscalls)
{
	const struct {
		const uint8_t *pc;
		int nr;
	} want[] = {{sys_1, 202}, {sys_2, 0}, {sys_3, -1}, {sys_4, -1}, {sys_5, -1},
		    {sys_6, -1},  {sys_7, 9}, {sys_8, 10}, {sys_9, -1}, {sys_10, -1}};

	// Without CFI: found by its symbol.
	funcs[0] = (struct func){.lo = at(sys), .hi = at(sys_end), .name = "sys"};
	nfuncs = 1;
	scan(sys, sys_end);
	ck_assert_uint_eq(count_marks(&marks, MARK_SYSCALL), 10);
	for (size_t i = 0; i < 10; i++)
		ck_assert_msg(marked(&marks, MARK_SYSCALL, at(want[i].pc), at(want[i].pc) + 2,
				     want[i].nr),
			      "%zu", i);
}
END_TEST

// --- Facts.

SNIPPET(facts_text, "f_1: lock cmpxchg %ecx, (%rdi)\n jz f_2\n jmp f_3\n"
		    "f_2: xchg %eax, %ecx\n cmpxchg %ecx, (%rdi)\n ret\n"
		    "f_3: xchg %cl, (%rdi)\n jnz f_3\n call f_2\n ret");
LABEL(f_1);
LABEL(f_2);
LABEL(f_3);

SNIPPET(calls_text, "c_1: call c_2\n ret\n"
		    "c_2: ret");
LABEL(c_1);
LABEL(c_2);

static void called_is(const char *name)
{
	teardown();
	setup();
	funcs[0] = (struct func){.lo = at(c_1), .hi = at(c_2), .name = "caller"};
	funcs[1] = (struct func){.lo = at(c_2), .hi = at(calls_text_end), .name = name};
	nfuncs = 2;
	scan(calls_text, calls_text_end);
	ck_assert_uint_eq(facts.n, 2);
}

// Lock instructions and jumps out, function by function; one without size reaches to the next.
START_TEST(functions)
{
	funcs[0] = (struct func){.lo = at(f_1), .hi = at(f_2), .name = "one"};
	funcs[1] = (struct func){.lo = at(f_2), .hi = at(f_2), .name = "setjmp"};
	funcs[2] = (struct func){.lo = at(f_3), .hi = at(facts_text_end), .name = "three"};
	nfuncs = 3;
	scan(facts_text, facts_text_end);
	ck_assert_uint_eq(facts.n, 3);
	ck_assert(facts.funcs[0].locks && !facts.funcs[1].locks && facts.funcs[2].locks);
	ck_assert_uint_eq(facts.funcs[0].njumps, 2);
	ck_assert_uint_eq(facts.jumps[facts.funcs[0].first_jump], at(f_2));
	ck_assert_uint_eq(facts.jumps[facts.funcs[0].first_jump + 1], at(f_3));
	ck_assert_uint_eq(facts.funcs[1].njumps, 0);
	ck_assert_uint_eq(facts.funcs[1].hi, at(f_3));
	ck_assert_uint_eq(facts.funcs[2].njumps, 0);
	ck_assert(!facts.funcs[0].outermost && facts.funcs[2].outermost);
}
END_TEST

// Who calls a function that takes a lock may go on with it held.
START_TEST(lockers)
{
	static const char *const yes[] = {"pthread_mutex_lock", "__pthread_mutex_lock",
					  "pthread_mutex_lock@@GLIBC_2.2.5",
					  "__pthread_rwlock_wrlock"},
				 *const no[] = {"pthread_mutex_unlock", "pthread_mutex_lock_one",
						""};

	for (size_t i = 0; i < 4; i++) {
		called_is(yes[i]);
		ck_assert(facts.funcs[0].locks);
	}
	for (size_t i = 0; i < 3; i++) {
		called_is(no[i]);
		ck_assert(!facts.funcs[0].locks);
	}
}
END_TEST

// Any bytes: no crash, no endless loop, no mark outside. Random ones, and this program's text from each of its bytes.
START_TEST(garbage)
{
	static uint8_t data[4096];
	uint64_t seed = 1;

	for (int round = 0; round < 200; round++) {
		struct section text = {".text", 0x1000, sizeof(data), data};
		struct module m = {.text = &text, .ntext = 1};

		for (size_t i = 0; i < sizeof(data); i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			data[i] = round & 1 ? (uint8_t)(seed >> 56)
					    : frame[(i + (size_t)round) % 512];
		}
		rows[0] = (struct cfi_row){0x1000, 0x1100, 0x1000, 8, 0, TABLE_CFA_RSP, 0};
		rows[1] = (struct cfi_row){0x1100, 0x1fff, 0x1100, 8, 0, TABLE_CFA_RBP, 0};
		rows[2] = (struct cfi_row){0x1fff, 0x3000, 0x1fff, 8, 0, TABLE_CFA_RSP, 0};
		cfi.n = 3;
		ck_assert_int_eq(insn_scan(&m, &cfi, &marks, &facts), 0);
		for (size_t i = 0; i < marks.n; i++)
			ck_assert(marks.v[i].lo >= 0x1000 && marks.v[i].hi <= 0x3000 &&
				  marks.v[i].lo < marks.v[i].hi);
		teardown();
		memset(&marks, 0, sizeof(marks));
	}
}
END_TEST

// A loop at each byte, with and without PAUSE: time and marks stay in proportion.
START_TEST(dense_loops)
{
	enum { SIZE = 1 << 20 };
	static const uint8_t patterns[][4] = {
		{0x74, 0xd0, 0x74, 0xd0}, {0xf3, 0x90, 0x74, 0xa4}, {0x8b, 0x07, 0x74, 0xe0}};
	uint8_t *data = malloc(SIZE);
	struct section text = {".text", 0x1000, SIZE, data};
	struct module m = {.text = &text, .ntext = 1};
	struct timespec begin, end;

	for (size_t i = 0; i < SIZE; i++)
		data[i] = patterns[_i][i % 4];
	rows[0] = (struct cfi_row){0x1000, 0x1000 + SIZE, 0x1000, 8, 0, TABLE_CFA_RSP, 0};
	cfi.n = 1;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
	ck_assert_int_eq(insn_scan(&m, &cfi, &marks, &facts), 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	ck_assert_int_lt(end.tv_sec - begin.tv_sec, 15);
	ck_assert_uint_lt(marks.n, SIZE / 4);
	free(data);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, spin_yes, 0, 25);
	tcase_add_loop_test(tc, spin_no, 0, 35);
	tcase_add_test(tc, line_yes);
	tcase_add_loop_test(tc, line_no, 0, 10);
	tcase_add_test(tc, line_last);
	tcase_add_test(tc, stack_exact);
	tcase_add_test(tc, stack_late);
	tcase_add_test(tc, stack_no_epilogue);
	tcase_add_test(tc, stack_never);
	tcase_add_test(tc, stack_rbp);
	tcase_add_test(tc, stack_rbp_gone);
	tcase_add_test(tc, stack_rbp_clobbered);
	tcase_add_test(tc, stack_pivot);
	tcase_add_test(tc, stack_noreturn);
	tcase_add_test(tc, stack_jump);
	tcase_add_test(tc, undecodable);
	tcase_add_test(tc, inside_instruction);
	tcase_add_test(tc, syscalls);
	tcase_add_test(tc, functions);
	tcase_add_test(tc, lockers);
	tcase_add_test(tc, garbage);
	tcase_add_loop_test(tc, dense_loops, 0, 3);
}

int main(void)
{
	return unit_run("insn", add);
}
