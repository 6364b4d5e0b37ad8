// fuzz_page.c: the counters that a process has left in its page (shim/page.c), from arbitrary bytes: another process of this user may have written
// them, and may cut or change the file while it is read.
//
// The bytes are tried as they are, then as a page: the first as its head, with what it says twice put right, the rest as counters and histograms.
// What is accepted must be reported: as JSON that can be read, with figures that may be.

#include <errno.h>
#include <jansson.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "shim.h"

// As in page.c.
struct head {
	char magic[8];
	char version[32];
	uint32_t size;
	int32_t pid;
	uint32_t procs;
	uint32_t policy;
	int64_t quantum, start;
};
enum { COUNTERS = 4096, HISTOGRAMS = 8192, HEAD = 4096, PAGE = COUNTERS + HISTOGRAMS + HEAD };

static int file = -1, report = -1; // in memory
static char json[1 << 20];

static void fill(int fd, const void *bytes, size_t size)
{
	MUST(ftruncate(fd, 0) == 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
}

static json_int_t number(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	MUST(json_is_integer(v));
	return json_integer_value(v);
}

static void check_histogram(const json_t *o, const char *key)
{
	const json_t *h = json_object_get(o, key);

	MUST(json_is_object(h));
	MUST(number(h, "p50") <= number(h, "p90") && number(h, "p90") <= number(h, "p99") &&
	     number(h, "p99") <= number(h, "max"));
}

// JSON has no numbers above INT64_MAX for those who read it: such a page is not reported.
static bool too_large(void)
{
	const uint64_t *counter = (const uint64_t *)&stats;
	const struct histogram *const h[] = {&histograms.run_delay, &histograms.overshoot};

	for (size_t i = 0; i < sizeof(stats) / sizeof(*counter); i++)
		if (counter[i] > INT64_MAX)
			return true;
	for (int k = 0; k < 2; k++) {
		uint64_t sum = 0;

		if (h[k]->max > INT64_MAX)
			return true;
		for (int i = 0; i < BUCKETS; i++) {
			if (h[k]->bucket[i] > INT64_MAX || (sum += h[k]->bucket[i]) > INT64_MAX)
				return true;
		}
	}
	return false;
}

static void try(const uint8_t *data, size_t size)
{
	json_error_t error;
	json_t *o;
	ssize_t n;
	int pid = 0, r;

	fill(file, data, size);
	r = page_load(file, &pid);
	MUST(r == 0 || r == -EBADMSG);
	if (r)
		return;
	MUST(pid > 0 && sched.nprocs >= 1 && sched.nprocs <= MAX_PROCS && sched.policy &&
	     config.quantum > 0);
	MUST(ftruncate(report, 0) == 0 && lseek(report, 0, SEEK_SET) == 0 && stats_write(report));
	n = pread(report, json, sizeof(json), 0);
	MUST(n > 0 && n < (ssize_t)sizeof(json));
	o = json_loadb(json, (size_t)n, 0, &error);
	if (!o) {
		MUST(too_large());
		return;
	}
	MUST(number(o, "elapsed_ns") >= 0 && number(o, "quantum_ns") == config.quantum);
	if (!too_large()) {
		check_histogram(o, "run_delay_ns");
		check_histogram(o, "overshoot_ns");
	}
	json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t page[PAGE];
	struct head *h = (struct head *)(page + COUNTERS + HISTOGRAMS);
	size_t head = size < sizeof(*h) ? size : sizeof(*h), rest = size - head;

	if (file < 0) {
		file = memfd_create("page", MFD_CLOEXEC);
		report = memfd_create("report", MFD_CLOEXEC);
		MUST(file >= 0 && report >= 0);
	}
	try(data, size);
	memset(page, 0, sizeof(page));
	memcpy(h, data, head);
	memcpy(h->magic, "preempt\2", sizeof(h->magic));
	memset(h->version, 0, sizeof(h->version));
	strcpy(h->version, PREEMPT_VERSION);
	h->size = PAGE;
	// Again and again: a short input may fill all of it.
	for (size_t at = 0; rest && at < COUNTERS + HISTOGRAMS; at += rest)
		memcpy(page + at, data + head,
		       at + rest < COUNTERS + HISTOGRAMS ? rest : COUNTERS + HISTOGRAMS - at);
	try(page, sizeof(page));
	// A policy that there is, and what the process may really have been set to.
	h->policy %= 3;
	h->procs = h->procs % MAX_PROCS + 1;
	try(page, sizeof(page));
	return 0;
}
