// dump.c: what all threads do, in the manner of Go's: state, for how long, the lock that is waited for and who has it, callers.
//
//	thread 3 [pthread_mutex_lock, 12 s], tid 4711, "worker"
//		waits for mutex 0x55d0c8a01060, locked by thread 2, tid 4710
//		at /usr/lib/libpreempt.so+0x1234
//		by /usr/bin/program+0x5678
//
// at: the instruction there is next; by: the address after a call. They are link-time addresses in the file, for `preempt dump` or
// addr2line to name: names are not looked up in the process.
//
// Problem. Somebody asks, by PREEMPT_DUMP_SIGNAL, by `preempt dump PID`, or by preempt_dump, at any moment: the program may be stuck with all its
// locks held. Approach: sysmon does it, which needs none of them. First it gets the tables that are not loaded yet, as nobody may have
// needed any; then it stops the world, writes all into memory, lets the world go on, and only then writes that out: the
// other end of a pipe may be one of our threads. Who does not read for PATIENCE does not get the rest.
//
// `preempt dump` asks by a signal to sysmon's own thread, which no program thread notices (signal.c). Its answer is a file with an agreed name in
// a directory of the user's, which it removes.
//
// Rejected: a signal to the process (it could end a system call, or, after an exec, the process). A socket (a descriptor in the
// program's table, and sysmon sleeps on a futex).

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "shim.h"

static const int64_t MS = 1000000;
enum {
	ROOM = 64 << 20, // bytes; memory is touched as used
	FRAMES = 256,
	TABLES = 3000,	 // ms until tables must be there
	STOP = 3000,	 // ms until the world must have stopped
	PATIENCE = 2000, // ms for a reader to make room
	CHUNK = 4096,	 // PIPE_BUF: if poll says that there is room, so much fits
};

// What was asked for. A bit each, so that one request of each kind can wait.
enum { ASK_SIGNAL = 1, ASK_FD = 2, ASK_FILE = 4, ASK_DEADLOCK = 8 };
static uint32_t asked;
static int asked_fd;
static uint32_t fd_taken; // 1: asked_fd is in use
static uint32_t asked_nonce;

static struct {
	enum { REST, TABLE, STOPPING } phase;
	uint32_t what;
	int64_t until;
} st;

// --- text -------------------------------------------------------------------------------------------

static void text_duration(struct text *t, int64_t ns)
{
	if (ns < MS)
		text_printf(t, "%ld us", (long)(ns / 1000));
	else if (ns < 1000 * MS)
		text_printf(t, "%ld ms", (long)(ns / MS));
	else if (ns < 100 * 1000 * MS)
		text_printf(t, "%ld.%ld s", (long)(ns / (1000 * MS)), (long)(ns / (100 * MS) % 10));
	else
		text_printf(t, "%ld min", (long)(ns / (60000 * MS)));
}

static const char *const wait_names[WAIT_REASONS] = {
	[WAIT_NONE] = "waiting",
	[WAIT_MUTEX] = "pthread_mutex_lock",
	[WAIT_COND] = "pthread_cond_wait",
	[WAIT_SEM] = "sem_wait",
	[WAIT_RWLOCK_R] = "pthread_rwlock_rdlock",
	[WAIT_RWLOCK_W] = "pthread_rwlock_wrlock",
	[WAIT_BARRIER] = "pthread_barrier_wait",
	[WAIT_ONCE] = "pthread_once",
};

// Since when gp has been in its call; 0: nobody knows, for a call that may block takes no time stamp. A P taken by sysmon tells, unless that was
// for this dump.
static int64_t call_since(const struct g *gp)
{
	if (gp->run_since == 0) // entersyscallblock
		return gp->call_since;
	return gp->retaken_at > gp->run_since && gp->retaken_at < stw_since() ? gp->retaken_at : 0;
}

