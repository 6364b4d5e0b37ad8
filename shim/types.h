// types.h: the scheduler's data.
//
// Vocabulary is Go's (HACKING.md, section 1): a G is one application thread, a P a virtual
// processor. A G keeps its kernel thread for life, so Go's M does not exist: M's fields live in g.

#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "atomic.h"
#include "os.h"

// States of a G. Numbers are Go's, so that tools that read schedtrace understand them.
//   G_IDLE      in the free list, or being set up by its creator, who owns it.
//   G_RUNNABLE  wants a P and sits in exactly one run queue; whoever dequeues it must grant it a P.
//   G_RUNNING   runs application code, or was just granted a P and is about to. Owned by its
//               thread. Holds gp->p, or no P at all: a stray, on credit or retaken (credit.c).
//   G_SYSCALL   in a call that may block. Owned by its thread. It may hold a P, which sysmon may retake.
//   G_WAITING   parked, in no run queue; only the goready that wins gp->park, or its own thread
//               after a timeout, moves it on.
//   G_DEAD      its thread has left the scheduler; memory goes to the free list.
//   G_PREEMPTED like G_RUNNABLE, but stopped inside the signal handler (a forced park).
enum g_status {
	G_IDLE = 0,
	G_RUNNABLE = 1,
	G_RUNNING = 2,
	G_SYSCALL = 3,
	G_WAITING = 4,
	G_DEAD = 6,
	G_PREEMPTED = 9,
};

// States of a P, in the low bits of p->word. Numbers are Go's up to P_DEAD.
//   P_IDLE    in sched.pidle; taken from there under sched.lock.
//   P_RUNNING held by the G that remembers this word; that G moves it on by CAS. sysmon may CAS it
//             away when the holder is blocked in the kernel where no interposer saw it.
//   P_SYSCALL not used: as in newer Go, being in a system call is a state of the G.
//   P_STOPPED not used: in a stopped world all Ps idle, and pidleget gives none.
//   P_DEAD    above nprocs after procresize; in no list.
//   P_SCHED   pinned: one thread is inside the scheduler with it and has it to itself.
enum p_state {
	P_IDLE = 0,
	P_RUNNING = 1,
	P_SYSCALL = 2,
	P_STOPPED = 3,
	P_DEAD = 4,
	P_SCHED = 5,
};
#define P_STATE(word) ((enum p_state)((word)&7))
#define P_SEQ(word) ((word) & ~(uint64_t)7)
#define P_SEQ_ONE ((uint64_t)8)

enum { RUNQ_SIZE = 256, MAX_PROCS = 1024 };

// Why a G waits; names are Go's where Go has one. wait_reason_name() gives the text.
enum wait_reason {
	WAIT_NONE,
	WAIT_MUTEX,
	WAIT_COND,
	WAIT_SEM,
	WAIT_RWLOCK_R,
	WAIT_RWLOCK_W,
	WAIT_BARRIER,
	WAIT_ONCE,
	WAIT_REASONS,
};

// gp->park: hand-shake between a G that parks and the one that readies it, so that a goready that
// comes before the G has let go of its P is kept, not lost.
enum { PARK_NONE, PARK_PARKED, PARK_TOKEN };

// gp->note: where a G without a P sleeps. NOTE_CANCEL asks a cancellable wait to end early.
enum { NOTE_NONE = 0, NOTE_SLEEPING = 1, NOTE_GRANTED = 2, NOTE_CANCEL = 4 };

// gp->ready_as: why a G is put into a queue. NEW: never ran.
// SPUN: was found to wait by spinning.
enum ready_as { READY_WOKEN, READY_NEW, READY_PREEMPTED, READY_YIELDED, READY_SPUN };

struct p;

// Registers from which the callers of a place can be found.
struct frame {
	uintptr_t pc, sp, bp;
};

// sysmon: how often a running G is asked by signal, and asked again when the answer was "not here".
struct asking {
	int64_t next; // earliest next signal
	uint32_t sent;
};

#ifdef PREEMPT_INVARIANTS
// What is right for a short while only, as sysmon has seen it again and again.
struct odd {
	const char *what; // or NULL: nothing is
	uint64_t same;	  // what would have changed if it were not still the same
	int64_t since;
	uint32_t looks;
};
#endif

