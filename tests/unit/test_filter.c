// test_filter.c: what we say that a seccomp filter answers is what the kernel answers: random programs, each put up in a process of its
// own. And what may harm: each call of the table, forbidden alone, is noticed.

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "unit.h"

enum {
	ASKED = 1000, // no such call
	PROGRAMS = 400,
	CALLS = 8, // of each program, with other arguments
	FIRST = 3 + BPF_MEMWORDS,
	MIDDLE = 60,
	LAST = FIRST + MIDDLE,
	LENGTH = LAST + 3,
};

static uint32_t seed;

static uint32_t rnd(uint32_t n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

static struct sock_filter random_instruction(int at)
{
	static const uint16_t ops[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_AND,
				       BPF_OR,	BPF_XOR, BPF_LSH, BPF_RSH};
	static const uint16_t tests[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};
	// Not from where the call is made: the kernel knows that, we do not.
	static const uint8_t places[] = {0, 4, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60};
	uint8_t way = (uint8_t)(LAST - at); // so many instructions may be passed over
	uint16_t src = rnd(2) ? BPF_X : BPF_K, op;
	uint32_t k = rnd(2) ? rnd(5) : rnd(1 << 24) << 8;

	switch (rnd(10)) {
	case 0:
		return (struct sock_filter){BPF_LD | BPF_W | BPF_ABS, 0, 0, places[rnd(14)]};
	case 1:
		return (struct sock_filter){BPF_LD | BPF_MEM, 0, 0, rnd(16)};
	case 2:
		return (struct sock_filter){BPF_LDX | BPF_MEM, 0, 0, rnd(16)};
	case 3:
		return (struct sock_filter){(uint16_t)(rnd(2) ? BPF_ST : BPF_STX), 0, 0, rnd(16)};
	case 4:
		op = rnd(2) ? BPF_LD : BPF_LDX;
		return (struct sock_filter){op | (rnd(2) ? BPF_IMM : BPF_W | BPF_LEN), 0, 0, k};
	case 5:
		return (struct sock_filter){(uint16_t)(BPF_MISC | (rnd(2) ? BPF_TAX : BPF_TXA)), 0,
					    0, 0};
	case 6:
	case 7:
		return (struct sock_filter){BPF_JMP | tests[rnd(4)] | src, (uint8_t)rnd(way),
					    (uint8_t)rnd(way), k};
	case 8:
		if (rnd(4) == 0)
			return (struct sock_filter){BPF_JMP | BPF_JA, 0, 0, rnd(way)};
		if (rnd(8) == 0)
			return (struct sock_filter){BPF_RET | BPF_K, 0, 0,
						    rnd(2) ? SECCOMP_RET_ALLOW
							   : SECCOMP_RET_ERRNO | rnd(4000)};
		return (struct sock_filter){BPF_ALU | BPF_NEG, 0, 0, 0};
	default:
		op = ops[rnd(9)];
		if (src == BPF_K && (op == BPF_LSH || op == BPF_RSH))
			k = rnd(32);
		if (src == BPF_K && op == BPF_DIV)
			k = 1 + rnd(100);
		return (struct sock_filter){BPF_ALU | op | src, 0, 0, k};
	}
}

static void random_program(struct sock_filter *f)
{
	f[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					    offsetof(struct seccomp_data, nr));
	f[1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ASKED, 1, 0);
	f[2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	for (int i = 0; i < BPF_MEMWORDS; i++)
		f[3 + i] = (struct sock_filter)BPF_STMT(BPF_ST, (uint32_t)i);
	for (int i = FIRST; i < LAST; i++)
		f[i] = random_instruction(i);
	f[LAST] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xfff);
	f[LAST + 1] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO);
	f[LAST + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);
}

