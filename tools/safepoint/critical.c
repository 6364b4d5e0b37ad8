// critical.c: which code must not be parked, nor be a caller of code that is.
//
// Problem. A thread that is parked inside the allocator, the dynamic linker or a lock function keeps a lock that the
// library does not see, and the threads that need it wait for as long as it stays parked. But what is marked here is only preempted by
// force, late: a mark on code that computes costs fairness.
//
// Approach. What is critical:
//   1. whole modules: ld.so, libgcc_s and libunwind (the unwinder runs with the loader's lock), allocators
//   2. functions by name: the lists below, and the user's globs. Names are compared without a version (@...), without what GCC appends
//      (.cold, .part.0, .constprop.0, ...) and without glibc's __GI_. C++ names are compared mangled: no demangler is linked
//   3. in libc and libpthread, each function with a lock cmpxchg or an xchg: their internal locks are inline and have
//      no name. So is each that calls pthread_mutex_lock and the like, which is no call that this library sees. Debian's libc does not even name its static functions. But not the functions in which threads run from their
//      beginning to their end (start_thread, __libc_start_call_main): they are callers of everything. They are known by their
//      names, or by their call of setjmp, which is how libc gets back to them from pthread_exit
//   4. what a critical function jumps to, transitively: .cold parts, and functions that it calls last, when its own frame
//      is gone. Not functions with a name of their own, though: exported ones, or those larger than TAIL_MAX
//      where a symbol table names the static ones, too. They are judged by their names; else free() would make
//      munmap() critical, somebody's memcpy() all of memcpy's users.
// Static functions that critical ones call need no mark: the unwinder looks at the callers.
//
// Rejected. `*spinlock*` as it is: it would take the threads of a program named spinlock_worker for locks. The lists name what is done to
// the lock. fnmatch for the lists: 200 patterns times 100000 symbols; instead the patterns have a star at the ends only
// and are sorted into buckets by their first character.

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "compiler.h"

enum {
	// Bytes of a named function that is critical because a critical one ends in it.
	TAIL_MAX = 1024,
	NAME_MAX_USED = 512,
};