static void write_state(struct text *t, const struct g *gp, int64_t now)
{
	int64_t since = gp->run_since;
	const char *name;

	switch ((enum g_status)load_relaxed(&gp->status)) {
	case G_WAITING:
		name = gp->tid ? wait_names[gp->waitreason] : "starting";
		break;
	case G_SYSCALL:
		name = load_relaxed(&gp->joins) ? "pthread_join" : "syscall";
		since = call_since(gp);
		break;
	case G_RUNNABLE:
	case G_PREEMPTED:
		since = gp->runnable_since;
		name = "runnable";
		if (stw_state() == STW_STOPPED && since >= stw_since())
			name = "running"; // until the world was stopped
		break;
	case G_RUNNING:
		name = stw_state() == STW_STOPPED ? "asleep" : "running";
		since = 0;
		break;
	case G_IDLE:
	case G_DEAD:
	default:
		name = "?";
		break;
	}
	text_printf(t, "thread %u [%s", gp->goid, name);
	if (since > 0 && now > since) {
		text_printf(t, ", ");
		text_duration(t, now - since);
	}
	text_printf(t, "], tid %d", gp->tid);
}

static void write_name(struct text *t, const struct g *gp)
{
	char path[64], name[32] = "";
	struct text p = {path, 0, sizeof path};

	text_printf(&p, "/proc/self/task/%d/comm", gp->tid);
	if (os_read_file(path, name, sizeof name) <= 0)
		return;
	for (char *s = name; *s; s++)
		if (*s == '\n')
			*s = 0;
		else if ((unsigned char)*s < ' ' || *s == 0x7f || *s == '"')
			*s = '?';
	text_printf(t, ", \"%s\"", name);
}

static void write_owner(struct text *t, const struct g *owner, int tid, const char *how)
{
	if (owner)
		text_printf(t, ", %s thread %u, tid %d", how, owner->goid, tid);
	else if (tid)
		text_printf(t, ", %s tid %d", how, tid);
}

static void write_lock(struct text *t, const struct g *gp)
{
	const void *addr = load_relaxed(&gp->waitaddr);
	const struct g *owner;
	const char *kind;
	int tid = 0;

	if (load_relaxed(&gp->status) == G_SYSCALL && load_relaxed(&gp->joins)) {
		owner = wait_owner(gp, &tid);
		text_printf(t, "\tjoins");
		if (owner)
			text_printf(t, " thread %u, tid %d\n", owner->goid, tid);
		else
			text_printf(t, " a thread that has ended or is not scheduled\n");
		return;
	}
	if (load_relaxed(&gp->status) != G_WAITING || !addr)
		return;
	switch ((enum wait_reason)gp->waitreason) {
	case WAIT_MUTEX:
		kind = "mutex";
		break;
	case WAIT_COND:
		kind = gp->waitmoved ? "mutex" : "condition";
		break;
	case WAIT_SEM:
		kind = "semaphore";
		break;
	case WAIT_RWLOCK_R:
	case WAIT_RWLOCK_W:
		kind = "rwlock";
		break;
	case WAIT_BARRIER:
		kind = "barrier";
		break;
	case WAIT_ONCE:
		kind = "once control";
		break;
	case WAIT_NONE:
	case WAIT_REASONS:
	default:
		kind = "object";
		break;
	}
	text_printf(t, "\twaits for %s 0x%lx", kind, (unsigned long)addr);
	owner = wait_owner(gp, &tid);
	write_owner(t, owner, tid, "locked by");
	if (gp->waitreason == WAIT_COND && !gp->waitmoved && gp->waitmutex)
		text_printf(t, ", with mutex 0x%lx", (unsigned long)gp->waitmutex);
	text_printf(t, "\n");
}

static void write_held(struct text *t, const struct g *gp)
{
	const void *held = load_relaxed(&gp->held);

	if (held && held != load_relaxed(&gp->waitaddr) && mutex_owner(held) == gp->tid)
		text_printf(t, "\tholds mutex 0x%lx\n", (unsigned long)held);
}

static void write_place(struct text *t, const struct place *place)
{
	const char *path = NULL;
	uintptr_t offset = modules_place(place->pc, &path);

	text_printf(t, "\t%s ", place->exact ? "at" : "by");
	if (path)
		text_printf(t, "%s+0x%lx\n", path, (unsigned long)offset);
	else
		text_printf(t, "0x%lx\n", (unsigned long)place->pc);
}

