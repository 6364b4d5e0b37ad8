// trace.c: the event trace: PREEMPT_TRACE.
//
// Problem. What the scheduler did, and when, for millions of events, at a cost that does not change what is looked at; on hot paths, in signal
// handlers, with locks of ours held. The process may end at any moment and by any means.
//
// Approach. Events go into rings, one for each P and one for threads without a P, in a file that is mapped shared. So they are in the file as
// soon as they are written, and nothing has to be done at the end. Any thread may write to any ring: a slot is taken by a CAS on head, filled, and marked
// with its number; a handler on top of a writer takes the next one. Mostly the holder of the P alone writes, so there is no contention. A thread
// of our own, the tracer, appends what is in the rings to the file, before they are full. A ring that is full loses what comes, and counts it.
//
// The tracer has a table of file descriptors of its own with one file in it. So a program that closes all it finds, or looks at their
// numbers, does not meet ours; and a full disk or a file-size limit is a matter between the kernel and the tracer. A slow disk holds up nobody but it.
//
// Rejected: sysmon as the writer (a disk that takes 100 ms would end preemption for as long). One ring for each thread (thousands of threads). Events
// straight into a file that is mapped piece by piece (a fault for every 128 events, in threads that hold Ps). A file kept open in
// the program's table (it may be closed, and its number be another file's then).
//
// Delicate:
//  - A slot is written again only after tail has passed it; tail moves after the events are in a chunk and header.end covers that. A reader who finds
//    events twice (the process was killed in between) goes by their numbers.
//  - Who has taken a slot must fill it: it is in a critical section, so no handler of the program leaves by longjmp. A slot that is not filled for
//    long is given up all the same, and counted as lost (asynchronous cancellation ends a thread anywhere).
//  - The child of a fork shares the rings until it is told that it is one, and writes nothing from then on.

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "shim.h"

#ifndef PREEMPT_VERSION
#define PREEMPT_VERSION "unknown"
#endif

static const int64_t MS = 1000000;
enum {
	LOOK = 1000,	// ms between looks at names and at what is in the rings
	GIVE_UP = 2000, // ms until a slot that is not filled is skipped
	READY = 10000,	// ms to open the file
	SETTLE = 1000,	// ms to write the rest at the end of the process
	BATCH = 2048,	// events in a chunk at most
	SEEN = 1024,	// modules that are remembered
};

bool trace_on;

static struct {
	struct trace_header *header;
	size_t size; // mapped
	uint32_t nrings, slots;
	size_t ring_size;
	uint32_t kick;	  // 1: the tracer is to look. A futex word
	uint32_t phase;	  // a futex word
	uint32_t settled; // requests that were answered. A futex word
	uint32_t wanted;  // requests
	uint32_t told;	  // of the error
	int tid;
	int error;
	const char *trouble; // with error: what could not be done
	int exit_status;
	bool inherited; // the file of this name is the parent's
	char path[512];
} tr;
enum { OPENING, READY_TO_WRITE, FAILED, ENDING };

static struct trace_ring *ring_at(uint32_t i)
{
	return (struct trace_ring *)((char *)tr.header + TRACE_PAGE + i * tr.ring_size);
}

static struct trace_event *slot_of(struct trace_ring *r, uint64_t n)
{
	return (struct trace_event *)((char *)r + TRACE_PAGE) + (n & (tr.slots - 1));
}

// --- writing events -----------------------------------------------------------------------------------

static void wake_tracer(void)
{
	if (!xchg(&tr.kick, 1)) // after the event; pairs with the xchg in tracer
		os_futex_wake(&tr.kick, 1);
}

__attribute__((noinline)) static void lose(struct trace_ring *r)
{
	int error = load_relaxed(&tr.header->error);

	count_relaxed(&r->lost, 1);
	if (unlikely(error) && !xchg(&tr.told, 1)) // once; no partner
		log_line(
			LOG_WARN,
			"PREEMPT_TRACE: writing %s failed (error %d); events are lost from here on",
			tr.path, error);
}

