// modules.c: the safe-point table of any PC, without a lock.
//
// Problem. The preemption handler has a PC and needs the table of the module there, while other threads load and
// unload modules and nobody tells us. A table that is used for another module's code would stop a thread anywhere.
// Approach. glibc's _dl_find_object says, without a lock, which address range is one object now. A hash of ranges, to
// which sysmon alone adds and nobody ever takes away, has the tables that were found for that range. One is the right one
// if the image there begins with the very bytes that the table was made for: ELF header, program headers, build-id.
// So a reused address finds no old table, and the return of a module finds its table again.
//
// A module without build-id may begin like another one. Its table counts only as long as no dlclose has begun since the
// module was identified (interpose/dl.c counts them), and sysmon identifies it anew every second, for the C library unloads
// its own modules without the exported dlclose.
//
// sysmon works in small steps (modules_poll): scan /proc/self/maps, identify each object, open its table, ask the
// helper for those that are missing. After that it looks again only when a PC was missed. A module that has no table is
// remembered as such, with the count of dlcloses; a PC that is in no object (JIT code) is no miss at all.
//
// Without _dl_find_object (glibc before 2.35) objects are told apart by the file that is mapped, and the image is compared
// through memory_read, since nobody vouches that it is still there.
//
// Rejected: wrapping dlopen (its caller's address matters to it); dl_iterate_phdr and the loader's list in the handler (locks);
// r_debug (the list changes under the reader); tables that end with dlclose (libc's own does not pass us).
//
// Delicate: the handler may see an entry at any moment of its making. The range and the identity are written before the
// index entry that leads to it, and the table pointer, which changes only from NULL, last.

#include <errno.h>
#include <string.h>

#include "shim.h"

static const int64_t MS = 1000000;
enum {
	MODULES = 1024, // entries; later modules have no tables
	INDEX = 2048,
	MISSES = 64,
	PATHS = 192 * 1024, // bytes; a module whose path finds no room is never asked for
	LINES = 24 * 1024,
	BATCH = 64, // files for one helper
};
enum {
	BUDGET = 500000,	 // ns in one call
	PAUSE = 300000,		 // ns between two steps
	SETTLE = 5000000,	 // ns from the first call to the first scan
	HELPER_AFTER = 20000000, // ns to the helper: a short program needs none
	HELPER_LOOK = 100000000, // ns between looks at its results
	HELPER_MAX = 600,	 // s; then it hangs
	GAP_MIN = 1000000,	 // ns between scans; doubled while they find nothing new
};

// Of a module's table.
enum state {
	NEW,	 // not yet looked for
	LOADED,	 // table is set
	MISSING, // the helper could build it
	ASKED,	 // the helper has been told
	NONE,	 // there is none, and it is of no use to ask
};

struct module {
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
	bool asked; // once per process
	bool again; // its table could not be opened for lack of memory or descriptors
	struct table own;
	size_t size;
};

struct known {
	uint32_t n;
	uint16_t index[INDEX]; // number of the entry + 1, by start; open addressing
	struct module modules[MODULES];
	size_t paths_used;
	char paths[PATHS];
	char lines[LINES];
	char run_path[4096];
};

modules_find_object_fn *modules_find_object;

static struct known *known; // NULL until sysmon first needs it; never unmapped
static uint32_t unloads;    // dlcloses that have ended
static uint32_t unloading;  // and those that have begun only
static uintptr_t misses[MISSES];
static bool missed;

static struct {
	enum { IDLE, SCAN, LOAD } phase;
	bool scanned, full, hopeless; // hopeless: the helper cannot be started
	int64_t begun, resume, scan_ended, gap, doubt_gap, doubt_at, verify_at, helper_at,
		helper_since;
	struct map_cursor cursor;
	uint32_t round, gen, before;
	uintptr_t last; // start of the object seen last
	struct {
		struct map_line line;
		bool exec;
	} run; // without _dl_find_object: the object that is being put together
	uint16_t batch[BATCH];
	int nbatch, next; // next: to be tried while the helper runs
} st;

static uint32_t hash(uintptr_t start)
{
	return (uint32_t)((start >> 12) * 0x9e3779b97f4a7c15u >> 40);
}

// --- lookup, signal-safe ------------------------------------------------------------------------------

static void note_miss(uintptr_t start, uintptr_t pc)
{
	store_relaxed(&misses[hash(start) % MISSES], pc);
	store_release(&missed, true); // pairs with take_misses
}

