// snapshot.h: the file in which a process shows `preempt top` what its threads do. Written by snapshot.c, read by tools/snapshots.c, which
// trusts nothing of it.
//
// The head, then Ps, threads and modules, wherever the head says. seq is odd while it is written: who reads it before and after
// everything else, and finds the same even number, has a whole one.

#pragma once

#include <stdint.h>

#include "shim.h"

#define SNAPSHOT_MAGIC "preempt\3"
// "snap" in the high half of the value of the signal that asks sysmon for one.
#define SNAPSHOT_MARK 0x70616e73u
enum {
	SNAPSHOT_LAYOUT = 1,
	SNAPSHOT_COUNTERS = 64, // of struct stats
	SNAPSHOT_MODULES = 8,
	SNAPSHOT_THREADS_MAX = 65536, // more are left out
};

struct snapshot_head {
	char magic[8];
	uint32_t layout;
	uint32_t seq;
	uint32_t file_size;
	uint32_t head_size;
	char version[32];
	char policy[8];
	int32_t pid; // as the process sees it
	uint32_t procs, idle, demand, queued, threads;
	uint32_t at_ps, nps, at_threads, nthreads, at_modules, nmodules; // byte offsets, numbers
	uint32_t left_out;	       // threads for which there was no room
	uint32_t stopping;	       // the world is stopped, or is to be
	int64_t now, started, quantum; // ns, CLOCK_MONOTONIC
	uint64_t counter[SNAPSHOT_COUNTERS];
	struct histogram run_delay, overshoot;
};

struct snapshot_p {
	uint32_t id, state, goid, queued;
	uint64_t schedtick;
	int64_t since; // ns; its slice began; 0: nobody runs
};

enum {
	SNAPSHOT_STRAY = 1,   // runs without a P
	SNAPSHOT_JOINS = 2,   // the call is a join
	SNAPSHOT_ASKED = 4,   // to give its P up
	SNAPSHOT_HANDLER = 8, // runs a handler of the program on top of a wait or call
	SNAPSHOT_MOVED = 16,  // was signalled on its condition variable, and waits for the mutex
};
struct snapshot_thread {
	uint32_t goid;
	int32_t tid; // 0: it has not started yet
	uint8_t status, reason, flags, unused;
	int32_t p; // or -1
	uint32_t cpu, weight, signals;
	int32_t locks;
	int32_t owner; // tid of who has what it waits for, or 0
	uint32_t unused2;
	int64_t since; // it has been in this state; 0: not known
	uint64_t run_ns, wait_ns, switches;
	uint64_t object; // that it waits for
};

// With rewritten waiting instructions.
struct snapshot_module {
	char path[128]; // its end, if it is longer
};
