// shim.h: all prototypes of the core that cross a file, grouped by file.
//
// Rules that hold for everything declared here:
//  - No libc function is called (tools/check/symbols.sh compares undefined symbols with a list).
//  - errno is never touched.
//  - "signal-safe": may be called from a signal handler, also of the program.
//  - A shim lock is only held with tls.critical > 0.

#pragma once

#include <sys/syscall.h>
#include <ucontext.h>

#include "invariants.h"
#include "table.h"
#include "trace.h"
#include "types.h"

// --- critical sections (signal.c) -------------------------------------------------------------
// While tls.critical > 0 the program's handlers on this thread are deferred, and the preemption
// handler goes away. Sections nest and must be short: no waiting but for a shim lock.
static inline void critical_enter(void)
{
	tls.critical++;
	compiler_barrier();
}
static inline void critical_leave(void)
{
	compiler_barrier();
	INVARIANT(tls.critical > 0 && tls.critical < 64, tls.self, NULL);
	if (--tls.critical == 0 && unlikely(tls.sig_deferred)) {
		extern void signal_deliver_deferred(void);
		signal_deliver_deferred();
	}
}

// --- log.c ------------------------------------------------------------------------------------
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// The state is broken: say so on stderr and abort. Always on.
void throw(const char *why) __attribute__((noreturn));

// --- env.c ------------------------------------------------------------------------------------
// Fill config from getenv_fn (secure_getenv in the shim, a fake in tests). Returns the number of
// bad or unknown settings; each has been logged in one line.
int env_read(const char *(*getenv_fn)(const char *), char **environ);
void env_help(struct text *out);
// For the command, which makes an option of each setting.
struct setting_info {
	const char *name, *arg, *range, *help, *def;
	bool is_switch;
};
bool env_setting(int i, struct setting_info *ret); // false: there is no setting i
const char *env_check(int i, const char *value);   // NULL, or what value is not; writes to config

// --- cgroup.c ---------------------------------------------------------------------------------
// CPUs that the cgroup quota (v2 cpu.max, v1 cpu.cfs_quota_us) allows, rounded up; 0: no limit.
// The first call (init) finds the files below root ("" in the shim), later ones only read them.
void cgroup_init(const char *root);
int cgroup_cpus(void);

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

// --- trace.c ----------------------------------------------------------------------------------
extern bool trace_on __attribute__((visibility("hidden")));
void trace_open(void);		    // activation, after sched_init
void trace_settle(void);	    // the process ends; signal-safe
void trace_thread_ends(int status); // no thread of ours may be left
void trace_reset_in_child(void);
// pp: the P that the event happened on, or NULL; now: the time, or 0: take it.
void trace_write(enum trace_kind kind, unsigned detail, const struct p *pp, uint32_t g,
		 uint32_t other, uint64_t arg, int64_t now);
void trace_start(const struct p *pp, const struct g *gp, bool inherits, int64_t now);
void trace_block(const struct p *pp, const struct g *gp, int64_t now);
void trace_unblock(const struct g *gp, bool itself, int64_t now);
void trace_yield(const struct p *pp, const struct g *gp, bool forced, bool asked, int64_t now);
void trace_retake(const struct p *pp);
void trace_end_of(const struct g *gp);
// Without a trace all of them are a load and a branch. TRACE(start, pp, ...) is trace_start(pp, ...).
#define TRACE(what, ...)                                                                           \
	do {                                                                                       \
		if (unlikely(load_relaxed(&trace_on)))                                             \
			trace_##what(__VA_ARGS__);                                                 \
	} while (0)

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

// The cooperative safe point of every interposed call.
static inline void preempt_check(struct g *gp)
{
	if (unlikely(load_relaxed(&gp->preempt)))
		preempt_check_slow(gp);
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
	struct g *gp);	// a new thread becomes gp, which was made parked; returns once it holds a P
