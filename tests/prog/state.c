/*
 * state.c - being stopped anywhere leaves a computation as it was: registers, modes, small and foreign stacks.
 */
#include "prog.h"

/* Integer, flag, x87 and vector state survive being stopped anywhere: every thread computes the
 * same values, stopped at different places. */
static uint64_t mix_int(uint64_t x, long n)
{
	for (long i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		__asm__ volatile("addq %%rax, %0\n\tadcq $3, %0\n\tadcq $5, %0"
				 : "+r"(x)
				 : "a"(0xfedcba9876543210ull)
				 : "cc");
	}
	return x;
}

static double mix_double(double x, long n)
{
	for (long i = 0; i < n; i++)
		x = x * 1.0000001 + 0.25 / (x + 1.0);
	return x;
}

static long double mix_x87(long double x, long n)
{
	for (long i = 0; i < n; i++)
		x = x * 1.0000001L + 0.25L / (x + 1.0L);
	return x;
}

typedef uint32_t v8 __attribute__((vector_size(32)));

static uint32_t mix_vector(uint32_t seed, long n)
{
	v8 a = {seed, 2, 3, 4, 5, 6, 7, 8};
	uint32_t sum = 0;

	for (long i = 0; i < n; i++) {
		a = (a ^ (a << 13)) + 0x9e3779b9u;
		a ^= a >> 17;
	}
	for (int i = 0; i < 8; i++)
		sum ^= a[i];
	return sum;
}

/* A leaf whose array lies in the red zone. */
__attribute__((noinline)) static uint64_t mix_redzone(uint64_t x)
{
	volatile uint64_t a[8];

	for (int i = 0; i < 8; i++)
		a[i] = x + (uint64_t)i;
	for (int k = 0; k < 50; k++)
		for (int i = 0; i < 8; i++)
			a[i] = a[i] * 3 + a[(i + 1) & 7];
	return a[0] ^ a[7];
}

struct state_result {
	uint64_t i, r;
	uint32_t v;
	double d;
	long double x;
};

static void state_compute(struct state_result *res)
{
	memset(res, 0, sizeof(*res));
	res->i = mix_int(1, 1000000);
	res->d = mix_double(1.5, 300000);
	res->x = mix_x87(1.5L, 200000);
	res->v = mix_vector(1, 1000000);
	res->r = 1;
	for (int k = 0; k < 1000; k++)
		res->r = mix_redzone(res->r);
}

static void *state_thread(void *arg)
{
	struct state_result *want = arg, got;

	for (int k = 0; k < 2; k++) {
		errno = 4711;
		state_compute(&got);
		CHECK_EQ(errno, 4711);
		CHECK(got.i == want->i && got.r == want->r);
		CHECK(got.v == want->v && got.d == want->d && got.x == want->x);
	}
	return NULL;
}

CASE_STRESS(state_preserved)
{
	struct state_result want;
	pthread_t t[8];

	state_compute(&want);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(state_thread, &want);
	for (int i = 0; i < 8; i++)
		join(t[i]);
}

/* Rounding mode and exception masks are each thread's own and survive a stop. */
static void *mxcsr_thread(void *arg)
{
	unsigned mine = 0x1f80u | ((unsigned)(intptr_t)arg & 3u) << 13, got;
	unsigned short cw = (unsigned short)(0x037fu | ((unsigned)(intptr_t)arg & 3u) << 10), gcw;

	__asm__ volatile("ldmxcsr %0" : : "m"(mine));
	__asm__ volatile("fldcw %0" : : "m"(cw));
	for (int i = 0; i < 20; i++) {
		spin(100000);
		__asm__ volatile("stmxcsr %0" : "=m"(got));
		__asm__ volatile("fnstcw %0" : "=m"(gcw));
		CHECK_EQ(got & ~0x3fu, mine);
		CHECK_EQ(gcw & 0x0f3f, cw & 0x0f3f);
	}
	return NULL;
}

CASE(rounding_mode_preserved)
{
	pthread_t t[8];

	for (int i = 0; i < 8; i++)
		t[i] = spawn(mxcsr_thread, (void *)(intptr_t)i);
	for (int i = 0; i < 8; i++)
		join(t[i]);
}

/* Threads on the smallest stack the system allows, busy and stopped many times. */
static atomic_int stackmin_done;

static void *stackmin_thread(void *arg)
{
	(void)arg;
	spin(2000000);
	atomic_fetch_add(&stackmin_done, 1);
	return NULL;
}

CASE_STRESS(stack_min)
{
	pthread_attr_t attr;
	pthread_t t[32];
	long min = sysconf(_SC_THREAD_STACK_MIN);

	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setstacksize(&attr, (size_t)(min > 0 ? min : PTHREAD_STACK_MIN)), 0);
	for (int i = 0; i < 32; i++)
		CHECK_EQ(pthread_create(&t[i], &attr, stackmin_thread, NULL), 0);
	for (int i = 0; i < 32; i++)
		join(t[i]);
	pthread_attr_destroy(&attr);
	CHECK_EQ(atomic_load(&stackmin_done), 32);
}

/* A stack of the program's own (pthread_attr_setstack) is used and intact to its end. */
static void *own_stack_thread(void *arg)
{
	char here;

	CHECK(&here > (char *)arg && &here < (char *)arg + 262144);
	spin(200000);
	return arg;
}

CASE(own_stack)
{
	pthread_attr_t attr;
	void *mem;
	pthread_t t;

	CHECK_EQ(posix_memalign(&mem, 4096, 262144 + 4096), 0);
	memset((char *)mem + 262144, 0x5a, 4096);
	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setstack(&attr, mem, 262144), 0);
	CHECK_EQ(pthread_create(&t, &attr, own_stack_thread, mem), 0);
	CHECK(join(t) == mem);
	for (int i = 0; i < 4096; i++)
		CHECK_EQ(((unsigned char *)mem)[262144 + i], 0x5a);
	free(mem);
}
