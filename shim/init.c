// init.c: the start of everything: settings and real functions in the constructor, activation at the
// first thread.
//
// The one file of shim/ besides interpose/ that may call libc. Real functions are looked up all at once
// and early: a lazy dlsym in a wrapper could wait for the loader's lock while a dlopen constructor
// holds it and waits for the wrapper's thread. Wrappers that run before our constructor (other libraries'
// constructors, an allocator) resolve everything on their first call.

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "interpose/objects.h"

extern const struct real_fn __start_real_fns[] __attribute__((visibility("hidden")));
extern const struct real_fn __stop_real_fns[] __attribute__((visibility("hidden")));

static bool resolved, off, activating;
static void **stack_end; // __libc_stack_end, the stack pointer at the entry of the program, or NULL

uintptr_t libc_lo = 0, libc_hi = UINTPTR_MAX; // until it is known: all functions are libc's

static void find_libc(void)
{
	void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
	struct loaded_object object;

	if (libc && modules_find_object &&
	    modules_find_object(dlsym(libc, "gnu_get_libc_version"), &object) == 0) {
		libc_lo = (uintptr_t)object.map_start;
		libc_hi = (uintptr_t)object.map_end;
	}
}

void real_resolve(void)
{
	const struct real_fn *f;

	for (f = __start_real_fns; f < __stop_real_fns; f++) {
		void *p;

		if (*f->slot)
			continue;
		p = f->version ? dlvsym(RTLD_NEXT, f->name, f->version) : dlsym(RTLD_NEXT, f->name);
		*f->slot = p;
	}
	resolved = true;
}

static const char *getenv_secure(const char *name)
{
	return secure_getenv(name);
}

// ThreadSanitizer as a shared library (gcc's) has to see every call of a pthread function by the program. Loaded after
// us it sees those that we make instead, and reports races and double locks that are none. Linked into the program,
// or preloaded before us, it comes first, and all is well.
static bool hidden_from_tsan(void)
{
	Dl_info tsan, next;

	return dladdr(dlsym(RTLD_NEXT, "__tsan_init"), &tsan) &&
	       dladdr(dlsym(RTLD_NEXT, "pthread_mutex_lock"), &next) &&
	       tsan.dli_fbase == next.dli_fbase;
}

// AddressSanitizer as a shared library refuses to run with any library before it. Its interceptors may come after our
// wrappers: they keep no account of locks. A program that has this function itself is asked first.
extern const char *__asan_default_options(void);
EXPORT const char *__asan_default_options(void)
{
	return "verify_asan_link_order=0";
}

__attribute__((constructor)) static void init(void)
{
	void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	static char *nothing[1];
	int saved = errno, bad;

	real_resolve();
	if (vdso) {
		os_vdso_clock_gettime = (os_clock_gettime_fn *)dlsym(vdso, "__vdso_clock_gettime");
		os_vdso_getcpu = (os_getcpu_fn *)dlsym(vdso, "__vdso_getcpu");
	}
	stack_end = dlsym(RTLD_DEFAULT, "__libc_stack_end");
	bad = env_read(getenv_secure, getauxval(AT_SECURE) ? nothing : environ);
	chaos_init();
	if (bad && config.strict)
		_exit(127);
	modules_find_object =
		(modules_find_object_fn *)dlvsym(RTLD_DEFAULT, "_dl_find_object", "GLIBC_2.35");
	find_libc();
	confine_init();
	off = config.off;
	if (!off && hidden_from_tsan()) {
		off = true;
		log_line(LOG_WARN, "ThreadSanitizer is loaded after this library: threads run "
				   "without the scheduler");
	}
	if (!off)
		signal_dump_early();
	errno = saved;
}

__attribute__((destructor)) static void fini(void)
{
	int saved = errno;

	if (!load_relaxed(&sched.sealed) &&
	    (load_relaxed(&sched.active) == PHASE_ACTIVE ||
	     (load_relaxed(&sched.active) == PHASE_DORMANT && !confine_unexpected())))
		stats_report();
	process_leaves();
	errno = saved;
}

static int procs_now(void)
{
	int cpus = os_affinity_cpus(0), quota = cgroup_cpus();

	if (config.procs)
		return config.procs;
	if (cpus < 1)
		cpus = 1;
	if (quota > 0 && quota < cpus)
		cpus = quota;
	return cpus > MAX_PROCS ? MAX_PROCS : cpus;
}

static bool give_up(const char *what, int error)
{
	log_line(LOG_WARN, "%s failed (error %d): threads run without the scheduler", what, -error);
	store_relaxed(&sched.active, PHASE_OFF);
	off = true;
	return false;
}

// Dormant to active. The caller is the only thread there is, but for raw clones. Keeps errno.
bool shim_activate(void)
{
	struct g *gp;
	int r;

	if (likely(load_relaxed(&sched.active) == PHASE_ACTIVE))
		return true;
	if (!config.quantum)
		return false; // a thread from a constructor that ran before ours
	if (off || load_relaxed(&sched.active) == PHASE_OFF || tls.no_adopt)
		return false;
	if (xchg(&activating,
		 true)) // a thread from before our constructor; its turn is another time
		return false;
	if (unlikely(confine_unexpected())) { // confine.c has told of it
		store_relaxed(&sched.active, PHASE_OFF);
		off = true;
		return false;
	}
	if (!resolved)
		real_resolve();
	cgroup_init("");
	cache_init(config.cache_dir, secure_getenv("XDG_CACHE_HOME"), secure_getenv("HOME"),
		   config.critical);
	snapshot_init(secure_getenv("XDG_RUNTIME_DIR"), getauxval(AT_SECURE));
	helper_environment(getauxval(AT_SECURE) ? NULL : environ);
	mutex_probe();
	r = sched_init(procs_now());
	if (r < 0)
		return give_up("memory for the scheduler", r);
	gp = g_alloc();
	if (!gp)
		return give_up("memory for a thread", -ENOMEM);
	preempt_init(); // before sysmon: with two threads the kernel takes 10 ms to register for membarrier
	trace_open();
	r = sysmon_start();
	if (r < 0) {
		g_free(gp);
		return give_up("starting sysmon", r);
	}
	signal_activate();
	gp->self = pthread_self();
	// Once in the life of the process: after a fork the caller may be another thread, on its own stack.
	if (!tls.stack_hi)
		stack_is_main(stack_end ? (uintptr_t)*stack_end : 0);
	signal_thread_start(gp);
	store_relaxed(&sched.active, PHASE_ACTIVE);
	store_relaxed(&activating, false);
	sched_start(gp);
	if (tls.async_cancel)
		outside_enter();
	page_open();
	return true;
}

bool deadline_from(struct deadline *d, clockid_t clock, const struct timespec *abs)
{
	if (clock != CLOCK_MONOTONIC && clock != CLOCK_REALTIME)
		return false;
	if (abs->tv_nsec < 0 || abs->tv_nsec >= 1000000000)
		return false;
	*d = (struct deadline){clock, *abs};
	if (abs->tv_sec < 0)
		d->at = (struct timespec){
			0, 0}; // the kernel knows no time before 1970; it is over anyway
	return true;
}
