// sites.c: instructions of the program that are rewritten: PAUSE where a thread spins, that by which it got in line before, and inline
// `syscall`.
//
// Problem. A thread that spins until another one has done something gives its P up at the end of its slice only, and no
// interposer sees it; nor does one see a system call that is an instruction in a library's own code. The instructions are two
// bytes long, or may be: enough for a jump over 128 bytes, no more.
//
// Approach. The table of a module (tools/safepoint) lists the instructions, with their borders proven by decoding the function, and
// *caves*: filling that is proven never to be executed. The site becomes `jmp rel8` to a cave, which has `jmp rel32` to a
// stub in our own text (site.S; caves.c finds the way). A module too far away for rel32, usually the executable itself, gets a page near
// it that jumps the rest.
//
//	site:  jmp cave          was PAUSE or syscall; back here for good at the next byte
//	cave:  jmp stub          or to another cave, or to the near page: jmp *0(%rip)
//	stub:  steps over the red zone, calls site_pause or site_syscall, jumps behind the site
//
// By which a thread gets in line (convoy.c) is executed by the program itself all the same: a copy of it lies in the near page, and a jump behind the
// site. The stub calls site_enqueue and jumps to the copy. Where the instruction has five bytes, no cave is needed.
//
// When. Once there is demand, and the module's table is there; text.c replaces the pages. All caves of a module are written before
// any site, so no thread finds a jump into what is not there yet. A site is one instruction before and after: a thread is
// in front of it or behind it, never inside.
//
// Which. Only where the callers can be found; not in the C library
// or the loader (is_taboo); system calls only if the number may block or is not known, and not in critical functions (whoever waits there may hold
// what others wait for: so it is with PAUSE as well, but nobody who computes in between makes it wait for longer). PREEMPT_SPIN=sample or off: none.
//
// Nothing is put back. Without demand a rewritten PAUSE costs some ns; in the child of a fork and in one of vfork the stubs
// find no G, and do what the instruction did; exec replaces everything. To put back would need the same care once more, and the
// stubs would have to stay: a thread may be in one. A child of a fork by an inline system call has not told anybody and has a
// copy of its G, whose Ps would go to threads that are not there: a page that the kernel wipes in such a child says so
// (sites_here).
//
// A module that is unloaded takes its pages with it. dlclose waits until we have finished (sites_settle), and if one comes
// back at the same place it is rewritten again, with the stubs that it had. What the C library unloads by itself passes no
// dlclose: its conversion modules are taboo, and a dlopen that fails takes back what it has just mapped, so a module must have
// been there for YOUTH.
//
// Delicate: `patching` against `unloading` (modules.c): each side sets its own with a locked instruction, then looks at the other's.

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "caves.h"
#include "frame.h"
#include "shim.h"
#include "site.h"

static const int64_t MS = 1000000;
enum {
	YOUTH = 10000000,	 // ns
	ROWS = 40000,		 // of a table looked at in one step: 0.1 ms
	PER_MODULE = SITE_STUBS, // sites
	NEAR_SIZE = 4096,
	NEAR_ENTRY = 16,
	COPY_SIZE = 32, // of a relocated instruction
};

struct site {
	uintptr_t at;
	uint8_t size;
	uint8_t kind; // enum site_kind
};

// What is being done for one module; sysmon's, but for order, which the helper fills in.
struct plan {
	struct mapped *m;
	const struct table *t;
	uintptr_t bias;
	uint32_t row, call; // scanned up to here
	struct site sites[PER_MODULE];
	uint32_t n;
	struct caves caves;
	struct text_patch jumps[PER_MODULE];
	uint32_t njumps;
	uintptr_t near; // page near the module, or 0
	uint32_t near_used;
	struct text_order order;
};

static struct {
	bool off, refused; // refused: memory may not be made executable
	bool ready;
	enum { CHOOSE, SCAN, START, WAIT } phase;
	uint32_t next; // module
	int64_t again;
	struct plan *plan;
	uint32_t slots[SITE_KINDS]; // in use
} st;

