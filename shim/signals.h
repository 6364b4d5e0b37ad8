// signals.h: signals, ours and the program's, their masks and stacks. Included by shim.h, whose rules hold.

#pragma once

#include <ucontext.h>

#include "table.h"
#include "trace.h"
#include "types.h"

// --- preempt.c --------------------------------------------------------------------------------
void preempt_init(void); // before there is a second thread
void preempt_rests(void);
void preempt_ends(void); // for good: no signal is sent any more
bool preempt_m(struct g *gp, const struct p *pp, uint64_t word); // true: a signal was sent
bool preempt_m_if_fenced(struct g *gp, const struct p *pp, uint64_t word); // any thread
bool preempt_is_ours(const siginfo_t *info);
void preempt_handler(int sig, siginfo_t *info, void *uc);
void preempt_drain(struct g *gp); // wait, bounded, until a signal on its way has arrived
void preempt_unmask(
	struct g *gp); // what the handler left masked, for one who does not go back to it

// --- signal.c ---------------------------------------------------------------------------------
// libc keeps these two for itself. SIG_SETXID is the preemption signal, unless the user chose one.
enum { SIG_CANCEL = 32, SIG_SETXID = 33 };
#define SIG_BIT(sig) ((uint64_t)1 << ((sig)-1))
#define ALL_SIGNALS (~(uint64_t)0)
static inline int os_sigmask(int how, const uint64_t *set, uint64_t *old)
{
	return (int)sys4(SYS_rt_sigprocmask, how, set, old, sizeof *set);
}
typedef void signal_handler_fn(int sig, siginfo_t *info, void *uc);
void signal_activate(void);    // take over handlers installed so far
void signal_thread_made(void); // libc has made a thread
void signal_reset_in_child(void);
// Kernel form: returns 0 or -errno.
int signal_sigaction(int sig, const struct sigaction *act, struct sigaction *old);
void signal_thread_start(struct g *gp); // alternate stack, mask
// Around a forced park, in the preemption handler with all signals blocked: a critical section, with the mask of what
// was interrupted.
void signal_park_begin(const struct g *gp, const ucontext_t *uc);
void signal_park_end(void);
bool signal_may_wake(void);   // has the program a handler for a signal that comes from elsewhere?
void signal_dump_early(void); // at the start of the process: PREEMPT_DUMP_SIGNAL ends nobody
void signal_hide_dump(struct sigaction *old);		 // what the program is told of it
void signal_forward(int sig, siginfo_t *info, void *uc); // to the program's handler
void signal_prepare_exec(void); // what the new image inherits is what the program set
void signal_exec_failed(void);

// --- sigmask.c --------------------------------------------------------------------------------
int signal_sigmask(int how, const sigset_t *set, sigset_t *old); // 0 or -errno
// Before and after a handler of the program: its context has the program's mask, then the real one. gp NULL: the thread
// is a G no longer.
void signal_show_mask(const struct g *gp, ucontext_t *uc);
void signal_hide_mask(struct g *gp, uint64_t real, ucontext_t *uc);
void signal_jump(const sigset_t *saved); // siglongjmp to where this was saved
bool signal_mask_cancel(
	sigset_t *mask);	  // in the mask of an interrupted context; true: was not masked
void signal_unmask_preempt(void); // the preemption signal and cancellation
void signal_unmask_cancel(void);
void signal_child_mask(
	bool begins); // while a child or a new image inherits the mask: as the program set it

// --- altstack.c -------------------------------------------------------------------------------
int signal_sigaltstack(const stack_t *ss, stack_t *old); // 0 or -errno
void altstack_thread_start(struct g *gp); // it keeps an alternate stack it has, else gets ours
void altstack_thread_exit(struct g *gp);
bool altstack_is_ours(const struct g *gp); // the real one
bool altstack_cramped(const struct g *gp); // the program's has no room for one more signal
void altstack_show(const struct g *gp, stack_t *ss); // the program's for the real one
// If the program would not have this handler (onstack: with SA_ONSTACK) on the alternate stack that it is on: enter it
// once more, by again, where it would, and do not return.
void altstack_leave(const struct g *gp, bool onstack, signal_handler_fn *again, int sig,
		    siginfo_t *info, ucontext_t *uc);