void goexit(void);	// the calling thread leaves the scheduler, its P goes on
void park_settle(void); // the thread unwinds from its wait for good
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
void burst_ends(struct g *gp, int64_t now);			  // the same, with a P or without

// --- sleepers.c -------------------------------------------------------------------------------
enum { RETAKE_AFTER = 20000 };	     // ns in one system call; Go's sysmon tick
struct p *p_of_sleeper(int64_t now); // of a G in a long system call, pinned, or NULL; critical > 0
int64_t in_syscall_since(struct p *pp, uint64_t word, int64_t now); // as far as has been seen

// --- sysmon.c ---------------------------------------------------------------------------------
int sysmon_start(void);	      // 0 or -errno
bool sysmon_stop(void);	      // false: it is not there
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
void sysmon_stray(void);      // a G runs on credit; signal-safe
void sysmon_notice(void);     // something else than demand is to be done now; signal-safe
void sysmon_turns_deaf(void); // sysmon: requests of commands will not be answered
// For stw.c, by sysmon.
int64_t signal_g(struct g *gp, const struct p *pp, uint64_t word, struct asking *asking,
		 int64_t since, int64_t now, int64_t answered);
void take_and_hand_off(struct p *pp, uint64_t word, struct g *gp, bool queue, int64_t until,
		       uint64_t *count);

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

// --- preempt.c --------------------------------------------------------------------------------
void preempt_init(void);
void preempt_rests(void);					 // before there is a second thread
bool preempt_m(struct g *gp, const struct p *pp, uint64_t word); // true: a signal was sent
bool preempt_m_if_fenced(struct g *gp, const struct p *pp, uint64_t word); // any thread
bool preempt_is_ours(const siginfo_t *info);
void preempt_handler(int sig, siginfo_t *info, void *uc);
void preempt_drain(struct g *gp); // wait, bounded, until a signal on its way has arrived
void preempt_unmask(
	struct g *gp); // what the handler left masked, for one who does not go back to it

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

// --- cache.c ----------------------------------------------------------------------------------
// Which module: its build-id (size > 0), or device, inode, size, mtime in ns as four 64-bit numbers (size 0).
struct module_id {
	uint8_t id[TABLE_ID_MAX]; // rest is 0
	uint32_t size;
};
// The directories, once, before any thread exists; empty strings or NULL: unset. A directory is only used while it
// belongs to the effective user or root and nobody else may write to it.
void cache_init(const char *dir, const char *xdg_cache_home, const char *home, const char *globs);
// Map and check a table. 0, -ENOENT (build it), -EPERM (directory or file of somebody else's), -EBADMSG
// (stale or corrupt: build it anew), or another -errno.
int cache_open(const struct module_id *id, struct table *ret_table, size_t *ret_size);
void cache_close(struct table *table, size_t size);
// Where a builder puts it: 0 with the path, or -EPERM, -ENOENT (no directory can be used).
int cache_path(const struct module_id *id, struct text *ret_path);
uint64_t cache_globs_hash(const char *globs); // 0 for none
// For builders and tools. The directory that tables are put into, or NULL: none can be used.
const char *cache_dir(void);
int cache_dir_open(
	const char *path); // O_PATH descriptor of a directory that may be used, or -errno
// Like cache_open, without keeping the table; whole = false: look at the header only. ret_path, if not NULL, gets
// the file that was found, else the one of the user's directory.
int cache_probe(const struct module_id *id, bool whole, struct text *ret_path);
extern const char *cache_system_dir;

