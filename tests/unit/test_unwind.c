// unwind.c and safepoint.c with tables made by hand, over a stack made by hand. PCs are numbers that nothing runs
// at; modules_find is the test's own. Fails if a walk leaves the stack, goes backwards, or misses a critical caller, and
// if an unsafe place is called safe. The last test prints what a decision costs.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "unit.h"

__thread struct tls tls __attribute__((tls_model("initial-exec"), visibility("hidden")));

enum { BIAS = 0x700000000, TEXT = 0x1000, FUNC = 64, MAX_FUNCS = 200, WORDS = 16384 };

// Function i is FUNC bytes at TEXT + i * FUNC, with one row.
static struct table_row rows[MAX_FUNCS];
static uint32_t pcs[MAX_FUNCS], blocks[MAX_FUNCS * FUNC / TABLE_BLOCK + 2];
static struct table_header header;
static struct table table = {.header = &header, .blocks = blocks, .pcs = pcs, .rows = rows};
static int nfuncs;

static uintptr_t words[WORDS] __attribute__((aligned(16)));
#define HI ((uintptr_t)(words + WORDS))
static struct g g;

const struct table *modules_find(uintptr_t pc, uintptr_t *ret_bias)
{
	if (pc < BIAS || pc >= BIAS + 0x100000)
		return NULL;
	*ret_bias = BIAS;
	return &table;
}

void modules_walk(bool begins)
{
	(void)begins;
}

// As os.c.
bool os_readable(uintptr_t p)
{
	return sys4(SYS_rt_sigprocmask, -1, p & ~(uintptr_t)7, 0, sizeof(uint64_t)) != -EFAULT;
}

// Adds a function; returns its index.
static int func(enum table_base base, int cfa, int rbp, enum table_reason reason, int flags)
{
	int n = nfuncs++;

	ck_assert_int_lt(n, MAX_FUNCS);
	rows[n] = (struct table_row){cfa, (int16_t)rbp, (uint8_t)(base | reason << 4),
				     (uint8_t)flags};
	pcs[n] = (uint32_t)n * FUNC;
	header.text_base = TEXT;
	header.nrows = (uint32_t)nfuncs;
	header.text_size = (uint64_t)nfuncs * FUNC;
	header.nblocks = (uint32_t)((header.text_size + TABLE_BLOCK - 1) / TABLE_BLOCK);
	for (uint32_t b = 0; b < header.nblocks; b++)
		blocks[b] = b * TABLE_BLOCK / FUNC;
	blocks[header.nblocks] = header.nrows - 1;
	return n;
}

// A PC in the middle of function i, and the return address after a call that is its last instruction.
static uintptr_t in(int i)
{
	return BIAS + TEXT + (uintptr_t)i * FUNC + 8;
}
static uintptr_t end_of(int i)
{
	return BIAS + TEXT + (uintptr_t)(i + 1) * FUNC;
}

static void reset(void)
{
	nfuncs = 0;
	memset(words, 0, sizeof words);
	memset(&g, 0, sizeof g);
	g.prog_altstack.ss_flags = SS_DISABLE;
	stack_is((uintptr_t)words, HI);
}

// A frame whose stack pointer is n words below the top.
static struct frame at(uintptr_t pc, int n)
{
	return (struct frame){pc, HI - 8 * (uintptr_t)n, 0};
}

START_TEST(steps)
{
	const struct table_row *row;
	struct frame f;
	int rsp, rbp, deref, end, none;

	reset();
	rsp = func(TABLE_CFA_RSP, 32, -16, TABLE_SAFE, 0);
	rbp = func(TABLE_CFA_RBP, 16, -16, TABLE_PROLOGUE, 0);
	deref = func(TABLE_CFA_RBP_DEREF, -8, TABLE_RBP_AT_RBP, TABLE_BAD_CFA, 0);
	end = func(TABLE_CFA_END, 0, 0, TABLE_BAD_RA, 0);
	none = func(TABLE_CFA_NONE, 0, 0, TABLE_NO_CFI, 0);

	// rsp + 32: return address at +24, rbp at +16. The return address is the first byte of the next function.
	f = at(in(rsp), 40);
	words[WORDS - 40 + 3] = end_of(rbp);
	words[WORDS - 40 + 2] = HI - 8 * 30;
	ck_assert_int_eq(unwind_step(&f, true, HI, &row), 1);
	ck_assert_ptr_eq(row, &rows[rsp]);
	ck_assert_uint_eq(f.pc, end_of(rbp));
	ck_assert_uint_eq(f.sp, HI - 8 * 36);
	ck_assert_uint_eq(f.bp, HI - 8 * 30);
	// rbp + 16: return address at +8, rbp at +0.
	words[WORDS - 30] = HI - 8 * 20;
	words[WORDS - 30 + 1] = end_of(deref);
	ck_assert_int_eq(unwind_step(&f, false, HI, &row), 1);
	ck_assert_ptr_eq(row, &rows[rbp]);
	ck_assert_uint_eq(f.sp, HI - 8 * 28);
	ck_assert_uint_eq(f.bp, HI - 8 * 20);
	// *(rbp - 8) is the CFA; rbp is saved where it points to.
	words[WORDS - 21] = HI - 8 * 10;
	words[WORDS - 20] = 4711;
	words[WORDS - 11] = end_of(end);
	ck_assert_int_eq(unwind_step(&f, false, HI, &row), 1);
	ck_assert_ptr_eq(row, &rows[deref]);
	ck_assert_uint_eq(f.sp, HI - 8 * 10);
	ck_assert_uint_eq(f.bp, 4711);
	ck_assert_int_eq(unwind_step(&f, false, HI, &row), 0);
	ck_assert_ptr_eq(row, &rows[end]);

	f = at(in(none), 40);
	ck_assert_int_eq(unwind_step(&f, true, HI, &row), -1);
	f = at(0x1234, 40);
	ck_assert_int_eq(unwind_step(&f, true, HI, &row), -1);
	ck_assert_ptr_null(row);
	f = at(end_of(none), 40); // past the last byte of text
	ck_assert_int_eq(unwind_step(&f, true, HI, &row), -1);
}
END_TEST