// Is a module without build-id still the one that was identified?
static bool undisturbed(const struct module *m)
{
	// acquire: pairs with the last step of modules_unload, whose count of unloads must be seen
	return load_acquire(&unloading) == 0 && load_relaxed(&unloads) == load_relaxed(&m->gen);
}

// head is 8-byte aligned (table_check), and an image begins with a page.
static bool same_head(const struct table *t, uintptr_t start)
{
	const uint64_t *a = (const uint64_t *)(const void *)t->head;
	const volatile uint64_t *b = (const volatile uint64_t *)start;
	size_t size = t->header->head_size, n = size / 8, i = 0;

	for (; i + 4 <= n; i += 4)
		if ((a[i] ^ b[i]) | (a[i + 1] ^ b[i + 1]) | (a[i + 2] ^ b[i + 2]) |
		    (a[i + 3] ^ b[i + 3]))
			return false;
	for (; i < n; i++)
		if (a[i] != b[i])
			return false;
	return memcmp(t->head + n * 8, (const char *)start + n * 8, size % 8) == 0;
}

// The same where the image may vanish. About 300 bytes of stack.
static bool same_head_slow(const struct table *t, uintptr_t start)
{
	uint8_t buf[256];
	size_t size = t->header->head_size;

	for (size_t at = 0; at < size; at += sizeof buf) {
		size_t n = size - at < sizeof buf ? size - at : sizeof buf;

		if (memory_read(start + at, buf, n) < 0 || memcmp(buf, t->head + at, n) != 0)
			return false;
	}
	return true;
}

static const struct table *hit(const struct module *m, const struct table *t, uintptr_t *ret_bias)
{
	*ret_bias = m->start - t->header->load_vaddr;
	return t;
}

// A module known to have no table; true unless it may be another one by now.
static bool known_to_miss(struct module *m)
{
	if (load_relaxed(&m->gen) != load_relaxed(&unloads))
		return false;
	if (!load_relaxed(&m->wanted))
		store_relaxed(&m->wanted, true);
	return true;
}

// Without _dl_find_object. Newest entry first: the older ones may be of modules long gone.
static const struct table *find_by_range(struct known *k, uintptr_t pc, uintptr_t *ret_bias)
{
	bool none = false;

	for (uint32_t i = load_acquire(&k->n); i-- > 0;) { // pairs with add_module
		struct module *m = &k->modules[i];
		const struct table *t;

		if (pc < m->start || pc >= m->end)
			continue;
		t = load_acquire(&m->table); // pairs with publish
		if (!t)
			none = none || known_to_miss(m);
		else if ((m->by_id || undisturbed(m)) && same_head_slow(t, m->start))
			return hit(m, t, ret_bias);
	}
	if (!none)
		note_miss(pc & ~(uintptr_t)0xffff, pc);
	return NULL;
}

// Signal-safe; about 500 bytes of stack.
const struct table *modules_find(uintptr_t pc, uintptr_t *ret_bias)
{
	struct known *k = load_acquire(&known); // pairs with modules_poll
	struct loaded_object object;
	bool none = false;
	uintptr_t start;

	if (!k)
		return NULL;
	if (!modules_find_object)
		return find_by_range(k, pc, ret_bias);
	if (modules_find_object((void *)pc, &object) != 0)
		return NULL;
	start = (uintptr_t)object.map_start;
	for (uint32_t h = hash(start);; h++) {
		uint32_t i = load_acquire(&k->index[h % INDEX]); // pairs with add_module
		const struct table *t;
		struct module *m;

		if (i == 0)
			break;
		m = &k->modules[i - 1];
		if (m->start != start || m->end != (uintptr_t)object.map_end)
			continue;
		t = load_acquire(&m->table); // pairs with publish
		if (!t)
			none = none || known_to_miss(m);
		else if ((m->by_id || undisturbed(m)) && same_head(t, start))
			return hit(m, t, ret_bias);
	}
	if (!none)
		note_miss(start, pc);
	return NULL;
}

// Around dlclose. One that never returns leaves modules without build-id without tables, no more.
void modules_unload(bool begins)
{
	if (begins) {
		fetch_add(&unloading, 1); // before anything is unmapped; pairs with undisturbed
		return;
	}
	fetch_add(&unloads, 1);		  // before the next; pairs with undisturbed
	if (load_relaxed(&unloading) > 0) // a fork inside a destructor has forgotten it
		fetch_sub(&unloading, 1); // pairs with undisturbed
}