// What a call comes back with if a filter says so, 1: not at all.
static long outcome(uint32_t answer)
{
	if (answer == SECCOMP_RET_ALLOW)
		return -ENOSYS;
	if ((answer & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_ERRNO)
		return 1;
	answer &= SECCOMP_RET_DATA;
	return answer > 4095 ? -4095 : -(long)answer;
}

START_TEST(as_the_kernel)
{
	long *got = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int killed = 0, values = 0;

	for (int p = 0; p < PROGRAMS; p++) {
		struct sock_filter f[LENGTH];
		struct sock_fprog prog = {LENGTH, f};
		uint64_t arg[CALLS][6];
		int status, pid;

		seed = (uint32_t)p;
		random_program(f);
		for (int i = 0; i < CALLS; i++) {
			got[i] = 1;
			for (int k = 0; k < 6; k++)
				arg[i][k] = rnd(2) ? rnd(4) : (uint64_t)rnd(1 << 24) << rnd(40);
		}
		pid = fork();
		if (pid == 0) {
			prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
			if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
			    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
				_exit(errno == EINVAL ? 1 : 77);
			for (int i = 0; i < CALLS; i++) {
				const long *a = (const long *)arg[i];

				got[i] = sys6(ASKED, a[0], a[1], a[2], a[3], a[4], a[5]);
			}
			_exit(0);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
			return; // no filters here
		for (int i = 0; i < CALLS; i++) {
			struct seccomp_data data = {.nr = ASKED, .arch = AUDIT_ARCH_X86_64};
			long want;

			memcpy(data.args, arg[i], sizeof data.args);
			want = outcome(filter_run(f, LENGTH, &data));
			ck_assert_msg(got[i] == want, "program %d, call %d: the kernel %ld, we %ld",
				      p, i, got[i], want);
			values += want != 1;
			killed += want == 1;
			if (want == 1)
				break;
		}
		ck_assert(WIFSIGNALED(status) ? WTERMSIG(status) == SIGSYS
					      : WEXITSTATUS(status) == 0);
	}
	ck_assert_int_gt(values, PROGRAMS);
	ck_assert_int_gt(killed, 0); // a division by 0
}
END_TEST

// Says what to one call, and yes to all others.
static bool harmless(long nr, uint32_t what)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, what),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {4, f};

	ck_assert(filter_readable(&prog));
	return calls_harmless(&prog);
}

START_TEST(answers)
{
	static const long ours[] = {SYS_futex,	SYS_rt_tgsigqueueinfo, SYS_membarrier, SYS_open,
				    SYS_mremap, SYS_process_vm_writev, SYS_clone,      SYS_exit};

	unit_config();
	for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
		ck_assert(harmless(ours[i], SECCOMP_RET_ALLOW));
		ck_assert(harmless(ours[i], SECCOMP_RET_LOG));
		ck_assert(harmless(ours[i], SECCOMP_RET_ERRNO | EPERM));
		ck_assert(!harmless(ours[i], SECCOMP_RET_ERRNO)); // done, it says
		ck_assert(!harmless(ours[i], SECCOMP_RET_KILL_PROCESS));
		ck_assert(!harmless(ours[i], SECCOMP_RET_KILL_THREAD));
		ck_assert(!harmless(ours[i], SECCOMP_RET_TRAP));
		ck_assert(!harmless(ours[i], SECCOMP_RET_TRACE));
		ck_assert(!harmless(ours[i], SECCOMP_RET_USER_NOTIF));
	}
	ck_assert(harmless(SYS_reboot, SECCOMP_RET_KILL_PROCESS));
}
END_TEST

// A program that is not in memory, or that the kernel refuses, ends nothing.
START_TEST(no_program)
{
	char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sock_fprog prog = {.filter = NULL};
	struct sock_filter odd[] = {{0xffff, 0, 0, 0}, {BPF_RET | BPF_K, 0, 0, 0}};

	ck_assert_int_eq(munmap(pages + 4096, 4096), 0);
	ck_assert(!filter_readable((const struct sock_fprog *)(pages + 4096 - 8)));
	prog.filter = (struct sock_filter *)(pages + 4096 - 16);
	prog.len = 2;
	ck_assert(filter_readable(&prog));
	prog.len = 3;
	ck_assert(!filter_readable(&prog));
	prog = (struct sock_fprog){2, odd};
	ck_assert(calls_harmless(&prog));
	odd[0] = (struct sock_filter){BPF_JMP | BPF_JA, 0, 0, 0xfffffff0};
	ck_assert(calls_harmless(&prog));
	odd[0] = (struct sock_filter){BPF_ST, 0, 0, 16};
	ck_assert(calls_harmless(&prog));
	odd[0] = (struct sock_filter){BPF_LD | BPF_W | BPF_ABS, 0, 0, 64};
	ck_assert(calls_harmless(&prog));
	prog.len = 0;
	ck_assert(calls_harmless(&prog));
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, as_the_kernel);
	tcase_add_test(tc, answers);
	tcase_add_test(tc, no_program);
}

int main(void)
{
	return unit_run("filter", add);
}