struct g {
	struct g
		*alllink; // all Gs ever made, newest first; never unlinked or cleared (type-stable)

	// Identity. Set by the owning thread when it starts; tid and self are stable while alive.
	int tid;
	uint32_t goid;
	pthread_t self;
	struct g *schedlink; // next in the one queue (global run queue, free list) this G is in

	// Scheduling. Written by the owning thread while running, by the granter otherwise.
	uint32_t status;
	struct p *p;	    // the P held; may be out of date if sysmon retook it: pin() finds out
	uint64_t pseq;	    // P_SEQ of the word under which p is held
	uint32_t note;	    // futex word
	uint32_t park;	    // PARK_*
	uint32_t cpu;	    // where it ran last
	uint8_t waitreason; // enum wait_reason, for reports
	uint8_t ready_as;   // enum ready_as
	int64_t retaken_at; // sysmon: until when it had the use of the P that was taken from it

	// Policy fair. Written as the above; the weight by its thread alone, once it runs.
	int64_t vtime;	    // virtual time, ns of a G of the ordinary weight
	uint64_t queue_seq; // order in the heap among equals
	uint32_t weight;    // 0: not placed yet
	int64_t weigh_at, weigh_every;
	int64_t charged; // ns in all, with the CPU time before it was a G; 0: none yet

	// chaos.c. By its thread, or by who queues it.
	uint32_t chaos_calls, chaos_stops, chaos_queued;
	uint32_t chaos_hog; // sysmon: it was stopped after so many calls less one; or 0
	bool chaos_yields;

	// Parking lot (park.c). Protected by the lock of the bucket of waitaddr.
	const void *waitaddr; // what it is queued for; NULL: not queued
	const void *
		waitfor; // the same, but stays when a waker has taken it from the queue: for the trace
	const void *waitmutex; // on a condition variable: where a signal may move it, or NULL
	uint8_t waitkind;      // LOT_*
	bool apart;	       // a stand-in for a thread that is no G (apart.c)
	bool waitmoved; // it was moved there by lot_signal or lot_broadcast: it has been signalled, no deadline counts
	struct g *waitnext, *waitprev;

	// Shares of contended mutexes (lockshare.c). used and shared: under the lock of the bucket of shared.
	const void *barred; // the mutex that others are to have before it, or NULL; owner only
	const void *shared; // the mutex that used is of
	int64_t used;	    // ns for which it held that while others waited
	uint32_t unlooked;  // unlocks not looked at; owner only

	// A writer that readers let go first (park.c). Protected by the lock of the bucket of claim.
	const void *claim; // the rwlock, or NULL
	struct g *claimnext;

	// Preemption. Go's m.locks, m.preemptGen, m.signalPending.
	bool preempt;	     // asked to yield at the next interposed call; set by sysmon
	uint32_t preemptoff; // preempt_disable without preempt_enable; owner only
	int32_t locks;	     // interposed locks held; owner only. See lock_counted in scheduler.h
	const void *held;    // the mutex locked last, until it is unlocked; owner only
	const volatile void *
		spun; // the spin lock locked last, a byte further once it is unlocked; by its owner
	int32_t spin_turns; // how often in a row; owner only
	uint32_t
		signal_pending; // 1: a preemption signal is on its way; sysmon sets, the handler clears
	uint32_t preempt_gen; // signals handled
	bool waiting;	      // asleep in park_wait: the program's handlers may run, without a P
	bool dozes; // asleep in the library for a moment: waits for a lock of ours, or yields its CPU; for stw.c
	bool grace_over;   // sysmon: spared long enough, yield although locks > 0
	bool force;	   // sysmon: asked in vain for too long, stop wherever it is
	bool look;	   // sysmon: the signal on its way only asks whether it spins
	int64_t spin_look; // ns from the start of its slice to that question, or 0: as soon as any
	bool masked; // signals are blocked that the program did not block: ours, cancellation; owner only

