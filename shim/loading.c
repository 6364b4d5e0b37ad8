// loading.c: sysmon fills the list of modules and gets their tables.
//
// Problem. Reading /proc/self/maps of a large process, opening a hundred tables and building the missing ones takes from
// milliseconds to minutes, in home directories on a network for ever, and sysmon must be back at its Ps in half a
// millisecond. Approach. Small steps: scan /proc/self/maps, identify each object, have its table opened by another process that
// shares our memory (helper_call), ask the helper for those that are missing. After that nothing is done until a PC is missed. The modules whose PCs were missed come first.
//
// What cannot be known by a miss is looked at by the clock, and only while it matters: whether a module without a table
// whose PCs are still looked for is another one by now (1 s, then less and less often), and whether a module without build-id
// is still the one it was (1 s). Scans that find nothing new are made less and less often.
//
// A process that ends soon should not pay: nothing happens in the first 5 ms with demand, and no helper is
// started in the first 20 ms.
//
// Rejected: a thread for this (one more to hide, one more slot of RLIMIT_NPROC).
//
// Delicate: the helper is asked for each module once. A file that was replaced has another identity and is
// asked for anew; the helper then finds at its path what the path leads to, which may be the new one.

#include <errno.h>
#include <string.h>

#include "shim.h"

static const int64_t MS = 1000000;
enum {
	BUDGET = 500000,	 // ns in one call
	PAUSE = 300000,		 // ns between two steps
	SETTLE = 5000000,	 // ns from the first call to the first scan
	HELPER_AFTER = 20000000, // ns to the helper: a short program needs none
	HELPER_LOOK = 100000000, // ns between looks at its results
	HELPER_MAX = 600,	 // s; then it hangs
	LOOK = 8,		 // tables looked for each time
	GAP_MIN = 1000000,	 // ns between scans; doubled while they find nothing new
};

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
	uint16_t batch[MODULES_BATCH]; // asked of the helper
	int nbatch, next;	       // next: to be looked for while the helper runs
	int64_t load_pause;
} st;

// What the process that opens tables does for sysmon (helper_call).
static struct {
	struct {
		struct mapped *m;
		int r;
	} v[MODULES_BATCH];
	uint32_t n;
	uint32_t done; // results that are there
	uint32_t taken;
} order;

// --- the list, written by sysmon ------------------------------------------------------------------------

static bool same_id(const struct module_id *a, const struct module_id *b)
{
	return a->size == b->size && memcmp(a->id, b->id, sizeof a->id) == 0;
}

static struct mapped *find_module(uintptr_t start, uintptr_t end, const struct module_id *id)
{
	for (uint32_t h = modules_hash(start), i; (i = modules->index[h % MODULES_INDEX]) != 0;
	     h++) {
		struct mapped *m = &modules->v[i - 1];

		if (m->start == start && m->end == end && same_id(&m->id, id))
			return m;
	}
	return NULL;
}

static struct mapped *add_module(uintptr_t start, uintptr_t end, const struct module_id *id)
{
	uint32_t n = modules->n, h = modules_hash(start);
	struct mapped *m = &modules->v[n];

	if (n == MODULES_MAX) {
		if (!st.full)
			log_line(LOG_INFO, "more than %d modules: the rest have no safe points",
				 (int)MODULES_MAX);
		st.full = true;
		return NULL;
	}
	m->start = start;
	m->end = end;
	m->id = *id;
	m->by_id = id->size > 0;
	m->gen = st.gen;
	m->state = TABLE_NEW;
	while (modules->index[h % MODULES_INDEX])
		h++;
	store_release(&modules->n, n + 1); // pairs with find_by_range
	store_release(&modules->index[h % MODULES_INDEX],
		      (uint16_t)(n + 1)); // pairs with modules_find
	return m;
}

