// interpose.h: how an exported wrapper reaches the real function and the scheduler.
//
// A wrapper is thin: it keeps the libc name, says which class its call is in (HACKING.md, section
// 10), and calls REAL(name). getg() is NULL for threads that are not scheduled: pass through.

#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>

#include "../shim.h"

#define EXPORT __attribute__((visibility("default")))

// Another exported name of the same function. gcc wants it to promise what the function promises.
#if __has_attribute(copy)
#define SAME_PROMISES(name) copy(name),
#else
#define SAME_PROMISES(name)
#endif
#define ALIAS(other, name)                                                                         \
	extern __typeof__(name) other                                                              \
		__attribute__((SAME_PROMISES(name) alias(#name), visibility("default")))

// The default version of a name comes from libpreempt.map. glibc keeps an older one of many:
//   COMPAT       the same function; its default version is that of glibc 2.34, which moved it into
//                libc, e.g. COMPAT(sem_post, 2_2_5, "GLIBC_2.2.5")
//   COMPAT_FROM  the same function, with another default version
//   SYMVER       another function, fn
// Version names have dots, so ident stands in. The default is repeated here: GNU ld drops a
// symbol with the address of a versioned one unless it has its version before the map is applied.
#define SYMVER(fn, name, ver) __asm__(".symver " #fn "," #name "@" ver)
#define COMPAT_FROM(name, default_ver, ident, ver)                                                 \
	ALIAS(compat_##name##_##ident, name);                                                      \
	SYMVER(compat_##name##_##ident, name, ver);                                                \
	__asm__(".symver " #name "," #name "@@@" default_ver)
#define COMPAT(name, ident, ver) COMPAT_FROM(name, "GLIBC_2.34", ident, ver)

// Each wrapper file declares the real functions it needs with REAL_FN at file scope; the pointer is
// put into section real_fns, so that init.c can resolve all of them in the constructor.
struct real_fn {
	const char *name;
	const char *version; // NULL: the default version
	void **slot;
};
// The section is read as an array; without aligned, gcc aligns large objects more and leaves gaps.
#define IN_REAL_FNS __attribute__((section("real_fns"), used, aligned(__alignof__(struct real_fn))))
#define REAL_FN_NAMED(slot_, type, sym, ver)                                                       \
	static __typeof__(type) *real_##slot_;                                                     \
	static const struct real_fn real_fn_##slot_ IN_REAL_FNS = {sym, ver, (void **)&real_##slot_}
#define REAL_FN(name) REAL_FN_NAMED(name, name, #name, NULL)
void real_resolve(void); // idempotent; for calls that come before the constructor
#define REAL(name)                                                                                 \
	__extension__({                                                                            \
		if (unlikely(!real_##name))                                                        \
			real_resolve();                                                            \
		real_##name;                                                                       \
	})

// Another library that is loaded after us and interposes a timed wait as well keeps a time of its own (libfaketime):
// the call has to go through it.
extern uintptr_t libc_lo, libc_hi; // init.c
static inline bool is_libcs(const void *fn)
{
	return (uintptr_t)fn - libc_lo < libc_hi - libc_lo;
}

// Class 2: may block. The P stays with the caller unless sysmon retakes it.
#define MAY_BLOCK(call)                                                                            \
	__extension__({                                                                            \
		struct g *g_ = getg();                                                             \
		__typeof__(call) r_;                                                               \
		if (g_) {                                                                          \
			entersyscall(g_);                                                          \
			r_ = (call);                                                               \
			exitsyscall(g_);                                                           \
		} else {                                                                           \
			r_ = (call);                                                               \
		}                                                                                  \
		r_;                                                                                \
	})

// Class 2, for calls that run code outside libc: name service modules, the program's allocator.
// That code comes through our wrappers again, and must pass through there: its G is in a call.
#define MAY_BLOCK_DEEP(call)                                                                       \
	__extension__({                                                                            \
		struct g *deep_ = getg();                                                          \
		__typeof__(call) r_;                                                               \
		if (deep_) {                                                                       \
			deep_enter(deep_, __builtin_frame_address(0));                             \
			r_ = (call);                                                               \
			deep_leave(deep_);                                                         \
		} else {                                                                           \
			r_ = (call);                                                               \
		}                                                                                  \
		r_;                                                                                \
	})

// Class 3: will block. The P is handed on at once. blocks: an expression asked only when there is
// demand; false turns the call into class 2 (a non-blocking twin said that it is ready).
#define WILL_BLOCK_IF(blocks, call)                                                                \
	__extension__({                                                                            \
		struct g *g_ = getg();                                                             \
		__typeof__(call) r_;                                                               \
		if (g_) {                                                                          \
			if (demand() && (blocks))                                                  \
				entersyscallblock(g_);                                             \
			else                                                                       \
				entersyscall(g_);                                                  \
			r_ = (call);                                                               \
			exitsyscall(g_);                                                           \
		} else {                                                                           \
			r_ = (call);                                                               \
		}                                                                                  \
		r_;                                                                                \
	})
#define WILL_BLOCK(call)                                                                           \
	__extension__({                                                                            \
		struct g *g_ = getg();                                                             \
		__typeof__(call) r_;                                                               \
		if (g_) {                                                                          \
			entersyscallblock(g_);                                                     \
			r_ = (call);                                                               \
			exitsyscall(g_);                                                           \
		} else {                                                                           \
			r_ = (call);                                                               \
		}                                                                                  \
		r_;                                                                                \
	})

// Whole wrappers for the uniform cases: real function, export, class.
#define WRAP(class, ret, name, params, args)                                                       \
	REAL_FN(name);                                                                             \
	EXPORT ret name params                                                                     \
	{                                                                                          \
		return class(REAL(name) args);                                                     \
	}
#define WRAP_IF(blocks, ret, name, params, args)                                                   \
	REAL_FN(name);                                                                             \
	EXPORT ret name params                                                                     \
	{                                                                                          \
		return WILL_BLOCK_IF(blocks, REAL(name) args);                                     \
	}

// poll(2) with a zero timeout as the twin of calls on descriptors: true if the call would wait.
// False for O_NONBLOCK. Raw system calls; errno is kept. Not an exact promise: another thread may
// take the data first.
bool fd_would_block(int fd, short events);

long seccomp_call(unsigned operation, unsigned flags, const void *prog); // syscall(SYS_seccomp)

bool shim_activate(void); // at the first thread creation; false: pass through from now on

// Absolute deadline of a POSIX timed function. False: not a valid timespec (EINVAL) or clock.
bool deadline_from(struct deadline *d, clockid_t clock, const struct timespec *abs);