	// Spin waits (spin.c). Owner only, but for what its queue looks at meanwhile.
	uintptr_t spin_pc;    // where it waited last
	int64_t spin_since;   // when that wait began
	int64_t spin_back;    // when it got a P again after the last yield of it
	int64_t spun_ns;      // of what it has held its P for: nobody is charged for that
	const void *tried;    // what it tried to take last, in vain
	uint32_t tries;	      // how often, without another one in between
	int64_t tried_since;  // since when in a loop
	int64_t tried_at;     // when it last had tried some times
	bool suspect;	      // those who spin may wait for it: a very short slice
	uint32_t spin_yields; // of that wait so far
	uint32_t spin_looked; // spinq.c: how much progress there had been when it looked last
	bool spin_behind;     // comes last: a sample found it waiting, or it waits outside a line
	struct spin_site *spin_at; // the entry for spin_pc at its last yield, or NULL
	bool spin_first;	   // spinq.c: it was about its turn when it was chosen last
	uint16_t spin_patience;	   // PAUSEs in the same wait until it yields again
	bool spin_arrived;	   // its last wait began, and it has not yielded since
	uint8_t spin_futile; // of its waits lately, how many more did not end before it yielded than did
	uint8_t spin_probes; // waits begun with little patience
	int64_t idle_ns;     // as spun_ns, but charged or not
	// convoy.c; owner only
	uint16_t line;			  // that it got in last, from 1 on; 0: none
	uint16_t line_lost;		  // that in which it lost its CPU since, or 0
	uint8_t line_passed, line_lost_n; // not in the figures of line yet

	uintptr_t spin_near; // where the last sample found it near a PAUSE, in code without a table
	uintptr_t spin_asked; // a sample found it waiting there; the injected call yields
	int64_t look_from;    // it has spun since then at the latest, as far as samples tell

	// Signals (signal.c).
	bool sig_blocked;      // the program blocked the preemption signal; we did not
	stack_t prog_altstack; // what the program set with sigaltstack
	void *altstack;	       // ours; type-stable with the G
	uint32_t sigcount;     // program handlers run on this thread, for the EINTR rule
	uint32_t signorestart; // of these, handlers without SA_RESTART
	uint32_t handlers;     // that run now, on top of a wait or a call

	// Start of the thread (interpose/thread.c).
	void *(*start)(void *);
	void *arg;
	uintptr_t stack_lo; // the program's choice, or 0: libc's, of
	size_t stack_size;  // this size, guard area not counted

	// For who looks at its stack while it stands still, and asks why (backtrace.c, waits.c). Written by the owner.
	struct frame at;	  // where it waits, or made a system call
	struct frame interrupted; // where a preemption stopped it; counts if is_interrupted
	bool is_interrupted;
	bool waits_forever;		   // no deadline ends the wait in the lot
	uintptr_t stack_bottom, stack_top; // as tls.stack_lo, stack_hi
	int64_t call_since;		   // entersyscallblock
	pthread_t joins;		   // whom, or 0
	int64_t told;  // sysmon: the wait that a deadlock was told of began then
	uint32_t mark; // sysmon: deadlock.c

	// Accounting, ns. Written by the owner or its granter.
	int64_t runnable_since; // when it last became runnable
	int64_t run_since;	// when it was last granted a P
	int64_t cpu_seen;	// sysmon: CPU time at last look
	int64_t cpu_awake; // sysmon: CPU time when its thread was last seen awake without getting on
	uint64_t seq_seen;    // sysmon: P word at last look
	int64_t stray_seen;   // sysmon: run_since of the stretch without a P last seen
	int64_t stray_cpu;    // sysmon: CPU time at the last look at that stretch
	int64_t signal_at;    // when signal_pending was set
	int64_t stray_waits;  // sysmon: how often it had blocked, or -1: not known
	int64_t stray_asked;  // sysmon: when it was first asked to queue in that stretch, or 0
	struct asking asking; // sysmon: preemption signals to it in that stretch
	int64_t burst;	     // ns that it has run since its last wait; those for locks do not count
	uint8_t long_bursts; // of these, in a row
	int64_t unwatched, reckoned_cpu, reckoned_run; // credit.c; owner only
	uint64_t run_ns, wait_ns, switches;
	char traced_name[16]; // tracer: the one it wrote last

#ifdef PREEMPT_INVARIANTS
	struct {
		uint32_t queued; // in a run queue, or on the way there or from there
		struct odd odd;
	} checks;
#endif
};

