// tracestates.c: events become slices of Ps and states of threads.
//
// A P's events are in one ring and in their true order. Those of a thread come from several rings, and are put together by time, which may be
// off by the time that a writer took between reading the clock and writing. So a thread may be seen woken before it is seen to
// block; such a wake-up is kept (early). Where events were lost a state may be wrong until the thread's next event.

#include "trace.h"

#include <stdlib.h>
#include <string.h>

static void grow_index(struct trace_states *s)
{
	size_t size = s->index_size ? 2 * s->index_size : 256;
	uint32_t *index = must(calloc(size, sizeof(*index)));

	for (size_t i = 0; i < s->n; i++) {
		size_t h = s->v[i]->g * 2654435761u;

		while (index[h & (size - 1)])
			h++;
		index[h & (size - 1)] = (uint32_t)i + 1;
	}
	free(s->index);
	s->index = index;
	s->index_size = size;
}

struct trace_thread *trace_thread_of(struct trace_states *s, uint32_t g)
{
	size_t h = g * 2654435761u;

	if (!g)
		return NULL;
	if (2 * s->n >= s->index_size)
		grow_index(s);
	for (;; h++) {
		uint32_t i = s->index[h & (s->index_size - 1)];

		if (!i)
			break;
		if (s->v[i - 1]->g == g)
			return s->v[i - 1];
	}
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 64;
		s->v = must(reallocarray(s->v, s->cap, sizeof(*s->v)));
	}
	s->v[s->n] = must(calloc(1, sizeof(**s->v)));
	s->v[s->n]->g = g;
	s->v[s->n]->p = -1;
	s->index[h & (s->index_size - 1)] = (uint32_t)++s->n;
	return s->v[s->n - 1];
}

static void take_name(struct trace_thread *th, const struct trace_event *e)
{
	switch (e->kind) {
	case TRACE_GO_CREATE:
		th->start_routine = e->arg;
		break;
	case TRACE_GO_THREAD:
		th->tid = e->other;
		break;
	case TRACE_GO_NAME:
		th->tid = e->other;
		memcpy(th->name + (e->detail ? 8 : 0), &e->arg, 8);
		break;
	default:
		break;
	}
}

void trace_names_first(struct trace_states *s, const struct trace_file *t)
{
	struct trace_walk w;
	struct trace_event e;

	trace_walk_begin(&w, t);
	while (trace_walk_next(&w, &e)) {
		if (e.kind == TRACE_GO_CREATE || e.kind == TRACE_GO_THREAD ||
		    e.kind == TRACE_GO_NAME) {
			struct trace_thread *th = trace_thread_of(s, e.g);

			if (th)
				take_name(th, &e);
		}
		if (e.p != TRACE_NO_P && e.p >= s->nps)
			s->nps = e.p + 1u;
		if (!s->first)
			s->first = e.time;
		s->last = e.time;
	}
}

static void set_state(const struct trace_sink *sink, struct trace_thread *th, enum thread_state to,
		      int64_t now)
{
	int64_t start = th->since;

	if (now < start)
		now = start;
	if (th->state != THREAD_NONE && th->state != THREAD_ENDED) {
		th->ns[th->state] += (uint64_t)(now - start);
		if (sink->state)
			sink->state(sink->arg, th, start, now);
	}
	th->state = to;
	th->since = now;
	th->detail = 0;
	th->arg = 0;
	th->owner = 0;
}

static void end_call_on_p(const struct trace_sink *sink, struct trace_thread *th, int64_t now)
{
	if (th->state == THREAD_CALL && th->p >= 0 && sink->call_on_p && now >= th->call_on_p)
		sink->call_on_p(sink->arg, (uint32_t)th->p, th, th->call_on_p, now);
}

// Who has p loses it.
static void end_slice(struct trace_states *s, const struct trace_sink *sink, uint32_t p,
		      int64_t now, enum slice_end why, unsigned how)
{
	struct trace_thread *th = s->p[p].holder;

	if (!th)
		return;
	if (now < s->p[p].since)
		now = s->p[p].since;
	end_call_on_p(sink, th, now);
	if (sink->slice)
		sink->slice(sink->arg, p, th, s->p[p].since, now, why, how);
	s->p[p].holder = NULL;
	th->p = -1;
}

// A P whose events are of one ring; 0 has none.
static bool of_ring(const struct trace_file *t, uint32_t p, uint32_t ring)
{
	return ring && 1 + p % (t->h.nrings - 1) == ring;
}

static void end_state(const struct trace_sink *sink, struct trace_thread *th,
		      const struct trace_event *e, enum thread_state to)
{
	set_state(sink, th, to, e->time);
	th->detail = e->detail;
	th->arg = e->arg;
}

static void woken(const struct trace_sink *sink, struct trace_thread *th, uint32_t by, int64_t now)
{
	set_state(sink, th, THREAD_RUNNABLE, now);
	th->woken_at = now;
	th->woken_by = by;
}