// --- the list, written by sysmon ------------------------------------------------------------------------

static bool same_id(const struct module_id *a, const struct module_id *b)
{
	return a->size == b->size && memcmp(a->id, b->id, sizeof a->id) == 0;
}

static struct module *find_module(uintptr_t start, uintptr_t end, const struct module_id *id)
{
	for (uint32_t h = hash(start), i; (i = known->index[h % INDEX]) != 0; h++) {
		struct module *m = &known->modules[i - 1];

		if (m->start == start && m->end == end && same_id(&m->id, id))
			return m;
	}
	return NULL;
}

static struct module *add_module(uintptr_t start, uintptr_t end, const struct module_id *id)
{
	uint32_t n = known->n, h = hash(start);
	struct module *m = &known->modules[n];

	if (n == MODULES) {
		if (!st.full)
			log_line(LOG_INFO, "more than %d modules: the rest have no safe points",
				 (int)MODULES);
		st.full = true;
		return NULL;
	}
	m->start = start;
	m->end = end;
	m->id = *id;
	m->by_id = id->size > 0;
	m->gen = st.gen;
	m->state = NEW;
	while (known->index[h % INDEX])
		h++;
	store_release(&known->n, n + 1);			    // pairs with find_by_range
	store_release(&known->index[h % INDEX], (uint16_t)(n + 1)); // pairs with modules_find
	return m;
}

static const char *keep_path(const char *path)
{
	size_t size = str_len(path) + 1;
	char *p = known->paths + known->paths_used;

	if (size > PATHS - known->paths_used)
		return NULL;
	memcpy(p, path, size);
	known->paths_used += size;
	return p;
}

// The object at [start, end) is mapped now. line: one of its mappings, or NULL.
static void see(uintptr_t start, uintptr_t end, const struct map_line *line)
{
	struct module_id id = {.size = 0};
	struct module *m;
	int r;

	r = module_identify(start, end, line, &id);
	m = find_module(start, end, &id);
	if (!m) {
		m = add_module(start, end, &id);
		if (!m)
			return;
		m->state = r < 0 ? NONE : NEW; // one that cannot be identified is all zeros
	}
	if (m->again) {
		m->again = false;
		m->state = NEW;
	}
	store_relaxed(&m->gen, st.gen);
	m->seen = st.round;
	if (m->wanted && m->state == NONE)
		store_relaxed(&m->wanted, false); // it is what it was; until the next look
	if (!m->path && m->state != LOADED && line && *line->path && !line->deleted)
		m->path = keep_path(line->path);
	if (line && (uintptr_t)modules_poll >= start && (uintptr_t)modules_poll < end &&
	    *line->path && !line->deleted)
		helper_library(line->path);
}

// --- scanning ---------------------------------------------------------------------------------------------

static void end_run(void)
{
	if (st.run.exec)
		see(st.run.line.start, st.run.line.end, &st.run.line);
	st.run.exec = false;
	st.run.line = (struct map_line){.start = 0};
}

// Without _dl_find_object: an object is what follows a mapping of a file's beginning, up to the last one of that file.
static void put_together(const struct map_line *line)
{
	struct map_line *run = &st.run.line;

	if (!*line->path)
		return; // zeros behind the data
	if (line->ino == run->ino && line->dev == run->dev && line->offset != 0) {
		run->end = line->end;
	} else {
		end_run();
		if (line->offset != 0)
			return;
		*run = *line;
	}
	// The line's text does not outlive this call.
	run->path = "";
	if (str_len(line->path) < sizeof known->run_path)
		run->path = memcpy(known->run_path, line->path, str_len(line->path) + 1);
	st.run.exec = st.run.exec || line->exec;
}

static void scan_line(void *arg, const struct map_line *line)
{
	struct loaded_object object;

	(void)arg;
	if (!modules_find_object) {
		put_together(line);
		return;
	}
	if (!line->exec || !*line->path || modules_find_object((void *)line->start, &object) != 0)
		return;
	if ((uintptr_t)object.map_start == st.last)
		return; // its second executable mapping
	st.last = (uintptr_t)object.map_start;
	see((uintptr_t)object.map_start, (uintptr_t)object.map_end, line);
}

