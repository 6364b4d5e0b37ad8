/*
 * registers.c - a thread that is stopped at any instruction, by an injected call or by force, finds all its registers,
 * modes and its red zone as they were. See async.c for the rest.
 */
#include "prog.h"

enum { STORM = 300 }; /* ms; PROGS_STORM=seconds makes it longer */

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

static long long storm_end;

static void *holder(void *arg)
{
	static const uint64_t flags[] = {0x202, 0xad7, 0xed7,
					 0x203}; /* none; all; all and DF; CF */
	unsigned seed = (unsigned)(uintptr_t)arg;
	static _Thread_local struct image in, out;

	for (unsigned n = 0; now(CLOCK_MONOTONIC) < storm_end; n++) {
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
	const char *seconds = getenv("PROGS_STORM");
	pthread_t t[4];

	storm_end = now(CLOCK_MONOTONIC) + (seconds ? atoi(seconds) * SEC : STORM * MS);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(holder, (void *)(uintptr_t)(i + 1));
	for (int i = 0; i < 4; i++)
		join(t[i]);
}
