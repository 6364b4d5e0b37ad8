/*
 * async.c - being stopped at any instruction: registers, stacks that are not the thread's, and what unwinds or jumps.
 *
 * Every case runs more busy threads than processors, with the slices of the test matrix, so that threads are stopped
 * thousands of times in the code of the case. Where there are safe-point tables that is by injected calls, elsewhere
 * by forced parks; the claims are the same.
 */
#include "prog.h"

#include <setjmp.h>
#include <sys/resource.h>
#include <ucontext.h>

enum { STORM = 300 }; /* ms for each case */

static void others_start(void)
{
	hogs_start(4);
}

/* --- registers ------------------------------------------------------------------------------------ */

/* What hold() loads and stores. Offsets are in the assembly. */
struct image {
	uint64_t gpr
		[16]; /* rax rcx rdx rbx - rbp rsi rdi r8 ... r15; 4 is the loop's count, rcx and rbp are not here */
	uint64_t flags; /* 128 */
	uint64_t kind;	/* 136: 0 SSE, 1 AVX, 2 AVX-512 */
	uint32_t mxcsr; /* 144 */
	uint16_t fcw, pad;
	uint64_t pad2;
	unsigned char red[128];	   /* 160 */
	unsigned char x87[8][16];  /* 288 */
	unsigned char vec[32][64]; /* 416 */
	uint64_t k[8];		   /* 2464 */
};
_Static_assert(offsetof(struct image, red) == 160, "red");
_Static_assert(offsetof(struct image, x87) == 288, "x87");
_Static_assert(offsetof(struct image, vec) == 416, "vec");
_Static_assert(offsetof(struct image, k) == 2464, "k");

void hold(const struct image *in, struct image *out);

/*
 * Loads everything from in, stays for gpr[4] rounds of a loop that changes rcx alone, and rbp alone in its second half,
 * and stores everything to out. rcx counts down and rbp up, so that a change of either shows in rbp. The pattern below
 * the stack pointer is the red zone's. No flag changes between popfq and pushfq.
 */
#define GPRS(op)                                                                                   \
	op(0, rax) op(16, rdx) op(24, rbx) op(48, rsi) op(64, r8) op(72, r9) op(80, r10)           \
		op(88, r11) op(96, r12) op(104, r13) op(112, r14) op(120, r15)
#define LOAD(off, reg) "mov " #off "(%rdi), %" #reg "\n"
#define STORE(off, reg) "mov %" #reg ", " #off "(%rdi)\n"
#define SIXTEEN(op, set)                                                                           \
	op(0, set) op(1, set) op(2, set) op(3, set) op(4, set) op(5, set) op(6, set) op(7, set)    \
		op(8, set) op(9, set) op(10, set) op(11, set) op(12, set) op(13, set) op(14, set)  \
			op(15, set)
#define UPPER(op, set)                                                                             \
	op(16, set) op(17, set) op(18, set) op(19, set) op(20, set) op(21, set) op(22, set)        \
		op(23, set) op(24, set) op(25, set) op(26, set) op(27, set) op(28, set)            \
			op(29, set) op(30, set) op(31, set)
#define EIGHT(op, set)                                                                             \
	op(0, set) op(1, set) op(2, set) op(3, set) op(4, set) op(5, set) op(6, set) op(7, set)
#define LOAD_xmm(n) "movups 416+64*" #n "(%rdi), %xmm" #n "\n"
#define LOAD_ymm(n) "vmovups 416+64*" #n "(%rdi), %ymm" #n "\n"
#define LOAD_zmm(n) "vmovups 416+64*" #n "(%rdi), %zmm" #n "\n"
#define LOAD_k(n) "kmovq 2464+8*" #n "(%rdi), %k" #n "\n"
#define STORE_xmm(n) "movups %xmm" #n ", 416+64*" #n "(%rdi)\n"
#define STORE_ymm(n) "vmovups %ymm" #n ", 416+64*" #n "(%rdi)\n"
#define STORE_zmm(n) "vmovups %zmm" #n ", 416+64*" #n "(%rdi)\n"
#define STORE_k(n) "kmovq %k" #n ", 2464+8*" #n "(%rdi)\n"
#define LOADS(n, set) LOAD_##set(n)
#define STORES(n, set) STORE_##set(n)
#define LOAD_st(n) "fldt 288+16*" #n "(%rdi)\n"
#define STORE_st(n) "fstpt 288+16*(7-" #n ")(%rdi)\n"