static uint32_t patching; // futex word; 1: text may be written to
static bool stop;	  // a dlclose waits
static uint32_t *present; // of a page that is empty in a child: not 0

// --- stubs ------------------------------------------------------------------------------------------------

static bool in_reach(uintptr_t a, uintptr_t b)
{
	intptr_t d = (intptr_t)(a - b);

	return d > -0x7fff0000ll && d < 0x7fff0000ll;
}

// A page in reach, below the module: above an executable is the heap. Below a library may be the stacks of many threads.
static uintptr_t near_page(uintptr_t start)
{
	uintptr_t at = start & ~(uintptr_t)0xffff;

	for (int i = 0; i < 160; i++) {
		uintptr_t step = i < 64 ? 0x10000 : 0x1000000;
		long p;

		if (at < step + 0x10000)
			return 0;
		at -= step;
		p = sys6(SYS_mmap, (long)at, NEAR_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (p == (long)at)
			return at;
		if (p > 0) // a kernel before 4.17 takes the address for a hint
			sys2(SYS_munmap, p, NEAR_SIZE);
	}
	return 0;
}

// Where the stub says that the program goes on.
static uintptr_t back(const struct site *s)
{
	return s->kind == SITE_ENQUEUE ? s->at : s->at + s->size;
}

// The slot of a site: the one that it had before, or a new one. NULL: there are no more.
static struct site_slot *slot(const struct site *s)
{
	struct site_slot *all = site_slots + s->kind * SITE_STUBS;
	uint32_t n = st.slots[s->kind];

	for (uint32_t i = 0; i < n; i++)
		if (all[i].back == back(s))
			return &all[i];
	if (n == SITE_STUBS)
		return NULL;
	st.slots[s->kind]++;
	all[n].back = back(s);
	all[n].far = all[n].copy = 0;
	return &all[n];
}

// Room in the page near the module, which is made when it is needed. 0: there is none.
static uintptr_t near_room(struct plan *p, uint32_t size)
{
	uintptr_t at;

	if (!p->near)
		p->near = near_page(p->m->start);
	if (!p->near || !in_reach(p->near, p->m->end) || p->near_used + size > NEAR_SIZE)
		return 0;
	at = p->near + p->near_used;
	p->near_used += size;
	return at;
}

// A copy of the instruction for slot: the one that there is, from a module that has come back, or a new one.
static bool copy_site(struct plan *p, const struct site *s, struct site_slot *slot_)
{
	uint8_t was[RELOCATED_MOST], is[COPY_SIZE], there[COPY_SIZE];
	uint32_t size = s->size + RELOCATED_MORE, used = p->near_used;
	uintptr_t at = slot_->copy;

	if (memory_read(s->at, was, s->size) < 0)
		return false;
	if (at && in_reach(at, p->m->start) && in_reach(at, p->m->end) &&
	    relocate(was, s->size, s->at, at, is) && memory_read(at, there, size) == 0 &&
	    memcmp(there, is, size) == 0)
		return true;
	at = near_room(p, COPY_SIZE);
	if (!at || !relocate(was, s->size, s->at, at, is)) {
		p->near_used = used;
		return false;
	}
	memcpy((void *)at, is, size);
	slot_->copy = at;
	return true;
}

// Where a long jump near a site goes.
static uintptr_t entry(struct plan *p, const struct site *s)
{
	static const uint8_t jmp[] = {0xff, 0x25, 0, 0, 0, 0}; // jmp *0(%rip)
	struct site_slot *slot_ = slot(s);
	uintptr_t stub, at;

	if (!slot_ || (s->kind == SITE_ENQUEUE && !copy_site(p, s, slot_)))
		return 0;
	stub = (uintptr_t)slot_ - SITE_DISTANCE;
	if (in_reach(stub, p->m->start) && in_reach(stub, p->m->end))
		return stub;
	if (slot_->far && in_reach(slot_->far, p->m->start) && in_reach(slot_->far, p->m->end))
		return slot_->far;
	at = near_room(p, NEAR_ENTRY);
	if (!at)
		return 0;
	slot_->far = at;
	memcpy((void *)at, jmp, sizeof jmp);
	memcpy((void *)(at + sizeof jmp), &stub, sizeof stub);
	return at;
}

// --- the plan ---------------------------------------------------------------------------------------------

static int by_address(const struct text_patch *a, const struct text_patch *b)
{
	return a->at < b->at ? -1 : a->at > b->at;
}

static void sort(struct text_patch *v, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		struct text_patch x = v[i];
		uint32_t k = i;

		for (; k > 0 && by_address(&v[k - 1], &x) > 0; k--)
			v[k] = v[k - 1];
		v[k] = x;
	}
}

