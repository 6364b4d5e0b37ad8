// probes.h: probes for perf, bpftrace and SystemTap (sys/sdt.h): a nop each, and a note in the file that says where, and where its
// arguments are. libpreempt(7) lists them.

#pragma once

// The last argument of go_preempt, and of spin_yield.
enum { PREEMPT_IN_CALL, PREEMPT_INJECTED, PREEMPT_BY_FORCE };
enum { SPIN_SAMPLED, SPIN_SITE, SPIN_LOCK };

#ifdef PREEMPT_PROBES
#include <sys/sdt.h>
#define PROBE1(name, a) DTRACE_PROBE1(preempt, name, a)
#define PROBE2(name, a, b) DTRACE_PROBE2(preempt, name, a, b)
#define PROBE3(name, a, b, c) DTRACE_PROBE3(preempt, name, a, b, c)
#else
#define PROBE1(name, a) ((void)0)
#define PROBE2(name, a, b) ((void)0)
#define PROBE3(name, a, b, c) ((void)0)
#endif