// Signal-safe; about 100 bytes of stack, some 40 ns with the time at hand.
void trace_write(enum trace_kind kind, unsigned detail, const struct p *pp, uint32_t g,
		 uint32_t other, uint64_t arg, int64_t now)
{
	uint32_t p = pp ? pp->id : TRACE_NO_P;
	struct trace_ring *r;
	struct trace_event *e;
	uint64_t n;

	critical_enter();
	r = ring_at(pp ? 1 + p % (tr.nrings - 1) : 0);
	do {
		n = load_relaxed(&r->head);
		if (unlikely(n - load_acquire(&r->tail) >=
			     tr.slots)) { // pairs with drain: it has read the slot
			lose(r);
			critical_leave();
			return;
		}
	} while (unlikely(!cas(&r->head, n, n + 1))); // against other writers
	e = slot_of(r, n);
	e->time = now ? now : os_nanotime();
	e->kind = (uint8_t)kind;
	e->detail = (uint8_t)detail;
	e->p = (uint16_t)p;
	e->g = g;
	e->other = other;
	e->arg = arg;
	store_release(&e->mark, (uint32_t)n + 1); // publishes the event; pairs with drain
	if (unlikely(((n + 1) & (tr.slots / 4 - 1)) == 0))
		wake_tracer();
	critical_leave();
}

static uint32_t self_id(void)
{
	const struct g *self = getg();

	return self ? self->goid : 0;
}

// gp is about to be given pp, pinned by the caller; its fields are as they were.
void trace_start(const struct p *pp, const struct g *gp, bool inherits, int64_t now)
{
	uint32_t status = load_relaxed(&gp->status);
	bool granted = status == G_RUNNABLE || status == G_PREEMPTED;

	trace_write(TRACE_GO_START, (granted ? TRACE_GRANTED : 0) | (inherits ? TRACE_INHERITS : 0),
		    pp, gp->goid, self_id(), granted ? (uint64_t)(now - gp->runnable_since) : 0,
		    now);
}

// gp, the caller's own, has parked. pp: the P that it still has, pinned, or NULL.
void trace_block(const struct p *pp, const struct g *gp, int64_t now)
{
	const void *addr = gp->waitfor;
	// A waiter's mutex is there; the field is in the public header.
	int owner = gp->waitreason == WAIT_MUTEX && addr
			    ? load_relaxed(&((const pthread_mutex_t *)addr)->__data.__owner)
			    : 0;

	trace_write(TRACE_GO_BLOCK, gp->waitreason, pp, gp->goid, (uint32_t)owner, (uintptr_t)addr,
		    now);
}

// gp has been woken by the caller, or by nobody: itself.
void trace_unblock(const struct g *gp, bool itself, int64_t now)
{
	const struct g *self = getg();

	trace_write(TRACE_GO_UNBLOCK, itself, self && !itself ? load_relaxed(&self->p) : NULL,
		    gp->goid, itself ? 0 : self_id(), 0, now);
}

// gp, the caller's own, gives way. pp as in trace_block.
void trace_yield(const struct p *pp, const struct g *gp, bool forced, bool asked, int64_t now)
{
	int64_t over = pp ? now - load_relaxed(&pp->slice_start) - config.quantum : 0;
	unsigned how = forced ? TRACE_FORCED : gp->is_interrupted ? TRACE_ASYNC : TRACE_COOPERATIVE;

	trace_write(asked ? TRACE_GO_PREEMPT : TRACE_GO_SCHED, asked ? how : 0, pp, gp->goid, 0,
		    over > 0 ? (uint64_t)over : 0, now);
}

// A P has just been pinned by retakep; pp->g is still who had it.
void trace_retake(const struct p *pp)
{
	const struct g *gp = pp->g;

	trace_write(TRACE_RETAKE, gp && load_relaxed(&gp->status) != G_SYSCALL, pp,
		    gp ? gp->goid : 0, self_id(), 0, 0);
}

static void write_name(uint64_t goid, int tid, const char name[16])
{
	uint64_t part[2];

	for (int i = 0; i < 2; i++) {
		part[i] = 0;
		for (int k = 0; k < 8; k++)
			part[i] |= (uint64_t)(uint8_t)name[8 * i + k] << 8 * k;
		trace_write(TRACE_GO_NAME, (unsigned)i, NULL, goid, (uint32_t)tid, part[i], 0);
	}
}

// gp's thread leaves, and knows its name.
void trace_end_of(const struct g *gp)
{
	char name[16] = "";

	os_thread_name(name);
	write_name(gp->goid, gp->tid, name);
	trace_write(TRACE_GO_END, 0, NULL, gp->goid, (uint32_t)gp->tid, 0, 0);
}

