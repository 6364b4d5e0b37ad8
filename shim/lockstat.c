// lockstat.c: which locks threads wait for, for the report. By address: an address may be many locks in turn. Exact but for what
// finds no room. Counted where threads wait anyhow; a lock that nobody waits for costs nothing.

#include "shim.h"

enum { LOCKS = 256, PROBES = 8 };

static struct lock_figures locks[LOCKS];

void lock_count(const void *addr, enum lock_event what)
{
	uint32_t h = (uint32_t)((uintptr_t)addr * 0x9e3779b97f4a7c15u >> 32);

	if (!addr)
		return;
	for (uint32_t i = 0; i < PROBES; i++) {
		struct lock_figures *l = &locks[(h + i) % LOCKS];
		const void *was = load_relaxed(&l->addr);

		if (was != addr &&
		    (was || !cas(&l->addr, NULL, addr)) && // once; nothing else is published
		    load_relaxed(&l->addr) != addr)
			continue;
		count_relaxed(&l->n[what], 1);
		return;
	}
}

static uint64_t weight(const struct lock_figures *l)
{
	return l->n[LOCK_WAIT] + l->n[LOCK_SPARED];
}

uint32_t lock_top(struct lock_figures *ret, uint32_t n)
{
	uint32_t have = 0;

	for (uint32_t i = 0; i < LOCKS; i++) {
		struct lock_figures l = {.addr = load_relaxed(&locks[i].addr)};
		uint32_t at;

		for (int k = 0; k < LOCK_EVENTS; k++)
			l.n[k] = load_relaxed(&locks[i].n[k]);
		if (!weight(&l))
			continue;
		if (have < n)
			have++;
		else if (weight(&ret[n - 1]) >= weight(&l))
			continue;
		for (at = have - 1; at > 0 && weight(&ret[at - 1]) < weight(&l); at--)
			ret[at] = ret[at - 1];
		ret[at] = l;
	}
	return have;
}

void lock_reset_in_child(void)
{
	for (uint32_t i = 0; i < LOCKS; i++)
		locks[i] = (struct lock_figures){0};
}
