// stats.c: counting.
//
// Problem: figures are taken on hot paths, also in signal handlers, while the report (statsreport.c) is wanted
// once, at exit, when threads may be parked, dying or running on, and must never hang. Approach:
// counters are relaxed adds. Times go into log-linear histograms (8 buckets per power of two, so a
// percentile is off by 6% at most) of fixed size. Threads that exit leave a record in chunks that
// are mapped as needed and never moved, so writers need no lock: an index by fetch_add, then a flag
// that publishes the record. The report walks records and live Gs; a figure that moves meanwhile is
// taken as it is. Rejected: a record list under sched.lock (exit could wait for a parked thread
// that holds it).

#include "shim.h"

struct stats stats;

// --- histograms ------------------------------------------------------------------------------------------

struct histograms histograms;

static uint32_t bucket_of(uint64_t v)
{
	uint32_t e;

	if (v < SUB)
		return (uint32_t)v;
	e = 63 - (uint32_t)__builtin_clzl(v);
	return (e - SUB_BITS + 1) * SUB + ((v >> (e - SUB_BITS)) & (SUB - 1));
}

// The middle of a bucket.
static uint64_t bucket_value(uint32_t i)
{
	uint32_t e = i / SUB;

	if (e <= 1)
		return i;
	return ((uint64_t)(SUB + i % SUB) << (e - 1)) + ((uint64_t)1 << (e - 1)) / 2;
}

// Signal-safe.
static void histogram_add(struct histogram *h, int64_t ns)
{
	uint64_t v = ns < 0 ? 0 : (uint64_t)ns, max;

	count_relaxed(&h->bucket[bucket_of(v)], 1);
	while (v > (max = load_relaxed(&h->max))) {
		if (cas(&h->max, max, v)) // competes with other adds only; publishes nothing
			break;
	}
}

// The value that percent of all counted are not above.
static uint64_t percentile(const uint64_t *bucket, uint64_t count, uint64_t max, uint64_t percent)
{
	uint64_t rank = count / 100 * percent + (count % 100 * percent + 99) / 100, seen = 0;

	for (uint32_t i = 0; i < BUCKETS; i++) {
		seen += load_relaxed(&bucket[i]);
		if (seen >= rank && seen > 0) {
			uint64_t v = bucket_value(i);

			return v < max ? v : max;
		}
	}
	return max;
}

struct summary summarize(const struct histogram *h)
{
	struct summary s = {0};

	for (uint32_t i = 0; i < BUCKETS; i++)
		s.count += load_relaxed(&h->bucket[i]);
	s.max = load_relaxed(&h->max);
	if (s.count) {
		s.p50 = percentile(h->bucket, s.count, s.max, 50);
		s.p90 = percentile(h->bucket, s.count, s.max, 90);
		s.p99 = percentile(h->bucket, s.count, s.max, 99);
	}
	return s;
}

static void histogram_reset(struct histogram *h)
{
	for (uint32_t i = 0; i < BUCKETS; i++)
		store_relaxed(&h->bucket[i], 0);
	store_relaxed(&h->max, 0);
}

void stats_run_delay(int64_t ns)
{
	histogram_add(&histograms.run_delay, ns);
}

void stats_overshoot(int64_t ns)
{
	histogram_add(&histograms.overshoot, ns);
}

// --- threads ---------------------------------------------------------------------------------------------

// 65536 records are 3.5 MB; a program that makes more threads than that gets the first ones listed
// and the number of the others.
enum { CHUNK = 1024, CHUNKS = 64 };
static struct record *chunks[CHUNKS];
static uint32_t nrecords;

static void copy_name(char to[16], const char *from)
{
	int i = 0;

	for (; i < 15 && from[i] && from[i] != '\n'; i++)
		to[i] = from[i];
	to[i] = 0;
}

static struct record *record_new(void)
{
	uint32_t i = fetch_add(&nrecords, 1); // gives the index to this thread alone
	struct record *chunk;

	if (i >= CHUNK * CHUNKS)
		return NULL;
	chunk = load_acquire(&chunks[i / CHUNK]); // pairs with the cas below
	if (!chunk) {
		struct record *fresh = os_mmap(CHUNK * sizeof(*fresh));

		if (!fresh)
			return NULL;
		if (cas(&chunks[i / CHUNK], NULL, fresh)) { // publishes the zeroed chunk
			chunk = fresh;
		} else {
			os_munmap(fresh, CHUNK * sizeof(*fresh));
			chunk = load_acquire(&chunks[i / CHUNK]); // pairs with the cas above
		}
	}
	return &chunk[i % CHUNK];
}

void stats_thread_starts(uint32_t live)
{
	uint64_t peak = load_relaxed(&stats.threads_peak);

	STAT(threads_created);
	while (live > peak && !cas(&stats.threads_peak, peak, live)) // a maximum only
		peak = load_relaxed(&stats.threads_peak);
}