// The way from the program's call into the parking lot says nothing: of the first frames in this library the last is shown.
static void write_frames(struct text *t, const struct g *gp)
{
	static struct place places[FRAMES];
	struct frame frame;
	int n, first = 0;

	if (!backtrace_start(gp, &frame))
		return;
	n = backtrace_walk(gp, frame, places, FRAMES);
	while (first + 1 < n && is_ours(places[first].pc) && is_ours(places[first + 1].pc))
		first++;
	for (int i = first; i < n; i++)
		write_place(t, &places[i]);
}

void dump_thread(struct text *t, const struct g *gp, int64_t now)
{
	write_state(t, gp, now);
	write_name(t, gp);
	text_printf(t, "\n");
	write_lock(t, gp);
	write_held(t, gp);
	write_frames(t, gp);
}

static void write_head(struct text *t)
{
	const struct stopped *s = stw_result();

	text_printf(t, "libpreempt: %u threads of process %d", load_relaxed(&sched.ngs), sched.pid);
	if (stw_state() == STW_STOPPED) {
		text_printf(t, ", stopped in ");
		text_duration(t, s->ns);
	} else {
		text_printf(t, ", not all stopped");
	}
	for (uint32_t i = 0; i < s->stragglers && i < STRAGGLERS; i++)
		text_printf(t, "%s%d", i ? ", " : "; still on their way or asleep unseen: tid ",
			    s->straggler[i]);
	text_printf(t, "\n");
}

// In the order of their numbers; the list has the newest first, but numbers are given anew.
void dump_all_threads(struct text *t, int64_t now)
{
	uint32_t last = 0;

	for (;;) {
		const struct g *next = NULL;

		// acquire: pairs with gfree_refill
		for (const struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) {
			uint32_t status = load_relaxed(&gp->status);

			if (status != G_IDLE && status != G_DEAD && gp->goid > last &&
			    (!next || gp->goid < next->goid))
				next = gp;
		}
		if (!next)
			return;
		last = next->goid;
		text_printf(t, "\n");
		dump_thread(t, next, now);
	}
}

static void write_all(struct text *t)
{
	write_head(t);
	dump_all_threads(t, stw_state() == STW_STOPPED ? stw_since() : os_nanotime());
}

// --- where to -------------------------------------------------------------------------------------------

static void write_out(const struct text *t, int fd)
{
	for (size_t at = 0; at < t->len;) {
		struct pollfd p = {fd, POLLOUT, 0};
		size_t n = t->len - at < CHUNK ? t->len - at : CHUNK;
		long r = sys3(SYS_poll, &p, 1, PATIENCE);

		if (r == -EINTR)
			continue;
		if (r <= 0)
			return;
		r = sys3(SYS_write, fd, t->buf + at, n);
		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r <= 0)
			return;
		at += (size_t)r;
	}
}