static const char *keep_path(const char *path)
{
	size_t size = str_len(path) + 1;
	char *p = modules->paths + modules->paths_used;

	if (size > sizeof modules->paths - modules->paths_used)
		return NULL;
	memcpy(p, path, size);
	modules->paths_used += size;
	return p;
}

// The object at [start, end) is mapped now. line: one of its mappings, or NULL.
static void see(uintptr_t start, uintptr_t end, const struct map_line *line)
{
	struct module_id id = {.size = 0};
	struct mapped *m;
	int r;

	r = module_identify(start, end, line, &id);
	m = find_module(start, end, &id);
	if (!m) {
		m = add_module(start, end, &id);
		if (!m)
			return;
		m->state = r < 0 ? TABLE_NONE
				 : TABLE_NEW; // one that cannot be identified is all zeros
	}
	if (m->again) {
		m->again = false;
		m->state = TABLE_NEW;
	}
	store_relaxed(&m->gen, st.gen);
	m->seen = st.round;
	if (m->wanted && m->state == TABLE_NONE)
		store_relaxed(&m->wanted, false); // it is what it was; until the next look
	if (!m->path && m->state != TABLE_LOADED && line && *line->path && !line->deleted) {
		m->path = keep_path(line->path);
		if (r == 0 && m->state == TABLE_NONE && m->path && !m->asked)
			m->state = TABLE_NEW; // now the helper can be asked
	}
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
	if (str_len(line->path) < sizeof modules->run_path)
		run->path = memcpy(modules->run_path, line->path, str_len(line->path) + 1);
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
// we know: deleted ones, text that was copied to huge pages.
static void take_misses(void)
{
	store_relaxed(&modules_missed, false);
	for (int i = 0; i < MODULES_MISSES; i++) {
		uintptr_t pc = modules_take_miss(i);
		struct loaded_object object;
		bool seen = false;

		for (uint32_t j = 0; pc && j < modules->n; j++) {
			struct mapped *m = &modules->v[j];

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
	st.before = modules->n;
	// No dlclose may run while modules without build-id are identified, or end after it: it would
	// be counted then.
	st.gen = modules_unloads();
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
	for (uint32_t i = 0; i < modules->n; i++) {
		struct mapped *m = &modules->v[i];

		// Gone, or no more what it was: never again that by its mere beginning.
		if (!m->by_id && m->seen != st.round)
			store_relaxed(&m->gen, st.gen - 1);
	}
	news = modules->n > st.before;
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
	for (uint32_t i = 0; i < modules->n; i++) {
		const struct mapped *m = &modules->v[i];

		if (doubt && !m->table && m->state == TABLE_NONE && load_relaxed(&m->wanted))
			return true;
		if (m->table && !m->by_id && m->seen == st.round)
			return true;
	}
	return false;
}

// --- tables -----------------------------------------------------------------------------------------------

// A table says where in the image its text lies; it must be inside.
static bool fits(const struct mapped *m)
{
	const struct table_header *h = m->own.header;
	uint64_t text = h->text_base - h->load_vaddr;

	return h->id_size == m->id.size && memcmp(h->id, m->id.id, sizeof h->id) == 0 &&
	       h->head_size >= 64 && h->head_size <= TABLE_HEAD_MAX &&
	       h->text_base >= h->load_vaddr && text <= m->end - m->start &&
	       h->text_size <= m->end - m->start - text;
}

static void publish(struct mapped *m, const struct table *t)
{
	m->state = TABLE_LOADED;
	store_release(&m->table, t); // pairs with modules_find
}

// The same module at another place has it already?
static bool share(struct mapped *m)
{
	for (uint32_t i = 0; i < modules->n; i++) {
		const struct mapped *other = &modules->v[i];

		if (other->table && same_id(&other->id, &m->id)) {
			publish(m, other->table);
			return true;
		}
	}
	return false;
}

// r: what cache_open said.
static void opened(struct mapped *m, int r)
{
	if (r == 0) {
		if (fits(m) && !share(m))
			publish(m, &m->own);
		if (m->table == &m->own)
			return;
		cache_close(&m->own, m->size);
		if (m->table)
			return;
		r = -EBADMSG;
	}
	if (r != -ENOENT && r != -EBADMSG)
		m->state = TABLE_NONE;
	else if (m->asked && helper_running())
		m->state = TABLE_ASKED; // not yet
	else
		m->state = m->asked || !m->path || st.hopeless ? TABLE_NONE : TABLE_MISSING;
	m->again = r == -EMFILE || r == -ENFILE || r == -ENOMEM;
}

// In a process of its own.
static void open_tables(void *arg)
{
	(void)arg;
	for (uint32_t i = 0; i < order.n; i++) {
		struct mapped *m = order.v[i].m;

		order.v[i].r = cache_open(&m->id, &m->own, &m->size);
		store_release(&order.done, i + 1); // pairs with take_opened
	}
}

// True while there are results to come.
static bool take_opened(void)
{
	bool running = helper_calling();
	uint32_t done = load_acquire(&order.done); // pairs with open_tables

	for (; order.taken < done; order.taken++)
		opened(order.v[order.taken].m, order.v[order.taken].r);
	if (running)
		return true;
	for (; order.taken < order.n; order.taken++) // killed
		opened(order.v[order.taken].m, -EINTR);
	return false;
}

// Modules whose PCs were looked for first, then in the order of addresses: an executable comes first there.
static uint32_t find_new(void)
{
	uint32_t n = 0;

	for (int wanted = 1; wanted >= 0; wanted--) {
		for (uint32_t i = 0; i < modules->n && n < MODULES_BATCH; i++) {
			struct mapped *m = &modules->v[i];

			if (m->state == TABLE_NEW && load_relaxed(&m->wanted) == wanted &&
			    !share(m)) {
				m->state = TABLE_OPENING;
				order.v[n++].m = m;
			}
		}
	}
	return n;
}

// False: there is nothing to be opened. Files may be slow, or never come, so another process opens them; sysmon does only where
// there can be none, and then so many as fit into its time.
static bool load_some(int64_t until)
{
	if (take_opened()) {
		st.load_pause = st.load_pause * 2 < 10 * MS ? st.load_pause * 2 : 10 * MS;
		return true;
	}
	st.load_pause = PAUSE;
	order.n = find_new();
	order.done = order.taken = 0;
	if (order.n == 0)
		return false;
	if (helper_call(open_tables, NULL) == 0)
		return true;
	for (; order.taken < order.n; order.taken++) {
		struct mapped *m = order.v[order.taken].m;

		if (confine_deadly(CONFINE_TABLES))
			opened(m, -EPERM);
		else if (os_nanotime() < until)
			opened(m, cache_open(&m->id, &m->own, &m->size));
		else
			m->state = TABLE_NEW;
	}
	return true;
}

// --- the helper -------------------------------------------------------------------------------------------

static void ask(int64_t now)
{
	const char *paths[MODULES_BATCH];
	int n = 0;

	for (int wanted = 1; wanted >= 0; wanted--) {
		for (uint32_t i = 0; i < modules->n && n < MODULES_BATCH; i++) {
			struct mapped *m = &modules->v[i];

			if (m->state != TABLE_MISSING || load_relaxed(&m->wanted) != wanted)
				continue;
			m->state = TABLE_ASKED;
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
		for (uint32_t i = 0; i < modules->n; i++)
			if (modules->v[i].state == TABLE_ASKED ||
			    modules->v[i].state == TABLE_MISSING)
				modules->v[i].state = TABLE_NONE;
	}
}

// It builds the tables in the order of the batch: take each as soon as it is there.
static void look_at_helper(int64_t now)
{
	int r;

	// What is being opened now is judged by whether the helper still runs.
	if (now < st.helper_at || order.taken < order.n)
		return;
	st.helper_at = now + HELPER_LOOK;
	r = helper_poll();
	if (r == -EAGAIN) {
		if (now - st.helper_since > HELPER_MAX * 1000 * MS)
			helper_end();
		for (int i = 0, n = 0; i < st.nbatch && n < LOOK; i++) {
			struct mapped *m = &modules->v[st.batch[st.next++ % st.nbatch]];

			if (m->state == TABLE_ASKED) {
				m->state = TABLE_NEW;
				n++;
			}
		}
		st.phase = st.phase == IDLE ? LOAD : st.phase;
		return;
	}
	log_line(LOG_INFO, "the helper for safe-point tables has ended (status %d)", r);
	for (int i = 0; i < st.nbatch; i++) {
		struct mapped *m = &modules->v[st.batch[i]];

		if (m->state == TABLE_ASKED)
			m->state = TABLE_NEW;
	}
	st.nbatch = 0;
	st.phase = st.phase == IDLE ? LOAD : st.phase;
}

// --- one step -----------------------------------------------------------------------------------------------

int64_t modules_poll(int64_t now)
{
	int64_t next = INT64_MAX, until = now + BUDGET;

	if (!st.begun)
		st.begun = now;
	if (now < st.begun + SETTLE)
		return st.begun + SETTLE;
	if (!confine_known()) // it says whether there may be a helper
		return now + MS;
	if (!modules) {
		struct modules *k = os_mmap(sizeof *k);

		if (!k) {
			st.begun = now + 1000 * MS;
			return st.begun;
		}
		store_release(&modules, k); // pairs with modules_find
	}
	if (helper_running())
		look_at_helper(now);
	if (now < st.resume)
		return st.resume;
	switch (st.phase) {
	case SCAN:
		if (maps_read(&st.cursor, modules->lines, sizeof modules->lines, BUDGET, scan_line,
			      NULL) < 0) {
			st.phase = IDLE; // no descriptor to be had; from the start once more
			st.resume = now + 1000 * MS;
			return st.resume;
		}
		if (st.cursor.done)
			end_scan(now);
		break;
	case LOAD:
		if (!load_some(until))
			st.phase = IDLE;
		break;
	case IDLE:
		if (look_again(now) || !st.scanned ||
		    (load_relaxed(&modules_missed) && now >= st.scan_ended + st.gap && !st.full))
			begin_scan();
		break;
	}
	if (st.phase != IDLE) {
		st.resume = os_nanotime() + (st.phase == LOAD ? st.load_pause : PAUSE);
		return st.resume;
	}
	if (!st.hopeless && !helper_running() && st.scanned && now >= st.begun + HELPER_AFTER)
		ask(now);
	if (helper_running())
		next = earlier(next, st.helper_at);
	else if (now < st.begun + HELPER_AFTER)
		next = st.begun + HELPER_AFTER;
	if (load_relaxed(&modules_missed) && !st.full)
		next = earlier(next, st.scan_ended + st.gap);
	return earlier(next, earlier(st.doubt_at, st.verify_at));
}

bool modules_settled(void)
{
	if (!modules || !st.scanned || st.phase != IDLE || helper_running())
		return false;
	for (uint32_t i = 0; i < modules->n; i++) {
		uint8_t state = modules->v[i].state;

		if (state != TABLE_LOADED && state != TABLE_NONE)
			return false;
	}
	return true;
}

// The mappings and the tables are the child's too; the helper is the parent's.
void modules_reset_in_child(void)
{
	uint32_t round = st.round;

	modules_forget_unloading();
	for (uint32_t i = 0; modules && i < modules->n; i++) {
		struct mapped *m = &modules->v[i];

		if (m->state == TABLE_ASKED || m->state == TABLE_OPENING) {
			m->state = TABLE_NEW;
			m->asked = false;
		}
	}
	memset(&order, 0, sizeof order);
	memset(&st, 0, sizeof st);
	st.round = round;
	helper_reset_in_child();
	confine_reset_in_child();
}