__asm__(".text\n.globl hold\n.type hold, @function\n"
	"hold:\n"
	".cfi_startproc\n"
	"push %rbx\n.cfi_adjust_cfa_offset 8\n.cfi_offset %rbx, -16\n"
	"push %rbp\n.cfi_adjust_cfa_offset 8\n.cfi_offset %rbp, -24\n"
	"push %r12\n.cfi_adjust_cfa_offset 8\n.cfi_offset %r12, -32\n"
	"push %r13\n.cfi_adjust_cfa_offset 8\n.cfi_offset %r13, -40\n"
	"push %r14\n.cfi_adjust_cfa_offset 8\n.cfi_offset %r14, -48\n"
	"push %r15\n.cfi_adjust_cfa_offset 8\n.cfi_offset %r15, -56\n"
	"push %rsi\n.cfi_adjust_cfa_offset 8\n" /* out */
	"sub $16, %rsp\n.cfi_adjust_cfa_offset 16\n"
	"fnstcw (%rsp)\nstmxcsr 4(%rsp)\n" /* the caller's modes */
	"cmpq $1, 136(%rdi)\nja 2f\nje 1f\n" SIXTEEN(LOADS, xmm) "jmp 3f\n1:" SIXTEEN(
		LOADS, ymm) "jmp 3f\n2:" SIXTEEN(LOADS, zmm) UPPER(LOADS, zmm)
		EIGHT(LOADS, k) "3: fninit\nfldcw 148(%rdi)\nldmxcsr 144(%rdi)\n" EIGHT(
			LOADS,
			st) "mov $-128, %rcx\n"
			    "4: mov 288(%rdi,%rcx), %al\nmov %al, (%rsp,%rcx)\ninc %rcx\njnz 4b\n"
			    "mov 32(%rdi), %rcx\nxor %ebp, %ebp\n" GPRS(
				    LOAD) "lea -128(%rsp), %rsp\n.cfi_adjust_cfa_offset 128\n"
					  "pushq 128(%rdi)\n.cfi_adjust_cfa_offset 8\n"
					  "popfq\n.cfi_adjust_cfa_offset -8\n"
					  "lea 128(%rsp), %rsp\n.cfi_adjust_cfa_offset -128\n"
					  "mov 56(%rdi), %rdi\n"
					  "5: lea 1(%rbp), %rbp\nlea -1(%rcx), %rcx\njrcxz 6f\njmp "
					  "5b\n"
					  "6: mov 16(%rsp), %rcx\n" /* out */
					  "lea -128(%rsp), %rsp\n.cfi_adjust_cfa_offset 128\n"
					  "mov %rdi, 56(%rcx)\nmov %rcx, %rdi\n"
					  "pushfq\n.cfi_adjust_cfa_offset 8\n"
					  "popq 128(%rdi)\n.cfi_adjust_cfa_offset -8\n"
					  "lea 128(%rsp), %rsp\n.cfi_adjust_cfa_offset -128\n"
					  "cld\n" GPRS(
						  STORE) "mov %rbp, 32(%rdi)\n"
							 "mov $-128, %rcx\n"
							 "7: mov (%rsp,%rcx), %al\nmov %al, "
							 "288(%rdi,%rcx)\ninc %rcx\njnz 7b\n"
							 "fnstcw 148(%rdi)\nstmxcsr "
							 "144(%rdi)\n" EIGHT(
								 STORES, st) "cmpq $1, "
									     "136(%rdi)\nja "
									     "2f\nje 1f\n" SIXTEEN(STORES, xmm) "jmp 3f\n1:" SIXTEEN(
										     STORES, ymm) "jmp 3f\n2:" SIXTEEN(STORES,
														       zmm)
										     UPPER(STORES, zmm) EIGHT(
											     STORES,
											     k) "vz"
												"er"
												"o"
												"up"
												"pe"
												"r"
												"\n"
												"3:"
												" "
												"fn"
												"in"
												"i"
												"t"
												"\n"
												"fl"
												"dc"
												"w "
												"(%"
												"rs"
												"p)"
												"\n"
												"ld"
												"m"
												"xc"
												"sr"
												" "
												"4("
												"%"
												"rs"
												"p)"
												"\n"
												"ad"
												"d "
												"$2"
												"4,"
												" "
												"%r"
												"sp"
												"\n"
												"."
												"cf"
												"i_"
												"ad"
												"ju"
												"s"
												"t_"
												"cf"
												"a_"
												"of"
												"fs"
												"e"
												"t "
												"-2"
												"4"
												"\n"
												"po"
												"p "
												"%r"
												"15"
												"\n"
												"."
												"cf"
												"i_"
												"ad"
												"ju"
												"s"
												"t_"
												"cf"
												"a_"
												"of"
												"fs"
												"e"
												"t "
												"-8"
												"\n"
												"."
												"cf"
												"i_"
												"re"
												"st"
												"o"
												"re"
												" "
												"%r"
												"15"
												"\n"
												"po"
												"p "
												"%r"
												"14"
												"\n"
												"."
												"cf"
												"i_"
												"ad"
												"ju"
												"s"
												"t_"
												"cf"
												"a_"
												"of"
												"fs"
												"e"
												"t "
												"-8"
												"\n"
												"."
												"cf"
												"i_"
												"re"
												"st"
												"o"
												"re"
												" "
												"%r"
												"14"
												"\n"
												"po"
												"p "
												"%r"
												"13"
												"\n"
												"."
												"cf"
												"i_"
												"ad"
												"ju"
												"s"
												"t_"
												"cf"
												"a_"
												"of"
												"fs"
												"e"
												"t "
												"-8"
												"\n"
												"."
												"cf"
												"i_"
												"re"
												"st"
												"o"
												"re"
												" "
												"%r"
												"13"
												"\n"
												"po"
												"p "
												"%r"
												"12"
												"\n"
												"."
												"cf"
												"i_"
												"ad"
												"ju"
												"s"
												"t_"
												"cf"
												"a_"
												"of"
												"fs"
												"e"
												"t "
												"-8"
												"\n"
												"."
												"cf"
												"i_"
												"re"
												"st"
												"o"
												"re"
												" "
												"%r"
												"12"
												"\n"
												"po"
												"p "
												"%r"
												"bp"
												"\n"
												"."
												"cf"
												"i_"
												"ad"
												"ju"
												"s"
												"t_"
												"cf"
												"a_"
												"of"
												"fs"
												"e"
												"t "
												"-8"
												"\n"
												"."
												"cf"
												"i_"
												"re"
												"st"
												"o"
												"re"
												" "
												"%r"
												"bp"
												"\n"
												"po"
												"p "
												"%r"
												"bx"
												"\n"
												"."
												"cf"
												"i_"
												"ad"
												"ju"
												"s"
												"t_"
												"cf"
												"a_"
												"of"
												"fs"
												"e"
												"t "
												"-8"
												"\n"
												"."
												"cf"
												"i_"
												"re"
												"st"
												"o"
												"re"
												" "
												"%r"
												"bx"
												"\n"
												"re"
												"t"
												"\n"
												".c"
												"fi"
												"_"
												"en"
												"dp"
												"r"
												"oc"
												"\n"
												".s"
												"iz"
												"e"
												" h"
												"ol"
												"d"
												", "
												". "
												"- "
												"ho"
												"ld"
												"\n");

