/*
 * backtrace.c - what backtrace.py looks at: threads that compute for ever, each at the bottom of the same three calls.
 */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { THREADS = 4, SECONDS = 110 }; /* then nobody looks any more */

uint64_t innermost(uint64_t n);
uint64_t middle(uint64_t n);
uint64_t outermost(uint64_t n);
void *busy_thread(void *arg);

static volatile uint64_t sink;
static volatile int ended;

/* A leaf without a frame: its caller is found only if the PC is exact. */
__attribute__((noinline)) uint64_t innermost(uint64_t n)
{
	while (!ended) {
		n = n * 6364136223846793005u + 1442695040888963407u;
		__asm__ volatile("" : "+r"(n));
	}
	return n;
}

/* With locals: the stack between the frames is in use. */
__attribute__((noinline)) uint64_t middle(uint64_t n)
{
	volatile uint64_t local[20] = {n};

	local[1] = innermost(local[0] + 1);
	return local[0] + local[1];
}

__attribute__((noinline)) uint64_t outermost(uint64_t n)
{
	return middle(n + 2) + n;
}

void *busy_thread(void *arg)
{
	sink = outermost((uintptr_t)arg) + 1;
	return NULL;
}

int main(void)
{
	pthread_t t;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); /* the one who looks is no parent of ours */
	alarm(SECONDS);
	for (intptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&t, NULL, busy_thread, (void *)i))
			return 1;
	for (;;)
		pause();
}