// `x*`: begins with x. `*x`: ends with x. `*x*`: contains x.
static const char *const patterns[] = {
	// malloc and its parts in glibc
	"malloc", "free", "calloc", "realloc", "reallocarray", "memalign", "aligned_alloc",
	"posix_memalign", "valloc", "pvalloc", "cfree", "free_sized", "malloc_usable_size",
	"malloc_trim", "malloc_stats*", "malloc_info", "mallopt", "mallinfo*", "__libc_malloc*",
	"__libc_free*", "__libc_calloc*", "__libc_realloc*", "__libc_memalign*", "__libc_valloc*",
	"__libc_pvalloc*", "__libc_mallopt", "__posix_memalign", "__malloc_*", "_mid_memalign",
	"_int_malloc", "_int_free*", "_int_realloc", "_int_memalign", "int_mallinfo", "sysmalloc*",
	"systrim*", "malloc_consolidate", "unlink_chunk*", "tcache_*", "arena_*", "get_free_list",
	"ptmalloc_init*", "heap_trim*", "new_heap*", "alloc_new_heap", "grow_heap", "shrink_heap",
	"munmap_chunk", "mremap_chunk", "malloc_printerr", "mtrim", "detach_arena*", "__morecore",
	"sbrk",
	// operator new and delete
	"_Znw*", "_Zna*", "_Zdl*", "_Zda*",
	// other allocators
	"je_*", "mallocx", "rallocx", "xallocx", "dallocx", "sdallocx", "nallocx", "mallctl*",
	"_mi_*", "mi_malloc*", "mi_calloc*", "mi_zalloc*", "mi_realloc*", "mi_reallo*", "mi_free*",
	"mi_new*", "mi_heap_*", "mi_page_*", "mi_segment*", "mi_arena*", "mi_aligned*",
	"mi_collect*", "mi_posix_memalign", "mi_thread_*", "tc_malloc*", "tc_free*", "tc_new*",
	"tc_delete*", "tc_calloc", "tc_realloc", "tc_memalign", "tc_posix_memalign",
	"_ZN8tcmalloc*", "mspace_*", "dlmalloc*", "dlfree", "dlcalloc", "dlrealloc", "dlmemalign",
	"rpmalloc", "rpfree", "rpcalloc", "rprealloc", "sn_malloc*", "sn_free*",
	// the dynamic linker, also where it is linked statically
	"_dl_*", "__tls_get_addr*", "__tls_*", "dl_iterate_phdr", "__dl_iterate_phdr", "dlopen",
	"dlmopen", "dlclose", "dlsym", "dlvsym", "dladdr*", "dlinfo", "dlerror", "__dl*", "___dl*",
	"__libc_dl*", "_dlerror_run*",
	// the unwinder, exceptions, guards, destructors
	"_Unwind_*", "__gxx_personality*", "__gcc_personality*", "__cxa_*", "__register_frame*",
	"__deregister_frame*", "uw_*", "unw_*", "_ZN12_GLOBAL__N_14pool*",
	"_ZN9__gnu_cxx9__freeresEv", "_ZNSt6locale5_Impl*", "_ZNSt6locale13_S_initialize*",
	"_ZNSt6locale7classic*", "_ZNSt6locale6global*", "_ZNSt6localeC*", "_ZNSt6localeD*",
	"_ZN9__gnu_cxx6__pool*",
	// the vDSO's way into enclaves, with registers of their own
	"__vdso_sgx*",
	// stdio
	"fopen*", "fdopen", "freopen*", "fclose", "fcloseall", "fflush*", "fread", "fread_unlocked",
	"fwrite", "fwrite_unlocked", "fgetc*", "fgets*", "fgetwc*", "fgetws*", "fputc*", "fputs*",
	"fputwc*", "fputws*", "getc", "getchar", "getwc", "getwchar", "gets", "getw", "putc",
	"putchar", "puts", "putw", "putwc", "putwchar", "ungetc", "ungetwc", "fprintf", "printf",
	"vfprintf", "vprintf", "dprintf", "vdprintf", "fwprintf", "wprintf", "vfwprintf",
	"vwprintf", "fscanf", "scanf", "vfscanf", "vscanf", "fwscanf", "wscanf", "vfwscanf",
	"vwscanf", "perror", "setbuf", "setbuffer", "setlinebuf", "setvbuf", "fseek", "fseeko*",
	"ftell", "ftello*", "fsetpos*", "fgetpos*", "rewind", "flockfile", "funlockfile",
	"ftrylockfile", "getline", "getdelim", "__getdelim", "popen", "pclose", "tmpfile*",
	"fmemopen", "open_memstream", "open_wmemstream", "psignal", "psiginfo", "_IO_*",
	"__overflow", "__underflow", "__uflow", "__woverflow", "__wunderflow", "__wuflow",
	"__printf*", "__fprintf*", "__vprintf*", "__vfprintf*", "__wprintf*", "__fwprintf*",
	"__vfwprintf*", "__vfscanf*", "__vfwscanf*", "__isoc99_scanf", "__isoc99_fscanf",
	"__isoc99_vscanf", "__isoc99_vfscanf", "__isoc99_wscanf", "__isoc99_fwscanf", "__fread_chk",
	"__fgets_chk", "__fread_unlocked_chk",
	// locales, time zones, random numbers, environment, syslog, name services: one lock each in libc
	"setlocale", "newlocale", "freelocale", "duplocale", "localeconv", "dcgettext",
	"dcngettext", "dcigettext", "__dcigettext", "textdomain", "bindtextdomain",
	"bind_textdomain_codeset", "iconv_open", "iconv_close", "__gconv_open", "__gconv_close*",
	"__gconv_find*", "__gconv_release*", "__gconv_lookup*", "__gconv_get*", "__gconv_read*",
	"__gconv_load*", "tzset", "__tz*", "localtime", "localtime_r", "gmtime", "gmtime_r",
	"ctime", "ctime_r", "mktime", "timelocal", "timegm", "rand", "srand", "random", "srandom",
	"initstate", "setstate", "setenv", "unsetenv", "putenv", "clearenv", "syslog", "vsyslog",
	"openlog", "closelog", "setlogmask", "__syslog*", "__vsyslog*", "getaddrinfo", "gethostby*",
	"gethostent*", "getservby*", "getservent*", "getprotoby*", "getprotoent*", "getnetby*",
	"getnetent*", "getpwnam*", "getpwuid*", "getpwent*", "getgrnam*", "getgrgid*", "getgrent*",
	"getspnam*", "getspent*", "getrpcby*", "initgroups", "getgrouplist", "__nss_*", "__res_*",
	"__resolv_*",
	// threads
	"pthread_mutex_*", "pthread_cond_*", "pthread_rwlock_*", "pthread_spin_*",
	"pthread_barrier_*", "pthread_once", "pthread_key_*", "pthread_create", "pthread_join",
	"pthread_timedjoin_np", "pthread_clockjoin_np", "pthread_tryjoin_np", "pthread_detach",
	"pthread_cancel", "__pthread_*", "___pthread_*", "sem_wait", "sem_timedwait",
	"sem_clockwait", "sem_trywait", "sem_post", "sem_open", "sem_close", "sem_init",
	"sem_destroy", "__new_sem_*", "__old_sem_*", "__sem_*", "lll_*", "__lll_*", "__nptl_*",
	"__futex_*", "mtx_lock", "mtx_unlock", "mtx_trylock", "mtx_timedlock", "cnd_wait",
	"cnd_timedwait", "cnd_signal", "cnd_broadcast", "call_once", "thrd_create", "thrd_join",
	"tss_create", "tss_delete", "_ZNSt18condition_variable*", "_ZNSt15recursive_mutex*",
	// processes and their end
	"fork", "_Fork", "vfork", "__libc_fork", "__vfork", "__run_fork_handlers",
	"__run_prefork_handlers", "__run_postfork_handlers", "__register_atfork",
	"__unregister_atfork", "posix_spawn", "posix_spawnp", "__spawni*", "system", "do_system",
	"exit", "quick_exit", "at_quick_exit", "atexit", "on_exit", "__run_exit_handlers",
	"__new_exitfn", "abort",
	// locks of programs and libraries, by usual names
	"*spin_lock*", "*spin_unlock*", "*spin_trylock*", "*spinlock", "*spinunlock",
	"*spinlock_lock*", "*spinlock_unlock*", "*spinlock_acq*", "*spinlock_rel*",
	"*spinlock_try*", "*8SpinLock*", "*8spinlock*", "*9spin_lock*", "*mutex_lock*",
	"*mutex_unlock*", "*mutex_trylock*", "*mutex_enter*", "*mutex_exit*", "*_trylock",
	"*_try_lock", "*ticket_lock", "*ticket_unlock", "*rwlock_rdlock*", "*rwlock_wrlock*",
	"*rwlock_unlock*", "*14lock_contended*", "*9lock_slow*", "*11unlock_slow*",
	"*16parking_lot_core*", "*4lockEv", "*6unlockEv", "*8try_lockEv", "*11lock_sharedEv",
	"*13unlock_sharedEv", "GOMP_critical_*", "GOMP_atomic_*", "omp_set_lock", "omp_unset_lock",
	"omp_test_lock", "omp_set_nest_lock", "omp_unset_nest_lock", "omp_test_nest_lock",
	"take_gil", "drop_gil", "LWLockAcquire*", "LWLockRelease*", "s_lock", "futex_wait*",
	"futex_wake*"};