static void *holder(void *arg)
{
	static const uint64_t flags[] = {0x202, 0xad7, 0xed7,
					 0x203}; /* none; all; all and DF; CF */
	long long end = now(CLOCK_MONOTONIC) + STORM * MS;
	unsigned seed = (unsigned)(uintptr_t)arg;
	static _Thread_local struct image in, out;

	for (int n = 0; now(CLOCK_MONOTONIC) < end; n++) {
		unsigned char *p = (unsigned char *)&in;
		long double x;

		for (size_t i = 0; i < sizeof in; i++)
			p[i] = (unsigned char)(rand_r(&seed) >> 8);
		for (int i = 0; i < 8; i++) { /* any number that is one */
			x = (long double)rand_r(&seed) / 3;
			memcpy(in.x87[i], &x, 10);
		}
		in.gpr[1] = in.gpr[5] = 0; /* not stored */
		in.gpr[4] = 20000;
		in.flags = flags[n % 4];
		in.kind = 0;
		if (__builtin_cpu_supports("avx"))
			in.kind = 1;
		if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
			in.kind = 2;
		in.mxcsr =
			n & 1 ? 0x1f80 : 0x7fc0; /* default; rounding to zero, DAZ, flush to zero */
		in.fcw = n & 2 ? 0x037f : 0x0e7f; /* default; double precision, rounding to zero */
		memcpy(&out, &in, sizeof out);
		/* In what is not stored, the input stands; what is, must come back. */
		memset(out.red, 0, sizeof out.red);
		memset(out.gpr, 0, sizeof out.gpr);
		memset(out.k, 0, in.kind == 2 ? sizeof out.k : 0);
		hold(&in, &out);
		CHECK_EQ(memcmp(out.gpr, in.gpr, sizeof in.gpr), 0);
		CHECK_EQ(out.flags, in.flags);
		CHECK_EQ(memcmp(out.red, in.red, sizeof in.red), 0);
		CHECK_EQ(out.fcw, in.fcw);
		CHECK_EQ(out.mxcsr, in.mxcsr);
		for (int i = 0; i < 8; i++)
			CHECK_EQ(memcmp(out.x87[i], in.x87[i], 10), 0);
		CHECK_EQ(memcmp(out.vec, in.vec, sizeof in.vec), 0);
		CHECK_EQ(memcmp(out.k, in.k, sizeof in.k), 0);
	}
	return NULL;
}

