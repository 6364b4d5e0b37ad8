// jmp.c: longjmp and its kin, only because a handler that interrupted a parked thread may leave by it.

#include <setjmp.h>

#include "interpose.h"

extern void __longjmp_chk(jmp_buf env, int val) __attribute__((noreturn));

#define JUMP(name)                                                                                 \
	REAL_FN(name);                                                                             \
	EXPORT void name(jmp_buf env, int val)                                                     \
	{                                                                                          \
		park_abandon();                                                                    \
		REAL(name)(env, val);                                                              \
		__builtin_unreachable();                                                           \
	}

JUMP(longjmp)
JUMP(_longjmp)
JUMP(siglongjmp)
JUMP(__longjmp_chk)