// --- the tracer: chunks -----------------------------------------------------------------------------------

static int fd = -1; // in its own table

static struct {
	struct trace_chunk head;
	union {
		struct trace_event events[BATCH];
		struct {
			struct trace_module module;
			char path[4096 + 8];
		};
	};
} chunk;

static bool append(void)
{
	uint64_t end = tr.header->end;
	long n;

	if (tr.header->error)
		return false;
	for (uint32_t at = 0; at < chunk.head.size; at += (uint32_t)n) {
		n = sys4(SYS_pwrite64, fd, (char *)&chunk + at, chunk.head.size - at, end + at);
		if (n <= 0) {
			store_relaxed(&tr.header->error, n < 0 ? (int32_t)-n : ENOSPC);
			return false;
		}
	}
	store_release(&tr.header->end,
		      end + chunk.head.size); // before tail moves; pairs with readers of the file
	return true;
}

// One chunk at most. False: there is nothing more now.
static bool drain_some(uint32_t i, int64_t now)
{
	static int64_t stuck_since[TRACE_RINGS_MAX];
	struct trace_ring *r = ring_at(i);
	uint64_t tail = r->tail, head, lost = load_relaxed(&r->lost);
	uint32_t n = 0;

	head = load_acquire(
		&r->head); // after lost: what was lost by then came behind the last event; pairs with trace_write
	while (n < BATCH && tail + n < head) {
		struct trace_event *e = slot_of(r, tail + n);

		if (load_acquire(&e->mark) != (uint32_t)(tail + n) + 1) // pairs with trace_write
			break;
		chunk.events[n++] = *e;
	}
	if (!n && tail < head) {
		if (!stuck_since[i])
			stuck_since[i] = now;
		if (now - stuck_since[i] < GIVE_UP * MS)
			return false;
		count_relaxed(&r->lost, 1);
		store_release(&r->tail, tail + 1); // pairs with trace_write
		stuck_since[i] = 0;
		return true;
	}
	stuck_since[i] = 0;
	if (!n)
		return false;
	chunk.head = (struct trace_chunk){TRACE_CHUNK_EVENTS,
					  (uint32_t)(sizeof chunk.head + n * sizeof *chunk.events),
					  i,
					  n,
					  tail,
					  lost};
	if (!append())
		return false;
	store_release(&r->tail, tail + n); // the slots were read; pairs with trace_write
	return tail + n < head;
}

static void drain(int64_t now)
{
	for (uint32_t i = 0; i < tr.nrings; i++)
		while (drain_some(i, now))
			;
}

// --- the tracer: names of threads and modules ---------------------------------------------------------------

// Of threads that live; one that ends says its name by itself.
static void look_at_names(void)
{
	// acquire: pairs with gfree_refill
	for (struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) {
		uint32_t status = load_relaxed(&gp->status);
		char path[64], read[32] = "", name[sizeof gp->traced_name];
		struct text t = {path, 0, sizeof path};
		uint64_t goid =
			gp->goid; // before the file is read: it may be another thread's G by then
		int tid = gp->tid;
		bool same = true;

		if (status == G_IDLE || status == G_DEAD || !tid)
			continue;
		text_printf(&t, "/proc/self/task/%d/comm", tid);
		if (os_read_file(path, read, sizeof read) <= 0)
			continue;
		for (size_t i = 0; i < sizeof name; i++) {
			if (read[i] == '\n')
				read[i] = 0;
			name[i] = i + 1 < sizeof name ? read[i] : 0;
			same = same && gp->traced_name[i] == name[i];
			gp->traced_name[i] = name[i];
		}
		if (!same)
			write_name(goid, tid, name);
	}
}

static struct {
	struct {
		uintptr_t start, end;
	} seen[SEEN];
	uint32_t nseen;
	struct {
		uint64_t dev, ino;
		uintptr_t start;
	} run; // lines of one file
	int64_t next, interval;
	char lines[16 * 1024];
} mods;