// --- maps.c: what is mapped, read by sysmon --------------------------------------------------------
struct map_line {
	uintptr_t start, end;
	uint64_t offset, dev, ino; // dev as in st_dev
	bool exec, deleted;
	bool text;	  // r-xp
	const char *path; // "" if it is no file
};
struct map_cursor {
	uint64_t offset; // of the first line not yet seen
	bool done;
};
typedef void map_fn(void *arg, const struct map_line *line);
// The next lines of /proc/self/maps through buf, at least a few, for so many ns. 0 or -errno.
int maps_read(struct map_cursor *c, char *buf, size_t size, int64_t time, map_fn *fn, void *arg);
bool maps_parse(char *line, struct map_line *ret_line); // one line without its newline; changes it
// Our own memory, which may be unmapped meanwhile: 0 or -errno, never a fault.
int memory_read(uintptr_t addr, void *buf, size_t size);
// Which module lies at [start, end). line: of one of its mappings, or NULL; needed if there is no build-id.
int module_identify(uintptr_t start, uintptr_t end, const struct map_line *line,
		    struct module_id *ret_id);

// --- backtrace.c: the callers of a thread that stands still --------------------------------------
struct place {
	uintptr_t pc;
	bool exact; // else a return address
};
bool backtrace_start(const struct g *gp, struct frame *ret); // false: it is not known where it is
int backtrace_walk(const struct g *gp, struct frame f, struct place *v,
		   int max); // how many places

// --- waits.c: whom a waiting G waits for -----------------------------------------------------------
const struct g *wait_owner(const struct g *gp, int *ret_tid);
int mutex_owner(const void *mutex); // tid, or 0
const struct g *g_of_tid(int tid);

// --- dump.c: what all threads do --------------------------------------------------------------------
int64_t dump_poll(int64_t now); // sysmon
enum {
	DUMP_MARK = 0x70726464
}; // in the high half of the value of `preempt dump`'s signal; the low half is a number for the file
void dump_signalled(void);
void dump_wanted(uint32_t nonce);
void dump_deadlock(void);
int dump_to(int fd);
void dump_thread(struct text *t, const struct g *gp, int64_t now);
void dump_all_threads(struct text *t, int64_t now);
void dump_reset_in_child(void);

// --- snapshot.c: what all threads do, for `preempt top`. snapshot.h has the file --------------------
int64_t snapshot_poll(int64_t now); // sysmon
void snapshot_wanted(void);	    // signal-safe
void snapshot_init(const char *dir, bool secure);
void snapshot_leave(void); // any thread: the process ends, or is about to exec
void snapshot_stay(void);  // the exec has failed
void snapshot_reset_in_child(void);

// --- deadlock.c: threads that wait for each other ---------------------------------------------------
int64_t deadlock_poll(int64_t now);   // sysmon
int64_t deadlock_sleeps(int64_t now); // sysmon
void deadlock_suspect(void);
void sysmon_idles(void);
void deadlock_write(struct text *t);
void deadlock_told(void);
void deadlock_reset_in_child(void);

// --- modules.c: which modules are mapped, and their tables ---------------------------------------
// glibc's struct dl_find_object and _dl_find_object (2.35); NULL: not there. Set by init.c.
struct loaded_object {
	unsigned long long flags;
	void *map_start, *map_end, *link_map, *eh_frame;
	unsigned long long reserved[7];
};
typedef int modules_find_object_fn(void *pc, struct loaded_object *ret_object);
extern modules_find_object_fn *modules_find_object;
// The table of the module that pc lies in now, and its load bias (run-time minus link-time address), or
// NULL: there is none (yet); the miss is noted for sysmon. Signal-safe, no locks, some 100 ns.
const struct table *modules_find(uintptr_t pc, uintptr_t *ret_bias);
// Around lookups for one walk over the calling thread's stack, with all signals blocked: each module is
// compared with its table once.
void modules_walk(bool begins);
void modules_unload(bool begins); // dlclose; signal-safe

enum { MODULES_MAX = 1024, MODULES_INDEX = 2048, MODULES_MISSES = 64, MODULES_BATCH = 64 };
// Of a module's table.
enum table_state {
	TABLE_NEW,     // not yet looked for
	TABLE_OPENING, // in st.order (loading.c)
	TABLE_LOADED,  // table is set
	TABLE_MISSING, // the helper could build it
	TABLE_ASKED,   // the helper has been told
	TABLE_NONE,    // there is none, and it is of no use to ask
};

