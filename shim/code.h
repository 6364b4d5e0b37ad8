// code.h: the program's code: where it may be stopped, what maps it, and what is rewritten in it. Included by shim.h, whose rules hold.

#pragma once

#include <ucontext.h>

#include "table.h"
#include "trace.h"
#include "types.h"

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
	bool text;	  // r-xp of a file
	const char *path; // "" if it is no file; "[vdso]": the kernel's
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
bool helper_clones(void);   // may a process be made of this one?
bool helper_valgrind(void); // does it run this process? Known once helper_environment was called
void helper_reset_in_child(void);

// --- confine.c: what a seccomp filter lets us do -----------------------------------------------------
// Calls by what they are for. confined_somehow is for who may ask nothing but that, in a handler.
enum {
	CONFINE_FILES = 1,   // files, descriptors, processes
	CONFINE_VM = 2,	     // process_vm_readv, process_vm_writev
	CONFINE_TEXT = 4,    // memory that becomes executable
	CONFINE_WAIT = 8,    // waitid
	CONFINE_TABLES = 16, // what it takes to open a table
};
void confine_init(void);   // at the start of the process: 100 ns without a filter
void confine_forked(void); // this is a new process
// A filter is about to be put up; prog: its program, NULL: the kernel's strict mode. confine_failed takes it back.
struct sock_fprog;
enum confine_note { CONFINE_UNNOTED, CONFINE_NOTED, CONFINE_SEALED };
enum confine_note confine_tightens(const struct sock_fprog *prog);
void confine_failed(enum confine_note note);
bool confine_unexpected(void); // one was, and may kill: no scheduler
bool confined_somehow(void);   // is there a filter? Signal-safe
void confine_start(void);      // activation: finds out what an inherited filter allows, in a thread
bool confine_known(void);      // it has, or there is nothing to find out
bool confined(uint32_t wanted); // could one of these calls be deadly in this thread? 20 us under a
				// filter, 4 KiB of stack; not in a handler
bool confine_deadly(uint32_t wanted); // one of them is, for sure
bool confined_wait(uint32_t wanted);  // the same, when it is known
void confine_leave(void); // any thread: the process ends, or is about to exec: end the search
void confine_stay(void);  // the exec has failed
void confine_reset_in_child(void);

// --- calls.c: the system calls of ours that a filter may not expect ------------------------------------
void calls_make(uint32_t group);		    // those of CONFINE_ groups, to no effect
bool calls_harmless(const struct sock_fprog *prog); // says the filter so, which must be readable?

// --- filter.c: what a seccomp filter will answer, by its program ----------------------------------------
struct sock_filter;
struct seccomp_data;
bool filter_readable(const struct sock_fprog *prog);
bool filter_harmless(const struct sock_fprog *prog, long nr, const uint64_t arg[6]);
uint32_t filter_run(const struct sock_filter *prog, unsigned len, const struct seccomp_data *data);

// --- sites.c: instructions that are rewritten to wait well -----------------------------------------
int64_t
sites_poll(int64_t now); // sysmon, when there is demand: a step of it; returns when to call again
void sites_settle(void); // dlclose, after modules_unload(true): no text is written from here on
void sites_abandoned(void); // who wrote text has been killed
bool sites_here(void);	    // false: in the child of a fork, even of one that nobody has told of
void sites_reset_in_child(void);
// What is known of a module's sites (struct mapped).
enum sites_state { SITES_NEW, SITES_YOUNG, SITES_DONE };

// --- relocate.c: one instruction at another place -------------------------------------------------------
enum {
	RELOCATED_MOST = 15,
	RELOCATED_MORE = 5
}; // bytes of the instruction, and of the jump behind it
// What is to be at the address to instead of the size bytes at was, an XCHG or XADD with memory at the address from: size + RELOCATED_MORE bytes.
// to is within 2 GiB of from. False: it is something else, or what it changes is out of reach.
bool relocate(const uint8_t *was, uint32_t size, uintptr_t from, uintptr_t to, uint8_t *ret);

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
