// snapshot.c: what all threads do at this moment, for `preempt top`.
//
// Problem. Somebody wants to watch a process that was not started for that, and that may be idle, busy or stuck. Nothing of
// it may cost anything while nobody watches. Approach: as with `preempt dump`, a signal to sysmon's own thread asks, which no thread of the
// program notices. sysmon collects what it sees, without stopping anybody, and writes it to a file that only this user can read:
// $XDG_RUNTIME_DIR/preempt/PID, or /tmp/preempt-UID/PID. The file is mapped while somebody watches, and gone LINGER after the
// last question, or when the process ends or executes another program. The command finds it in /proc/PID/maps. One that
// a killed process leaves behind is removed by the command.
//
// Figures of a thread that runs on meanwhile may not fit together: a state that it has just left, a time that has just begun anew. Names
// and CPU times are not in it: whoever reads it finds them in /proc.
//
// Rejected. A page that always exists: each process with threads would make a file, and those that are killed leave it. Writing into the
// mapped file: if somebody cuts it short that is a SIGBUS in the program, while process_vm_writev says EFAULT. A descriptor that is kept: it
// is in the program's table.
//
// Delicate: exit and exec remove the file in another thread than sysmon. `file` says that there is one; whoever sets it to 0 removes it.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "snapshot.h"

#ifndef PREEMPT_VERSION
#define PREEMPT_VERSION "unknown"
#endif

static const int64_t MS = 1000000;
enum { LINGER = 3000, SPARE = 64, OWNERS = 256 };

static char runtime_dir[256];
static bool forbidden; // AT_SECURE
static uint32_t asked;
static uint32_t leaving; // no more files
static uint32_t file;	 // 1: path is ours to remove
static char path[320];

static struct {
	char *mapped, *draft; // size bytes each; NULL: nobody watches
	size_t size;
	uint32_t room; // threads
	uint32_t seq;
	int pid;
	uint64_t dev, ino; // of the file
	int64_t until;
} st;

// --- the file -----------------------------------------------------------------------------------------