// A module at a place. Entries are added by sysmon and stay.
struct mapped {
	uintptr_t start, end;
	const struct table *table; // NULL: none (yet)
	uint32_t gen;		   // unloads when it was last identified
	bool wanted;		   // a PC in it was looked for and had no table
	bool by_id;		   // has a build-id

	// sysmon's.
	struct module_id id;
	const char *path; // NULL: not known, or deleted
	uint32_t seen;	  // round of the scan that found it last
	uint8_t state;
	uint8_t sites;	     // enum sites_state
	uint32_t sites_gen;  // unloads when they were rewritten
	uintptr_t site;	     // one of them, or 0
	int64_t sites_since; // its table is here
	bool asked;	     // once per process
	bool again;	     // its table could not be opened for lack of memory or descriptors
	struct table own;
	size_t size;
};

struct modules {
	uint32_t n;
	uint16_t index[MODULES_INDEX]; // number of the entry + 1, by start; open addressing
	struct mapped v[MODULES_MAX];
	size_t paths_used;
	char paths[192 * 1024]; // one that finds no room is never handed to the helper
	char lines[24 * 1024];
	char run_path[4096];
};
extern struct modules *modules; // NULL until sysmon first needs it; never unmapped
extern bool modules_missed;	// there is a miss to be taken
uintptr_t modules_take_miss(int i);
uint32_t modules_unloads(void);
// sysmon: the link-time address of pc, and the file it is in; or pc itself, and NULL.
uintptr_t modules_place(uintptr_t pc, const char **ret_path);
bool modules_unloading(void);	     // dlclose runs
void modules_forget_unloading(void); // in the child of a fork
static inline uint32_t modules_hash(uintptr_t start)
{
	return (uint32_t)((start >> 12) * 0x9e3779b97f4a7c15u >> 40);
}

// --- loading.c ------------------------------------------------------------------------------------
// sysmon: look for new modules and tables, for at most about 0.5 ms (more when one table is large); returns when to
// call again, INT64_MAX if only a miss makes it necessary.
int64_t modules_poll(int64_t now);
bool modules_settled(void); // all tables that there will be are there
void modules_reset_in_child(void);

// --- helper.c: the process that builds missing tables ---------------------------------------------
void helper_environment(char *const envp[]);	   // before any thread exists; NULL: never start it
void helper_library(const char *path);		   // where we are; finds the command. Once
int helper_start(const char *const *paths, int n); // sysmon; 0 or -errno. One at a time
int helper_poll(void);	   // sysmon; -EAGAIN: still running, -ECHILD: none, else its exit status
bool helper_running(void); // sysmon: helper_poll has something to do
void helper_end(void);	   // sysmon: kill it; helper_poll reaps it
void helper_leave(
	void); // any thread: the process ends, or is about to exec: kill and reap what there is
void helper_stay(void); // any thread: the exec has failed
// Run fn(arg) in a process that shares our memory; it makes system calls only, without thread-local data. 0, or -errno:
// it cannot be. One at a time: until helper_calling says no.
int helper_call(void (*fn)(void *), void *arg);
bool helper_calling(void);
bool helper_clones(void); // may a process be made of this one?
void helper_reset_in_child(void);

// --- confine.c: what a seccomp filter lets us do -----------------------------------------------------
// Calls by what they are for. os_confined is for who may ask nothing but that, in a handler.
enum {
	CONFINE_FILES = 1,   // files, descriptors, processes
	CONFINE_VM = 2,	     // process_vm_readv, process_vm_writev
	CONFINE_TEXT = 4,    // memory that becomes executable
	CONFINE_WAIT = 8,    // waitid
	CONFINE_TABLES = 16, // what it takes to open a table
};
void confine_init(void);  // at the start of the process: 100 ns without a filter
void confine_start(void); // activation: finds out what an inherited filter allows, in a thread
bool confine_known(void); // it has, or there is nothing to find out
bool confined(uint32_t wanted); // could one of these calls be deadly in this thread? 20 us under a
				// filter, 4 KiB of stack; not in a handler
