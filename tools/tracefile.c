// tracefile.c: reads a trace (shim/trace.h), and believes nothing in it.
//
// The file may be written to meanwhile, may end anywhere, and may be made up. All that later steps rely on is checked here: places and sizes,
// the numbers of events, their kinds and Ps. Of a process that still runs first the rings are copied, then the header is read, then chunks: what
// was in the rings and no chunk has it now, was not written over in between.

#include "../shim/shim.h"
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char damaged[] = "is damaged: its parts contradict each other";

static const char *check_header(const struct trace_header *h)
{
	if (memcmp(h->magic, TRACE_MAGIC, sizeof(h->magic)) != 0)
		return "is not a trace";
	if (h->version != TRACE_VERSION)
		return "is of another version of libpreempt; use that version's command";
	if (h->header_size != TRACE_PAGE || h->nrings < 2 || h->nrings > TRACE_RINGS_MAX ||
	    h->slots < 2 || h->slots > TRACE_SLOTS_MAX || h->slots & (h->slots - 1) ||
	    h->ring_size != TRACE_PAGE + (uint64_t)h->slots * sizeof(struct trace_event) ||
	    h->off_chunks != TRACE_PAGE + h->nrings * h->ring_size || h->end < h->off_chunks ||
	    h->end % 8)
		return damaged;
	return NULL;
}

static bool check_event(const struct trace_event *e)
{
	return e->kind > TRACE_NONE && e->kind < TRACE_KINDS &&
	       (e->p < 1024 || e->p == TRACE_NO_P) && e->time >= 0 &&
	       (e->kind != TRACE_GO_BLOCK || e->detail < TRACE_WAITS);
}

static const char *add_run(struct trace_file *t, uint32_t ring, const struct trace_event *v,
			   uint32_t n, uint64_t lost)
{
	struct trace_runs *r = &t->rings[ring];

	for (uint32_t i = 0; i < n; i++)
		if (!check_event(&v[i]))
			return damaged;
	if (r->n == r->cap) {
		size_t cap = r->cap ? 2 * r->cap : 16;
		struct trace_run *more = reallocarray(r->v, cap, sizeof(*more));

		if (!more)
			return "is too large: out of memory";
		r->v = more;
		r->cap = cap;
	}
	r->v[r->n++] = (struct trace_run){v, n, lost};
	t->events += n;
	return NULL;
}

static const char *add_module(struct trace_file *t, const struct trace_chunk *c)
{
	const struct trace_module *m = (const struct trace_module *)(c + 1);
	const char *path = (const char *)(m + 1);

	if (c->size < sizeof(*c) + sizeof(*m) || m->path_size == 0 ||
	    m->path_size != c->size - sizeof(*c) - sizeof(*m) || path[m->path_size - 1] ||
	    m->id_size > sizeof(m->id) || m->start >= m->end)
		return damaged;
	if ((t->nmodules & (t->nmodules - 1)) == 0) {
		size_t cap = t->nmodules ? 2 * t->nmodules : 1;
		const struct trace_module **more = reallocarray(t->modules, cap, sizeof(*more));

		if (!more)
			return "is too large: out of memory";
		t->modules = more;
	}
	t->modules[t->nmodules++] = m;
	return NULL;
}

static const char *read_chunks(struct trace_file *t, const uint8_t *data)
{
	const char *why = NULL;

	for (uint64_t at = t->h.off_chunks; at < t->h.end && !why;) {
		const struct trace_chunk *c = (const struct trace_chunk *)(data + at);
		struct trace_runs *r;

		if (t->h.end - at < sizeof(*c) || c->size < sizeof(*c) || c->size % 8 ||
		    c->size > t->h.end - at)
			return damaged;
		at += c->size;
		if (c->type == TRACE_CHUNK_MODULE) {
			why = add_module(t, c);
			continue;
		}
		if (c->type != TRACE_CHUNK_EVENTS || c->ring >= t->h.nrings ||
		    (c->size - sizeof(*c)) / sizeof(struct trace_event) != c->count ||
		    (c->size - sizeof(*c)) % sizeof(struct trace_event))
			return damaged;
		r = &t->rings[c->ring];
		if (c->first < r->next || c->lost < r->lost || c->first > UINT64_MAX / 2)
			return damaged;
		r->next = c->first + c->count;
		r->lost = c->lost;
		why = add_run(t, c->ring, (const struct trace_event *)(c + 1), c->count, c->lost);
	}
	return why;
}

// What is in a ring and in no chunk yet. The copy has room for it.
static const char *read_ring(struct trace_file *t, uint32_t i, const uint8_t *rings,
			     struct trace_event *copy)
{
	const uint8_t *base = rings + i * t->h.ring_size;
	const struct trace_ring *head = (const struct trace_ring *)base;
	const struct trace_event *slots = (const struct trace_event *)(base + TRACE_PAGE);
	struct trace_runs *r = &t->rings[i];
	uint64_t lost = head->lost;
	uint32_t n = 0;

	// An earlier copy of the rings may be older than the chunks.
	if (head->head > r->next && head->head - r->next > t->h.slots)
		return damaged;
	if (lost < r->lost)
		lost = r->lost;
	for (uint64_t at = r->next; at < head->head; at++) {
		const struct trace_event *e = &slots[at & (t->h.slots - 1)];

		if (e->mark == (uint32_t)at + 1)
			copy[n++] = *e;
		else
			r->unfinished++;
	}
	r->lost = lost;
	t->lost += lost + r->unfinished;
	return n ? add_run(t, i, copy, n, lost) : NULL;
}