/* All registers, flags, modes and the red zone of a stopped thread are its own. */
CASE_STRESS(async_registers)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		t[i] = spawn(holder, (void *)(uintptr_t)(i + 1));
	for (int i = 0; i < 4; i++)
		join(t[i]);
}

/* --- small stacks ------------------------------------------------------------------------------------- */

enum { COROS = 4, CORO_STACK = 8192, CANARY = 4096, CORO_LEFT = 1024 };

struct coro {
	ucontext_t here, back;
	unsigned char *canary; /* lies below the stack */
	unsigned char *stack;
	long rounds;
};

/* Use the stack down to CORO_LEFT bytes and compute there. */
static long descend(struct coro *c, long depth)
{
	volatile long local[8] = {depth};
	unsigned char *sp = (unsigned char *)(uintptr_t)local;
	long sum = 0;

	if (sp - c->stack > CORO_LEFT)
		return descend(c, depth + 1) + local[0];
	for (long i = 0; i < 3000; i++)
		sum += local[i % 8];
	return sum;
}

static void coro_main(unsigned lo, unsigned hi)
{
	struct coro *c = (struct coro *)((uintptr_t)hi << 32 | lo);

	for (;;) {
		long want = descend(c, 1);

		for (int i = 0; i < 5; i++)
			CHECK_EQ(descend(c, 1), want);
		c->rounds++;
		CHECK_EQ(swapcontext(&c->here, &c->back), 0);
	}
}