bool confine_deadly(uint32_t wanted); // one of them is, for sure
bool confined_wait(uint32_t wanted);  // the same, when it is known
void confine_leave(void); // any thread: the process ends, or is about to exec: end the search
void confine_stay(void);  // the exec has failed
void confine_reset_in_child(void);

// --- sites.c: instructions that are rewritten to wait well -----------------------------------------
int64_t
sites_poll(int64_t now); // sysmon, when there is demand: a step of it; returns when to call again
void sites_settle(void); // dlclose, after modules_unload(true): no text is written from here on
void sites_abandoned(void); // who wrote text has been killed
bool sites_here(void);	    // false: in the child of a fork, even of one that nobody has told of
void sites_reset_in_child(void);
// What is known of a module's sites (struct mapped).
enum sites_state { SITES_NEW, SITES_YOUNG, SITES_DONE };

// --- text.c: text that other threads execute is replaced -------------------------------------------
struct text_patch {
	uintptr_t at;
	uint8_t size;	       // in one page
	uint8_t was[5], is[5]; // is is written only where was is
};
// Where: [start, end) is one module. In a process made by helper_call: 0, or -errno and nothing is half done.
struct text_order {
	uintptr_t start, end;
	int pid; // of the program
	struct text_patch *v
		[2]; // all of the first are in place before any of the second; each by ascending address
	uint32_t n[2];
	const bool *stop; // looked at before each page

	int32_t result;
	uint32_t pages;
	uint32_t skipped; // was was not there
	bool refused;	  // memory may not be made executable
	char path[256];
};
int text_write(struct text_order *o);

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
bool spin_seen_lately(int64_t now); // somebody spun, and was made to yield
struct spin_site {
	uintptr_t pc;
	uint64_t yields, saved_ns;
	int32_t order; // how often, lately, who looked in its turn got on, more than not; at 0 or above
};
uint32_t spin_top(struct spin_site *ret, uint32_t n); // how many there are, at most n
void spin_reset_in_child(void);

// --- lockstat.c, symbols.c: for the report --------------------------------------------------------------
// A thread waited for it; its holder waited for a P then; its holder was spared a preemption.
enum lock_event { LOCK_WAIT, LOCK_OWNER_WAIT, LOCK_SPARED, LOCK_EVENTS };
struct lock_figures {
	const void *addr;
	uint64_t n[LOCK_EVENTS];
};
void lock_count(const void *addr, enum lock_event what); // NULL: not known
uint32_t lock_top(struct lock_figures *ret, uint32_t n); // how many there are, at most n
void lock_reset_in_child(void);
struct symbol {
	char name[128];
	uint64_t offset;
};
bool symbol_at(const char *path, uint64_t addr, struct symbol *ret); // addr: link-time

// --- sitecalls.c: what they do then ------------------------------------------------------------------
bool futex_waits(const uint32_t *word, int op,
		 uint32_t expected); // may the call block? reads the word

// --- unwind.c -----------------------------------------------------------------------------------
// One step up, by the tables. pc is exact in the first frame and a return address in the others (exact = false: look
// up pc - 1). 1: ret_row describes frame's pc, and frame is now its caller. 0: it was the outermost. -1: unknown.
// Reads only stack words in [frame->sp, stack_hi). Signal-safe.
int unwind_step(struct frame *frame, bool exact, uintptr_t stack_hi,
		const struct table_row **ret_row);

