// shim.h: all prototypes of the core that cross a file, grouped by file; most are in the four parts included at its end.
//
// Rules that hold for everything declared here:
//  - No libc function is called (tools/check/symbols.sh compares undefined symbols with a list).
//  - errno is never touched.
//  - "signal-safe": may be called from a signal handler, also of the program.
//  - A shim lock is only held with tls.critical > 0.

#pragma once

#include <sys/syscall.h>
#include <ucontext.h>

#include "invariants.h"
#include "table.h"
#include "trace.h"
#include "types.h"

// --- critical sections (signal.c) -------------------------------------------------------------
// While tls.critical > 0 the program's handlers on this thread are deferred, and the preemption
// handler goes away. Sections nest and must be short: no waiting but for a shim lock.
void cancel_hold(void); // sigmask.c: of who is outside, see outside_enter
void cancel_release(void);

static inline void critical_enter(void)
{
	if (unlikely(tls.outside) && tls.critical == 0)
		cancel_hold();
	tls.critical++;
	compiler_barrier();
}
static inline void critical_leave(void)
{
	compiler_barrier();
	INVARIANT(tls.critical > 0 && tls.critical < 64, tls.self, NULL);
	if (--tls.critical == 0 && unlikely(tls.sig_deferred)) {
		extern void signal_deliver_deferred(void);
		signal_deliver_deferred();
	}
	if (unlikely(tls.cancel_held) && tls.critical == 0)
		cancel_release();
}

static inline int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

// --- log.c ------------------------------------------------------------------------------------
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// The state is broken: say so on stderr and abort. Always on.
void throw(const char *why) __attribute__((noreturn));

// --- env.c ------------------------------------------------------------------------------------
// Fill config from getenv_fn (secure_getenv in the shim, a fake in tests). Returns the number of
// bad or unknown settings; each has been logged in one line.
int env_read(const char *(*getenv_fn)(const char *), char **environ);
void env_help(struct text *out);
// For the command, which makes an option of each setting.
struct setting_info {
	const char *name, *arg, *range, *help, *def;
	bool is_switch;
};
bool env_setting(int i, struct setting_info *ret); // false: there is no setting i
const char *env_check(int i, const char *value);   // NULL, or what value is not; writes to config

// --- cgroup.c ---------------------------------------------------------------------------------
// CPUs that the cgroup quota (v2 cpu.max, v1 cpu.cfs_quota_us) allows, rounded up; 0: no limit.
// The first call (init) finds the files below root ("" in the shim), later ones only read them.
void cgroup_init(const char *root);
int cgroup_cpus(void);

#include "report.h"
#include "signals.h"
#include "scheduler.h"
#include "code.h"
