// scheduler.h: who runs: Gs and Ps, queues and policies, waits, sysmon. Included by shim.h, whose rules hold.

#pragma once

#include <ucontext.h>

#include "table.h"
#include "trace.h"
#include "types.h"

// --- g.c --------------------------------------------------------------------------------------
struct g *g_alloc(void);   // G_IDLE with its alternate stack, or NULL: out of memory
void g_free(struct g *gp); // G_DEAD or never started
size_t g_altstack_size(void);
void g_has_tid(struct g *gp);	 // so that it is found; the last one with the same hash is
struct g *g_queued(int32_t tid); // the G of this thread, if it wants a P and has none; a hint

// --- idle.c: the Ps, and which are idle ----------------------------------------------------------
void pidleput(struct p *pp); // pinned; sched.lock must be held
struct p *pidleget(void);    // pinned, or NULL
void procresize(int nprocs);
void sched_open(void); // no sysmon: let everybody run

// --- spinq.c: the order of those who spin; the caller holds sched.lock ------------------------------
struct spinq {
	struct gqueue all; // who looked longest ago first
	uint32_t progress; // counts what may have ended their waits
	uint32_t turns;	   // choices so far
	uint32_t passed;   // how often in a row the first was passed over
};
void spinq_put(struct spinq *q, struct g *gp);
void spinq_progress(struct spinq *q);
struct g *spinq_choose(struct spinq *q, uint64_t taken); // NULL: nobody is there
static inline uint64_t cpu_bit(uint32_t cpu)		 // bit 63: from 63 on
{
	return (uint64_t)1 << (cpu < 63 ? cpu : 63);
}

// --- runq.c: the queues of policy go ------------------------------------------------------------
void runqput(struct p *pp, struct g *gp, bool next);
struct g *runqget(struct p *pp, bool *ret_inherit);
bool globrunqtake(struct g *gp); // false: it is not there
// Queues whose lock the caller holds.
enum { SPIN_TURNS = 8, SPIN_LAST = SPIN_TURNS - 1 };  // of gp->spin_yields: behind all
void gqueue_put_spun(struct gqueue *q, struct g *gp); // READY_SPUN: where it belongs
bool gqueue_take(struct gqueue *q, const struct g *gp);
void gqueue_put(struct gqueue *q, struct g *gp); // last
struct g *runqsteal(struct p *pp, struct p *victim, bool steal_runnext);
bool runqempty(const struct p *pp);
bool globrunqempty(
	void); // as far as can be seen without its lock; of policies with one queue, that one
void globrunqput(struct g *gp);
struct g *globrunqget(struct p *pp, uint32_t max); // pp gets the rest of a batch; NULL: one only

// --- heap.c: Gs by key; the caller holds the lock of the heap --------------------------------------
bool heap_reserve(struct heap *h, uint32_t n); // room for n in all; false: no memory
// Returns where in at it is now; that changes with every push and take.
uint32_t heap_push(struct heap *h, int64_t key, struct g *gp);
struct g *heap_take(struct heap *h, uint32_t i); // at[i], 0: the least

// --- policies.c ------------------------------------------------------------------------------------
uint32_t policy_number(const struct policy *policy);
const struct policy *policy_numbered(uint32_t number); // NULL: there is none
const struct policy *policy_named(const char *name);   // as above

// --- policy_fair.c -------------------------------------------------------------------------------
int64_t fair_clock(void); // the virtual time of the process

// --- weight.c ------------------------------------------------------------------------------------
enum { WEIGHT_ORDINARY = 100 * 1024 };
void weigh(struct g *gp);     // gp's thread: its weight from its name and priority
void weigh_poll(int64_t now); // sysmon: does it for those that a seccomp filter watches
void weigh_reset_in_child(void);
uint32_t weight_of_name(const char *list, const char *name); // list: PREEMPT_WEIGHTS
uint32_t weight_from(uint32_t named, int class, int nice);   // class: SCHED_*

// --- chaos.c: schedules drawn from a seed ---------------------------------------------------------
void chaos_init(void); // after env_read
void chaos_yield(struct g *gp);
// sysmon. The clock says that the slice of gp, which holds pp, is over, or that it has been in a call since then.
enum chaos_verdict { CHAOS_SPARED, CHAOS_BLOCKED, CHAOS_OVER };
enum chaos_verdict chaos_judge(const struct p *pp, struct g *gp, int64_t now, int64_t *ret_end);
bool chaos_takes(const struct g *gp, int64_t since, int64_t now);