// Ours alone, or -errno.
static int open_directory(const char *name)
{
	struct stat s;
	long fd;

	sys2(SYS_mkdir, name, 0700);
	fd = sys3(SYS_open, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	if (sys4(SYS_newfstatat, fd, "", &s, AT_EMPTY_PATH) == 0 &&
	    s.st_uid == (unsigned)sys0(SYS_geteuid) && !(s.st_mode & 022))
		return (int)fd;
	sys1(SYS_close, fd);
	return -EPERM;
}

static int choose_directory(struct text *ret_name)
{
	int fd = -ENOENT;

	if (runtime_dir[0] == '/') {
		text_printf(ret_name, "%s/preempt", runtime_dir);
		fd = open_directory(ret_name->buf);
	}
	if (fd < 0) {
		ret_name->len = 0;
		text_printf(ret_name, "/tmp/preempt-%ld", sys0(SYS_geteuid));
		fd = open_directory(ret_name->buf);
	}
	return fd;
}

// An empty file, mapped: 0 or -errno.
static int make_file(int dir, const char *name)
{
	const long flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	struct stat s;
	long fd, p = -ENOSPC;

	sys3(SYS_unlinkat, dir, name, 0); // of a process that was killed
	fd = sys4(SYS_openat, dir, name, flags, 0600);
	if (fd < 0)
		return (int)fd;
	if (sys2(SYS_ftruncate, fd, st.size) == 0 && sys2(SYS_fstat, fd, &s) == 0)
		p = sys6(SYS_mmap, 0, (long)st.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	sys1(SYS_close, fd);
	if (p < 0 && p > -4096) {
		sys3(SYS_unlinkat, dir, name, 0);
		return (int)p;
	}
	// A child of a fork would show its parent's.
	sys3(SYS_madvise, p, st.size, MADV_DONTFORK);
	sys3(SYS_madvise, p, st.size, MADV_DONTDUMP);
	st.mapped = (char *)p;
	st.dev = s.st_dev;
	st.ino = s.st_ino;
	return 0;
}

// Somebody who tidies up may have removed it.
static bool is_there(void)
{
	struct stat s;

	return load_relaxed(&file) &&
	       sys4(SYS_newfstatat, AT_FDCWD, path, &s, AT_SYMLINK_NOFOLLOW) == 0 &&
	       s.st_dev == st.dev && s.st_ino == st.ino;
}

static void unmap(void)
{
	if (st.mapped)
		os_munmap(st.mapped, st.size);
	if (st.draft)
		os_munmap(st.draft, st.size);
	st.mapped = st.draft = NULL;
}

// Whichever thread comes first removes it.
static void remove_file(void)
{
	if (load_relaxed(&file) && xchg(&file, 0)) // against the same in another thread
		sys1(SYS_unlink, path);
}

static void close_file(void)
{
	remove_file();
	unmap();
}

static bool open_file(uint32_t threads)
{
	struct text name = {path, 0, sizeof path}, leaf;
	char digits[16];
	int dir, r;

	st.room = 2 * threads + SPARE;
	if (st.room > SNAPSHOT_THREADS_MAX)
		st.room = SNAPSHOT_THREADS_MAX;
	st.size = sizeof(struct snapshot_head) + SNAPSHOT_MODULES * sizeof(struct snapshot_module) +
		  MAX_PROCS * sizeof(struct snapshot_p) + st.room * sizeof(struct snapshot_thread);
	st.pid = os_getpid();
	dir = choose_directory(&name);
	if (dir < 0) {
		log_line(LOG_INFO, "preempt top: no directory %s of our own (error %d)", path,
			 -dir);
		return false;
	}
	leaf = (struct text){digits, 0, sizeof digits};
	text_printf(&leaf, "%d", st.pid);
	text_printf(&name, "/%s", digits);
	st.draft = os_mmap(st.size);
	r = st.draft ? make_file(dir, digits) : -ENOMEM;
	sys1(SYS_close, dir);
	if (r < 0) {
		log_line(LOG_INFO, "preempt top: cannot make %s (error %d)", path, -r);
		unmap();
		return false;
	}
	(void)xchg(&file, 1); // path is set; before the look at leaving, pairs with snapshot_leave
	if (load_seq_cst(&leaving)) { // pairs with snapshot_leave
		close_file();
		return false;
	}
	return true;
}

// The draft becomes the snapshot, in one call, in this order: an odd seq, all the rest, an even seq.
static bool publish(size_t used)
{
	const size_t at = offsetof(struct snapshot_head, seq), behind = at + sizeof(uint32_t);
	uint32_t odd = st.seq + 1, even = st.seq + 2;
	struct iovec from[] = {{&odd, sizeof odd},
			       {st.draft, at},
			       {st.draft + behind, used - behind},
			       {&even, sizeof even}};
	struct iovec to[] = {{st.mapped + at, sizeof odd},
			     {st.mapped, at},
			     {st.mapped + behind, used - behind},
			     {st.mapped + at, sizeof even}};

	st.seq = even;
	return sys6(SYS_process_vm_writev, os_gettid(), (long)from, 4, (long)to, 4, 0) ==
	       (long)(used + sizeof odd);
}

// --- what is in it --------------------------------------------------------------------------------------

static void copy(char *to, const char *from, size_t size)
{
	size_t i = 0;

	for (; i < size - 1 && from[i]; i++)
		to[i] = from[i];
	to[i] = 0;
}

static uint32_t queue_length(const struct p *pp)
{
	uint32_t h = load_relaxed(&pp->runqhead), n = load_relaxed(&pp->runqtail) - h;

	if ((int32_t)n < 0) // read at different times
		n = 0;
	return n + (load_relaxed(&pp->runnext) != NULL);
}

static uint32_t write_ps(struct snapshot_p *v)
{
	uint32_t n = 0, made = load_relaxed(&sched.nprocs_made);

	for (uint32_t i = 0; i < made; i++) {
		struct p *pp = &sched.allp[i];
		uint64_t word = load_acquire(&pp->word); // pairs with wirep: pp->g is its holder
		const struct g *gp = load_relaxed(&pp->g);
		bool runs = P_STATE(word) == P_RUNNING && gp;

		if (P_STATE(word) == P_DEAD)
			continue;
		v[n++] = (struct snapshot_p){
			.id = i,
			.state = P_STATE(word),
			.goid = runs ? gp->goid : 0,
			.queued = queue_length(pp),
			.schedtick = load_relaxed(&pp->schedtick),
			.since = runs ? load_relaxed(&pp->slice_start) : 0,
		};
	}
	return n;
}

// The P that gp holds, and the word that says so; or NULL.
static struct p *p_of(const struct g *gp, uint64_t *ret_word)
{
	struct p *pp = load_relaxed(&gp->p);

	if (!pp)
		return NULL;
	*ret_word = load_acquire(&pp->word); // pairs with wirep
	return *ret_word == (load_relaxed(&gp->pseq) | P_RUNNING) ? pp : NULL;
}

// Since when it has been in its call. One that may block takes no time stamp: then, since somebody first saw it there.
static int64_t call_since(const struct g *gp, struct p *pp, uint64_t word, int64_t now)
{
	int64_t run = load_relaxed(&gp->run_since), retaken = load_relaxed(&gp->retaken_at);

	if (run == 0) // entersyscallblock
		return load_relaxed(&gp->call_since);
	if (pp)
		return in_syscall_since(pp, word, now);
	return retaken > run ? retaken : 0;
}

static int owner_of(const struct g *gp, uint32_t threads)
{
	const void *object = load_relaxed(&gp->waitaddr);
	int tid = 0;

	if (object &&
	    (gp->waitreason == WAIT_MUTEX || (gp->waitreason == WAIT_COND && gp->waitmoved)))
		return mutex_owner(object);
	if (threads <= OWNERS) // looks at all threads
		(void)wait_owner(gp, &tid);
	return tid;
}

// What it has run for since then at least, having lost its P on the way or never had one. As stray_ends, so that the sum grows.
static int64_t stray_runs(const struct g *gp, int64_t since, int64_t now)
{
	int64_t retaken = load_relaxed(&gp->retaken_at), held, alone;

	if (!since)
		return 0;
	held = load_relaxed(&gp->p) && retaken > since ? retaken - since : 0;
	alone = now - since - held;
	if (alone > config.credit)
		alone = config.credit;
	return held + (alone > 0 ? alone : 0);
}

static void write_thread(struct snapshot_thread *t, const struct g *gp, uint32_t status,
			 uint32_t threads, int64_t now)
{
	uint64_t word = 0;
	struct p *pp = p_of(gp, &word);
	int64_t since = load_relaxed(&gp->run_since), runs = 0, waits = 0;

	*t = (struct snapshot_thread){
		.goid = gp->goid,
		.tid = load_relaxed(&gp->tid),
		.status = (uint8_t)status,
		.p = pp ? (int32_t)pp->id : -1,
		.cpu = load_relaxed(&gp->cpu),
		.weight = load_relaxed(&gp->weight),
		.signals = load_relaxed(&gp->preempt_gen),
		.locks = load_relaxed(&gp->locks),
	};
	t->flags = (load_relaxed(&gp->preempt) ? SNAPSHOT_ASKED : 0) |
		   (load_relaxed(&gp->handlers) ? SNAPSHOT_HANDLER : 0);
	switch ((enum g_status)status) {
	case G_RUNNING:
		runs = since && pp ? now - since : stray_runs(gp, since, now);
		t->flags |= pp ? 0 : SNAPSHOT_STRAY;
		break;
	case G_RUNNABLE:
	case G_PREEMPTED:
		since = load_relaxed(&gp->runnable_since);
		waits = since ? now - since : 0;
		break;
	case G_SYSCALL:
		// It may hold its P: then it is charged for it.
		runs = since && pp ? now - since : stray_runs(gp, since, since);
		since = call_since(gp, pp, word, now);
		if (load_relaxed(&gp->joins)) {
			t->flags |= SNAPSHOT_JOINS;
			t->owner = owner_of(gp, threads);
		}
		break;
	case G_WAITING:
		t->reason = load_relaxed(&gp->waitreason);
		t->flags |= load_relaxed(&gp->waitmoved) ? SNAPSHOT_MOVED : 0;
		t->object = (uintptr_t)load_relaxed(&gp->waitaddr);
		t->owner = owner_of(gp, threads);
		break;
	case G_IDLE:
	case G_DEAD:
	default:
		break;
	}
	t->since = since < now ? since : now;
	t->run_ns = load_relaxed(&gp->run_ns) + (uint64_t)(runs > 0 ? runs : 0);
	t->wait_ns = load_relaxed(&gp->wait_ns) + (uint64_t)(waits > 0 ? waits : 0);
	t->switches = load_relaxed(&gp->switches);
}

static uint32_t write_threads(struct snapshot_thread *v, int64_t now, uint32_t *ret_left_out)
{
	uint32_t n = 0, live = load_relaxed(&sched.ngs);

	// acquire: pairs with gfree_refill
	for (const struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) {
		uint32_t status = load_relaxed(&gp->status);

		if (status == G_IDLE || status == G_DEAD)
			continue;
		if (n < st.room)
			write_thread(&v[n++], gp, status, live, now);
		else
			++*ret_left_out;
	}
	return n;
}

static uint32_t write_modules(struct snapshot_module *v)
{
	struct modules *k = load_acquire(&modules); // pairs with modules_poll
	uint32_t n = 0;

	for (uint32_t i = 0; k && i < k->n && n < SNAPSHOT_MODULES; i++) {
		const struct mapped *m = &k->v[i];
		size_t len = m->path ? str_len(m->path) : 0, skip = 0;

		if (!m->site || !len)
			continue;
		if (len >= sizeof v->path)
			skip = len - sizeof v->path + 1;
		copy(v[n++].path, m->path + skip, sizeof v->path);
	}
	return n;
}

static void write_counters(struct snapshot_head *h)
{
	const uint64_t *counter = (const uint64_t *)(const void *)&stats;

	for (int i = 0; i < SNAPSHOT_COUNTERS; i++)
		h->counter[i] = load_relaxed(&counter[i]);
	memcpy(&h->run_delay, &histograms.run_delay, sizeof h->run_delay);
	memcpy(&h->overshoot, &histograms.overshoot, sizeof h->overshoot);
}

// Returns how many bytes.
static size_t write_all(int64_t now)
{
	struct snapshot_head *h = (void *)st.draft;
	uint32_t demand = (uint32_t)load_relaxed(&sched.demand);

	memset(h, 0, sizeof *h);
	memcpy(h->magic, SNAPSHOT_MAGIC, sizeof h->magic);
	h->layout = SNAPSHOT_LAYOUT;
	h->file_size = (uint32_t)st.size;
	h->head_size = sizeof *h;
	copy(h->version, PREEMPT_VERSION, sizeof h->version);
	copy(h->policy, sched.policy->name, sizeof h->policy);
	h->pid = st.pid;
	h->procs = load_relaxed(&sched.nprocs);
	h->idle = load_relaxed(&sched.npidle);
	h->demand = (int32_t)demand > 0 ? demand : 0;
	h->queued = load_relaxed(&sched.runq.size);
	h->threads = load_relaxed(&sched.ngs);
	h->stopping = stw_state() != STW_GOES;
	h->now = now;
	h->started = sched.start_time;
	h->quantum = config.quantum;
	write_counters(h);
	h->at_modules = h->head_size;
	h->nmodules = write_modules((void *)(st.draft + h->at_modules));
	h->at_ps = h->at_modules + SNAPSHOT_MODULES * (uint32_t)sizeof(struct snapshot_module);
	h->nps = write_ps((void *)(st.draft + h->at_ps));
	h->at_threads = h->at_ps + h->nps * (uint32_t)sizeof(struct snapshot_p);
	h->nthreads = write_threads((void *)(st.draft + h->at_threads), now, &h->left_out);
	return h->at_threads + h->nthreads * sizeof(struct snapshot_thread);
}

// --- steps, by sysmon -----------------------------------------------------------------------------------

static void take(int64_t now)
{
	uint32_t live = load_relaxed(&sched.ngs);
	size_t used;

	if (forbidden || load_relaxed(&leaving))
		return;
	if (confined(CONFINE_FILES | CONFINE_VM)) {
		sysmon_turns_deaf();
		return;
	}
	if (st.mapped && live > st.room && st.room < SNAPSHOT_THREADS_MAX)
		close_file();
	if (st.mapped && !is_there()) // also after an exec that failed
		close_file();
	if (!st.mapped && !open_file(live))
		return;
	used = write_all(now);
	INVARIANT(used <= st.size && st.seq % 2 == 0, NULL, NULL);
	if (!publish(used))
		close_file(); // somebody has cut it short, or the disk is full
}

// Returns when to call again; INT64_MAX: nobody watches.
int64_t snapshot_poll(int64_t now)
{
	if (unlikely(load_relaxed(&asked)) && xchg(&asked, 0)) { // pairs with snapshot_wanted
		st.until = now + LINGER * MS;
		take(os_nanotime());
	}
	if (!st.mapped)
		return INT64_MAX;
	if (now < st.until)
		return st.until;
	close_file();
	return INT64_MAX;
}

// sysmon's handler: `preempt top` asks.
void snapshot_wanted(void)
{
	store_relaxed(&asked, 1); // before sysmon is woken
	sysmon_notice();
}

// --- start and end ----------------------------------------------------------------------------------------

// Before any thread exists. dir: XDG_RUNTIME_DIR, or NULL.
void snapshot_init(const char *dir, bool secure)
{
	forbidden = secure;
	if (dir && str_len(dir) < sizeof runtime_dir)
		copy(runtime_dir, dir, sizeof runtime_dir);
}

// Any thread: the process ends, or is about to exec. Not the child of a vfork or of a fork that nobody has told of.
void snapshot_leave(void)
{
	if (os_getpid() != sched.pid)
		return;
	(void)xchg(&leaving, 1); // before the look at file; pairs with open_file
	remove_file();
}

// The exec has failed.
void snapshot_stay(void)
{
	store_relaxed(&leaving, 0);
}

void snapshot_reset_in_child(void)
{
	if (st.draft)
		os_munmap(st.draft, st.size);
	st.mapped = st.draft = NULL; // the file is not mapped in a child
	store_relaxed(&file, 0);
	store_relaxed(&asked, 0);
	store_relaxed(&leaving, 0);
}
