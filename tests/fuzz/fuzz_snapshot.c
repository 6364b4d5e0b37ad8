// fuzz_snapshot.c: what a process shows of its threads, from arbitrary bytes: checked, then shown as text.
//
// The bytes are tried as they are, then with what the head says twice put right.

#include "fuzz.h"
#include "topview.h"

static void count(void *arg, enum line kind, const char *text)
{
	(void)kind;
	MUST(strlen(text) <= *(size_t *)arg);
}

static void try(const uint8_t *data, size_t size)
{
	struct view v = {.target = {.pid = 1, .inner = 2, .name = "fuzz"}};
	uint8_t *bytes = malloc(size ? size : 1); // aligned, and its end is watched
	size_t cols = 80;
	struct snapshot s;

	if (!bytes)
		return;
	memcpy(bytes, data, size);
	if (snapshot_check(bytes, size, &s) != 0) {
		free(bytes);
		return;
	}
	if (s.head->nthreads < 100) { // each is looked for in /proc
		view_update(&v, &s);
		view_head(&v, (int)cols, 6, count, &cols);
		view_threads(&v, (int)cols, 0, v.n, count, &cols);
		json_decref(view_json(&v));
		view_free(&v);
	}
	snapshot_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size ? size : 1);
	struct snapshot_head *h = (struct snapshot_head *)bytes;

	if (!bytes)
		return 0;
	memcpy(bytes, data, size);
	try(bytes, size);
	if (size >= sizeof *h) {
		memcpy(h->magic, SNAPSHOT_MAGIC, sizeof h->magic);
		h->layout = SNAPSHOT_LAYOUT;
		h->head_size = sizeof *h;
		strcpy(h->version, PREEMPT_VERSION);
		h->policy[sizeof h->policy - 1] = 0;
		h->file_size = (uint32_t)size;
		h->seq = 2;
		try(bytes, size);
	}
	free(bytes);
	return 0;
}