// At calls that touch what threads share. gp may be NULL.
static inline void chaos_point(struct g *gp)
{
	if (unlikely(config.chaos) && gp)
		chaos_yield(gp);
}
// No decision depends on time.
static inline bool chaos_repeats(void)
{
	return unlikely(config.chaos) && load_relaxed(&sched.nprocs) == 1;
}

// --- proc.c -----------------------------------------------------------------------------------
void gosched(struct g *gp, enum g_status as); // let others run: as = G_RUNNABLE or G_PREEMPTED
void preempt_check_slow(struct g *gp);
bool preempt_due(struct g *gp);
bool gopark_begin(struct g *gp, enum wait_reason why); // false: was readied already, P is kept
bool gopark_begin_for(struct g *gp, enum wait_reason why, struct g *owner);
void gosched_spun(struct g *gp, struct g *owner);
enum {
	PARK_CANCEL = 1,
	PARK_EINTR = 2,
	PARK_EINTR_ANY = 4
};	// what ends a wait besides its deadline:
	// pthread_cancel; a handler without SA_RESTART; any handler
// What PARK_EINTR and PARK_EINTR_ANY count from. A wait of several park_waits takes it once, at its begin: a
// handler may run between two of them.
struct handled {
	uint32_t any, norestart;
};
static inline struct handled handled_so_far(const struct g *gp)
{
	return (struct handled){load_relaxed(&gp->sigcount), load_relaxed(&gp->signorestart)};
}
int park_wait_since(struct g *gp, const struct deadline *until, unsigned flags,
		    struct handled since);
static inline int park_wait(struct g *gp, const struct deadline *until, unsigned flags)
{
	return park_wait_since(gp, until, flags, handled_so_far(gp));
}
// Own thread, with no P and in no queue: take an idle one, run on without, or queue.
void run_again(struct g *gp, bool on_credit, enum ready_as as);
void gounpark(struct g *gp); // own thread, parked and in no queue: get a P again
void goready(struct g *gp);  // signal-safe
void entersyscall_slow(struct g *gp);
void exitsyscall_slow(struct g *gp);
void entersyscallblock_slow(struct g *gp);
void sched_restart(void);    // idle Ps take what was queued while the world was stopped
void handoffp(struct p *pp); // pp pinned: give it to whom it is due, or let it idle
bool retakep(struct p *pp, uint64_t word); // CAS word away; true: pp is pinned by the caller
struct p *pin(struct g *gp);
void wakep(
	int64_t now); // work was queued without a P: one that is idle, or whose holder sleeps, takes it

static inline void set_status(struct g *gp, enum g_status to)
{
	CHECKED(invariant_status(gp, to));
	store_relaxed(&gp->status, to);
}

static inline bool demand(void)
{
	return load_relaxed(&sched.demand) > 0;
}

static inline void preempt_if_asked(struct g *gp)
{
	if (unlikely(load_relaxed(&gp->preempt)))
		preempt_check_slow(gp);
}

// The cooperative safe point of every interposed call.
static inline void preempt_check(struct g *gp)
{
	preempt_if_asked(gp);
	chaos_point(gp);
}

// gp->locks, by its owner. Counted before the try, so that a preemption right after it sees a holder. The preemption
// handler sets the count to 0 after a grace, also between the steps here: it may come out one too low, but
// not below -1, and heals with the next pair. (It once wrapped round, and such a thread had its grace with every slice.)
static inline void lock_counted(struct g *gp)
{
	chaos_point(gp);
	gp->locks++;
	INVARIANT(gp->locks >= 0, gp, NULL); // -1 at most before
	compiler_barrier();
}
static inline void lock_not_counted(struct g *gp)
{
	compiler_barrier();
	if (likely(gp->locks > 0))
		gp->locks--;
}
// Unlocked; with the last lock a request that was deferred is taken. gp may be NULL.
static inline void lock_released(struct g *gp)
{
	INVARIANT(!gp || gp->locks >= -1, gp, NULL);
	if (likely(gp && gp->locks > 0) && --gp->locks == 0)
		preempt_check(gp);
	else
		chaos_point(gp);
}

// Where the caller is now, for backtrace.c. Its frame must last while others may look.
static inline __attribute__((always_inline)) void frame_here(struct frame *f)
{
	__asm__ volatile("lea 0(%%rip), %%rax\n\tmov %%rax, %0\n\tmov %%rsp, %1\n\tmov %%rbp, %2"
			 : "=m"(f->pc), "=m"(f->sp), "=m"(f->bp)
			 :
			 : "rax");
}

