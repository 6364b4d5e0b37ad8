// fuzz_trace.c: the reader of traces on arbitrary bytes, and what follows from a trace that it accepts.
//
// The bytes are tried as they are, then with a header that is right, so that rings and chunks get their turn.

#include "fuzz.h"
#include "../../tools/trace.h"

static int64_t p_end[1024];

static void slice(void *arg, uint32_t p, struct trace_thread *th, int64_t start, int64_t end,
		  enum slice_end why, unsigned how)
{
	(void)arg, (void)how;
	MUST(p < 1024 && th && th->g);
	MUST(start >= p_end[p] && end >= start && why <= SLICE_RETAKEN);
	p_end[p] = end;
}

static void call_on_p(void *arg, uint32_t p, struct trace_thread *th, int64_t start, int64_t end)
{
	(void)arg, (void)th;
	MUST(p < 1024 && end >= start);
}

static void state(void *arg, struct trace_thread *th, int64_t start, int64_t end)
{
	(void)arg;
	MUST(end >= start && th->state > THREAD_NONE && th->state < THREAD_ENDED);
	MUST(th->state != THREAD_BLOCKED || th->detail < TRACE_WAITS);
}

static void try(const void *bytes, size_t size)
{
	const struct trace_sink sink = {.slice = slice, .call_on_p = call_on_p, .state = state};
	struct trace_states s = {0};
	struct trace_file t;
	struct trace_walk w;
	struct trace_event e;
	uint64_t n = 0;
	int64_t last = 0;

	if (trace_parse(&t, bytes, size, NULL)) {
		trace_free(&t);
		return;
	}
	trace_walk_begin(&w, &t);
	while (trace_walk_next(&w, &e)) {
		MUST(e.time >= last);
		last = e.time;
		n += e.kind != TRACE_NONE;
	}
	MUST(n == t.events);
	for (size_t i = 0; i < t.nmodules; i++)
		MUST(strlen((const char *)(t.modules[i] + 1)) < size);
	memset(p_end, 0, sizeof(p_end));
	trace_names_first(&s, &t);
	trace_run(&s, &t, &sink);
	trace_states_free(&s);
	trace_free(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = calloc(1, size ? size : 1); // aligned, and its end is watched
	struct trace_header *h = (struct trace_header *)bytes;

	if (!bytes)
		return 0;
	if (size)
		memcpy(bytes, data, size);
	try(bytes, size);
	if (size >= 2 * TRACE_PAGE) {
		memcpy(h->magic, TRACE_MAGIC, sizeof(h->magic));
		h->version = TRACE_VERSION;
		h->header_size = TRACE_PAGE;
		h->nrings = 2;
		h->slots = 8;
		h->ring_size = TRACE_PAGE + 8 * sizeof(struct trace_event);
		h->off_chunks = TRACE_PAGE + 2 * h->ring_size;
		h->end = size & ~(size_t)7;
		try(bytes, size);
	}
	free(bytes);
	return 0;
}
