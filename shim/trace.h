// trace.h: the file of PREEMPT_TRACE: what the library writes and `preempt trace` reads. HACKING.md, section 14, has it in words.
//
// Little-endian. A header of one page; rings, which the process has mapped; then chunks, up to header.end. An event is in its ring
// until it is copied into a chunk: a reader takes all chunks, and of each ring what has not been in one. So at every moment, also
// after a crash, the file has all events but those that are counted as lost.

#pragma once

#include <stdint.h>

#define TRACE_MAGIC "preempt\3"
enum {
	TRACE_VERSION = 1, // raised when the format changes
	TRACE_PAGE = 4096,
	TRACE_RINGS_MAX = 65,
	TRACE_SLOTS_MAX = 1 << 15,
	TRACE_NO_P = 0xffff,
};

struct trace_header {
	char magic[8];
	uint32_t version;
	uint32_t header_size; // TRACE_PAGE
	uint32_t nrings;      // ring 0: events without a P. P i writes to ring 1 + i % (nrings - 1)
	uint32_t slots;	      // of a ring, a power of two
	uint64_t ring_size;   // from one ring to the next: a page, then the slots
	uint64_t off_chunks;  // the rings lie between the header and there
	uint64_t end;	      // of the chunks; what lies behind does not count
	int32_t pid;
	uint32_t procs;
	uint32_t policy;  // 0 go, 1 fair, 2 chaos
	uint32_t state;	  // TRACE_SETTLED
	int64_t start;	  // CLOCK_MONOTONIC, ns, as are all times here
	int64_t realtime; // CLOCK_REALTIME at start
	int64_t quantum;
	int32_t error; // no chunk could be written any more: errno, or 0
	uint32_t zero;
	char library[32]; // version
};
enum { TRACE_SETTLED = 1 }; // the process came to its end and named its threads and modules

// The head of a ring; each of the three has a cache line of its own.
struct trace_ring {
	uint64_t head; // events that were begun
	uint64_t pad0[7];
	uint64_t tail; // events that were copied into chunks, or given up
	uint64_t pad1[7];
	uint64_t lost; // events for which there was no room
	uint64_t pad2[7];
};

struct trace_event {
	int64_t time;
	uint32_t mark; // low bits of its number in the ring + 1; written last
	uint8_t kind;  // enum trace_kind
	uint8_t detail;
	uint16_t p;	// or TRACE_NO_P
	uint32_t g;	// the goid that it happened to, or 0
	uint32_t other; // another goid or a tid
	uint64_t arg;
};
_Static_assert(sizeof(struct trace_event) == 32, "the format");

// Names are those of Go's execution tracer, where it has them. Where nothing is said other and arg are 0.
//
// A P is held from GO_START to one of the events marked (end): of these there is exactly one before the next GO_START. In one
// ring they are in their true order, whatever their times say.
enum trace_kind {
	TRACE_NONE,
	TRACE_PROC_START, // p: left the idle list
	TRACE_PROC_STOP,  // p: idles
	TRACE_GO_CREATE, // g, other: its creator, arg: the start routine. detail 1: adopted, or the first thread
	TRACE_GO_THREAD, // g, other: its tid
	TRACE_GO_NAME, // g, other: its tid, arg: 8 bytes of its name. detail 0: the first, 1: the rest
	TRACE_GO_START, // p, g, other: who granted the P, arg: ns since it became runnable; detail: TRACE_GRANTED, TRACE_INHERITS
	TRACE_GO_CREDIT, // g runs on without a P
	TRACE_GO_BLOCK, // (end) g, p or none, detail: enum trace_wait, arg: the object, other: tid of a mutex's owner
	TRACE_GO_UNBLOCK, // g is runnable, other: who woke it, p: where that runs; detail 1: by itself, as at a deadline
	TRACE_GO_PREEMPT, // (end) g, p or none, detail: enum trace_how, arg: ns since the end of its slice
	TRACE_GO_SCHED,	       // (end) the same, by itself
	TRACE_SYSCALL_BEGIN,   // g, p or none, arg: where in the library
	TRACE_SYSCALL_BLOCK,   // (end) the same, and the P goes on at once
	TRACE_SYSCALL_END,     // g: back, with its P, or on credit as before
	TRACE_SYSCALL_BLOCKED, // g: back, its P is gone: runnable
	TRACE_GO_END,	       // g's thread leaves
	TRACE_RETAKE, // (end) p is taken from g; detail 0: in a system call, 1: asleep unseen; other: by whom, 0: sysmon
	TRACE_HANDOFF, // p is handed on, g: the one who had it, or 0
	TRACE_ASK, // g on p is asked to yield; detail 0: its slice is over, 1: for a G that was woken; other: that one's waker
	TRACE_SIGNAL, // g is sent a preemption signal
	TRACE_REFUSE, // g was not where it could be stopped; detail: enum refusal
	TRACE_SPIN, // g spins and yields; detail: enum trace_spin, arg: the PC, or for TRACE_SPIN_LOCK the lock
	TRACE_KINDS,
};
enum { TRACE_GRANTED = 1, TRACE_INHERITS = 2 };
enum trace_how { TRACE_COOPERATIVE, TRACE_ASYNC, TRACE_FORCED };
enum trace_spin { TRACE_SPIN_SAMPLED, TRACE_SPIN_SITE, TRACE_SPIN_LOCK, TRACE_SPIN_OTHER };
// enum wait_reason, which must not change.
enum trace_wait {
	TRACE_WAIT_NONE,
	TRACE_WAIT_MUTEX,
	TRACE_WAIT_COND,
	TRACE_WAIT_SEM,
	TRACE_WAIT_RWLOCK_R,
	TRACE_WAIT_RWLOCK_W,
	TRACE_WAIT_BARRIER,
	TRACE_WAIT_ONCE,
	TRACE_WAITS,
};

enum { TRACE_CHUNK_EVENTS = 1, TRACE_CHUNK_MODULE };
struct trace_chunk {
	uint32_t type;
	uint32_t size; // of the chunk, with this head; a multiple of 8
	uint32_t ring; // TRACE_CHUNK_EVENTS from here on, else 0
	uint32_t count;
	uint64_t
		first; // number of the first event; those in between that no chunk has were given up, and are counted as lost
	uint64_t
		lost; // of the ring, up to then: between the last event of the chunk before and the first of the one behind
};
// An executable mapping.
struct trace_module {
	uint64_t start, end, offset; // of the file
	uint8_t id[32];		     // build-id, if id_size > 0
	uint32_t id_size;
	uint32_t path_size; // the path follows, NUL-ended, filled with zeros
};
