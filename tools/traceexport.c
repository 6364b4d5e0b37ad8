// traceexport.c: `preempt trace export`: JSON in Chrome's trace event format, which Perfetto reads as well.
//
// Two groups of tracks: Ps with the threads that held them, their system calls inside; and threads with their states. Arrows lead from who
// woke a thread, or gave it the P, to where it runs. Everything is written as it is read: memory goes with the number of threads, time
// with that of events.

#include "trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PS = 1, THREADS = 2 };

struct export
{
	const struct trace_file *t;
	FILE *out;
	bool comma;
	uint64_t flows;
};

void json_quote(FILE *out, const char *s)
{
	json_t *text = json_text(s);
	char *quoted = must(json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII));

	for (const char *c = quoted; *c; c++) {
		if (*c == '<' || *c == '>' || *c == '&') // for <script>
			fprintf(out, "\\u%04x", *c);
		else
			fputc(*c, out);
	}
	free(quoted);
	json_decref(text);
}

// Times in us.
static void time_field(struct export *x, const char *key, int64_t ns)
{
	fprintf(x->out, ",\"%s\":%s%ld.%03ld", key, ns < 0 ? "-" : "", labs(ns) / 1000,
		labs(ns) % 1000);
}

static void begin(struct export *x, const char *ph, int pid, uint32_t tid, int64_t at)
{
	fprintf(x->out, "%s\n{\"ph\":\"%s\",\"pid\":%d,\"tid\":%u", x->comma ? "," : "", ph, pid,
		tid);
	time_field(x, "ts", at - x->t->h.start);
	x->comma = true;
}

static void end(struct export *x)
{
	fputc('}', x->out);
}

static void name_field(struct export *x, const char *name)
{
	fputs(",\"name\":", x->out);
	json_quote(x->out, name);
}

static void metadata(struct export *x, const char *what, int pid, uint32_t tid, const char *name)
{
	fprintf(x->out,
		"%s\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%u,\"name\":\"%s\",\"args\":{\"name\":",
		x->comma ? "," : "", pid, tid, what);
	json_quote(x->out, name);
	fputs("}}", x->out);
	x->comma = true;
}

static const char *end_name(enum slice_end why, unsigned how)
{
	static const char *const preempted[] = {"preempted", "preempted (signal)",
						"preempted (forced)"};

	switch (why) {
	case SLICE_CUT:
		return "unknown";
	case SLICE_BLOCK:
		return how < TRACE_WAITS ? trace_waits[how] : "wait";
	case SLICE_PREEMPT:
		return preempted[how < 3 ? how : 0];
	case SLICE_YIELD:
		return "yield";
	case SLICE_CALL:
		return "call";
	case SLICE_RETAKEN:
		return how ? "retaken (asleep unseen)" : "retaken (system call)";
	}
	return "unknown";
}

static void slice(void *arg, uint32_t p, struct trace_thread *th, int64_t from, int64_t to,
		  enum slice_end why, unsigned how)
{
	struct export *x = arg;
	char label[80];

	begin(x, "X", PS, p, from);
	time_field(x, "dur", to - from);
	name_field(x, trace_label(x->t, th, label));
	fprintf(x->out, ",\"cat\":\"run\",\"args\":{\"g\":%u,\"tid\":%u,\"end\":\"%s\"}", th->g,
		th->tid, end_name(why, how));
	end(x);
}

static void call_on_p(void *arg, uint32_t p, struct trace_thread *th, int64_t from, int64_t to)
{
	struct export *x = arg;

	begin(x, "X", PS, p, from);
	time_field(x, "dur", to - from);
	name_field(x, th->arg ? trace_function(x->t, th->arg) : "call");
	fputs(",\"cat\":\"call\"", x->out);
	end(x);
}

static void state(void *arg, struct trace_thread *th, int64_t from, int64_t to)
{
	static const char *const names[THREAD_STATES] = {
		[THREAD_STARTING] = "starting", [THREAD_RUNNABLE] = "runnable",
		[THREAD_RUNNING] = "running",	[THREAD_CREDIT] = "running (no P)",
		[THREAD_BLOCKED] = "",		[THREAD_CALL] = "",
	};
	struct export *x = arg;

	begin(x, "X", THREADS, th->g, from);
	time_field(x, "dur", to - from);
	if (th->state == THREAD_BLOCKED) {
		name_field(x, trace_waits[th->detail]);
		fprintf(x->out, ",\"cat\":\"wait\",\"args\":{\"object\":\"0x%lx\",\"name\":",
			(unsigned long)th->arg);
		json_quote(x->out, trace_name(x->t, th->arg, false));
		if (th->owner)
			fprintf(x->out, ",\"owner_tid\":%u", th->owner);
		fputc('}', x->out);
	} else if (th->state == THREAD_CALL) {
		name_field(x, th->arg ? trace_function(x->t, th->arg) : "call");
		fputs(",\"cat\":\"call\"", x->out);
	} else {
		name_field(x, names[th->state]);
		fputs(",\"cat\":\"state\"", x->out);
	}
	end(x);
}

static void flow(void *arg, bool wake_up, struct trace_thread *from, int64_t at,
		 struct trace_thread *to, int64_t then)
{
	struct export *x = arg;
	const char *name = wake_up ? "wake-up" : "hand-off";