static void coros_run(unsigned char *memory)
{
	long long end = now(CLOCK_MONOTONIC) + STORM * MS;
	struct coro c[COROS];

	for (int i = 0; i < COROS; i++) {
		c[i].canary = memory + i * (CANARY + CORO_STACK);
		c[i].stack = c[i].canary + CANARY;
		c[i].rounds = 0;
		memset(c[i].canary, 0x5a + i, CANARY);
		CHECK_EQ(getcontext(&c[i].here), 0);
		c[i].here.uc_stack.ss_sp = c[i].stack;
		c[i].here.uc_stack.ss_size = CORO_STACK;
		c[i].here.uc_link = NULL;
		makecontext(&c[i].here, (void (*)(void))(uintptr_t)coro_main, 2,
			    (unsigned)(uintptr_t)&c[i], (unsigned)((uintptr_t)&c[i] >> 32));
	}
	while (now(CLOCK_MONOTONIC) < end) {
		for (int i = 0; i < COROS; i++) {
			long before = c[i].rounds;

			CHECK_EQ(swapcontext(&c[i].back, &c[i].here), 0);
			CHECK_EQ(c[i].rounds, before + 1);
			for (int j = 0; j < CANARY; j++)
				CHECK_EQ(c[i].canary[j], 0x5a + i);
		}
	}
}

static void *coros_on_heap(void *arg)
{
	unsigned char *memory = malloc(COROS * (CANARY + CORO_STACK));

	(void)arg;
	CHECK(memory != NULL);
	coros_run(memory);
	free(memory);
	return NULL;
}

static void *coros_on_stack(void *arg)
{
	unsigned char memory[COROS * (CANARY + CORO_STACK)] __attribute__((aligned(16)));

	(void)arg;
	coros_run(memory);
	return NULL;
}

/* Coroutines of 8 KiB that use most of it: nothing below their stacks is touched. */
CASE_STRESS(async_coroutines)
{
	pthread_t a = spawn(coros_on_heap, NULL), b = spawn(coros_on_stack, NULL);

	others_start();
	coros_on_stack(NULL); /* the first thread's stack is of another kind */
	join(a);
	join(b);
	hogs_stop();
}

/* A thread on the smallest stack, and on one of the caller's with a canary below. */
static void *small_main(void *arg)
{
	(void)arg;
	burn(STORM * MS / 10);
	return NULL;
}

CASE_STRESS(async_small_stacks)
{
	enum { SIZE = 32768 };
	unsigned char *memory = aligned_alloc(4096, CANARY + SIZE);
	pthread_attr_t attr;
	pthread_t a, b;

	others_start();
	CHECK(memory != NULL);
	memset(memory, 0x77, CANARY);
	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setstacksize(&attr, (size_t)sysconf(_SC_THREAD_STACK_MIN)), 0);
	CHECK_EQ(pthread_create(&a, &attr, small_main, NULL), 0);
	CHECK_EQ(pthread_attr_setstack(&attr, memory + CANARY, SIZE), 0);
	CHECK_EQ(pthread_create(&b, &attr, small_main, NULL), 0);
	join(a);
	join(b);
	for (int i = 0; i < CANARY; i++)
		CHECK_EQ(memory[i], 0x77);
	hogs_stop();
}

/* --- cancellation -------------------------------------------------------------------------------------- */

static pthread_mutex_t clean_mutex = PTHREAD_MUTEX_INITIALIZER;
static int cleaned;
static atomic_int looping;

static void clean(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_mutex_lock(&clean_mutex), 0);
	cleaned++;
	CHECK_EQ(pthread_mutex_unlock(&clean_mutex), 0);
}

static atomic_bool never;

/* Busy below some frames, without calls. */
__attribute__((noinline)) static long loop_for_ever(long depth)
{
	if (depth)
		return loop_for_ever(depth - 1) + 1;
	while (!atomic_load_explicit(&never, memory_order_relaxed))
		;
	return 0;
}

static void *cancelled_anywhere(void *arg)
{
	CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL), 0);
	pthread_cleanup_push(clean, NULL);
	atomic_fetch_add(&looping, 1);
	loop_for_ever((long)(intptr_t)arg);
	pthread_cleanup_pop(0);
	return NULL;
}