// What was written to the page near the module from there on is no more, or will never be executable.
static void forget_near(const struct plan *p, uint32_t from)
{
	uintptr_t lo = p->near + from;

	for (uint32_t i = 0; p->near && i < SITE_KINDS * SITE_STUBS; i++) {
		struct site_slot *s = &site_slots[i];

		if (s->far - lo < NEAR_SIZE - from)
			s->far = 0;
		if (s->copy - lo < NEAR_SIZE - from)
			s->copy = 0;
	}
}

static void plan_site(struct plan *p, const struct site *s)
{
	static const uint8_t pause[] = {0xf3, 0x90}, call[] = {0x0f, 0x05};
	uint32_t slots = st.slots[s->kind], near = p->near_used, size = JMP_SHORT;
	uintptr_t stub, at;
	uint8_t now[2];

	if (s->size >= JMP_LONG && s->at / 4096 == (s->at + JMP_LONG - 1) / 4096)
		size = JMP_LONG; // no cave needed
	if (s->at / 4096 != (s->at + size - 1) / 4096 || memory_read(s->at, now, 2) < 0 ||
	    (s->kind == SITE_PAUSE && memcmp(now, pause, 2) != 0) ||
	    (s->kind == SITE_SYSCALL && memcmp(now, call, 2) != 0))
		return;
	at = stub = entry(p, s);
	if (stub && size == JMP_SHORT)
		at = caves_way(&p->caves, s->at + JMP_SHORT, stub);
	if (!at) {
		st.slots[s->kind] = slots;
		forget_near(p, near);
		p->near_used = near;
		return;
	}
	caves_jump(&p->jumps[p->njumps++], s->at, size, at);
}

// Once: the slots can be written, and children of forks know that they are.
static bool get_ready(void)
{
	if (st.ready)
		return true;
	if (!present)
		present = os_mmap(4096);
	if (!present || sys3(SYS_madvise, present, 4096, MADV_WIPEONFORK) < 0 ||
	    sys3(SYS_mprotect, site_slots, sizeof site_slots, PROT_READ | PROT_WRITE) < 0)
		return false;
	store_relaxed(present, 1);
	st.ready = true;
	return true;
}

// True: there is something to be written.
static bool make_plan(struct plan *p)
{
	if (!get_ready()) {
		st.off = true;
		return false;
	}
	caves_begin(&p->caves, p->t, p->bias);
	p->njumps = 0;
	p->near = 0;
	p->near_used = 0;
	for (uint32_t i = 0; i < p->n; i++)
		plan_site(p, &p->sites[i]);
	// From here on it is never written to again.
	if (p->near_used && sys3(SYS_mprotect, p->near, NEAR_SIZE, PROT_READ | PROT_EXEC) < 0) {
		forget_near(p, 0);
		st.refused = true;
		p->njumps = 0;
	}
	if (p->near && (!p->near_used || st.refused))
		sys2(SYS_munmap, p->near, NEAR_SIZE);
	p->near = 0;
	if (p->njumps == 0)
		return false;
	sort(p->caves.jumps, p->caves.njumps);
	sort(p->jumps, p->njumps);
	p->order = (struct text_order){.start = p->m->start,
				       .end = p->m->end,
				       .pid = sched.pid,
				       .v = {p->caves.jumps, p->jumps},
				       .n = {p->caves.njumps, p->njumps},
				       .stop = &stop,
				       .result = -ECANCELED}; // if it is killed
	return true;
}

