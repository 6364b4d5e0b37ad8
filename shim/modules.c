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
// A module that has no table (yet) is remembered as such, with the count of dlcloses; a PC that is in no object (JIT code)
// is no miss at all. So PCs without a table do not keep sysmon busy. How it fills the list: loading.c.
//
// Without _dl_find_object (glibc before 2.35) objects are told apart by the file that is mapped, and the image is compared
// through memory_read, since nobody vouches that it is still there.
//
// Rejected: wrapping dlopen (its caller's address matters to it); dl_iterate_phdr and the loader's list in the handler (locks);
// r_debug (the list changes under the reader); tables that end with dlclose (libc's own does not pass us).
//
// Delicate: the handler may see an entry at any moment of its making. The range and the identity are written before the
// index entry that leads to it, and the table pointer, which changes only from NULL, last.

#include <string.h>

#include "shim.h"

modules_find_object_fn *modules_find_object;
struct modules *modules;
bool modules_missed;

static uint32_t unloads;   // dlcloses that have ended
static uint32_t unloading; // and those that have begun only
static uintptr_t misses[MODULES_MISSES];

// --- lookup, signal-safe ------------------------------------------------------------------------------

static void note_miss(uintptr_t start, uintptr_t pc)
{
	store_relaxed(&misses[modules_hash(start) % MODULES_MISSES], pc);
	store_release(&modules_missed, true); // pairs with modules_take_miss
}

// Is a module without build-id still the one that was identified?
static bool undisturbed(const struct mapped *m)
{
	// acquire: pairs with the last step of modules_unload, whose count of unloads must be seen
	return load_acquire(&unloading) == 0 && load_relaxed(&unloads) == load_relaxed(&m->gen);
}

// head is 8-byte aligned (table_check), and an image begins with a page. The program may have made that page unreadable,
// or cut the file: all of it is readable, or nothing.
static bool same_head(const struct table *t, uintptr_t start)
{
	const uint64_t *a = (const uint64_t *)(const void *)t->head;
	const volatile uint64_t *b = (const volatile uint64_t *)start;
	size_t size = t->header->head_size, n = size / 8, i = 0;

	if (!os_readable(start))
		return false;
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

	if (confined_somehow()) // memory_read would open a file, and a filter may answer that with death
		return same_head(t, start);
	for (size_t at = 0; at < size; at += sizeof buf) {
		size_t n = size - at < sizeof buf ? size - at : sizeof buf;

		if (memory_read(start + at, buf, n) < 0 || memcmp(buf, t->head + at, n) != 0)
			return false;
	}
	return true;
}

static const struct table *hit(const struct mapped *m, const struct table *t, uintptr_t *ret_bias)
{
	*ret_bias = m->start - t->header->load_vaddr;
	return t;
}

// Is m what its table was made for? On one walk over a stack each module is looked at once: none whose functions
// are on the stack may be unloaded.
static bool same_module(const struct mapped *m, const struct table *t)
{
	struct stack_walk *w = &tls.walk;

	if (!m->by_id && !undisturbed(m))
		return false;
	for (unsigned i = 0; i < w->n; i++)
		if (w->seen[i] == m)
			return true;
	if (modules_find_object ? !same_head(t, m->start) : !same_head_slow(t, m->start))
		return false;
	if (w->on && w->n < WALK_MODULES)
		w->seen[w->n++] = m;
	return true;
}

void modules_walk(bool begins)
{
	tls.walk.n = 0;
	tls.walk.on = begins;
}

// A module known to have no table; true unless it may be another one by now.
static bool known_to_miss(struct mapped *m)
{
	if (load_relaxed(&m->gen) != load_relaxed(&unloads))
		return false;
	if (!load_relaxed(&m->wanted))
		store_relaxed(&m->wanted, true);
	return true;
}

// Without _dl_find_object. Newest entry first: the older ones may be of modules long gone.
static const struct table *find_by_range(struct modules *k, uintptr_t pc, uintptr_t *ret_bias)
{
	bool none = false;

	for (uint32_t i = load_acquire(&k->n); i-- > 0;) { // pairs with add_module
		struct mapped *m = &k->v[i];
		const struct table *t;

		if (pc < m->start || pc >= m->end)
			continue;
		t = load_acquire(&m->table); // pairs with publish
		if (!t)
			none = none || known_to_miss(m);
		else if (same_module(m, t))
			return hit(m, t, ret_bias);
	}
	if (!none)
		note_miss(pc & ~(uintptr_t)0xffff, pc);
	return NULL;
}

// Signal-safe; about 500 bytes of stack.
const struct table *modules_find(uintptr_t pc, uintptr_t *ret_bias)
{
	struct modules *k = load_acquire(&modules); // pairs with modules_poll
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
	for (uint32_t h = modules_hash(start);; h++) {
		uint32_t i = load_acquire(&k->index[h % MODULES_INDEX]); // pairs with add_module
		const struct table *t;
		struct mapped *m;

		if (i == 0)
			break;
		m = &k->v[i - 1];
		if (m->start != start || m->end != (uintptr_t)object.map_end)
			continue;
		t = load_acquire(&m->table); // pairs with publish
		if (!t)
			none = none || known_to_miss(m);
		else if (same_module(m, t))
			return hit(m, t, ret_bias);
	}
	if (!none)
		note_miss(start, pc);
	return NULL;
}

uintptr_t modules_place(uintptr_t pc, const char **ret_path)
{
	struct modules *k = load_acquire(&modules); // pairs with modules_poll
	uintptr_t bias = 0;
	const struct table *t = modules_find(pc, &bias);

	*ret_path = NULL;
	for (uint32_t i = k ? k->n : 0; i-- > 0;) {
		const struct mapped *m = &k->v[i];

		if (pc < m->start || pc >= m->end || !m->path ||
		    (t && load_relaxed(&m->table) != t))
			continue;
		*ret_path = m->path;
		return pc - (t ? bias : m->start);
	}
	return pc;
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

uint32_t modules_unloads(void)
{
	return load_acquire(&unloads); // pairs with modules_unload
}

bool modules_unloading(void)
{
	return load_seq_cst(&unloading) > 0; // after the caller's xchg; pairs with modules_unload
}

// One of the PCs that were missed, or 0. i < MODULES_MISSES.
uintptr_t modules_take_miss(int i)
{
	return xchg(&misses[i], 0); // after modules_missed was reset; pairs with note_miss
}

void modules_forget_unloading(void)
{
	unloading = 0;
	unloads++;
}