// The rest of entersyscall.
static inline __attribute__((always_inline)) void entersyscall_untraced(struct g *gp)
{
	CHECKED(invariant_alone());
	set_status(gp, G_SYSCALL);
	if (unlikely(load_relaxed(&sched.fenced)))
		(void)xchg(&gp->status, G_SYSCALL); // full barrier; pairs with the cas in preempt_m
	compiler_barrier();
	if (unlikely(load_relaxed(&gp->signal_pending)))
		entersyscall_slow(gp);
}

// About to make a call that may block. The P stays, but sysmon may retake it. Keeps errno.
static inline __attribute__((always_inline)) void entersyscall(struct g *gp)
{
	frame_here(&gp->at);
	TRACE(write, TRACE_SYSCALL_BEGIN, 0, gp->p, gp->goid, 0, gp->at.pc, 0);
	entersyscall_untraced(gp);
}

// About to make one that will block: the P is handed on at once.
static inline __attribute__((always_inline)) void entersyscallblock(struct g *gp)
{
	frame_here(&gp->at);
	entersyscallblock_slow(gp);
}

// Back from it, or from entersyscallblock. Keeps errno.
static inline void exitsyscall(struct g *gp)
{
	struct p *pp = gp->p;

	compiler_barrier();
	if (likely(pp) && likely(load_relaxed(&pp->word) == (gp->pseq | P_RUNNING))) {
		store_relaxed(&pp->syscalltick, pp->syscalltick + 1);
		set_status(gp, G_RUNNING);
		TRACE(write, TRACE_SYSCALL_END, 0, pp, gp->goid, 0, 0, 0);
	} else {
		exitsyscall_slow(gp);
	}
	preempt_check(gp);
}

// A call that runs code outside libc, which comes back through our wrappers: until it ends, the thread passes
// through. sp: of the caller, so that a longjmp out of it is recognised.
static inline void deep_enter(struct g *gp, void *sp)
{
	entersyscall(gp);
	tls.deep = (uintptr_t)sp;
	tls.no_adopt++;
	compiler_barrier();
	tls.g = NULL;
}
static inline void deep_leave(struct g *gp)
{
	tls.g = gp;
	compiler_barrier();
	tls.no_adopt--;
	tls.deep = 0;
	exitsyscall(gp);
}

// --- life.c: how Gs begin and end ---------------------------------------------------------------
int sched_init(int nprocs);	 // P pool; 0 or -errno
void sched_start(struct g *gp);	 // the calling thread becomes gp and takes a P without waiting
void sched_reset_in_child(void); // after fork: one thread, dormant
void gostart(
	struct g *gp); // a new thread becomes gp, which was made parked; returns once it holds a P
void process_leaves(void); // exit, exec: files and helpers
void goexit(void);	   // the calling thread leaves the scheduler, its P goes on
void park_settle(void);	   // the thread unwinds from its wait for good
// The calling thread passes through for as long as it may be cancelled anywhere. Both may be called at any time.
void outside_enter(void);
void outside_leave(void);
// The thread goes on at stack pointer sp, by longjmp (LEAVES: leaves for good): if that is outside of a handler that
// ran on top of a wait or a call, or outside of a deep call, end what it leaves. True: it did.
bool park_abandon(uintptr_t sp);
#define LEAVES UINTPTR_MAX

// --- credit.c: who runs without a P -------------------------------------------------------------
bool credit_back(const struct g *gp, int64_t now);  // may it, back from a wait of its own?
bool credit_woken(const struct g *gp, int64_t now); // may it, woken by another thread?
bool credit_is_common(int64_t now);		    // most come back on credit
void runs_without(struct g *gp, int64_t now);	    // it does; then sysmon_stray
void stray_ends(struct g *gp, const struct p *lost, int64_t now); // it stops; by its own thread
void burst_ends(struct g *gp);					  // the same, with a P or without

// --- sleepers.c -------------------------------------------------------------------------------
enum { RETAKE_AFTER = 20000 };	     // ns in one system call; Go's sysmon tick
struct p *p_of_sleeper(int64_t now); // of a G in a long system call, pinned, or NULL; critical > 0
int64_t in_syscall_since(struct p *pp, uint64_t word, int64_t now); // as far as has been seen