// What the lists above match although it computes, or runs threads.
static const char *const exempt[] = {
	"__cxa_demangle*",   "__cxa_pure_virtual", "__cxa_vec_*",	 "__cxa_get_globals*",
	"_dl_start_user",    "start_thread",	   "__libc_start_main*", "__libc_start_call_main",
	"*spin_lock_bench*", "*mutex_lock_bench*"};

static const char *const whole_modules[] = {
	"ld-linux",    "ld64",	      "ld-musl",     "libgcc_s.",   "libunwind", "libjemalloc",
	"libtcmalloc", "libmimalloc", "librpmalloc", "libsnmalloc", "libhoard",	 "libscudo"};

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static bool begins(const char *s, const char *prefix)
{
	return !strncmp(s, prefix, strlen(prefix));
}

static bool match(const char *pattern, const char *name, size_t name_len)
{
	size_t len = strlen(pattern);
	bool front = pattern[0] == '*', back = pattern[len - 1] == '*';

	pattern += front;
	len -= front + back;
	if (len > name_len)
		return false;
	if (front && back)
		return memmem(name, name_len, pattern, len) != NULL;
	if (front)
		return !memcmp(name + name_len - len, pattern, len);
	return (back || len == name_len) && !memcmp(name, pattern, len);
}

// Patterns by first character, as chains through next. Bucket '*' is for all names.
static struct {
	bool made;
	uint16_t head[256], next[COUNT(patterns)]; // index + 1, 0 ends
} buckets;

