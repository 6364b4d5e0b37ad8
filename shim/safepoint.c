// safepoint.c: may a call be injected where a thread was interrupted?
//
// Problem. An injected call uses the thread's own stack, and then stops the thread for a while. So there must be room
// below the red zone, the registers must be what the table says they are (no half-built frame), and neither the
// interrupted function nor any of its callers may be one that others wait for: the allocator, the dynamic linker,
// this library.
//
// Approach. Everything that is not known to be right is refused. A refusal costs little: sysmon asks again some
// microseconds later, and in the end a forced park needs none of this.
//  - The stack. Its bounds are noted when the thread starts. A stack pointer outside of them (coroutines, split stacks,
//    a handler on an alternate stack, a thread that was adopted) is refused: what lies below it may be anybody's. A walk
//    that reaches an outermost frame elsewhere than at the top was on a stack inside the stack: refused as well.
//  - The callers. A caller without a table could be a critical one: refused. So is one in this library: a wrapper, or
//    enter_handler, so that handlers of the program are never stopped in ordinary context.
//  - More than MAX_FRAMES callers are not looked at: a critical function does not call back into the program that deep.
// Restartable sequences need no care: the kernel aborts them before it delivers a signal.
//
// Rejected: looking up the stack's bounds in /proc or by pthread_getattr_np (files, malloc); trusting the lower bound
// alone (programs make their own guard pages): near it, the kernel is asked.

#include <sys/resource.h>
#include <sys/syscall.h>

#include "shim.h"

enum {
	MAX_FRAMES = 64,
	ROOM = 2048,	// red zone, trampoline, and what async_preempt2 calls: under 1 KiB, doubled
	NEAR = 65536,	// from the lower bound: ask the kernel; guard areas are smaller
	TOP_SLACK = 64, // _start pops argc, aligns and pushes two words
	STACK_DEFAULT = 8 << 20,
};

extern const char __ehdr_start[] __attribute__((visibility("hidden"))); // the linker's
extern const char _etext[] __attribute__((visibility("hidden")));

bool is_ours(uintptr_t pc)
{
	return pc >= (uintptr_t)__ehdr_start && pc < (uintptr_t)_etext;
}

static bool has_room(const struct g *gp, uintptr_t sp)
{
	uintptr_t lo = tls.stack_lo, alt = (uintptr_t)gp->prog_altstack.ss_sp;

	if (sp >= tls.stack_hi || sp < lo || sp - lo < ROOM || sp % sizeof sp)
		return false;
	if (!(gp->prog_altstack.ss_flags & SS_DISABLE) && sp - alt <= gp->prog_altstack.ss_size)
		return false; // an array on the stack, used as an alternate stack
	return sp - lo >= NEAR || os_readable(sp - ROOM);
}

// Signal-safe. The table has been asked once more by unwind_step; the order of the checks is worth it: most
// refusals are known before the stack is read.
static enum refusal judge(const struct g *gp, const struct frame *frame, bool spins)
{
	struct frame f = *frame;
	const struct table *table;
	const struct table_row *row;
	uintptr_t bias;

	if (is_ours(f.pc))
		return REFUSE_CRITICAL;
	table = modules_find(f.pc, &bias);
	row = table ? table_find(table, f.pc - bias) : NULL;
	if (!row)
		return REFUSE_NO_TABLE;
	if (!table_is_safe(row) && !(spins && table_reason(row) == TABLE_SAFE))
		return row->flags & TABLE_CRITICAL ? REFUSE_CRITICAL : REFUSE_UNSAFE_PC;
	if (!has_room(gp, f.sp))
		return REFUSE_STACK;
	for (int n = 0; n < MAX_FRAMES; n++) {
		int r = unwind_step(&f, n == 0, tls.stack_hi, &row);

		if (row && row->flags & TABLE_CRITICAL && !(spins && n == 0))
			return REFUSE_CRITICAL;
		if (r < 0)
			return REFUSE_NO_TABLE;
		if (r == 0)
			return tls.stack_hi - f.sp <= TOP_SLACK ? REFUSE_NOT : REFUSE_STACK;
		if (f.sp >= tls.stack_hi)
			return REFUSE_NOT; // whoever called the thread's first function
		if (is_ours(f.pc))
			return REFUSE_CRITICAL;
	}
	return REFUSE_NOT;
}

enum refusal is_async_safe_point(const struct g *gp, const struct frame *frame)
{
	enum refusal why;

	modules_walk(true);
	why = judge(gp, frame, false);
	modules_walk(false);
	return why;
}

// The same of a thread that waits at frame. Critical code itself is no obstacle then: of the functions that take a
// lock, it is in the one part in which the lock is not held. Callers are.
enum refusal is_spin_safe_point(const struct g *gp, const struct frame *frame)
{
	enum refusal why;

	modules_walk(true);
	why = judge(gp, frame, true);
	modules_walk(false);
	return why;
}

// Is this the code of a loop that waits for another thread? Then where that begins, about, else 0. Only a table tells. Signal-safe.
uintptr_t is_spin_wait(uintptr_t pc)
{
	const struct table *table;
	const struct table_row *row;
	uintptr_t bias, start = 0;
	uint32_t i;

	modules_walk(true);
	table = modules_find(pc, &bias);
	row = table ? table_find(table, pc - bias) : NULL;
	if (row && row->flags & TABLE_SPIN) {
		for (i = (uint32_t)(row - table->rows);
		     i > 0 && table->rows[i - 1].flags & TABLE_SPIN; i--)
			;
		start = bias + table_row_start(table, i);
	}
	modules_walk(false);
	return start;
}

// The calling thread's stack: [lo, hi) may be used by functions whose callers all lie below hi. lo 0: not known.
void stack_is(uintptr_t lo, uintptr_t hi)
{
	bool known = lo && lo < hi && hi - lo > ROOM;

	tls.stack_lo = known ? lo : 0;
	tls.stack_hi = known ? hi : 0;
}

// The first thread of the process. start: its stack pointer at the program's entry. The stack grows on demand down
// to its limit, of which the kernel gives at most a quarter to arguments and environment, above start.
void stack_is_main(uintptr_t start)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
	uintptr_t here = (uintptr_t)__builtin_frame_address(0), size;

	sys4(SYS_prlimit64, 0, RLIMIT_STACK, NULL, &limit);
	size = limit.rlim_cur > STACK_DEFAULT ? STACK_DEFAULT : limit.rlim_cur;
	size -= size / 4;
	if (start > size && here < start && here >= start - size)
		stack_is(start - size, start);
}
