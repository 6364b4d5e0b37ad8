// lot.h: the queues of the parking lot, for park.c and lockshare.c.

#pragma once

#include "shim.h"

enum { LOT_BUCKETS = 1024 };

struct bucket {
	struct lock lock;
	uint64_t
		waiters; // length of the queue, in the upper half that of LOT_BARRED; written under lock, read by releasers without
	struct g *head, *tail;
	struct g *claims; // writers that readers must not pass; written under lock

	// The mutex whose contention is shared out, or was last (lockshare.c). Written under lock.
	const void *shared;
	int64_t clock; // the least that somebody who waited for it had had; never goes back
	int64_t last;  // until when its use is accounted for
	bool begins;   // since then nobody had waited, until one was moved there
} __attribute__((aligned(64)));
extern struct bucket lot[LOT_BUCKETS];

static inline struct bucket *bucket_of(const void *addr)
{
	return &lot[(uintptr_t)addr * 0x9e3779b97f4a7c15u >> (64 - 10)];
}

static inline void bucket_lock(struct bucket *b)
{
	critical_enter();
	lock_acquire(&b->lock);
}

static inline void bucket_unlock(struct bucket *b)
{
	lock_release(&b->lock);
	critical_leave();
}

// What gp, if it waits, is in b->waiters.
static inline uint64_t lot_count(const struct g *gp)
{
	return gp->waitkind == LOT_BARRED ? ((uint64_t)1 << 32) + 1 : 1;
}

// Is everybody there barred?
static inline bool lot_all_barred(const struct bucket *b)
{
	uint64_t n = load_relaxed(&b->waiters);

	return n >> 32 == (uint32_t)n;
}

// Somebody is about to be moved to the queue of m. The bucket's lock must be held.
void share_moves(struct bucket *b, const void *m);

// The caller holds the bucket's lock, and is in a critical section until all whom it has taken out are readied.
void lot_remove(struct bucket *b, struct g *gp);
int lot_ready_all(struct g *list); // chained by waitnext