// --- sysmon.c ---------------------------------------------------------------------------------
int sysmon_start(void);	      // 0 or -errno
bool sysmon_stop(void);	      // false: it is not there
void sysmon_sealed(void);     // any thread: ends it, for a seccomp filter
void sysmon_last(int status); // the last thread of the program exits with it; no other can come
void sysmon_kick(void);	      // there is demand (again): wake if in deep sleep; signal-safe
void sysmon_refused(void);    // the preemption handler did not stop its thread; signal-safe
// Who holds pp under word is to make room for woken, at the time at; self: the waker's G or NULL. Signal-safe.
void sysmon_ask(struct p *pp, uint64_t word, int64_t at, const struct g *woken,
		const struct g *self);
// Does it still wait?
static inline bool resched_waits(const struct p *pp)
{
	const struct g *gp = load_relaxed(&pp->resched_for);

	return gp && load_relaxed(&gp->status) == G_RUNNABLE;
}
void sysmon_spins(int64_t now); // slices are shorter from now on for a while
void sysmon_reset_in_child(void);
void sysmon_notice(void);     // something else than demand is to be done now; signal-safe
void sysmon_turns_deaf(void); // sysmon: requests of commands will not be answered
// For stw.c, by sysmon.
int64_t signal_g(struct g *gp, const struct p *pp, uint64_t word, struct asking *asking,
		 int64_t since, int64_t now, int64_t answered);
void take_and_hand_off(struct p *pp, uint64_t word, struct g *gp, bool queue, int64_t until,
		       uint64_t *count);

// --- strays.c ---------------------------------------------------------------------------------
void sysmon_stray(void); // a G runs on credit; signal-safe
// The rest is sysmon's, which looks every tick for something else. Both return when to look again.
int64_t watch_strays(int64_t now, int64_t tick);       // while somebody waits for a P
int64_t watch_strays_alone(int64_t now, int64_t tick); // while nobody does
bool strays_told(void); // there may be some that have not been looked at
void strays_left(void); // there may be, when nobody waits any more
void strays_reset_in_child(void);

// --- stw.c: stop the world -----------------------------------------------------------------------
enum stw_state { STW_GOES, STW_STOPPING, STW_STOPPED };
enum { STRAGGLERS = 8 };
struct stopped {
	int64_t ns;	  // from the request to the last thread
	uint32_t threads; // that stand still
	uint32_t
		stragglers; // threads that do not; asleep in the kernel where no interposer saw it, after a success
	int32_t straggler[STRAGGLERS]; // tids of the first
};
int stw_stop(int64_t timeout, struct stopped *ret); // 0 or -errno: see there
int stw_start(void);
enum stw_state stw_state(void);
int64_t stw_since(void);
int64_t stw_poll(int64_t now);
bool stw_stop_by_sysmon(void); // false: not now, another thread does
void stw_start_by_sysmon(void);
const struct stopped *stw_result(void);
void stw_thread_exits(void);
void stw_hold(void);
void stw_reset_in_child(void);

// --- futexhash.c -------------------------------------------------------------------------------
void futexhash_poll(int64_t now); // sysmon, when there is demand
void futexhash_reset_in_child(void);

// --- park.c: the parking lot ------------------------------------------------------------------
// LOT_BARRED: share_barred. LOT_TRIER: lot_pause; woken only if there is nobody else.
enum { LOT_ANY, LOT_READER, LOT_WRITER, LOT_BARRED, LOT_TRIER };
// Try to take the object; 0 or an error; EBUSY: not now.
typedef int lot_try_fn(void *obj);
// Queue, try again, park; until taken (0), the deadline (ETIMEDOUT), or another error of try.
// flags: PARK_*, with errors ECANCELED, EINTR. The caller has tried once already. Re-tries by itself at a bounded interval, so that a release by
// code that was not interposed is seen.
int lot_acquire(struct g *gp, void *obj, lot_try_fn *try, int kind, enum wait_reason why,
		const struct deadline *until, unsigned flags);