static void make_buckets(void)
{
	for (size_t i = COUNT(patterns); i-- > 0;) {
		uint16_t *head = &buckets.head[(unsigned char)patterns[i][0]];

		buckets.next[i] = *head;
		*head = (uint16_t)(i + 1);
	}
	buckets.made = true;
}

static bool match_bucket(unsigned char c, const char *name, size_t len)
{
	for (unsigned i = buckets.head[c]; i; i = buckets.next[i - 1]) {
		if (match(patterns[i - 1], name, len))
			return true;
	}
	return false;
}

static bool match_globs(const char *globs, const char *name)
{
	char glob[NAME_MAX_USED];

	while (globs && *globs) {
		size_t n = strcspn(globs, ":");

		if (n && n < sizeof(glob)) {
			memcpy(glob, globs, n);
			glob[n] = 0;
			if (!fnmatch(glob, name, 0))
				return true;
		}
		globs += n + (globs[n] == ':');
	}
	return false;
}

// What compilers append to a name behind a dot. Other dots are part of it: Go has them in all names.
static bool is_suffix(const char *s)
{
	static const char *const suffixes[] = {"cold",	    "part.", "constprop.", "isra.",
					       "lto_priv.", "llvm.", "localalias", "resolver"};

	for (size_t i = 0; i < COUNT(suffixes); i++) {
		if (begins(s, suffixes[i]))
			return true;
	}
	return false;
}

bool critical_name(const char *name, const char *globs)
{
	char plain[NAME_MAX_USED];
	size_t len;

	if (!name || !*name)
		return false;
	if (!strncmp(name, "__GI_", 5) && name[5])
		name += 5;
	len = strnlen(name, sizeof(plain) - 1);
	for (size_t i = 1; i < len; i++) {
		if (name[i] == '@' || (name[i] == '.' && is_suffix(name + i + 1)))
			len = i;
	}
	memcpy(plain, name, len);
	plain[len] = 0;
	if (!buckets.made)
		make_buckets();
	if (match_globs(globs, plain))
		return true;
	if (!match_bucket((unsigned char)plain[0], plain, len) && !match_bucket('*', plain, len))
		return false;
	for (size_t i = 0; i < COUNT(exempt); i++) {
		if (match(exempt[i], plain, len))
			return false;
	}
	return true;
}

// Index of the function that contains addr, or SIZE_MAX.
static size_t find_func(const struct code_facts *facts, uint64_t addr)
{
	size_t lo = 0, hi = facts->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (addr >= facts->funcs[mid].hi)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < facts->n && addr >= facts->funcs[lo].lo ? lo : SIZE_MAX;
}