// Rows and stacks that would lead out of the stack or round in circles end the walk; frame stays as it was.
START_TEST(damaged)
{
	static const struct {
		enum table_base base;
		int cfa, rbp;
		intptr_t bp; // words below the top, or an odd number
	} bad[] = {
		{TABLE_CFA_RSP, 0, 0, 0},	  // does not rise
		{TABLE_CFA_RSP, -8, 0, 0},	  // falls
		{TABLE_CFA_RSP, 12, 0, 0},	  // unaligned
		{TABLE_CFA_RSP, 8 * 41, 0, 0},	  // above the top
		{TABLE_CFA_RSP, INT32_MAX, 0, 0}, // far above
		{TABLE_CFA_RSP, INT32_MIN, 0, 0}, // far below
		{TABLE_CFA_RSP, 16, -24, 0},	  // rbp saved below the stack pointer
		{TABLE_CFA_RSP, 16, 8 * 40, 0},	  // above the top
		{TABLE_CFA_RSP, 16, -12, 0},	  // unaligned
		{TABLE_CFA_RSP, 16, TABLE_RBP_AT_RBP, 0},
		{TABLE_CFA_RBP, 16, 0, 50},	  // rbp below rsp
		{TABLE_CFA_RBP, 16, 0, 1},	  // CFA above the top
		{TABLE_CFA_RBP_DEREF, -8, 0, 40}, // slot below the stack pointer
		{TABLE_CFA_RBP_DEREF, -8, 0, 20}, // the slot has 0
		{TABLE_CFA_RBP, 16, 0, 0},
	};
	const struct table_row *row;

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct frame f, before;
		int n;

		reset();
		n = func(bad[i].base, bad[i].cfa, bad[i].rbp, TABLE_SAFE, 0);
		f = at(in(n), 40);
		f.bp = bad[i].bp ? HI - 8 * (uintptr_t)bad[i].bp : 0;
		before = f;
		ck_assert_msg(unwind_step(&f, true, HI, &row) == -1, "%zu", i);
		ck_assert_msg(!memcmp(&f, &before, sizeof f), "%zu", i);
	}
}
END_TEST

// n frames of function f up to the top of the thread's stack; the innermost is of inner.
static struct frame chain(int inner, int f, int n)
{
	for (int i = 1; i <= n; i++)
		words[WORDS - 2 * i + 1] = i == 1 ? 0x1234 /* gothread */ : in(f);
	return at(in(inner), 2 * n);
}

