// deadlock.c: threads that wait for each other for ever.
//
// Two kinds. A cycle: each thread waits, without a deadline, for a mutex or rwlock that the next one holds, or joins it. And
// all: every thread of the process waits for ever for pthread objects, and nothing can come that wakes one.
//
// Problem. A false alarm is worse than none, and looking must cost nothing. So sysmon looks only
//  - when somebody has waited for a lock for more than a second (lot_acquire, which looks at its lock by itself then): a cycle is complete when the
//    last of its threads begins to wait, and that one comes here;
//  - when all Ps idle while it sleeps for ever (sysmon_idles): whatever the last event was before all were stuck, a P idled then. It looks
//    a second later, and less and less often while it finds nothing. Where no thread has run since it last looked, it does not look.
// What it finds it tells of if it is the same after CONFIRM: the same threads in the same waits.
//
// What may wake a thread, so that nothing is said of all: a thread in a system call (but for pthread_join) or with a deadline; a
// thread that is no G, known by /proc; a handler of the program for a signal that others can send or a timer sends, whether or not there is a timer.
// A cycle is one whoever else runs; only a thread that unlocks what another one has locked could end it.
//
// Objects that are glibc's own affair (robust, process-shared, priority) are waited for in a system call, so nothing is said of them.

#include <fcntl.h>
#include <sys/syscall.h>

#include "shim.h"

static const int64_t MS = 1000000;
enum {
	OLD = 1000,	 // ns * 10^6 that a wait must have lasted
	CONFIRM = 200,	 // ms between two looks that must find the same
	GAP_MAX = 60000, // ms between looks when all Ps idle
	CYCLE_MAX = 64,
};

static uint32_t suspected, idled; // somebody asks for a look

static struct {
	int64_t look_at, gap;
	uint64_t ticks; // of all Ps when nothing was found
	uint64_t found; // what the look before found; 0: nothing
	bool telling;	// sysmon writes it out
	bool young;	// a look found a cycle that may be one soon
	bool told_all;
	uint32_t n; // members of a cycle; 0: all threads
	const struct g *v[CYCLE_MAX];
	uint32_t mark;
} st = {.look_at = INT64_MAX};

// --- what is waited for ---------------------------------------------------------------------------------

// Since when gp has waited for ever, or 0: it does not.
static int64_t waits_since(const struct g *gp)
{
	if (load_relaxed(&gp->handlers))
		return 0;
	switch ((enum g_status)load_relaxed(&gp->status)) {
	case G_WAITING:
		return gp->tid && gp->waits_forever && load_relaxed(&gp->park) == PARK_PARKED
			       ? gp->run_since
			       : 0;
	case G_SYSCALL:
		return load_relaxed(&gp->joins) ? gp->call_since : 0;
	case G_IDLE:
	case G_RUNNABLE:
	case G_RUNNING:
	case G_DEAD:
	case G_PREEMPTED:
	default:
		return 0;
	}
}

static bool lives(const struct g *gp)
{
	uint32_t status = load_relaxed(&gp->status);

	return status != G_IDLE && status != G_DEAD;
}

static uint64_t add_to_hash(uint64_t hash, const struct g *gp)
{
	const uint64_t v[] = {gp->goid, (uint64_t)waits_since(gp),
			      (uint64_t)(uintptr_t)load_relaxed(&gp->waitaddr)};

	return table_checksum(hash, v, sizeof v) | 1;
}

// --- a cycle --------------------------------------------------------------------------------------------

// Follow who waits for whom from start on. Gs that were met from another start since base need not be followed again.
static bool leads_to_cycle(struct g *start, uint32_t base, const struct g **ret)
{
	uint32_t mark = ++st.mark;
	struct g *gp = start;

	while (gp && waits_since(gp)) {
		int tid;

		if (gp->mark == mark) {
			*ret = gp;
			return true;
		}
		if (gp->mark - base - 1 < mark - base - 1)
			return false; // met from another start
		gp->mark = mark;
		gp = (struct g *)wait_owner(gp, &tid);
	}
	return false;
}

