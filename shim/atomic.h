// atomic.h: every atomic access names its memory order.
//
// Relaxed accesses need no comment. Every other one carries a trailing comment that names its
// partner; tools/check/atomics.sh fails the build without it. Read-modify-write operations are
// sequentially consistent: on x86-64 they cost the same as weaker ones, and they are the only
// full barriers used here (no bare fences, which ThreadSanitizer does not understand).

#pragma once

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_seq_cst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define xchg(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#define fetch_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define fetch_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
#define fetch_and(p, v) __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST)
#define fetch_sub(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_SEQ_CST)
#define count_relaxed(p, v) ((void)__atomic_fetch_add((p), (v), __ATOMIC_RELAXED))

// Compare *p with old and, if equal, replace it by new. True on success.
#define cas(p, old, new)                                                                           \
	__extension__({                                                                            \
		__typeof__(*(p)) cas_old_ = (old);                                                 \
		__atomic_compare_exchange_n((p), &cas_old_, (new), 0, __ATOMIC_SEQ_CST,            \
					    __ATOMIC_RELAXED);                                     \
	})

// Orders this thread's accesses against its own signal handlers only: no instruction is emitted.
#define compiler_barrier() __asm__ volatile("" ::: "memory")

#define cpu_relax() __asm__ volatile("pause")

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
