// The code in whose middle lookup.c asks for a safe point: a module of its own, as the core takes the one it is linked
// into for the library.
#include <stdint.h>

typedef void at_fn(uintptr_t pc, uintptr_t sp, uintptr_t bp);
int descend(int depth, at_fn *fn);

__attribute__((noinline, visibility("default"))) int descend(int depth, at_fn *fn)
{
	volatile int here = depth;

	if (depth > 0) {
		here = descend(depth - 1, fn);
	} else {
		uintptr_t pc, sp, bp;

		__asm__ volatile("lea 0(%%rip), %0; mov %%rsp, %1; mov %%rbp, %2"
				 : "=&r"(pc), "=&r"(sp), "=&r"(bp));
		fn(pc, sp, bp);
	}
	return here + 1;
}