static void start(struct trace_states *s, const struct trace_sink *sink,
		  const struct trace_event *e, struct trace_thread *th)
{
	struct trace_thread *giver = trace_thread_of(s, e->other), *waker;

	end_slice(s, sink, e->p, e->time, SLICE_CUT, 0);
	if (th->p >= 0) // its end was lost
		end_slice(s, sink, (uint32_t)th->p, e->time, SLICE_CUT, 0);
	waker = th->woken_by ? trace_thread_of(s, th->woken_by) : NULL;
	if (sink->flow && waker && waker != th)
		sink->flow(sink->arg, true, waker, th->woken_at, th, e->time);
	if (sink->flow && giver && giver != th && giver != waker)
		sink->flow(sink->arg, false, giver, e->time, th, e->time);
	th->woken_by = 0;
	th->early = 0;
	th->switches += e->detail & TRACE_GRANTED ? 1 : 0;
	set_state(sink, th, THREAD_RUNNING, e->time);
	s->p[e->p].holder = th;
	s->p[e->p].since = e->time;
	th->p = e->p;
}

static void unblock(const struct trace_sink *sink, const struct trace_event *e,
		    struct trace_thread *th)
{
	if (th->state != THREAD_BLOCKED && th->state != THREAD_STARTING &&
	    th->state != THREAD_NONE) {
		th->early = e->time;
		th->woken_by = e->other;
		return;
	}
	woken(sink, th, e->other, e->time);
}

static void block(const struct trace_sink *sink, const struct trace_event *e,
		  struct trace_thread *th)
{
	end_state(sink, th, e, THREAD_BLOCKED);
	th->owner = e->other;
	th->blocked++;
	if (th->early >= e->time && th->early)
		woken(sink, th, th->woken_by, th->early);
	th->early = 0;
}

static void one(struct trace_states *s, const struct trace_sink *sink, const struct trace_event *e)
{
	struct trace_thread *th = trace_thread_of(s, e->g);
	bool has_p = e->p != TRACE_NO_P;

	if (sink->event)
		sink->event(sink->arg, e, th);
	if (!th)
		return;
	take_name(th, e);
	switch ((enum trace_kind)e->kind) {
	case TRACE_GO_CREATE:
		set_state(sink, th, THREAD_STARTING, e->time);
		break;
	case TRACE_GO_START:
		if (has_p)
			start(s, sink, e, th);
		break;
	case TRACE_GO_CREDIT:
		set_state(sink, th, THREAD_CREDIT, e->time);
		break;
	case TRACE_GO_BLOCK:
		if (has_p)
			end_slice(s, sink, e->p, e->time, SLICE_BLOCK, e->detail);
		block(sink, e, th);
		break;
	case TRACE_GO_UNBLOCK:
		unblock(sink, e, th);
		break;
	case TRACE_GO_PREEMPT:
	case TRACE_GO_SCHED:
		if (has_p)
			end_slice(s, sink, e->p, e->time,
				  e->kind == TRACE_GO_PREEMPT ? SLICE_PREEMPT : SLICE_YIELD,
				  e->detail);
		if (e->kind == TRACE_GO_PREEMPT)
			th->preempted++;
		else
			th->yielded++;
		set_state(sink, th, THREAD_RUNNABLE, e->time);
		break;
	case TRACE_SYSCALL_BEGIN:
	case TRACE_SYSCALL_BLOCK:
		if (has_p && e->kind == TRACE_SYSCALL_BLOCK)
			end_slice(s, sink, e->p, e->time, SLICE_CALL, 0);
		end_state(sink, th, e, THREAD_CALL);
		th->call_on_p = th->since;
		break;
	case TRACE_SYSCALL_END:
		end_call_on_p(sink, th, e->time);
		set_state(sink, th, th->p >= 0 ? THREAD_RUNNING : THREAD_CREDIT, e->time);
		break;
	case TRACE_SYSCALL_BLOCKED:
		set_state(sink, th, THREAD_RUNNABLE, e->time);
		break;
	case TRACE_GO_END:
		set_state(sink, th, THREAD_ENDED, e->time);
		break;
	case TRACE_RETAKE:
		if (has_p)
			end_slice(s, sink, e->p, e->time, SLICE_RETAKEN, e->detail);
		if (th->state == THREAD_RUNNING)
			set_state(sink, th, THREAD_CREDIT, e->time);
		break;
	case TRACE_SPIN:
		th->spins++;
		break;
	case TRACE_NONE:
	case TRACE_PROC_START:
	case TRACE_PROC_STOP:
	case TRACE_GO_THREAD:
	case TRACE_GO_NAME:
	case TRACE_HANDOFF:
	case TRACE_ASK:
	case TRACE_SIGNAL:
	case TRACE_REFUSE:
	case TRACE_KINDS:
		break;
	}
}

void trace_run(struct trace_states *s, const struct trace_file *t, const struct trace_sink *sink)
{
	struct trace_walk w;
	struct trace_event e;

	trace_walk_begin(&w, t);
	while (trace_walk_next(&w, &e)) {
		if (e.kind != TRACE_NONE) {
			one(s, sink, &e);
			continue;
		}
		if (sink->lost && w.lost)
			sink->lost(sink->arg, e.time, w.lost_ring, w.lost);
		for (uint32_t p = 0; p < s->nps; p++)
			if (of_ring(t, p, w.lost_ring))
				end_slice(s, sink, p, e.time, SLICE_CUT, 0);
	}
	for (uint32_t p = 0; p < s->nps; p++)
		end_slice(s, sink, p, s->last, SLICE_CUT, 0);
	for (size_t i = 0; i < s->n; i++)
		set_state(sink, s->v[i], THREAD_NONE, s->last);
}

void trace_states_free(struct trace_states *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i]);
	free(s->v);
	free(s->index);
	*s = (struct trace_states){0};
}