// Has the function at lo a name of its own, by which it is judged?
static bool stands_alone(const struct module *m, uint64_t lo, uint64_t size)
{
	size_t a = 0, b = m->nfuncs;

	while (a < b) {
		size_t mid = a + (b - a) / 2;

		if (m->funcs[mid].lo < lo)
			a = mid + 1;
		else
			b = mid;
	}
	for (; a < m->nfuncs && m->funcs[a].lo == lo; a++) {
		const struct func *f = &m->funcs[a];

		if (f->name && *f->name) // exported: all at that address, or none
			return f->exported || size > TAIL_MAX;
	}
	return false;
}

struct work {
	const struct module *m;
	const struct code_facts *facts;
	bool *critical; // by function
	uint32_t *todo; // critical, but its jumps not looked at
	size_t ntodo;
};

static void add(struct work *w, size_t i)
{
	if (i == SIZE_MAX || w->critical[i] || w->facts->funcs[i].outermost)
		return;
	w->critical[i] = true;
	w->todo[w->ntodo++] = (uint32_t)i;
}

// Rule 4 of the file header: is the function at target part of what jumps there?
static bool follows(const struct work *w, size_t i, uint64_t target)
{
	const struct code_func *f = &w->facts->funcs[i];

	if (target != f->lo)
		return true; // into the middle: from a .cold part back to its function
	return !stands_alone(w->m, f->lo, f->hi - f->lo);
}

static void propagate(struct work *w)
{
	while (w->ntodo) {
		const struct code_func *f = &w->facts->funcs[w->todo[--w->ntodo]];

		for (uint32_t k = 0; k < f->njumps; k++) {
			uint64_t target = w->facts->jumps[f->first_jump + k];
			size_t i = find_func(w->facts, target);

			if (i != SIZE_MAX && follows(w, i, target))
				add(w, i);
		}
	}
}

static int mark_names(struct work *w, const char *globs, struct marks *marks)
{
	size_t swept = 0; // all functions below it that symbols so far cover are critical

	for (size_t i = 0; i < w->m->nfuncs; i++) {
		const struct func *f = &w->m->funcs[i];
		size_t k;
		int r;

		if (!critical_name(f->name, globs))
			continue;
		k = find_func(w->facts, f->lo);
		add(w, k);
		if (k < swept)
			k = swept;
		for (; k < w->facts->n && w->facts->funcs[k].lo < f->hi; k++) {
			if (w->facts->funcs[k].lo >= f->lo)
				add(w, k);
			swept = k + 1;
		}
		if (f->hi <= f->lo)
			continue;
		r = marks_add(marks, MARK_CRITICAL, f->lo, f->hi, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

static int mark_whole(const struct module *m, struct marks *marks)
{
	for (size_t i = 0; i < m->ntext; i++) {
		int r = marks_add(marks, MARK_CRITICAL, m->text[i].addr,
				  m->text[i].addr + m->text[i].size, 0);

		if (r < 0)
			return r;
	}
	return 0;
}

int critical_mark(const struct module *m, const struct code_facts *facts, const char *globs,
		  struct marks *marks)
{
	bool libc = begins(m->soname, "libc.so.") || begins(m->soname, "libpthread.so.");
	struct work w = {.m = m, .facts = facts};
	int r;

	for (size_t i = 0; i < COUNT(whole_modules); i++) {
		if (begins(m->soname, whole_modules[i]))
			return mark_whole(m, marks);
	}
	if (facts->n >= UINT32_MAX)
		return -EOVERFLOW;
	w.critical = calloc(facts->n + 1, sizeof(*w.critical));
	w.todo = calloc(facts->n + 1, sizeof(*w.todo));
	r = w.critical && w.todo ? mark_names(&w, globs, marks) : -ENOMEM;
	if (!r) {
		for (size_t i = 0; libc && i < facts->n; i++) {
			if (facts->funcs[i].locks)
				add(&w, i);
		}
		propagate(&w);
	}
	for (size_t i = 0; !r && i < facts->n; i++) {
		if (w.critical[i])
			r = marks_add(marks, MARK_CRITICAL, facts->funcs[i].lo, facts->funcs[i].hi,
				      0);
	}
	free(w.critical);
	free(w.todo);
	return r;
}