// PCs that found no entry. The scan has seen most of their objects; the rest are mapped from no file that
// we know: the vDSO, deleted files, text that was copied to huge pages.
static void take_misses(void)
{
	store_relaxed(&missed, false);
	for (int i = 0; i < MISSES; i++) {
		uintptr_t pc = xchg(&misses[i], 0); // after missed; pairs with note_miss
		struct loaded_object object;
		bool seen = false;

		for (uint32_t j = 0; pc && j < known->n; j++) {
			struct module *m = &known->modules[j];

			if (m->seen == st.round && pc >= m->start && pc < m->end) {
				store_relaxed(&m->wanted, true);
				seen = true;
			}
		}
		if (pc && !seen && modules_find_object &&
		    modules_find_object((void *)pc, &object) == 0)
			see((uintptr_t)object.map_start, (uintptr_t)object.map_end, NULL);
	}
}

static void begin_scan(void)
{
	st.phase = SCAN;
	st.cursor = (struct map_cursor){0, false};
	st.round++;
	st.last = 0;
	st.before = known->n;
	// No dlclose may run while modules without build-id are identified, or end after it: it would
	// be counted then.
	st.gen = load_acquire(&unloads); // pairs with modules_unload
}

static int64_t doubled(int64_t gap, int64_t max)
{
	return gap * 2 < max ? gap * 2 : max;
}

static void end_scan(int64_t now)
{
	bool news;

	end_run();
	take_misses();
	for (uint32_t i = 0; i < known->n; i++) {
		struct module *m = &known->modules[i];

		// Gone, or no more what it was: never again that by its mere beginning.
		if (!m->by_id && m->seen != st.round)
			store_relaxed(&m->gen, st.gen - 1);
	}
	news = known->n > st.before;
	st.gap = news || !st.gap ? GAP_MIN : doubled(st.gap, 5000 * MS);
	st.doubt_gap = news || !st.doubt_gap ? 1000 * MS : doubled(st.doubt_gap, 32000 * MS);
	st.doubt_at = now + st.doubt_gap;
	st.scan_ended = now;
	st.scanned = true;
	st.phase = LOAD;
}

// Has a module without a table been looked for? It may be another one by now. And is there one without build-id?
static bool look_again(int64_t now)
{
	bool doubt = now >= st.doubt_at, verify = now >= st.verify_at;

	if (!doubt && !verify)
		return false;
	if (doubt)
		st.doubt_at = now + st.doubt_gap;
	st.verify_at = now + 1000 * MS;
	for (uint32_t i = 0; i < known->n; i++) {
		const struct module *m = &known->modules[i];

		if (doubt && !m->table && m->state == NONE && load_relaxed(&m->wanted))
			return true;
		if (m->table && !m->by_id && m->seen == st.round)
			return true;
	}
	return false;
}

// --- tables -----------------------------------------------------------------------------------------------

// A table says where in the image its text lies; it must be inside.
static bool fits(const struct module *m)
{
	const struct table_header *h = m->own.header;
	uint64_t text = h->text_base - h->load_vaddr;

	return h->id_size == m->id.size && memcmp(h->id, m->id.id, sizeof h->id) == 0 &&
	       h->head_size >= 64 && h->head_size <= TABLE_HEAD_MAX &&
	       h->text_base >= h->load_vaddr && text <= m->end - m->start &&
	       h->text_size <= m->end - m->start - text;
}

static void publish(struct module *m, const struct table *t)
{
	m->state = LOADED;
	store_release(&m->table, t); // pairs with modules_find
}

static void load(struct module *m)
{
	int r;

	for (uint32_t i = 0; i < known->n; i++) {
		const struct module *other = &known->modules[i];

		if (other->table && same_id(&other->id, &m->id)) {
			publish(m, other->table);
			return;
		}
	}
	r = cache_open(&m->id, &m->own, &m->size);
	if (r == 0) {
		if (fits(m)) {
			publish(m, &m->own);
			return;
		}
		cache_close(&m->own, m->size);
		r = -EBADMSG;
	}
	if (r == -ENOENT || r == -EBADMSG)
		m->state = m->asked || !m->path || st.hopeless ? NONE : MISSING;
	else
		m->state = NONE;
	m->again = r == -EMFILE || r == -ENFILE || r == -ENOMEM;
}

// Modules whose PCs were looked for first, then in the order of addresses: an executable comes first there.
static bool load_some(int64_t until)
{
	do {
		struct module *next = NULL;

		for (uint32_t i = 0; i < known->n; i++) {
			struct module *m = &known->modules[i];

			if (m->state != NEW || (next && !m->wanted))
				continue;
			next = m;
			if (m->wanted)
				break;
		}
		if (!next)
			return false;
		load(next);
	} while (os_nanotime() < until);
	return true;
}