static void *cancelled_at_points(void *arg)
{
	(void)arg;
	pthread_cleanup_push(clean, NULL);
	atomic_fetch_add(&looping, 1);
	for (;;) {
		spin(5000);
		pthread_testcancel();
	}
	pthread_cleanup_pop(0);
	return NULL;
}

static void cancel_storm(void *(*fn)(void *))
{
	enum { N = 6, ROUNDS = 6 };

	others_start();
	for (int r = 0; r < ROUNDS; r++) {
		pthread_t t[N];

		atomic_store(&looping, 0);
		cleaned = 0;
		for (int i = 0; i < N; i++)
			t[i] = spawn(fn, (void *)(intptr_t)i);
		AWAIT(&looping, N);
		sleep_ns((r % 4) * MS / 2);
		for (int i = 0; i < N; i++)
			CHECK_EQ(pthread_cancel(t[i]), 0);
		for (int i = 0; i < N; i++)
			CHECK(join(t[i]) == PTHREAD_CANCELED);
		CHECK_EQ(cleaned, N);
	}
	hogs_stop();
}

/* Threads cancelled at any instruction, most of them while they are stopped: each cleans up once. */
CASE_STRESS(async_cancel_anywhere)
{
	cancel_storm(cancelled_anywhere);
}

CASE_STRESS(async_cancel_at_points)
{
	cancel_storm(cancelled_at_points);
}

/* --- jumps --------------------------------------------------------------------------------------------- */

static _Thread_local sigjmp_buf jump_to;
static _Thread_local volatile sig_atomic_t jump_armed;
static atomic_bool jumps_end;

static void jumper(int sig)
{
	(void)sig;
	if (jump_armed) {
		jump_armed = 0;
		siglongjmp(jump_to, 1);
	}
}

static void *jumping(void *arg)
{
	volatile long jumps = 0;
	jmp_buf inner;

	(void)arg;
	while (!atomic_load(&jumps_end)) {
		/* Every other time without the mask: what blocks signals then stays blocked. */
		if (sigsetjmp(jump_to, (int)(jumps & 1)) == 0) {
			jump_armed = 1;
			while (!atomic_load(&jumps_end))
				if (setjmp(inner) == 0)
					longjmp(inner, 1);
			jump_armed = 0;
		} else if (jumps++ == 0) {
			atomic_fetch_add(&looping, 1);
		}
	}
	CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL), 0);
	loop_for_ever(3);
	return NULL;
}

/*
 * Handlers that leave by siglongjmp a thread that is being stopped, is stopped, or goes on. Afterwards everybody still
 * gets processors, and every thread can be cancelled: no signal was left blocked, no turn lost.
 */
CASE_STRESS(async_jumps)
{
	enum { N = 4 };
	struct sigaction sa = {.sa_handler = jumper, .sa_flags = SA_NODEFER};
	long long end = now(CLOCK_MONOTONIC) + STORM * MS;
	pthread_t t[N];

	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	atomic_store(&looping, 0);
	others_start();
	for (int i = 0; i < N; i++)
		t[i] = spawn(jumping, NULL);
	while (now(CLOCK_MONOTONIC) < end || atomic_load(&looping) < N) {
		for (int i = 0; i < N; i++)
			CHECK_EQ(pthread_kill(t[i], SIGUSR1), 0);
		sleep_ns(MS / 5);
	}
	atomic_store(&jumps_end, true);
	sleep_ns(20 * MS);
	for (int i = 0; i < N; i++)
		CHECK_EQ(pthread_cancel(t[i]), 0);
	for (int i = 0; i < N; i++)
		CHECK(join(t[i]) == PTHREAD_CANCELED);
	for (int i = 0; i < 4; i++) {
		long work = hogs_work(i);
		long long late = now(CLOCK_MONOTONIC) + 20 * SEC;

		while (hogs_work(i) == work && now(CLOCK_MONOTONIC) < late)
			sleep_ns(MS);
		CHECK(hogs_work(i) != work);
	}
	hogs_stop();
}

