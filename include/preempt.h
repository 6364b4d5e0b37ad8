// preempt.h: what a program may ask of libpreempt, if it is there.
//
// Everything is a weak symbol: a program that includes this header links without the library, and without any flag for it. It
// runs with the library when somebody puts that into LD_PRELOAD (preempt run does). Where it is missing the functions
// are NULL, so ask first:
//
//	#include <preempt.h>
//
//	if (preempt_yield)
//		preempt_yield();
//
// A program that is linked with -no-pie is to be compiled with -fno-plt or -fPIC as well, or the linker decides at once that they are NULL.
//
// No function changes errno. "Thread-safe" is true of all. "Signal-safe": may be called from a signal handler.

#ifndef PREEMPT_H
#define PREEMPT_H

#ifdef __cplusplus
extern "C" {
#endif

#define PREEMPT_WEAK __attribute__((__weak__, __visibility__("default")))

// The version of the library, such as "0.1.0". Signal-safe.
const char *preempt_version(void) PREEMPT_WEAK;

// Let another thread run that waits for a virtual processor. Without one this is sched_yield(2). Not signal-safe.
void preempt_yield(void) PREEMPT_WEAK;

// Do not stop the calling thread in favour of another, up to preempt_enable. Calls nest. It is for short sections, such as
// updates that others wait for by spinning: a thread that goes on for PREEMPT_FORCE_AFTER (100 ms) beyond its slice is stopped all
// the same, unless that is 0. A call that blocks lets others run as ever, and the kernel may stop the thread at any time, as
// without the library. preempt_enable without preempt_disable does nothing. Signal-safe; a handler enables what it disabled.
void preempt_disable(void) PREEMPT_WEAK;
void preempt_enable(void) PREEMPT_WEAK;

// Hints for locks that the program makes itself, so that they are treated as pthread locks are: who holds one is spared for
// PREEMPT_LOCK_GRACE, and who waits for one lets the holder run.
//
//	preempt_lock_begin(&lock);		// before the first try
//	while (!try(&lock))
//		preempt_lock_wait(&lock);	// after each try that failed; it contains a PAUSE
//	...
//	release(&lock);
//	preempt_lock_end(&lock);		// after the release, or to give up trying
//
// lock: any address that is the same for all who use the lock; it is not dereferenced. Calls for several locks nest in any
// order. begin and end are signal-safe.
void preempt_lock_begin(const volatile void *lock) PREEMPT_WEAK;
void preempt_lock_wait(const volatile void *lock) PREEMPT_WEAK;
void preempt_lock_end(const volatile void *lock) PREEMPT_WEAK;

// The calling thread's share of the processors under PREEMPT_POLICY=fair: 1 to 10000, ordinary is 100; 0: again what
// PREEMPT_WEIGHTS says. It counts besides the thread's nice value, and from the thread's next wait or 1 s on at the latest.
// Returns 0, or EINVAL. Not signal-safe.
int preempt_set_weight(int weight) PREEMPT_WEAK;

// Stop all other threads of the process, each at a place where its stack can be walked, until preempt_start_the_world.
//
// timeout_ns: how long to try, in nanoseconds. Returns 0: they stand still; or an error, and they run on:
//	ETIMEDOUT  some did not stop in time, or another thread has stopped the world for so long
//	EDEADLK    the caller has stopped it already
//	ENOTSUP    the library does not schedule this process
// *stopped, if it is not NULL, is filled in also with ETIMEDOUT.
//
// Between the two calls the caller may do what may be done in a signal handler, for a stopped thread may be inside the
// allocator or hold any lock; also fork, exec, and _exit. The world goes on when the caller ends. Signals that
// come to stopped threads are handled when it goes on. Not stopped are: threads that were not made by pthread_create or
// thrd_create; code that libc calls inside getaddrinfo, popen or fork; threads asleep in the kernel in a call that the library does not see
// (a page fault, the read inside fgets), until they wake up: stragglers. In a process that has had one thread only there is nothing to stop, and
// threads that the caller makes then run. Not signal-safe. Several threads may call it: one after the other.
struct preempt_stopped {
	long long ns;	     // time from the call until the last one stood still
	unsigned threads;    // that stand still, the caller included
	unsigned stragglers; // threads that do not
	int straggler[8];    // the thread ids of the first of those
};
int preempt_stop_the_world(long long timeout_ns, struct preempt_stopped *stopped) PREEMPT_WEAK;

// 0, or EPERM: the calling thread has not stopped it.
int preempt_start_the_world(void) PREEMPT_WEAK;

// Write what all threads do to a file descriptor, as the signal PREEMPT_DUMP_SIGNAL does to standard error: soon, by
// another thread. Returns 0; EBUSY: one is being written; ENOTSUP: as above. Signal-safe.
int preempt_dump(int fd) PREEMPT_WEAK;

#ifdef __cplusplus
}
#endif

#endif