const char *trace_parse(struct trace_file *t, const void *data, size_t size, const void *rings)
{
	struct trace_event *copy;
	const char *why;

	*t = (struct trace_file){0};
	if (size < sizeof(t->h))
		return size ? "is too short to be a trace" : "is empty";
	memcpy(&t->h, data, sizeof(t->h));
	t->h.library[sizeof(t->h.library) - 1] = 0;
	why = check_header(&t->h);
	if (why)
		return why;
	if (t->h.end > size)
		return "is cut short";
	t->rings = calloc(t->h.nrings, sizeof(*t->rings));
	copy = t->copy = malloc((t->h.off_chunks - TRACE_PAGE));
	if (!t->rings || !copy)
		return "is too large: out of memory";
	why = read_chunks(t, data);
	for (uint32_t i = 0; i < t->h.nrings && !why; i++)
		why = read_ring(t, i, rings ? rings : (const uint8_t *)data + TRACE_PAGE,
				copy + (size_t)i * t->h.slots);
	return why;
}

static const char *pread_all(int fd, void *buf, size_t size, off_t at)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = pread(fd, (char *)buf + done, size - done, at + (off_t)done);

		if (n < 0)
			return strerror(errno);
		if (n == 0)
			return at ? "is cut short" : "is too short to be a trace";
		done += (size_t)n;
	}
	return NULL;
}

static const char *read_fd(struct trace_file *t, int fd)
{
	struct trace_header h;
	const char *why;
	void *rings = NULL, *map;
	struct stat s;
	size_t size;

	if (fstat(fd, &s) != 0)
		return strerror(errno);
	if (!S_ISREG(s.st_mode))
		return "is not a plain file";
	if (s.st_size == 0)
		return "is empty";
	why = pread_all(fd, &h, sizeof(h), 0);
	if (!why)
		why = check_header(&h);
	if (why)
		return why;
	rings = malloc(h.off_chunks - TRACE_PAGE);
	if (!rings)
		return "is too large: out of memory";
	why = pread_all(fd, rings, h.off_chunks - TRACE_PAGE, TRACE_PAGE);
	if (!why && fstat(fd, &s) != 0)
		why = strerror(errno);
	size = (size_t)s.st_size;
	map = why ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (!why && map == MAP_FAILED)
		why = strerror(errno);
	if (!why) {
		why = trace_parse(t, map, size, rings);
		t->map = map;
		t->map_size = size;
	}
	free(rings);
	return why;
}

const char *trace_read(struct trace_file *t, const char *path)
{
	const char *why = NULL;
	int fd;

	*t = (struct trace_file){0};
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return strerror(errno);
	// Twice: a process that writes may have made the file longer between two looks at it.
	for (int i = 0; i < 2; i++) {
		trace_free(t);
		why = read_fd(t, fd);
		if (!why || strcmp(why, "is cut short") != 0)
			break;
	}
	close(fd);
	return why;
}

const char *trace_policy(const struct trace_header *h)
{
	const struct policy *policy = policy_numbered(h->policy);

	return policy ? policy->name : "unknown";
}

void trace_free(struct trace_file *t)
{
	for (uint32_t i = 0; t->rings && i < t->h.nrings; i++)
		free(t->rings[i].v);
	free(t->rings);
	free(t->modules);
	free(t->copy);
	if (t->map)
		munmap(t->map, t->map_size);
	*t = (struct trace_file){0};
}

// --- by time --------------------------------------------------------------------------------------------

// Find the next event of a ring; its time is not below that of those before it.
static void settle(struct trace_walk *w, uint32_t i)
{
	const struct trace_runs *r = &w->t->rings[i];

	while (w->ring[i].run < r->n && w->ring[i].at == r->v[w->ring[i].run].n) {
		w->ring[i].run++;
		w->ring[i].at = 0;
		w->ring[i].told = false;
	}
	if (w->ring[i].run < r->n) {
		int64_t time = r->v[w->ring[i].run].v[w->ring[i].at].time;

		if (time > w->ring[i].time)
			w->ring[i].time = time;
	}
}

void trace_walk_begin(struct trace_walk *w, const struct trace_file *t)
{
	*w = (struct trace_walk){.t = t};
	for (uint32_t i = 0; i < t->h.nrings; i++)
		settle(w, i);
}

// Events may have been lost before this run or before the one behind it: what is known of its Ps no longer holds.
static bool tell_lost(struct trace_walk *w, uint32_t i, struct trace_event *ret)
{
	const struct trace_runs *r = &w->t->rings[i];
	size_t run = w->ring[i].run;
	uint64_t before = run ? r->v[run - 1].lost : 0, earlier = run > 1 ? r->v[run - 2].lost : 0;

	if (w->ring[i].at || w->ring[i].told)
		return false;
	w->ring[i].told = true;
	w->lost = r->v[run].lost - before;
	if (!w->lost && before == earlier)
		return false;
	w->lost_ring = i;
	*ret = (struct trace_event){.time = w->ring[i].time, .kind = TRACE_NONE, .p = TRACE_NO_P};
	return true;
}

bool trace_walk_next(struct trace_walk *w, struct trace_event *ret)
{
	uint32_t best = UINT32_MAX;

	for (uint32_t i = 0; i < w->t->h.nrings; i++) {
		if (w->ring[i].run < w->t->rings[i].n &&
		    (best == UINT32_MAX || w->ring[i].time < w->ring[best].time))
			best = i;
	}
	if (best == UINT32_MAX)
		return false;
	if (tell_lost(w, best, ret))
		return true;
	*ret = w->t->rings[best].v[w->ring[best].run].v[w->ring[best].at];
	ret->time = w->ring[best].time;
	w->ring[best].at++;
	settle(w, best);
	return true;
}
