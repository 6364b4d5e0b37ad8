/*
 * async.c - being stopped at any instruction: stacks that are not the thread's, and what unwinds or jumps.
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

/*
 * A small alternate stack, and handlers that do not ask for it and need more than it has: they run on the thread's own
 * stack, also while the thread is stopped. The handler uses 48 KiB.
 */
enum { BELOW = 65536, DEEP = 49152 };

static void deep_handler(int sig)
{
	volatile unsigned char local[DEEP];

	(void)sig;
	for (int i = 0; i < DEEP; i += 64)
		local[i] = 0x11;
	CHECK_EQ(local[0], 0x11);
	atomic_fetch_add(&handled, 1);
}

static void *beside_altstack(void *arg)
{
	size_t size = 16384;
	unsigned char *memory = malloc(BELOW + size);
	stack_t ss = {.ss_sp = memory + BELOW, .ss_size = size};

	(void)arg;
	CHECK(memory != NULL);
	memset(memory, 0x66, BELOW);
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	atomic_fetch_add(&looping, 1);
	while (!atomic_load_explicit(&jumps_end, memory_order_relaxed))
		;
	ss.ss_flags = SS_DISABLE;
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	for (int i = 0; i < BELOW; i++)
		CHECK_EQ(memory[i], 0x66);
	free(memory);
	return NULL;
}

CASE_STRESS(async_deep_handlers)
{
	struct sigaction sa = {.sa_handler = deep_handler};
	long long end;
	pthread_t t[2];

	CHECK_EQ(sigaction(SIGUSR2, &sa, NULL), 0);
	atomic_store(&looping, 0);
	others_start();
	for (int i = 0; i < 2; i++)
		t[i] = spawn(beside_altstack, NULL);
	AWAIT(&looping, 2);
	end = now(CLOCK_MONOTONIC) + STORM * MS;
	while (now(CLOCK_MONOTONIC) < end || atomic_load(&handled) < 10) {
		for (int i = 0; i < 2; i++)
			CHECK_EQ(pthread_kill(t[i], SIGUSR2), 0);
		sleep_ns(MS);
	}
	atomic_store(&jumps_end, true);
	for (int i = 0; i < 2; i++)
		join(t[i]);
	hogs_stop();
}

/*
 * The smallest alternate stack that the kernel takes. With the vector registers of today no signal fits on it; the
 * program never has one delivered there.
 */
static void *beside_smallest(void *arg)
{
	size_t size = 2048;
	unsigned char *memory = malloc(CANARY + size);
	stack_t ss = {.ss_sp = memory + CANARY, .ss_size = size}, old;

	(void)arg;
	CHECK(memory != NULL);
	memset(memory, 0x22, CANARY + size);
	if (sigaltstack(&ss, NULL) != 0)
		skip("the kernel insists on large alternate stacks");
	CHECK_EQ(sigaltstack(NULL, &old), 0);
	CHECK(old.ss_sp == ss.ss_sp && old.ss_size == size && old.ss_flags == 0);
	ss.ss_size = 2047;
	CHECK_ERRNO(sigaltstack(&ss, NULL), ENOMEM);
	burn(STORM * MS / 10);
	CHECK_EQ(sigaltstack(NULL, &old), 0);
	CHECK(old.ss_sp == ss.ss_sp && old.ss_size == size && old.ss_flags == 0);
	ss.ss_flags = SS_DISABLE;
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	CHECK_EQ(sigaltstack(NULL, &old), 0);
	CHECK_EQ(old.ss_flags, SS_DISABLE);
	for (size_t i = 0; i < CANARY + size; i++)
		CHECK_EQ(memory[i], 0x22);
	free(memory);
	return NULL;
}

CASE_STRESS(async_smallest_altstack)
{
	pthread_t a = spawn(beside_smallest, NULL), b = spawn(beside_smallest, NULL);

	others_start();
	join(a);
	join(b);
	hogs_stop();
}

/* Waits and what looks like them; tables.py counts who was taken for a spinner. */
static atomic_int wait_arrived, wait_gen;

static void *spin_wait_thread(void *arg)
{
	for (int i = 0; i < 60; i++) {
		int gen = atomic_load(&wait_gen);

		if (atomic_fetch_add(&wait_arrived, 1) == 5) {
			atomic_store(&wait_arrived, 0);
			atomic_fetch_add(&wait_gen, 1);
		} else if (i % 2) {
			while (atomic_load(&wait_gen) == gen)
				__builtin_ia32_pause();
		} else {
			while (atomic_load_explicit(&wait_gen, memory_order_relaxed) == gen)
				; /* an unchanging address and no store: a wait without PAUSE */
		}
	}
	return arg;
}

CASE(spin_waits)
{
	pthread_t t[6];

	for (int i = 0; i < 6; i++)
		t[i] = spawn(spin_wait_thread, NULL);
	for (int i = 0; i < 6; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&wait_gen), 60);
}

struct item {
	struct item *next;
	unsigned key;
};

/* Loops that only read, but what they read changes: a string, a probe of a hash table, a list. */
static void *scans(void *arg)
{
	static char text[4096];
	static unsigned table[1024];
	static struct item list[512];
	long long end = now(CLOCK_MONOTONIC) + 300 * MS;
	unsigned long found = 0;

	memset(text, 'x', sizeof(text) - 1);
	memset(table, 0xff, sizeof(table));
	table[1000] = 0;
	for (int i = 0; i < 511; i++)
		list[i] = (struct item){&list[i + 1], (unsigned)i};
	while (now(CLOCK_MONOTONIC) < end) {
		for (int k = 0; k < 50; k++) {
			const volatile char *c = text;
			unsigned slot = 0;
			const struct item *it = list;

			while (*c)
				c++;
			while (*(volatile unsigned *)&table[slot & 1023])
				slot++;
			while (it->next && ((volatile const struct item *)it)->key < 510)
				it = it->next;
			found += (unsigned long)(c - text) + slot + it->key;
		}
	}
	CHECK(found > 0);
	return arg;
}

CASE(no_spin_waits)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		t[i] = spawn(scans, NULL);
	for (int i = 0; i < 4; i++)
		join(t[i]);
}