// A virtual processor. word is the whole state: generation and enum p_state. Whoever moves it to
// P_SCHED owns the rest; runq may besides be stolen from by anyone through runqhead.
struct p {
	uint64_t word;
	struct g *g; // holder in P_RUNNING
	uint32_t schedtick;
	uint32_t syscalltick;
	int64_t slice_start; // ns; when the running slice began (inherited through runnext)
	uint64_t
		resched; // the word under which its holder is to make room for a G that has been woken, or 0
	int64_t resched_at;	     // from then on
	const struct g *resched_for; // that one
	struct g *woke;		     // policy fair: woken last by its holder; a hint
	uint32_t woke_at;	     // where that was put in the queue; a hint
	uint32_t cpu;		     // where its holder began to run, or is expected to; a hint
	struct spin_site *freed_by;  // the spin wait that gave it up for its holder, or NULL
	bool in_vain;	// policy fair: its last holder looked in vain for what it waits for
	struct p *link; // sched.pidle
	uint32_t id;
	uint32_t rand;

	// Run queue: Go's ring. tail is written by the owner, head by anyone by CAS.
	uint32_t runqhead, runqtail;
	struct g *runnext; // readied by the running G; runs next and inherits its slice
	struct g *runq[RUNQ_SIZE];

	// sleepers.c: seen in the system call after so many, held under word, at this time first. Hints; any thread.
	struct {
		uint32_t tick;
		uint64_t word;
		int64_t when;
	} seen;

	// sysmon's notes.
	struct {
		int64_t slice_start; // these notes are of the slice that began then
		struct asking asking;
		bool requested, spared;
		int64_t look_at;  // when to ask the holder whether it spins
		int64_t begun;	  // its holder cannot have run before
		uint32_t unbegun; // looks that found so
	} sysmon;
#ifdef PREEMPT_INVARIANTS
	struct {
		struct odd odd;
	} checks;
#endif
} __attribute__((aligned(64)));

struct gqueue {
	struct g *head, *tail;
	uint32_t size;
};

// heap.c: a priority queue of Gs.
struct queued {
	int64_t key;
	struct g *gp;
};
struct heap {
	struct queued *at; // [0] is the least
	uint32_t n, cap;
	uint64_t seq;
};

struct sched {
	struct lock lock; // protects pidle, runq, gfree and resizing
	uint32_t nprocs;  // GOMAXPROCS; read anywhere, written under lock
	uint32_t npidle;
	struct p *pidle;
	struct gqueue runq; // size is read without the lock, and is that of fair's queue as well
	struct g *gfree;
	struct g *allgs; // pushed by CAS
	uint32_t ngs;	 // live Gs
	uint32_t goidgen;
	uint32_t ngs_made;    // Gs that have memory; written under lock
	int32_t demand;	      // Gs in run queues; counted after the put, so it may dip below 0
	uint32_t nprocs_made; // Ps ever initialised
	uint32_t active;      // enum phase
	bool open;	      // no sysmon: nobody is kept waiting for a P
	bool sealed; // a seccomp filter may kill for what we call: no sysmon, and no thread becomes a G (confine.c)
	bool membarrier;  // the kernel has it
	bool fenced;	  // entersyscall makes its own barrier: signals are being sent (preempt.c)
	bool fence_holds; // every thread knows of it
	bool stopping; // the world is to stop, or has: no P is given to anybody. Written under lock
	uint32_t watch_idle; // sysmon wants to know when all Ps idle (deadlock.c)
	int pid;
	int64_t start_time;
	struct p *allp; // MAX_PROCS, memory touched as used
	const struct policy *policy;
};
extern struct sched sched;

// enum phase: life of the process under the shim (HACKING.md, section 2).
enum phase { PHASE_DORMANT, PHASE_ACTIVE, PHASE_OFF };

// Who runs next. P is pinned by the caller. What may be NULL is of no concern to policy go.
struct policy {
	const char *name;
	bool global;	   // enqueue has no use for a P
	bool shares_locks; // and contended mutexes (lockshare.c)
	void (*enqueue)(struct p *pp, struct g *gp, bool next); // pp may be NULL: no P at hand
	struct g *(*pick)(struct p *pp, bool *inherit);
	bool (*take)(struct g *gp); // out of its queue, to run now; false: it is not there
	bool (*empty)(void);	    // no G in any queue, as far as can be seen without locks