// The next rows of the table. True: all have been seen.
static bool scan(struct plan *p)
{
	const struct table *t = p->t;
	uint32_t n = t->header->nrows, end = n - p->row > ROWS ? p->row + ROWS : n;

	for (; p->row < end; p->row++) {
		const struct table_row *row = &t->rows[p->row];
		uint64_t lo = table_row_start(t, p->row), hi = table_row_start(t, p->row + 1);
		int32_t nr = row->flags & TABLE_SYSCALL ? t->syscalls[p->call++].nr : -1;

		if (!(row->flags & (TABLE_PAUSE | TABLE_SYSCALL | TABLE_ENQUEUE)) ||
		    table_reason(row) != TABLE_SAFE)
			continue;
		// The others also where a lock is taken: who spins there, or gets in line, has not got it.
		if (row->flags & TABLE_SYSCALL && row->flags & TABLE_CRITICAL)
			continue;
		if (row->flags & TABLE_ENQUEUE) {
			if (hi - lo >= 2 && hi - lo <= RELOCATED_MOST && p->n < PER_MODULE)
				p->sites[p->n++] = (struct site){p->bias + lo, (uint8_t)(hi - lo),
								 SITE_ENQUEUE};
			continue;
		}
		if ((hi - lo) %
		    2) // another mark begins inside an instruction: one of the two is wrong
			continue;
		if (row->flags & TABLE_SYSCALL &&
		    (hi - lo != 2 ||
		     (nr >= 0 && (nr >= SITE_NUMBERS || !(site_gated[nr / 64] >> (nr % 64) & 1)))))
			continue;
		for (; lo < hi && p->n < PER_MODULE; lo += 2)
			p->sites[p->n++] = (struct site){p->bias + lo, 2,
							 row->flags & TABLE_SYSCALL ? SITE_SYSCALL
										    : SITE_PAUSE};
	}
	return p->row == n;
}

// --- sysmon -----------------------------------------------------------------------------------------------

static void nobody_writes(void)
{
	store_release(&patching, 0); // pairs with sites_settle
	os_futex_wake(&patching, 1 << 30);
}

static void in_helper(void *arg)
{
	struct text_order *o = arg;

	o->result = text_write(o);
	nobody_writes();
}

// Was a module that has been rewritten unloaded, and has come back as its file has it?
static bool is_back(struct mapped *m)
{
	uint8_t now[2];

	if (!m->site || m->sites_gen == modules_unloads())
		return false;
	if (memory_read(m->site, now, 2) < 0)
		return false; // not yet
	m->sites_gen = modules_unloads();
	return now[0] != 0xeb && now[0] != 0xe9;
}

// A module to be rewritten, or false.
static bool choose(struct plan *p, int64_t now)
{
	for (; st.next < load_relaxed(&modules->n); st.next++) {
		struct mapped *m = &modules->v[st.next];
		const struct table *t = m->table;
		uintptr_t pc;

		if (!t || (!t->header->bytes_spin && !t->header->nsyscalls))
			continue;
		if (m->sites == SITES_DONE && !is_back(m))
			continue;
		if (m->sites != SITES_YOUNG) {
			m->sites = SITES_YOUNG;
			m->sites_since = now;
		}
		if (now - m->sites_since < YOUTH) {
			st.again = st.again < m->sites_since + YOUTH ? st.again
								     : m->sites_since + YOUTH;
			continue;
		}
		pc = m->start - t->header->load_vaddr + t->header->text_base;
		m->sites = SITES_NEW;
		if (modules_find(pc, &p->bias) != t)
			continue; // it is gone, and may come back
		m->sites = SITES_DONE;
		p->m = m;
		p->t = t;
		p->row = p->call = p->n = 0;
		return true;
	}
	return false;
}

// 0, -EBUSY: not now, or an error.
static int start(struct plan *p)
{
	uintptr_t pc = p->m->start - p->t->header->load_vaddr + p->t->header->text_base;
	int r = -EBUSY;

	xchg(&patching, 1); // pairs with modules_unload's count, and sites_settle
	store_relaxed(&stop, false);
	if (!modules_unloading())
		r = modules_find(pc, &p->bias) == p->t ? helper_call(in_helper, &p->order)
						       : -ENOENT;
	if (r < 0)
		nobody_writes();
	return r;
}

