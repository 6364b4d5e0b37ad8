// jmp.c: longjmp and its kin, because a handler that interrupted a waiting thread, or a call that passes through, may
// leave by it.
//
// Problem. One that stays inside the handler must not disturb the wait. Where a jump goes is told by the stack
// pointer in the jmp_buf, which glibc keeps in word 6, xored with a secret of the thread and rotated (PTR_MANGLE).
//
// Approach. Take it from there, having checked once that this is how a jmp_buf made here reads. If it is not,
// every jump is taken for one that leaves; the wait that a jump inside the handler returns to then ends early.

#include <setjmp.h>
#include <string.h>

#include "interpose.h"

extern void __longjmp_chk(jmp_buf env, int val) __attribute__((noreturn));

static uintptr_t stack_pointer(const struct __jmp_buf_tag *env)
{
	uintptr_t secret, sp;

	__asm__("mov %%fs:0x30, %0" : "=r"(secret));
	memcpy(&sp, (const char *)env->__jmpbuf + 6 * sizeof sp, sizeof sp);
	return (sp >> 17 | sp << 47) ^ secret;
}

__attribute__((noinline)) static bool layout_known(void)
{
	static int known; // 0: not asked yet, 1: yes, -1: no

	if (!load_relaxed(&known)) {
		uintptr_t frame = (uintptr_t)__builtin_frame_address(0), sp;
		jmp_buf env;

		if (_setjmp(env) == 0) {
			sp = stack_pointer(env);
			store_relaxed(&known, sp <= frame && frame - sp < 4096 ? 1 : -1);
		}
	}
	return load_relaxed(&known) > 0;
}

static void jumps(const struct __jmp_buf_tag *env)
{
	if (unlikely(tls.apart))
		apart_leaves();
	if (unlikely(tls.frames || tls.deep || (tls.self && tls.self->masked)))
		park_abandon(layout_known() ? stack_pointer(env) : LEAVES);
	if (env->__mask_was_saved && load_relaxed(&sched.active) == PHASE_ACTIVE && !tls.vforked)
		signal_jump((const sigset_t *)&env->__saved_mask);
}

#define JUMP(name)                                                                                 \
	REAL_FN(name);                                                                             \
	EXPORT void name(jmp_buf env, int val)                                                     \
	{                                                                                          \
		jumps(env);                                                                        \
		REAL(name)(env, val);                                                              \
		__builtin_unreachable();                                                           \
	}

JUMP(longjmp)
JUMP(_longjmp)
JUMP(siglongjmp)
JUMP(__longjmp_chk)