// Ours alone, or nothing.
static int open_directory(void)
{
	char path[64];
	struct text t = {path, 0, sizeof path};
	long uid = sys0(SYS_geteuid), fd;
	struct stat s;

	text_printf(&t, "/tmp/preempt-%ld", uid);
	sys2(SYS_mkdir, path, 0700);
	fd = sys3(SYS_open, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	if (sys4(SYS_newfstatat, fd, "", &s, AT_EMPTY_PATH) < 0 || s.st_uid != (unsigned)uid ||
	    s.st_mode & 022) {
		sys1(SYS_close, fd);
		return -EPERM;
	}
	return (int)fd;
}

static void write_file(const struct text *t, uint32_t nonce)
{
	char name[32], whole[32];
	struct text n = {name, 0, sizeof name}, w = {whole, 0, sizeof whole};
	long dir, fd;

	if (confined(CONFINE_FILES)) // since it was asked for
		return;
	dir = open_directory();
	if (dir < 0)
		return;
	text_printf(&n, ".dump-%08x", nonce);
	text_printf(&w, "dump-%08x", nonce);
	fd = sys4(SYS_openat, dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		  0600);
	if (fd >= 0) {
		bool written = text_write_fd(t, (int)fd);

		sys1(SYS_close, fd);
		if (!written || sys4(SYS_renameat, dir, name, dir, whole) < 0)
			sys3(SYS_unlinkat, dir, name, 0);
	}
	sys1(SYS_close, dir);
}

// --- steps, by sysmon -------------------------------------------------------------------------------------

static struct text room(void)
{
	return (struct text){os_mmap(ROOM), 0, ROOM};
}

static void finish(bool stopped_by_us)
{
	struct text t = room();

	if (t.buf && st.what & ASK_DEADLOCK)
		deadlock_write(&t);
	else if (t.buf)
		write_all(&t);
	if (stopped_by_us)
		stw_start_by_sysmon();
	st.phase = REST;
	if (!t.buf)
		return;
	if (st.what & (ASK_SIGNAL | ASK_DEADLOCK))
		write_out(&t, 2);
	if (st.what & ASK_FD) {
		write_out(&t, asked_fd);
		store_release(&fd_taken, 0); // pairs with dump_to
	}
	if (st.what & ASK_FILE)
		write_file(&t, asked_nonce);
	os_munmap(t.buf, ROOM);
	if (st.what & ASK_DEADLOCK)
		deadlock_told();
}

// Returns when to call again; INT64_MAX: nobody has asked.
int64_t dump_poll(int64_t now)
{
	int64_t next;

	switch (st.phase) {
	case REST:
		if (!load_relaxed(&asked))
			return INT64_MAX;
		// Deadlocks are told of alone.
		st.what = load_relaxed(&asked);
		if (st.what & ~(uint32_t)ASK_DEADLOCK)
			st.what &= ~(uint32_t)ASK_DEADLOCK;
		fetch_and(&asked, ~st.what); // pairs with ask
		if (st.what & ASK_FILE && confined(CONFINE_FILES)) {
			sysmon_turns_deaf();
			st.what &= ~(uint32_t)ASK_FILE;
			if (!st.what)
				return now;
		}
		st.until = now + TABLES * MS;
		st.phase = TABLE;
		return now;
	case TABLE:
		next = modules_poll(now);
		if (!modules_settled() && now < st.until)
			return next < now + 20 * MS ? next : now + 20 * MS;
		if (st.what & ASK_DEADLOCK) { // those who are told of do not move
			finish(false);
			return now;
		}
		if (stw_state() == STW_STOPPED) { // by the program: for as long as it likes
			finish(false);
			return now;
		}
		if (!stw_stop_by_sysmon())
			return now + MS;
		st.until = now + STOP * MS;
		st.phase = STOPPING;
		return now;
	case STOPPING:
		if (stw_state() != STW_STOPPED && now < st.until)
			return INT64_MAX; // stw_poll says when
		finish(true);
		return now;
	}
	return INT64_MAX;
}

static void ask(uint32_t what)
{
	fetch_or(&asked, what); // before sysmon is woken; pairs with dump_poll
	sysmon_notice();
}

// PREEMPT_DUMP_SIGNAL has come. Signal-safe.
void dump_signalled(void)
{
	ask(ASK_SIGNAL);
}

// sysmon's handler: `preempt dump` asks.
void dump_wanted(uint32_t nonce)
{
	store_relaxed(&asked_nonce, nonce);
	ask(ASK_FILE);
}

void dump_deadlock(void)
{
	ask(ASK_DEADLOCK);
}

// Signal-safe. 0, -EBUSY, -ENOTSUP.
int dump_to(int fd)
{
	if (load_relaxed(&sched.active) != PHASE_ACTIVE || load_relaxed(&sched.open))
		return -ENOTSUP;
	if (!cas(&fd_taken, 0, 1)) // pairs with finish
		return -EBUSY;
	store_relaxed(&asked_fd, fd);
	ask(ASK_FD);
	return 0;
}

void dump_reset_in_child(void)
{
	asked = 0;
	fd_taken = 0;
	st.phase = REST;
}