	x->flows++;
	begin(x, "s", THREADS, from->g, at);
	fprintf(x->out, ",\"id\":%lu,\"cat\":\"%s\",\"name\":\"%s\"", (unsigned long)x->flows, name,
		name);
	end(x);
	begin(x, "f", THREADS, to->g, then);
	fprintf(x->out, ",\"bp\":\"e\",\"id\":%lu,\"cat\":\"%s\",\"name\":\"%s\"",
		(unsigned long)x->flows, name, name);
	end(x);
}

static void event(void *arg, const struct trace_event *e, struct trace_thread *th)
{
	struct export *x = arg;

	if (e->kind != TRACE_SPIN || !th)
		return;
	begin(x, "i", THREADS, th->g, e->time);
	fputs(",\"s\":\"t\",\"name\":\"spins, yields\",\"cat\":\"spin\",\"args\":{\"at\":", x->out);
	json_quote(x->out, trace_name(x->t, e->arg, e->detail != TRACE_SPIN_LOCK));
	fputc('}', x->out);
	end(x);
}

static void lost(void *arg, int64_t at, uint32_t ring, uint64_t n)
{
	struct export *x = arg;

	begin(x, "i", PS, ring ? ring - 1 : 0, at);
	fprintf(x->out, ",\"s\":\"g\",\"name\":\"%lu events lost\",\"cat\":\"lost\"",
		(unsigned long)n);
	end(x);
}

static void write_heads(struct export *x, struct trace_states *s)
{
	char buf[128], label[80];

	snprintf(buf, sizeof(buf), "Ps of process %d", x->t->h.pid);
	metadata(x, "process_name", PS, 0, buf);
	snprintf(buf, sizeof(buf), "Threads of process %d", x->t->h.pid);
	metadata(x, "process_name", THREADS, 0, buf);
	for (uint32_t p = 0; p < s->nps; p++) {
		snprintf(buf, sizeof(buf), "P %u", p);
		metadata(x, "thread_name", PS, p, buf);
	}
	for (size_t i = 0; i < s->n; i++) {
		snprintf(buf, sizeof(buf), "%s (tid %u)", trace_label(x->t, s->v[i], label),
			 s->v[i]->tid);
		metadata(x, "thread_name", THREADS, s->v[i]->g, buf);
	}
}

static void write_all(struct export *x)
{
	const struct trace_header *h = &x->t->h;
	struct trace_states s = {0};
	const struct trace_sink sink = {.slice = slice,
					.call_on_p = call_on_p,
					.state = state,
					.flow = flow,
					.event = event,
					.lost = lost,
					.arg = x};

	fputs("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[", x->out);
	trace_names_first(&s, x->t);
	write_heads(x, &s);
	trace_run(&s, x->t, &sink);
	fprintf(x->out,
		"\n],\"otherData\":{\"pid\":%d,\"procs\":%u,\"policy\":\"%s\",\"quantum_ns\":%ld,"
		"\"events\":%lu,\"lost_events\":%lu,\"error\":%d,\"settled\":%s,\"lost_by_ring\":[",
		h->pid, h->procs, trace_policy(h), (long)h->quantum, (unsigned long)x->t->events,
		(unsigned long)x->t->lost, h->error, h->state & TRACE_SETTLED ? "true" : "false");
	for (uint32_t i = 0; i < h->nrings; i++)
		fprintf(x->out, "%s%lu", i ? "," : "",
			(unsigned long)(x->t->rings[i].lost + x->t->rings[i].unfinished));
	fputs("],\"library\":", x->out);
	json_quote(x->out, h->library);
	fputs("}}\n", x->out);
	trace_states_free(&s);
}

// --- the command ------------------------------------------------------------------------------------------

struct export_options {
	struct trace_files files;
};

static const struct argp_option table[] = {
	{"output", 'o', "FILE", 0, "Write to FILE instead of standard output", 0},
	{"format", 'f', "FORMAT", 0, "Only chrome", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct export_options *o = state->input;

	switch (key) {
	case 'f':
		if (strcmp(arg, "chrome") != 0)
			argp_error(state, "--format=%s: there is only chrome", arg);
		return 0;
	default:
		return trace_words(key, arg, &o->files, state);
	}
}

static const struct argp export_argp = {
	.options = table,
	.parser = parse,
	.args_doc = "FILE",
	.doc = "Write a trace as JSON that ui.perfetto.dev and chrome://tracing read.",
};

void trace_export_help(FILE *out)
{
	argp_help(&export_argp, out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK,
		  (char *)"preempt trace export");
}

int trace_export(int argc, char **argv)
{
	struct export_options o = {0};
	struct trace_file t;
	struct export x = {.t = &t, .out = stdout};

	trace_begin(&export_argp, argc, argv, &o, &o.files, &t);
	if (o.files.output && !(x.out = fopen(o.files.output, "we")))
		die("%s: %s", o.files.output, strerror(errno));
	write_all(&x);
	if (fflush(x.out) != 0 || ferror(x.out))
		die("%s: %s", o.files.output ? o.files.output : "standard output", strerror(errno));
	trace_names_free();
	trace_free(&t);
	return 0;
}