// --- safepoint.c --------------------------------------------------------------------------------
// Why a thread may not be stopped where it is; in the order of the checks.
enum refusal { REFUSE_NOT, REFUSE_NO_TABLE, REFUSE_UNSAFE_PC, REFUSE_CRITICAL, REFUSE_STACK };
// Go's isAsyncSafePoint: may a call be injected at frame? Signal-safe; stack under 1 KiB.
enum refusal is_async_safe_point(const struct g *gp, const struct frame *frame);
enum refusal is_spin_safe_point(const struct g *gp, const struct frame *frame);
uintptr_t is_spin_wait(uintptr_t pc);
bool is_ours(uintptr_t pc); // in this library
// The calling thread's stack, once, when it starts: callers of the thread's first function lie at hi and above.
void stack_is(uintptr_t lo, uintptr_t hi);
void stack_is_main(uintptr_t start); // start: rsp at the entry of the program, or 0

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

// --- stats.c ----------------------------------------------------------------------------------
// Counters; relaxed, exact, read at exit. They and the histograms have pages of their own, for page.c.
struct stats {
	union {
		struct {
			uint64_t threads_created, threads_live, threads_peak, switches,
				signals_sent;
			uint64_t preempt_requested, preempt_cooperative, preempt_async,
				preempt_forced, preempt_spared;
			uint64_t refused_locks, refused_unsafe_pc, refused_no_table,
				refused_critical, refused_shim, refused_stack, refused_syscall;
			uint64_t retakes_syscall, retakes_opaque, handoffs, spin_yields,
				spin_saved_ns;
			uint64_t spin_sites, spin_site_yields;
			uint64_t lock_deferred, lock_handed, eintr_hidden, credit_runs;
		};
		char page[4096];
	};
} __attribute__((aligned(4096)));
extern struct stats stats;
#define STAT(field) count_relaxed(&stats.field, 1)
void stats_run_delay(int64_t ns);	    // runnable to running
void stats_overshoot(int64_t ns);	    // slice end to P given up
void stats_thread_starts(uint32_t live);    // live: threads there are now
void stats_thread_exit(const struct g *gp); // keep its figures for the report
void stats_report(void);		    // as PREEMPT_STATS says; from the destructor
void stats_reset_in_child(void);
void stats_path(const char *from, struct text *path); // %p replaced
bool stats_write(int fd);			      // the JSON
// A thread, for reports.
struct record {
	uint32_t published;
	int tid;
	char name[16];
	uint64_t run_ns, wait_ns, switches;
};
void each_thread(void (*fn)(const struct record *r, void *arg), void *arg, int64_t now);
uint32_t jain_cpu(int64_t now);	  // in 1/10000
int utf8(const unsigned char *s); // bytes of the character at s; 0: it is no UTF-8
// Times in log-linear buckets: those below 8 have one each; above, 8 for each power of two up to 2^62.
enum { SUB_BITS = 3, SUB = 1 << SUB_BITS, BUCKETS = (63 - SUB_BITS) * SUB + SUB };
struct histogram {
	uint64_t max;
	uint64_t bucket[BUCKETS];
};
struct histograms {
	union {
		struct {
			struct histogram run_delay, overshoot;
		};
		char pages[8192];
	};
} __attribute__((aligned(4096)));
extern struct histograms histograms;

// --- prometheus.c: the figures in the text format of Prometheus ---------------------------------------
bool is_prometheus(const char *path); // ends in .prom
void prometheus_report(const char *path, bool replace);
bool prometheus_write(int fd);
uint64_t bucket_bound(uint32_t i); // the least value of a bucket of struct histogram

// --- page.c: the counters in a file, while the process runs and when it was killed -----------------
void page_open(void);  // activation: as PREEMPT_STATS_PAGE says
void page_leave(void); // in the child of a fork: the counters are its own again, and 0
int page_load(int fd,
	      int *ret_pid); // not in the library: a file becomes the counters here. 0 or -errno
// --- schedtrace.c -----------------------------------------------------------------------------
// One SCHED line in Go's format, newline included; now is os_nanotime().
void schedtrace_line(struct text *t, int64_t now);