static void write_module(const struct map_line *line)
{
	struct module_id id = {.size = 0};
	size_t n = str_len(line->path) + 1;

	if (n > sizeof chunk.path - 8)
		return;
	if (module_identify(mods.run.start, line->end, line, &id) < 0)
		id.size = 0;
	chunk.module = (struct trace_module){.start = line->start,
					     .end = line->end,
					     .offset = line->offset,
					     .id_size = id.size,
					     .path_size = (uint32_t)(n + 7) & ~7u};
	for (size_t i = 0; i < sizeof chunk.module.id; i++)
		chunk.module.id[i] = id.id[i];
	for (size_t i = 0; i < chunk.module.path_size; i++)
		chunk.path[i] = i < n ? line->path[i] : 0;
	chunk.head =
		(struct trace_chunk){.type = TRACE_CHUNK_MODULE,
				     .size = (uint32_t)(sizeof chunk.head + sizeof chunk.module +
							chunk.module.path_size)};
	append();
}

static void see_line(void *arg, const struct map_line *line)
{
	(void)arg;
	if (line->dev != mods.run.dev || line->ino != mods.run.ino || line->offset == 0) {
		mods.run.dev = line->dev;
		mods.run.ino = line->ino;
		mods.run.start = line->start;
	}
	if (!line->exec || !*line->path || line->deleted)
		return;
	for (uint32_t i = 0; i < mods.nseen; i++)
		if (mods.seen[i].start == line->start && mods.seen[i].end == line->end)
			return;
	if (mods.nseen == SEEN)
		return;
	mods.seen[mods.nseen].start = line->start;
	mods.seen[mods.nseen++].end = line->end;
	write_module(line);
}

static void look_at_modules(void)
{
	struct map_cursor c = {0};

	mods.run.ino = 0;
	while (!c.done)
		if (maps_read(&c, mods.lines, sizeof mods.lines, INT64_MAX, see_line, NULL) < 0)
			break;
}

// --- the tracer: the file -------------------------------------------------------------------------------------

static bool failed(const char *what, long error)
{
	tr.trouble = what;
	tr.error = (int)-error;
	return false;
}