	// May be NULL. drain: a dying P gives its queue away. charge: gp, the caller's own G, has run for ns until now. wakes: gp comes back from a wait, or is new, and
	// is about to run or to be queued. credit: may it run without a P? Who does not say, gives none to who was woken by another thread. victim: the P, and the word under which it is held, whose
	// holder should make room for a G that has just been queued, at *ret_at at the earliest, or NULL.
	// reserve, reset: memory for n Gs; the child of a fork has none.
	void (*drain)(struct p *pp);
	void (*charge)(struct g *gp, int64_t ns, int64_t now);
	void (*wakes)(struct g *gp, int64_t now);
	bool (*credit)(const struct g *gp);
	struct p *(*victim)(const struct g *woken, const struct g *self, int64_t now,
			    uint64_t *ret_word, int64_t *ret_at);
	bool (*reserve)(uint32_t n);
	void (*reset)(void);
};
extern const struct policy policy_go, policy_fair, policy_chaos;

// modules.c: the modules that a walk over the stack has met and compared with their tables.
enum { WALK_MODULES = 4 };
struct mapped;
struct stack_walk {
	bool on;
	unsigned n;
	const struct mapped *seen[WALK_MODULES];
};

// Per-thread state that exists for every thread, G or not. Initial-exec: no allocation, no call.
struct tls {
	struct g
		*g; // NULL: this thread passes through (foreign, dormant, in a handler without a P)
	struct g *self;	   // the thread's G even while g is NULL
	bool async_cancel; // the program has the asynchronous type of cancellation on
	bool outside;	   // g is NULL for that
	bool cancel_held;  // cancellation is blocked until critical is 0
	bool is_sysmon;
	uint32_t weight;		 // preempt_set_weight, or 0
	uint32_t pauses;		 // spin.c: PAUSEs in this wait, since the last yield
	uint32_t patience;		 // spin.c: of these, until it yields
	int64_t paused_since, paused_at; // spin.c: the first of these, and the last
	struct spin_site *spin_site;	 // spin.c: where this thread yields
	uint32_t critical;		 // > 0: the program's signal handlers are deferred
	uint32_t frames;		 // program handlers running on top of a wait or system call
	uintptr_t frames_lo, frames_hi;	 // their stack, when frames > 0: [frames_lo, frames_hi)
	uintptr_t
		deep; // in a call that passes through (deep_enter): stack pointer of its wrapper; else 0
	struct g *vfork_g; // what g was before vfork
	struct g *
		apart; // apart.c: those that wait for this thread, the last one first, by schedlink
	uint32_t vforked;  // > 0: between vfork and the return to its parent side
	uint32_t no_adopt; // > 0: do not make this thread a G (dying, vfork child, in a handler)
	bool sig_deferred; // one signal is held back until critical is 0, all others are masked
	siginfo_t sig_info;
	uint64_t sig_mask;	      // kernel mask to restore then
	uintptr_t stack_lo, stack_hi; // safepoint.c: the thread's own stack; 0: not known
	struct stack_walk walk;	      // in the handler
#ifdef PREEMPT_INVARIANTS
	struct {
		const struct lock *held[4];
		uint32_t nheld;
	} checks;
#endif
};
extern __thread struct tls tls __attribute__((tls_model("initial-exec"), visibility("hidden")));

static inline struct g *getg(void)
{
	return tls.g;
}

// Settings; shim/env.c has the table. Times in ns.
struct config {
	bool off, strict, asyncpreemptoff;
	int spin;  // enum spin_mode
	int procs; // 0: auto
	int64_t quantum, force_after, lock_grace, credit;
	int signal; // kernel number
	int dump_signal;
	int log; // enum log_level
	int deadlock;
	int schedtrace_ms;
	int chaos; // the seed, or 0
	const struct policy *policy;
	char stats[256], stats_page[256], trace[256], cache_dir[256], weights[1024], critical[1024];
};
extern struct config config;

// May a thread run on for a while without a P? Nobody could end that without signals.
static inline bool gives_credit(void)
{
	return config.credit && !config.asyncpreemptoff;
}

enum deadlock_mode { DEADLOCK_OFF, DEADLOCK_REPORT, DEADLOCK_ABORT };
enum spin_mode { SPIN_OFF, SPIN_ON, SPIN_SAMPLE };
enum log_level { LOG_OFF, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