START_TEST(safe_points)
{
	struct frame f;
	int safe, unsafe, critical, end, none, user;

	reset();
	safe = func(TABLE_CFA_RSP, 16, 0, TABLE_SAFE, 0);
	unsafe = func(TABLE_CFA_RSP, 16, 0, TABLE_EPILOGUE, 0);
	critical = func(TABLE_CFA_RSP, 16, 0, TABLE_SAFE, TABLE_CRITICAL);
	end = func(TABLE_CFA_END, 0, 0, TABLE_BAD_RA, 0);
	none = func(TABLE_CFA_NONE, 0, 0, TABLE_SAFE, 0);
	user = func(TABLE_CFA_RSP, 16, 0, TABLE_EPILOGUE, TABLE_CRITICAL);

	f = chain(safe, safe, 5);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NOT);
	f = chain(safe, unsafe, 5); // unsafe places among the callers do no harm
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NOT);
	f = chain(unsafe, safe, 5);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_UNSAFE_PC);
	f = chain(critical, safe, 5);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_CRITICAL);
	f = chain(user, safe, 5);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_CRITICAL);
	f = chain(safe, safe, 5);
	words[WORDS - 3] = in(critical); // the outermost caller
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_CRITICAL);
	words[WORDS - 3] = in(none);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NO_TABLE);
	words[WORDS - 3] = 0x1234; // generated code
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NO_TABLE);
	words[WORDS - 3] = (uintptr_t)stack_is + 8; // the library's own
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_CRITICAL);
	f = chain(safe, safe, 5);
	f.pc = (uintptr_t)stack_is;
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_CRITICAL);
	f.pc = 0x1234;
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NO_TABLE);

	// The outermost frame, as _start: at the top of the stack only. Elsewhere it is a coroutine's, and its stack
	// is an array on this one.
	f = chain(safe, safe, 5);
	words[WORDS - 7] = in(end); // sp is then 6 words below the top
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NOT);
	f = chain(safe, safe, 20);
	words[WORDS - 19] = in(end);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);

	// Farther callers than MAX_FRAMES are not looked at.
	f = chain(safe, safe, 100);
	words[WORDS - 3] = in(critical);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NOT);
	f = chain(safe, safe, 64);
	words[WORDS - 3] = in(critical);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_CRITICAL);
}
END_TEST

START_TEST(stacks)
{
	struct frame f;
	int safe;
	char *p;

	reset();
	safe = func(TABLE_CFA_RSP, 16, 0, TABLE_SAFE, 0);
	f = chain(safe, safe, 5);

	stack_is(0, 0); // not known
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);
	stack_is(HI - 1024, HI); // too small to be of use
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);
	stack_is(HI - 4096, HI);
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NOT);
	f = chain(safe, safe, 200); // 3200 bytes down: 896 left
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);
	f = chain(safe, safe, 5);
	stack_is(HI, HI + 100000); // stack pointer below the stack
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);
	stack_is((uintptr_t)words - 100000, HI - 80); // and above
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);
	stack_is((uintptr_t)words, HI);
	f.sp -= 4;
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);

	// On an alternate stack that is an array on this one.
	f = chain(safe, safe, 5);
	g.prog_altstack = (stack_t){.ss_sp = words + WORDS - 1000, .ss_size = 8000};
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);
	g.prog_altstack = (stack_t){.ss_sp = words, .ss_size = 8000};
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NOT);
	g.prog_altstack = (stack_t){.ss_flags = SS_DISABLE};

	// A guard area that the program made itself, inside what is known as the stack.
	p = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	ck_assert_int_eq(mprotect(p, 2 * 4096, PROT_NONE), 0);
	stack_is((uintptr_t)p, (uintptr_t)p + 4 * 4096);
	*(uintptr_t *)(p + 4 * 4096 - 8) = 0x1234;
	f = (struct frame){in(safe), (uintptr_t)p + 4 * 4096 - 16, 0};
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NOT);
	f.sp = (uintptr_t)p + 2 * 4096 + 512;
	ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_STACK);
}
END_TEST

START_TEST(main_stack)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	stack_is_main(here + 4096);
	ck_assert(tls.stack_hi == here + 4096 && tls.stack_lo < here - 65536);
	stack_is_main(here - 65536); // not on that stack
	ck_assert_uint_eq(tls.stack_hi, here + 4096);
	stack_is_main(0);
	ck_assert_uint_eq(tls.stack_hi, here + 4096);
}
END_TEST

START_TEST(cost)
{
	enum { N = 20000 };
	struct timespec a, b;
	struct frame f;
	double ns;
	int safe, callers[10];

	reset();
	for (int i = 0; i < MAX_FUNCS - 10; i++)
		safe = func(TABLE_CFA_RSP, 16, 0, TABLE_SAFE, 0);
	f = chain(safe, safe, 10);
	for (int i = 0; i < 10; i++) {
		callers[i] = func(TABLE_CFA_RSP, 16, -16, TABLE_SAFE, 0);
		if (i)
			words[WORDS - 2 * i - 1] = in(callers[i]);
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	for (int i = 0; i < N; i++)
		ck_assert_int_eq(is_async_safe_point(&g, &f), REFUSE_NOT);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / N;
	printf("a decision with 10 frames: %.0f ns\n", ns);
	ck_assert_msg(ns < 20000, "%.0f ns", ns); // 2000 on an idle machine without instrumentation
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, steps);
	tcase_add_test(tc, damaged);
	tcase_add_test(tc, safe_points);
	tcase_add_test(tc, stacks);
	tcase_add_test(tc, main_stack);
	tcase_add_test(tc, cost);
}

int main(void)
{
	return unit_run("unwind", add);
}
