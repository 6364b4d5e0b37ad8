// safepoint.h: what the tests of the safe-point compiler share: lists of marks, and questions about them.

#pragma once

#include "unit.h"

#include "compiler.h"

// Is all of [lo, hi) marked with kind, and with value for those kinds that have one (ANY: whatever)?
enum { ANY = -2 };
static inline bool marked(const struct marks *marks, enum mark_kind kind, uint64_t lo, uint64_t hi,
			  int value)
{
	for (uint64_t a = lo; a < hi; a++) {
		bool found = false;

		for (size_t i = 0; i < marks->n; i++) {
			const struct mark *k = &marks->v[i];

			found |= k->kind == kind && a >= k->lo && a < k->hi &&
				 (value == ANY || value == k->value);
		}
		if (!found)
			return false;
	}
	return true;
}

static inline size_t count_marks(const struct marks *marks, enum mark_kind kind)
{
	size_t n = 0;

	for (size_t i = 0; i < marks->n; i++)
		n += marks->v[i].kind == kind;
	return n;
}

// Bytes marked with kind, each counted once.
static inline uint64_t marked_bytes(const struct marks *marks, enum mark_kind kind, uint64_t lo,
				    uint64_t hi)
{
	uint64_t n = 0;

	for (uint64_t a = lo; a < hi; a++)
		n += marked(marks, kind, a, a + 1, ANY);
	return n;
}

// Until the library has them.
__attribute__((weak)) int marks_add(struct marks *marks, enum mark_kind kind, uint64_t lo,
				    uint64_t hi, int value)
{
	if (marks->n == marks->cap) {
		marks->cap = marks->cap ? 2 * marks->cap : 64;
		marks->v = realloc(marks->v, marks->cap * sizeof(*marks->v));
		ck_assert_ptr_nonnull(marks->v);
	}
	marks->v[marks->n++] = (struct mark){lo, hi, value, (uint8_t)kind};
	return 0;
}

__attribute__((weak)) void marks_free(struct marks *marks)
{
	free(marks->v);
	memset(marks, 0, sizeof(*marks));
}