// --- the helper -------------------------------------------------------------------------------------------

static void ask(int64_t now)
{
	const char *paths[BATCH];
	int n = 0;

	for (int wanted = 1; wanted >= 0; wanted--) {
		for (uint32_t i = 0; i < known->n && n < BATCH; i++) {
			struct module *m = &known->modules[i];

			if (m->state != MISSING || load_relaxed(&m->wanted) != wanted)
				continue;
			m->state = ASKED;
			m->asked = true;
			st.batch[n] = (uint16_t)i;
			paths[n++] = m->path;
		}
	}
	if (n == 0)
		return;
	st.nbatch = n;
	st.next = 0;
	st.helper_since = now;
	st.helper_at = now + HELPER_LOOK;
	if (helper_start(paths, n) < 0) {
		st.hopeless = true; // it has said why
		for (uint32_t i = 0; i < known->n; i++)
			if (known->modules[i].state == ASKED || known->modules[i].state == MISSING)
				known->modules[i].state = NONE;
	}
}

// It builds the tables in the order of the batch: take each as soon as it is there.
static void look_at_helper(int64_t now)
{
	int64_t until = now + BUDGET;
	int r;

	if (now < st.helper_at)
		return;
	st.helper_at = now + HELPER_LOOK;
	r = helper_poll();
	if (r == -EAGAIN) {
		if (now - st.helper_since > HELPER_MAX * 1000 * MS)
			helper_end();
		while (st.next < st.nbatch && os_nanotime() < until) {
			struct module *m = &known->modules[st.batch[st.next]];

			if (m->state == ASKED) {
				load(m);
				if (m->state != LOADED) {
					m->state = ASKED;
					break;
				}
			}
			st.next++;
		}
		return;
	}
	log_line(LOG_INFO, "the helper for safe-point tables has ended (status %d)", r);
	for (int i = 0; i < st.nbatch; i++) {
		struct module *m = &known->modules[st.batch[i]];

		if (m->state == ASKED)
			m->state = NEW;
	}
	st.nbatch = 0;
	st.phase = st.phase == IDLE ? LOAD : st.phase;
}

// --- one step -----------------------------------------------------------------------------------------------

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

int64_t modules_poll(int64_t now)
{
	int64_t next = INT64_MAX, until = now + BUDGET;

	if (!st.begun)
		st.begun = now;
	if (now < st.begun + SETTLE)
		return st.begun + SETTLE;
	if (!known) {
		struct known *k = os_mmap(sizeof *k);

		if (!k) {
			st.begun = now + 1000 * MS;
			return st.begun;
		}
		store_release(&known, k); // pairs with modules_find
	}
	if (helper_running())
		look_at_helper(now);
	if (now < st.resume)
		return st.resume;
	switch (st.phase) {
	case SCAN:
		if (maps_read(&st.cursor, known->lines, LINES, until, scan_line, NULL) < 0)
			st.cursor.done = true;
		if (st.cursor.done)
			end_scan(now);
		break;
	case LOAD:
		if (!load_some(until))
			st.phase = IDLE;
		break;
	case IDLE:
		if (look_again(now) || !st.scanned ||
		    (load_relaxed(&missed) && now >= st.scan_ended + st.gap && !st.full))
			begin_scan();
		break;
	}
	if (!st.hopeless && !helper_running() && st.scanned && now >= st.begun + HELPER_AFTER)
		ask(now);
	if (st.phase != IDLE) {
		st.resume = os_nanotime() + PAUSE;
		return st.resume;
	}
	if (helper_running())
		next = earlier(next, st.helper_at);
	else if (now < st.begun + HELPER_AFTER)
		next = st.begun + HELPER_AFTER;
	if (load_relaxed(&missed) && !st.full)
		next = earlier(next, st.scan_ended + st.gap);
	return earlier(next, earlier(st.doubt_at, st.verify_at));
}

// The mappings and the tables are the child's too; the helper is the parent's.
void modules_reset_in_child(void)
{
	uint32_t round = st.round;

	unloading = 0;
	unloads++;
	for (uint32_t i = 0; known && i < known->n; i++) {
		struct module *m = &known->modules[i];

		if (m->state == ASKED) {
			m->state = NEW;
			m->asked = false;
		}
	}
	memset(&st, 0, sizeof st);
	st.round = round;
	helper_reset_in_child();
}