// One trace per file. An old one is replaced, but not that of the program that this process was before an exec: that one has
// the name, and this one a number behind it.
static bool open_file(void)
{
	struct trace_header old;
	size_t len = str_len(tr.path);
	struct text t = {tr.path, len, sizeof tr.path};
	struct stat s;
	long n, r;

	for (int i = 2; i < 100; i++) {
		r = sys4(SYS_openat, AT_FDCWD, tr.path,
			 O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (r >= 0) {
			fd = (int)r;
			sys2(SYS_flock, fd, LOCK_EX | LOCK_NB);
			return true;
		}
		if (r != -EEXIST)
			return failed("cannot make", r);
		r = sys4(SYS_openat, AT_FDCWD, tr.path,
			 O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
		if (r == -ENOENT) // gone meanwhile
			continue;
		if (r < 0)
			return failed("cannot open", r);
		fd = (int)r;
		if (sys4(SYS_newfstatat, fd, "", &s, AT_EMPTY_PATH) < 0 || !S_ISREG(s.st_mode))
			return failed("not a plain file:", 0);
		if (sys2(SYS_flock, fd, LOCK_EX | LOCK_NB) == -EWOULDBLOCK)
			return failed("another process writes its trace there now (%p makes a file "
				      "for each):",
				      0);
		n = sys4(SYS_pread64, fd, &old, sizeof old, 0);
		if (n > 0) {
			bool trace = n == sizeof old;

			for (int k = 0; trace && k < 8; k++)
				trace = old.magic[k] == TRACE_MAGIC[k];
			if (!trace)
				return failed("exists, and is no trace:", 0);
		}
		if (n == sizeof old && old.pid == sched.pid) {
			t.len = len;
			text_printf(&t, ".%d", i);
			tr.path[t.len < sizeof tr.path ? t.len : sizeof tr.path - 1] = 0;
		} else {
			sys1(SYS_unlink, tr.path);
		}
		sys1(SYS_close, fd); // and the lock is gone
		fd = -1;
	}
	return failed("cannot make", -EEXIST);
}

// A shared page whose file has no room is a SIGBUS in the program: room for all of it before it is mapped.
static bool make_room(size_t size)
{
	struct rlimit {
		uint64_t now, max;
	} limit;
	long r;

	if (sys4(SYS_prlimit64, 0, 1 /* RLIMIT_FSIZE */, 0, &limit) == 0 && limit.now < size)
		return failed("the limit of file sizes is too low for", -EFBIG);
	r = sys4(SYS_fallocate, fd, 0, 0, size);
	if (r == -EOPNOTSUPP) {
		char *zeros = (char *)&chunk;

		r = 0;
		for (size_t at = 0; at < size && r >= 0; at += 4096) {
			r = sys4(SYS_pwrite64, fd, zeros, 4096, at);
			if (r >= 0 && r < 4096)
				r = -ENOSPC;
		}
	}
	return r < 0 ? failed("no room for", r) : true;
}

static void copy_string(char *to, const char *from, size_t size)
{
	for (size_t i = 0; i < size - 1 && from[i]; i++)
		to[i] = from[i];
}

static bool map_file(void)
{
	struct trace_header *h;
	long r;

	tr.size = TRACE_PAGE + tr.nrings * tr.ring_size;
	if (!make_room(tr.size))
		return false;
	r = sys6(SYS_mmap, 0, (long)tr.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		 0);
	if ((unsigned long)r > -4096ul)
		return failed("cannot map", r);
	h = (struct trace_header *)r;
	*h = (struct trace_header){.version = TRACE_VERSION,
				   .header_size = TRACE_PAGE,
				   .nrings = tr.nrings,
				   .slots = tr.slots,
				   .ring_size = tr.ring_size,
				   .off_chunks = tr.size,
				   .end = tr.size,
				   .pid = sched.pid,
				   .procs = load_relaxed(&sched.nprocs),
				   .policy = policy_number(sched.policy),
				   .start = os_nanotime(),
				   .realtime = os_clock(CLOCK_REALTIME),
				   .quantum = config.quantum};
	copy_string(h->library, PREEMPT_VERSION, sizeof h->library);
	compiler_barrier();
	for (int i = 0; i < 8; i++) // last: before that it is no trace
		h->magic[i] = TRACE_MAGIC[i];
	tr.header = h;
	return true;
}

static bool begin(void)
{
	long r = sys3(SYS_close_range, 0, ~0U, CLOSE_RANGE_UNSHARE); // Linux 5.9

	if (r < 0)
		return failed("no table of descriptors of its own for", r);
	return open_file() && map_file();
}

static void look(int64_t now)
{
	drain(now);
	look_at_names();
	if (now >= mods.next) {
		look_at_modules();
		mods.next = now + mods.interval;
		if (mods.interval < 64000 * MS)
			mods.interval *= 2;
	}
}

static void settle(uint32_t wanted)
{
	look_at_names();
	look_at_modules();
	drain(os_nanotime());
	tr.header->state |= TRACE_SETTLED;
	store_release(&tr.settled, wanted); // pairs with trace_settle
	os_futex_wake(&tr.settled, INT32_MAX);
}

static void tracer(void *arg)
{
	int64_t next = 0;
	bool ok = begin();

	(void)arg;
	sys5(SYS_prctl, 15 /* PR_SET_NAME */, "tracer", 0, 0, 0);
	store_release(&tr.phase, ok ? READY_TO_WRITE : FAILED); // pairs with trace_open
	os_futex_wake(&tr.phase, 1);
	mods.interval = LOOK * MS;
	while (ok && load_acquire(&tr.phase) == READY_TO_WRITE) { // pairs with trace_thread_ends
		struct deadline d = os_deadline_in(LOOK * MS);
		int64_t now = os_nanotime();
		uint32_t wanted;

		xchg(&tr.kick, 0);		   // before the looks; pairs with wake_tracer
		wanted = load_acquire(&tr.wanted); // pairs with trace_settle
		if (wanted != load_relaxed(&tr.settled)) {
			settle(wanted);
			continue;
		}
		if (now >= next) {
			look(now);
			next = now + LOOK * MS;
		} else {
			drain(now);
		}
		os_futex_wait(&tr.kick, 0, &d);
	}
	sys1(SYS_exit, tr.exit_status);
}

// --- beginning and end ------------------------------------------------------------------------------------------

static bool has_pid(const char *path)
{
	for (; *path; path++)
		if (path[0] == '%' && path[1] == 'p')
			return true;
	return false;
}

// Activation, before there is a second thread: wait for the file, so that the trace is whole.
void trace_open(void)
{
	struct deadline until = os_deadline_in(READY * MS);
	uint32_t cpus = load_relaxed(&sched.nprocs), phase;
	struct text t = {tr.path, 0, sizeof tr.path};
	int r;

	if (!config.trace[0] || trace_on)
		return;
	stats_path(config.trace, &t);
	if (tr.inherited) {
		log_line(LOG_WARN,
			 "PREEMPT_TRACE: %s is the trace of the process that forked this one; "
			 "%%p in the path makes one for each",
			 tr.path);
		return;
	}
	if (confined_wait(CONFINE_FILES)) {
		log_line(LOG_WARN, "PREEMPT_TRACE: a seccomp filter may forbid %s", tr.path);
		return;
	}
	tr.nrings = (cpus < TRACE_RINGS_MAX ? cpus : TRACE_RINGS_MAX - 1) + 1;
	tr.slots = tr.nrings <= 9    ? TRACE_SLOTS_MAX
		   : tr.nrings <= 33 ? TRACE_SLOTS_MAX / 2
				     : TRACE_SLOTS_MAX / 4;
	tr.ring_size = TRACE_PAGE + tr.slots * sizeof(struct trace_event);
	tr.error = 0;
	tr.trouble = "takes too long to open:";
	store_relaxed(&tr.phase, OPENING);
	r = os_spawn(tracer, NULL);
	if (r < 0) {
		log_line(LOG_WARN, "PREEMPT_TRACE: no thread for it: error %d", -r);
		return;
	}
	tr.tid = r;
	while ((phase = load_acquire(&tr.phase)) == OPENING) // pairs with tracer
		if (os_futex_wait(&tr.phase, OPENING, &until) == -ETIMEDOUT)
			break;
	if (phase == READY_TO_WRITE) {
		store_relaxed(&trace_on, true);
		return;
	}
	store_release(&tr.phase, ENDING); // as in trace_thread_ends
	if (tr.error)
		log_line(LOG_WARN, "PREEMPT_TRACE: %s %s: error %d", tr.trouble, tr.path, tr.error);
	else
		log_line(LOG_WARN, "PREEMPT_TRACE: %s %s", tr.trouble, tr.path);
}

// The process ends, or becomes another program: what only the tracer knows is written. Bounded. Signal-safe.
void trace_settle(void)
{
	struct deadline until = os_deadline_in(SETTLE * MS);
	uint32_t turn, settled;

	if (!load_relaxed(&trace_on) || load_relaxed(&tr.phase) != READY_TO_WRITE ||
	    os_getpid() != sched.pid) // in the child of a fork that nobody has told of
		return;
	turn = fetch_add(&tr.wanted, 1) + 1; // before the kick; pairs with tracer
	xchg(&tr.kick, 1);		     // as in wake_tracer
	os_futex_wake(&tr.kick, 1);
	while ((int32_t)((settled = load_acquire(&tr.settled)) - turn) < 0) // pairs with settle
		if (os_futex_wait(&tr.settled, settled, &until) == -ETIMEDOUT)
			return;
}

// The tracer must not outlive the program's threads. What comes now stays in the rings.
void trace_thread_ends(int status)
{
	if (tr.tid <= 0 || load_relaxed(&tr.phase) != READY_TO_WRITE)
		return;
	tr.exit_status = status;
	store_release(&tr.phase, ENDING); // pairs with tracer
	xchg(&tr.kick, 1);		  // as in wake_tracer
	os_futex_wake(&tr.kick, 1);
	// Sealed: a filter would kill it.
	for (int i = 0;
	     i < (load_relaxed(&sched.sealed) ? 100000 : 1000) && os_tgkill(tr.tid, 0) == 0; i++) {
		struct deadline d = os_deadline_in(MS / 10);

		os_futex_wait(&tr.phase, ENDING, &d);
	}
}

void trace_reset_in_child(void)
{
	if (!tr.header)
		return;
	store_relaxed(&trace_on, false);
	os_munmap(tr.header, tr.size);
	tr.header = NULL;
	tr.tid = 0;
	tr.kick = tr.wanted = tr.settled = tr.told = 0;
	tr.inherited = !has_pid(config.trace);
	fd = -1; // it was never in this process' table
	mods.nseen = 0;
	mods.next = 0;
}
