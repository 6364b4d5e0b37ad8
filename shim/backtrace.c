// backtrace.c: the callers of a thread that stands still.
//
// Problem. A dump shows where every thread is. The thread cannot be asked, for it sleeps in the kernel, perhaps for ever, and a signal
// could end its call. Approach. A G that is about to wait notes where it is (gp->at: three stores); what a preemption interrupted, the
// handler has noted (gp->interrupted). From there the tables lead upwards, through this library's own frames too. Three kinds of frames are
// no ordinary ones: the call that was injected is stepped over by beginning above it; behind a handler's return lies the
// kernel's frame with all registers; and the stub of a rewritten instruction knows where it was.
//
// A thread asleep in the kernel where no interposer saw it has noted nothing. /proc tells its stack pointer and PC, not its rbp: where a
// caller needs that and nobody in between has saved it, the walk ends early.
//
// The stack of a thread that stands still does not change above where it waits, and is not unmapped. Reads stay inside of
// what was known or has been found to be readable.
//
// Rejected: ptrace from a helper (a debugger may have the process, and Yama forbids it); frame pointers (hardly any code has them).

#include <string.h>
#include <sys/syscall.h>

#include "shim.h"
#include "site.h"

enum {
	PAGE = 4096,
	PROBED = 512, // pages above a stack pointer of which nothing is known
	ABOVE = 512,  // bytes above a stack's top that are readable: frames of libc, or arguments
};

// Where a stack ends on which something is at sp; 0: no memory there.
static uintptr_t stack_end(const struct g *gp, uintptr_t sp)
{
	uintptr_t alt = (uintptr_t)gp->altstack, prog = (uintptr_t)gp->prog_altstack.ss_sp;
	uintptr_t end = (sp & ~(uintptr_t)(PAGE - 1));

	if (sp >= gp->stack_bottom && sp < gp->stack_top)
		return gp->stack_top + ABOVE;
	if (alt && sp - alt < g_altstack_size())
		return alt + g_altstack_size();
	if (!(gp->prog_altstack.ss_flags & SS_DISABLE) && sp - prog < gp->prog_altstack.ss_size)
		return prog + gp->prog_altstack.ss_size;
	for (int i = 0; i < PROBED && os_readable(end); i++)
		end += PAGE;
	return end > sp ? end : 0;
}

// mov $15, %rax; syscall: where handlers return to, as debuggers know it.
static bool is_sigreturn(uintptr_t pc)
{
	static const unsigned char code[] = {0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05};
	const struct table *table;
	uintptr_t bias;

	table = modules_find(pc, &bias);
	if (!table || pc - bias + sizeof code > table->header->text_base + table->header->text_size)
		return false; // not known to be code
	return memcmp((const void *)pc, code, sizeof code) == 0;
}

// The frame of a signal begins at sp.
static bool step_sigreturn(struct frame *f, uintptr_t end)
{
	const ucontext_t *uc = (const ucontext_t *)f->sp;

	if (end - f->sp < sizeof *uc)
		return false;
	*f = (struct frame){(uintptr_t)uc->uc_mcontext.gregs[REG_RIP],
			    (uintptr_t)uc->uc_mcontext.gregs[REG_RSP],
			    (uintptr_t)uc->uc_mcontext.gregs[REG_RBP]};
	return true;
}

// In a stub, behind its call: the program's instruction was before slot->back, or is there (exact), and its red zone lies above.
static bool step_stub(struct frame *f, bool *ret_exact)
{
	uintptr_t at = f->pc - (uintptr_t)site_pause_stubs;

	if (at >= SITE_DISTANCE)
		return false;
	f->pc = site_slots[at / SITE_STUB].back;
	*ret_exact = at / SITE_STUB >= SITE_ENQUEUE * SITE_STUBS;
	f->sp += SITE_RED_ZONE;
	return true;
}

// Where a thread sleeps, as /proc has it.
static bool frame_by_proc(const struct g *gp, struct frame *ret)
{
	char path[64], buf[256], *s;
	struct text t = {path, 0, sizeof path};
	uint64_t v[9] = {0};
	int n = 0;

	text_printf(&t, "/proc/self/task/%d/syscall", gp->tid);
	if (os_read_file(path, buf, sizeof buf) < 0 || *buf < '0' || *buf > '9')
		return false; // "running"
	for (s = buf; *s && n < 9; n++) {
		if (s[0] == '0' && s[1] == 'x')
			s += 2;
		for (; *s && *s != ' ' && *s != '\n'; s++)
			v[n] = v[n] << 4 | (uint64_t)(*s <= '9' ? *s - '0' : (*s | 32) - 'a' + 10);
		while (*s == ' ' || *s == '\n')
			s++;
	}
	if (n == 3) // not in a system call: -1 sp pc
		return false;
	*ret = (struct frame){v[8], v[7], 0};
	return n == 9;
}

bool backtrace_start(const struct g *gp, struct frame *ret)
{
	switch ((enum g_status)load_relaxed(&gp->status)) {
	case G_RUNNING:
		return frame_by_proc(gp, ret);
	case G_RUNNABLE:
	case G_PREEMPTED:
		*ret = gp->is_interrupted ? gp->interrupted : gp->at;
		return ret->pc;
	case G_SYSCALL:
	case G_WAITING:
		*ret = gp->at;
		return ret->pc;
	case G_IDLE:
	case G_DEAD:
	default:
		return false;
	}
}

int backtrace_walk(const struct g *gp, struct frame f, struct place *v, int max)
{
	const struct table_row *row;
	bool exact = true;
	int n = 0;

	modules_walk(true);
	while (n < max && f.pc) {
		uintptr_t end = stack_end(gp, f.sp);

		v[n++] = (struct place){f.pc, exact};
		if (!end)
			break;
		if (!exact && is_sigreturn(f.pc)) {
			if (!step_sigreturn(&f, end))
				break;
			exact = true;
			continue;
		}
		if (!exact && step_stub(&f, &exact)) {
			n--; // nobody wrote it
			continue;
		}
		if (unwind_step(&f, exact, end, &row) <= 0)
			break;
		exact = false;
	}
	modules_walk(false);
	return n;
}