/* --- handlers ------------------------------------------------------------------------------------------ */

static atomic_long handled;

static void busy_handler(int sig)
{
	(void)sig;
	spin(20000);
	atomic_fetch_add(&handled, 1);
}

static void *with_altstack(void *arg)
{
	long size = sysconf(_SC_SIGSTKSZ) + 16384;
	unsigned char *memory = arg ? malloc((size_t)size + CANARY) : NULL;
	unsigned char array[CANARY + 65536];
	long long end;
	stack_t ss = {.ss_size = (size_t)size};

	if (!memory) { /* an array on the thread's own stack does as well */
		memory = array;
		ss.ss_size = 65536;
	}
	memset(memory, 0x33, CANARY);
	ss.ss_sp = memory + CANARY;
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	end = now(CLOCK_MONOTONIC) + STORM * MS;
	while (now(CLOCK_MONOTONIC) < end)
		CHECK_EQ(pthread_kill(pthread_self(), SIGUSR2), 0);
	ss.ss_flags = SS_DISABLE;
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	for (int i = 0; i < CANARY; i++)
		CHECK_EQ(memory[i], 0x33);
	if (arg)
		free(memory);
	return NULL;
}

/* Long handlers, on alternate stacks on the heap and inside the thread's stack: stopped in the middle, they go on. */
CASE_STRESS(async_in_handlers)
{
	struct sigaction sa = {.sa_handler = busy_handler, .sa_flags = SA_ONSTACK};
	pthread_t a, b;

	CHECK_EQ(sigaction(SIGUSR2, &sa, NULL), 0);
	others_start();
	a = spawn(with_altstack, (void *)1);
	b = spawn(with_altstack, NULL);
	join(a);
	join(b);
	CHECK(atomic_load(&handled) > 0);
	hogs_stop();
}

/* An alternate stack that has room for one signal: a second one on it, ours, would end the program. */
static atomic_long tiny_handled;
static _Thread_local uintptr_t tiny_top, tiny_used;

static void tiny_handler(int sig)
{
	(void)sig;
	tiny_used = tiny_top - (uintptr_t)__builtin_frame_address(0);
	for (volatile long i = 0; i < 300000; i++)
		;
	atomic_fetch_add(&tiny_handled, 1);
}

static void *with_tiny_altstack(void *arg)
{
	size_t size = 65536;
	unsigned char *memory = malloc(CANARY + size);
	stack_t ss = {.ss_sp = memory + CANARY, .ss_size = size};
	long long end;

	(void)arg;
	CHECK(memory != NULL);
	memset(memory, 0x44, CANARY);
	tiny_top = (uintptr_t)memory + CANARY + size;
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	CHECK_EQ(pthread_kill(pthread_self(), SIGUSR2),
		 0); /* what one signal takes on this machine */
	tiny_top = (uintptr_t)memory + CANARY + tiny_used + 1024;
	ss.ss_size = tiny_used + 1024;
	if (sigaltstack(&ss, NULL) != 0)
		skip("the kernel insists on large alternate stacks");
	end = now(CLOCK_MONOTONIC) + STORM * MS;
	while (now(CLOCK_MONOTONIC) < end)
		CHECK_EQ(pthread_kill(pthread_self(), SIGUSR2), 0);
	ss.ss_flags = SS_DISABLE;
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	for (int i = 0; i < CANARY; i++)
		CHECK_EQ(memory[i], 0x44);
	free(memory);
	return NULL;
}

CASE_STRESS(async_tiny_altstack)
{
	struct sigaction sa = {.sa_handler = tiny_handler, .sa_flags = SA_ONSTACK};
	pthread_t a, b;

	CHECK_EQ(sigaction(SIGUSR2, &sa, NULL), 0);
	others_start();
	a = spawn(with_tiny_altstack, NULL);
	b = spawn(with_tiny_altstack, NULL);
	join(a);
	join(b);
	CHECK(atomic_load(&tiny_handled) > 0);
	hogs_stop();
}