// The members from gp on. False: it was none, or was told of, or may pass.
static bool take_cycle(const struct g *first, int64_t now)
{
	const struct g *gp = first;
	bool news = false;
	int tid;

	st.n = 0;
	do {
		int64_t since = waits_since(gp);

		if (!since || st.n == CYCLE_MAX)
			return false;
		if (now - since < OLD * MS)
			st.young = true;
		news = news || gp->told != since;
		st.v[st.n++] = gp;
		gp = wait_owner(gp, &tid);
	} while (gp && gp != first);
	return gp && news && !st.young;
}

static uint64_t find_cycle(int64_t now)
{
	uint32_t base = st.mark;
	const struct g *in;

	// acquire: pairs with gfree_refill
	for (struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) {
		uint64_t hash = TABLE_CHECKSUM_INIT;

		if (!waits_since(gp) || !leads_to_cycle(gp, base, &in) || !take_cycle(in, now))
			continue;
		for (uint32_t i = 0; i < st.n; i++)
			hash = add_to_hash(hash, st.v[i]);
		return hash;
	}
	return 0;
}

// --- all ------------------------------------------------------------------------------------------------

// The kernel's struct linux_dirent64.
struct entry {
	uint64_t ino, off;
	uint16_t size;
	uint8_t type;
	char name[];
};

// Has the process a thread that is neither a G nor sysmon? If that cannot be known, yes.
static bool has_foreign_threads(void)
{
	static _Alignas(8) char buf[8192];
	long fd = sys3(SYS_open, "/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), n;
	bool foreign = fd < 0;

	while (!foreign && (n = sys3(SYS_getdents64, fd, buf, sizeof buf)) != 0) {
		foreign = n < 0;
		for (long at = 0; at < n && !foreign;) {
			const struct entry *e = (const void *)(buf + at);
			int tid = 0;
			char state;

			for (const char *s = e->name; *s >= '0' && *s <= '9'; s++)
				tid = tid * 10 + *s - '0';
			at += e->size;
			if (!tid || tid == os_gettid() || g_of_tid(tid))
				continue;
			state = os_thread_state(tid);
			foreign = state != 'Z' && state != 'X' && state != 0;
		}
	}
	if (fd >= 0)
		sys1(SYS_close, fd);
	return foreign;
}

static uint64_t find_all(void)
{
	uint64_t hash = TABLE_CHECKSUM_INIT;
	uint32_t n = 0;
	int tid;

	// acquire: pairs with gfree_refill
	for (const struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) {
		int64_t since;

		if (!lives(gp))
			continue;
		since = waits_since(gp);
		if (!since || gp->told == since ||
		    (load_relaxed(&gp->status) == G_SYSCALL && !wait_owner(gp, &tid)))
			return 0;
		hash = add_to_hash(hash, gp);
		n++;
	}
	if (n == 0 || n != load_relaxed(&sched.ngs) || confined(CONFINE_FILES) ||
	    signal_may_wake() || has_foreign_threads())
		return 0;
	st.n = 0;
	return hash;
}

// --- when -----------------------------------------------------------------------------------------------

static uint64_t all_ticks(void)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < load_relaxed(&sched.nprocs_made); i++)
		sum += load_relaxed(&sched.allp[i].schedtick);
	return sum;
}

static void look_at(int64_t when)
{
	if (when < st.look_at)
		st.look_at = when;
}

// A G has waited for a lock for long. Signal-safe.
void deadlock_suspect(void)
{
	if (config.deadlock == DEADLOCK_OFF || load_relaxed(&suspected))
		return;
	(void)xchg(&suspected, 1); // before sysmon is woken; pairs with deadlock_poll
	sysmon_notice();
}

