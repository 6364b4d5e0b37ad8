// test_heap.c: the order of the heap, whatever is pushed and taken, and that it never allocates in a push.

#include "unit.h"

enum { NG = 3000 };
static struct g gs[NG];
static struct heap heap;

static uint32_t random_state = 1;
static uint32_t rnd(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state % below;
}

static void setup(void)
{
	heap = (struct heap){0};
	ck_assert(heap_reserve(&heap, NG));
}

static struct g *least(void)
{
	return heap_take(&heap, 0);
}

// Random keys leave in order, equal ones in the order in which they came; also when keys pass from the largest to the
// smallest number. The reference is a search through all.
START_TEST(order)
{
	static const int64_t bases[] = {0, INT64_MAX - 50, INT64_MIN + 20, -50};

	for (int round = 0; round < 400; round++) {
		int64_t key[200], base = bases[round % 4];
		bool in[200] = {false};
		int n = 1 + (int)rnd(200), left = 0;
		uint32_t span = 1 + rnd(100);

		for (int i = 0; i < n; i++) {
			key[i] = (int64_t)((uint64_t)base + rnd(span));
			heap_push(&heap, key[i], &gs[i]);
			in[i] = true;
			left++;
			if (rnd(4) == 0) { // any of them leaves from the middle
				struct g *gp = heap_take(&heap, rnd(heap.n));

				ck_assert(in[gp - gs]);
				in[gp - gs] = false;
				left--;
			}
		}
		while (left > 0) {
			int want = -1;

			for (int i = 0; i < n; i++) // pushed in this order, so the first of equals
				if (in[i] && (want < 0 || (int64_t)((uint64_t)key[i] -
								    (uint64_t)key[want]) < 0))
					want = i;
			ck_assert_ptr_eq(heap.at[0].gp, &gs[want]);
			ck_assert_ptr_eq(least(), &gs[want]);
			in[want] = false;
			left--;
		}
		ck_assert_uint_eq(heap.n, 0);
	}
}
END_TEST

// All equal: a FIFO, also while some leave and come again.
START_TEST(fifo_among_equals)
{
	int first = 0, next = 0;

	for (int i = 0; i < 1000; i++)
		heap_push(&heap, 7, &gs[next++ % NG]);
	for (int i = 0; i < 5000; i++) {
		ck_assert_ptr_eq(least(), &gs[first++ % NG]);
		heap_push(&heap, 7, &gs[next++ % NG]);
	}
	while (first < next)
		ck_assert_ptr_eq(least(), &gs[first++ % NG]);
}
END_TEST

// Room is made ahead; what is queued stays so, and the place is no more than the bound in heap.c.
START_TEST(grows)
{
	struct heap h = {0};

	ck_assert(heap_reserve(&h, 1));
	for (uint32_t n = 1; n <= NG; n++) {
		ck_assert(heap_reserve(&h, n));
		ck_assert_uint_ge(h.cap, n);
		ck_assert_uint_le(h.cap, n < 253 ? 253 : 2 * n + 3);
		heap_push(&h, (int64_t)(NG - n), &gs[NG - n]);
	}
	// The four children of an entry are in one cache line.
	ck_assert_uint_eq((uintptr_t)&h.at[1] % 64, 0);
	for (uint32_t i = 0; i < NG; i++)
		ck_assert_ptr_eq(heap_take(&h, 0), &gs[i]);
}
END_TEST

// A push without room is an error that is seen, not memory that is overwritten.
START_TEST(full)
{
	heap.cap = 2;
	heap_push(&heap, 1, &gs[0]);
	heap_push(&heap, 2, &gs[1]);
	heap_push(&heap, 3, &gs[2]);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, order);
	tcase_add_test(tc, fifo_among_equals);
	tcase_add_test(tc, grows);
	tcase_add_test_raise_signal(tc, full, SIGABRT);
}

int main(void)
{
	return unit_run("heap", add);
}
