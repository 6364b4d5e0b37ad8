// heap.c: a priority queue of Gs: a 4-ary heap with its keys inline.
//
// Problem: to choose the least of n waiting Gs must cost nearly the same with 10 and with 10,000 of them. Approach: an
// array of {key, G}, 16 bytes each, so that the four children of an entry share one cache line and the Gs themselves,
// which are cold, are not touched: 10,000 entries are seven levels, and 160 KB that stay in the second-level cache.
// Rejected: a red-black tree, whose every step is a miss in a cold G; a binary heap, which has twice the levels.
//
// Equal keys leave in the order in which they came: gp->queue_seq, read for equal keys only.
// Keys are compared by their difference, so they may wrap as long as those in the queue lie within 2^63.
//
// Room for every G is made when the G is (g.c), so a push never allocates: it may happen in a signal handler.
// All functions: the caller holds the lock of the heap.

#include "shim.h"

enum {
	PAGE = 4096,
	SKEW = 3, // unused entries before the root: children 4i+1 to 4i+4 then begin at a multiple of 64 bytes
};

static bool before(const struct queued *a, const struct queued *b)
{
	int64_t d = (int64_t)((uint64_t)a->key - (uint64_t)b->key);

	return d < 0 || (d == 0 && a->gp->queue_seq < b->gp->queue_seq);
}

// Doubling: at most 32 bytes for each G there ever was at once, and a G is copied less than once on the average.
bool heap_reserve(struct heap *h, uint32_t n)
{
	uint32_t cap = h->cap ? h->cap : PAGE / sizeof(struct queued) - SKEW;
	struct queued *at;

	if (n <= h->cap)
		return true;
	while (cap < n)
		cap = (cap + SKEW) * 2 - SKEW;
	at = os_mmap((cap + SKEW) * sizeof(*at));
	if (!at)
		return false;
	at += SKEW;
	for (uint32_t i = 0; i < h->n; i++)
		at[i] = h->at[i];
	if (h->at)
		os_munmap(h->at - SKEW, (h->cap + SKEW) * sizeof(*at));
	h->at = at;
	h->cap = cap;
	return true;
}

static uint32_t sift_up(struct heap *h, uint32_t i, struct queued q)
{
	for (; i > 0; i = (i - 1) / 4) {
		const struct queued *parent = &h->at[(i - 1) / 4];

		if (!before(&q, parent))
			break;
		h->at[i] = *parent;
	}
	h->at[i] = q;
	return i;
}

static void sift_down(struct heap *h, uint32_t i, struct queued q)
{
	for (;;) {
		uint32_t first = 4 * i + 1, last = first + 4, least = first;

		if (first >= h->n)
			break;
		if (last > h->n)
			last = h->n;
		for (uint32_t k = first + 1; k < last; k++)
			if (before(&h->at[k], &h->at[least]))
				least = k;
		if (!before(&h->at[least], &q))
			break;
		h->at[i] = h->at[least];
		i = least;
	}
	h->at[i] = q;
}

uint32_t heap_push(struct heap *h, int64_t key, struct g *gp)
{
	if (h->n >= h->cap)
		throw("heap_push: more Gs are queued than there are");
	gp->queue_seq = h->seq++;
	return sift_up(h, h->n++, (struct queued){key, gp});
}

struct g *heap_take(struct heap *h, uint32_t i)
{
	struct g *gp = h->at[i].gp;
	struct queued last = h->at[--h->n];

	if (i == h->n)
		return gp;
	if (i > 0 && before(&last, &h->at[(i - 1) / 4]))
		sift_up(h, i, last);
	else
		sift_down(h, i, last);
	return gp;
}