// All Ps idle, while sysmon wants to know. Signal-safe.
void sysmon_idles(void)
{
	if (load_relaxed(&sched.npidle) < load_relaxed(&sched.nprocs) ||
	    !xchg(&sched.watch_idle, 0)) // one tells it; pairs with deadlock_sleeps
		return;
	(void)xchg(&idled, 1); // as in deadlock_suspect
	sysmon_notice();
}

// sysmon is about to sleep until somebody wakes it; returns until when it may.
int64_t deadlock_sleeps(int64_t now)
{
	if (config.deadlock == DEADLOCK_OFF || st.telling)
		return INT64_MAX;
	if (st.look_at == INT64_MAX) {
		(void)xchg(&sched.watch_idle, 1); // before the look; pairs with sysmon_idles
		if (load_relaxed(&sched.npidle) >= load_relaxed(&sched.nprocs) &&
		    all_ticks() != st.ticks) {
			store_relaxed(&sched.watch_idle, 0);
			look_at(now + st.gap);
		}
	}
	return st.look_at;
}

static void nothing_found(void)
{
	st.found = 0;
	st.look_at = INT64_MAX;
	st.ticks = all_ticks();
	st.gap = st.gap * 2 < GAP_MAX * MS ? st.gap * 2 : GAP_MAX * MS;
}

// sysmon: look, if it is time. Returns when to call again.
int64_t deadlock_poll(int64_t now)
{
	uint64_t found;

	if (config.deadlock == DEADLOCK_OFF || st.telling)
		return INT64_MAX;
	if (!st.gap)
		st.gap = OLD * MS;
	if (load_relaxed(&suspected) && xchg(&suspected, 0)) // pairs with deadlock_suspect
		look_at(now);
	if (load_relaxed(&idled) && xchg(&idled, 0)) // pairs with sysmon_idles
		look_at(now + st.gap);
	if (now < st.look_at)
		return st.look_at;
	st.young = false;
	found = find_cycle(now);
	if (!found && st.young) {
		st.found = 0;
		st.look_at = now + OLD * MS;
		return st.look_at;
	}
	if (!found)
		found = find_all();
	if (!found) {
		nothing_found();
		return INT64_MAX;
	}
	if (found != st.found) {
		st.found = found;
		st.look_at = now + CONFIRM * MS;
		return st.look_at;
	}
	st.telling = true;
	dump_deadlock();
	return now;
}

// --- what is said ---------------------------------------------------------------------------------------

// dump.c has the tables now. They still wait, or nothing is written.
void deadlock_write(struct text *t)
{
	int64_t now = os_nanotime();
	bool cycle = st.n > 0;
	uint64_t found = cycle ? find_cycle(now) : find_all();

	if (found != st.found)
		return;
	if (!cycle)
		text_printf(t,
			    "libpreempt: deadlock: all threads wait, and nothing can wake one\n");
	else if (st.n == 1)
		text_printf(t, "libpreempt: deadlock: a thread waits for what it holds itself\n");
	else
		text_printf(t,
			    "libpreempt: deadlock: each of %u threads waits for the next, and the "
			    "last for the first\n",
			    st.n);
	if (!cycle)
		dump_all_threads(t, now);
	for (uint32_t i = 0; i < st.n; i++) {
		text_printf(t, "\n");
		dump_thread(t, st.v[i], now);
	}
	// acquire: pairs with gfree_refill
	for (struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) {
		bool member = !cycle && lives(gp);

		for (uint32_t i = 0; i < st.n; i++)
			member = member || st.v[i] == gp;
		if (member)
			gp->told = waits_since(gp);
	}
	if (config.deadlock == DEADLOCK_ABORT)
		st.told_all = true;
}

void deadlock_told(void)
{
	if (st.told_all)
		throw("deadlock");
	st.telling = false;
	nothing_found();
	look_at(os_nanotime() + OLD * MS); // there may be more than one
}

void deadlock_reset_in_child(void)
{
	uint32_t mark = st.mark;

	suspected = idled = 0;
	st = (__typeof__(st)){.look_at = INT64_MAX, .mark = mark};
}