static void finish(struct plan *p)
{
	const struct text_order *o = &p->order;

	if (o->result < 0) {
		if (o->result != -EPERM)
			log_line(LOG_INFO, "%s: its instructions stay as they are (error %d)",
				 o->path, -o->result);
		if (o->result == -EBUSY)
			st.off = true; // a debugger
		if (o->result == -ECANCELED)
			p->m->sites = SITES_NEW;
		st.refused |= o->refused;
		return;
	}
	count_relaxed(&stats.spin_sites, p->njumps);
	p->m->site = p->jumps[0].at;
	p->m->sites_gen = modules_unloads();
	log_line(LOG_INFO, "%s: %u of %u waiting instructions are rewritten, in %u pages", o->path,
		 p->njumps - o->skipped, p->n, o->pages);
}

// Begin to write what is planned.
static void start_or_not(struct plan *p)
{
	int r = start(p);

	switch (r) {
	case 0:
		st.phase = WAIT;
		break;
	case -EBUSY:
		break;
	case -ENOENT: // it has been unloaded; should it come back it is a new one
		p->m->sites = SITES_NEW;
		st.phase = CHOOSE;
		break;
	default:
		log_line(LOG_INFO, "no instructions are rewritten (error %d)", -r);
		st.off = true;
	}
}

static int64_t step(struct plan *p, int64_t now)
{
	switch (st.phase) {
	case CHOOSE:
		st.again = now + 20 * MS;
		if (!choose(p, now)) {
			st.next = 0;
			return st.again;
		}
		st.phase = SCAN;
		break;
	case SCAN:
		if (scan(p))
			st.phase = p->n && make_plan(p) ? START : CHOOSE;
		break;
	case START:
		start_or_not(p);
		break;
	case WAIT:
		if (helper_calling())
			break;
		nobody_writes(); // it may have been killed
		finish(p);
		st.phase = CHOOSE;
		break;
	}
	if (st.refused && !st.off) {
		log_line(LOG_INFO,
			 "no instructions are rewritten: no memory may be made executable");
		st.off = true;
	}
	st.again = now + MS / 5;
	return st.again;
}

int64_t sites_poll(int64_t now)
{
	if (st.ready && !sites_here()) // in a child that has threads by now
		store_relaxed(present, 1);
	if (st.off || config.spin != SPIN_ON || !modules)
		return INT64_MAX;
	if (!confine_known())
		return now + MS;
	if (now < st.again)
		return st.again;
	// What a filter refuses it may answer with death; and a call that does not return where it came from is an error with
	// a shadow stack. Looked at each time: a program confines itself when it likes.
	if (st.phase != WAIT &&
	    (confined(CONFINE_FILES | CONFINE_VM | CONFINE_TEXT | CONFINE_WAIT) ||
	     has_shadow_stack())) {
		st.off = true;
		return INT64_MAX;
	}
	if (!st.plan) {
		st.plan = os_mmap(sizeof *st.plan);
		if (!st.plan)
			st.off = true;
		return now;
	}
	return step(st.plan, now);
}

// A dlclose has announced itself: wait, for at most a second, until nobody writes to text any more.
void sites_settle(void)
{
	for (int i = 0; i < 1000 && load_acquire(&patching); i++) { // pairs with in_helper
		struct deadline d = os_deadline_in(MS);

		store_relaxed(&stop, true);
		os_futex_wait(&patching, 1, &d);
	}
}

void sites_abandoned(void)
{
	nobody_writes();
}

bool sites_here(void)
{
	return present && load_relaxed(present);
}

void sites_reset_in_child(void)
{
	patching = 0;
	if (st.phase != CHOOSE && st.plan)
		st.plan->m->sites = SITES_NEW;
	if (st.plan) {
		forget_near(st.plan, 0); // the fork has come before it was executable
		st.plan->near = 0;
	}
	st.phase = CHOOSE;
	st.next = 0;
	st.again = 0;
}