void stats_thread_exit(const struct g *gp)
{
	struct record *r;
	char name[16];

	if (!config.stats[0] || load_relaxed(&sched.sealed))
		return;
	r = record_new();
	if (!r)
		return;
	r->tid = gp->tid;
	os_thread_name(name);
	copy_name(r->name, name);
	r->run_ns = load_relaxed(&gp->run_ns);
	r->wait_ns = load_relaxed(&gp->wait_ns);
	r->switches = load_relaxed(&gp->switches);
	store_release(&r->published, 1); // pairs with load_acquire in each_thread
}

static bool is_live(uint32_t status)
{
	return status != G_IDLE && status != G_DEAD;
}

// What a live thread has used so far, with the span it is in. The owner may move on while we look:
// then one span is counted in part.
static void live_record(const struct g *gp, uint32_t status, int64_t now, struct record *ret)
{
	char path[64], name[32];
	struct text t = {.buf = path, .len = 0, .cap = sizeof(path)};
	int64_t span;

	ret->tid = gp->tid;
	text_printf(&t, "/proc/self/task/%d/comm", gp->tid);
	copy_name(ret->name, os_read_file(path, name, sizeof(name)) > 0 ? name : "");
	ret->run_ns = load_relaxed(&gp->run_ns);
	ret->wait_ns = load_relaxed(&gp->wait_ns);
	ret->switches = load_relaxed(&gp->switches);
	if (status == G_RUNNING) {
		span = now - load_relaxed(&gp->run_since);
		if (load_relaxed(&gp->run_since) && span > 0)
			ret->run_ns += (uint64_t)span;
	} else if (status == G_RUNNABLE || status == G_PREEMPTED) {
		span = now - load_relaxed(&gp->runnable_since);
		if (load_relaxed(&gp->runnable_since) && span > 0)
			ret->wait_ns += (uint64_t)span;
	}
}

// Exited threads in the order of their exit, then live ones, newest first.
void each_thread(void (*fn)(const struct record *r, void *arg), void *arg, int64_t now)
{
	uint32_t n = load_relaxed(&nrecords);
	struct g *gp;

	for (uint32_t i = 0; i < n && i < CHUNK * CHUNKS; i++) {
		struct record *chunk = load_acquire(&chunks[i / CHUNK]); // pairs with record_new

		if (chunk &&
		    load_acquire(&chunk[i % CHUNK].published)) // pairs with stats_thread_exit
			fn(&chunk[i % CHUNK], arg);
	}
	gp = load_acquire(&sched.allgs); // pairs with the push of a new G
	for (; gp; gp = gp->alllink) {
		uint32_t status = load_relaxed(&gp->status);
		struct record r = {0};

		if (!is_live(status))
			continue;
		live_record(gp, status, now, &r);
		fn(&r, arg);
	}
}

uint32_t threads_left_out(void)
{
	uint32_t n = load_relaxed(&nrecords);

	return n > CHUNK * CHUNKS ? n - CHUNK * CHUNKS : 0;
}

void stats_reset_in_child(void)
{
	uint64_t *counter = (uint64_t *)&stats;

	page_leave();
	for (size_t i = 0; i < sizeof(stats) / sizeof(*counter); i++)
		store_relaxed(&counter[i], 0);
	histogram_reset(&histograms.run_delay);
	histogram_reset(&histograms.overshoot);
	for (uint32_t i = 0; i < CHUNKS; i++) {
		if (chunks[i])
			os_munmap(chunks[i], CHUNK * sizeof(*chunks[i]));
		chunks[i] = NULL;
	}
	nrecords = 0;
	spin_reset_in_child();
	lock_reset_in_child();
}

// --- Jain's index: (sum x)^2 / (n * sum x^2); 1 is fair, 1/n is all for one ------------------------------

struct jain {
	uint64_t n, max, sum, squares;
	uint32_t shift;
};

static void jain_size(const struct record *r, void *arg)
{
	struct jain *j = arg;

	j->n++;
	if (r->run_ns > j->max)
		j->max = r->run_ns;
}

static void jain_add(const struct record *r, void *arg)
{
	struct jain *j = arg;
	uint64_t x = (r->run_ns < j->max ? r->run_ns : j->max) >> j->shift;

	j->sum += x;
	j->squares += x * x;
}

static uint32_t bits(uint64_t v)
{
	return v ? 64 - (uint32_t)__builtin_clzl(v) : 0;
}

// In 1/10000. There is no floating point and no 128-bit division here: times are scaled so that
// numerator and denominator stay below 2^60, and the quotient is made digit by digit.
uint32_t jain_cpu(int64_t now)
{
	struct jain j = {0};
	uint64_t num, den;
	uint32_t keep, q = 0;

	each_thread(jain_size, &j, now);
	if (!j.n || !j.max)
		return 10000;
	keep = (60 - 2 * bits(j.n)) / 2; // a thread may appear between the two walks: n < 2^bits(n)
	j.shift = bits(j.max) > keep ? bits(j.max) - keep : 0;
	each_thread(jain_add, &j, now);
	num = j.sum * j.sum;
	den = j.n * j.squares;
	if (!den || num >= den)
		return 10000;
	for (int i = 0; i < 4; i++) {
		num *= 10;
		q = q * 10 + (uint32_t)(num / den);
		num %= den;
	}
	return q + (num * 2 >= den);
}