void lot_pause(struct g *gp, const void *obj, const int *word, int64_t ns);
// In a critical section, which lasts until the G has parked (lot_wait) or is out of the queue.
void lot_enqueue(struct g *gp, const void *addr, int kind);
bool lot_leave(struct g *gp); // true: was still queued; false: a waker has it and will goready it
bool lot_leave_parked(struct g *gp); // the same after gopark_begin; true: gounpark is next
void lot_absorb(struct g *gp);	     // after lot_leave said false: take the wake-up that is coming
// Park after lot_enqueue, and leave the caller's critical section. 0: woken; else ETIMEDOUT, ECANCELED or
// EINTR as flags (PARK_*) allow.
int lot_wait(struct g *gp, enum wait_reason why, const struct deadline *until, unsigned flags);
bool lot_has_waiters(const void *addr); // may say yes for another address, never wrongly no, if the
					// caller's release was a locked instruction before it
int lot_wake(const void *addr, int n);	// ready up to n waiters in FIFO order; signal-safe
// The first writer, or all readers before it. While there are claims: the first writer, wherever it is queued.
int lot_wake_rwlock(const void *addr);
// The caller waits for addr as a writer, and readers shall not pass it; from before lot_acquire to after it. The
// object itself does not know of waiters in the lot. False: no, gp has a claim already.
bool lot_claim(struct g *gp, const void *addr);
void lot_unclaim(struct g *gp,
		 bool wake); // wake: the readers who waited for that, as no unlock will
bool lot_claimed(const void *addr);
// Signal a condition variable. held: the mutex that the caller holds, or NULL; a waiter that will need
// it is not woken but moved to its queue, and readied by the unlock. broadcast moves all waiters but the
// first in any case, each to the queue of its own mutex. False: there was no waiter.
bool lot_signal(const void *cond, const void *held);
bool lot_broadcast(const void *cond, const void *held);
// Ready those who were moved to mutex: they wait again as lot_acquire does, and look by themselves.
void lot_wake_moved(const void *mutex);
// Arrive at a barrier for count: true for the one that completes the round and has woken the others;
// the others return false after the round, having parked.
bool lot_barrier(struct g *gp, const void *addr, unsigned count);
// The same but for the waiting; in a critical section. False: gp is queued.
bool lot_arrive(struct g *gp, const void *addr, unsigned count);
void lot_reset_in_child(void);

// --- apart.c: threads that are no Gs ------------------------------------------------------------------
// As lot_barrier. gp: all 0, in the caller's frame; if that is left otherwise than by return, apart_leaves comes first.
bool apart_barrier(struct g *gp, const void *addr, unsigned count);
void apart_ready(struct g *gp); // it was taken out of its queue
void apart_leaves(void);	// the calling thread jumps: none of its waits may be left queued
void apart_reset_in_child(void);

// --- lockshare.c: shares of a contended mutex --------------------------------------------------------
// gp is about to wait for m; it has let go of it, and there are waiters: wakes one of them; it may not have it now.
void share_waits(struct g *gp, const void *m);
void share_released(struct g *gp, const void *m);
void share_barred(struct g *gp, void *m);

// --- spin.c: threads that wait by spinning -----------------------------------------------------------
// gp, the caller's, has spun at pc since then: let others run; owner, or NULL: whom it waits for. Stack: as gosched.
void spin_yield(struct g *gp, uintptr_t pc, int64_t since, struct g *owner);
// The same; for a lock whose address is known.
void spin_yield_lock(struct g *gp, const volatile void *lock, uintptr_t pc, int64_t since,
		     struct g *owner);
// The same, found by a sample: to find out that it still waits takes long, so it comes behind all who wait now.
void spin_sampled(struct g *gp, uintptr_t pc, int64_t since);
bool spin_goes_on(const struct g *gp, uintptr_t pc,
		  int64_t since);	  // it is the wait of the last yield
void spin_used(struct p *pp, int64_t ns); // what a spin wait gave up was used for so long
bool spin_paused(struct g *gp, uintptr_t pc);
enum {
	SPIN_HOLDER = 24 * 16
}; // PAUSEs until who holds interposed locks yields, for others wait for those
bool spin_tried(struct g *gp, const void *obj);
bool spin_yields(struct g *gp, uintptr_t from);
bool convoy_joins(struct g *gp, uint32_t line);
void convoy_waits(struct g *gp);
void convoy_lost(struct g *gp);
void convoy_reset_in_child(void);
bool spin_seen_lately(int64_t now); // somebody spun, and was made to yield
struct spin_site {
	uintptr_t pc;
	uint64_t yields, saved_ns;
	int32_t order; // how often, lately, who looked in its turn got on, more than not; at 0 or above
};
uint32_t spin_top(struct spin_site *ret, uint32_t n); // how many there are, at most n
void spin_reset_in_child(void);
