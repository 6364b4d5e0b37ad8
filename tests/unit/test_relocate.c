// test_relocate.c: which instructions are executed at another place, and what stands there.

#include "unit.h"

enum { FROM = 0x10000000, TO = 0x20000000 };

static const struct {
	const char *name;
	uint8_t size, distance_at; // 0: none
	uint8_t bytes[RELOCATED_MOST];
} known[] = {
	{"xchg %edx, (%rax)", 2, 0, {0x87, 0x10}},
	{"xchg %al, (%rdi)", 2, 0, {0x86, 0x07}},
	{"xchg %edx, (%r12)", 4, 0, {0x41, 0x87, 0x14, 0x24}},
	{"xchg %rsi, 8(%rsp)", 5, 0, {0x48, 0x87, 0x74, 0x24, 0x08}},
	{"xchg %eax, 64(,%rdi,8)", 7, 0, {0x87, 0x04, 0xfd, 0x40, 0, 0, 0}},
	{"xchg %rdx, 0x1000(%rbx)", 7, 0, {0x48, 0x87, 0x93, 0, 0x10, 0, 0}},
	{"xchg %rdx, 0x5b3e(%rip)", 7, 3, {0x48, 0x87, 0x15, 0x3e, 0x5b, 0, 0}},
	{"xchg %ax, (%rdi)", 3, 0, {0x66, 0x87, 0x07}},
	{"lock xadd %eax, (%rdi)", 4, 0, {0xf0, 0x0f, 0xc1, 0x07}},
	{"lock xadd %ecx, 0x59e3(%rip)", 8, 4, {0xf0, 0x0f, 0xc1, 0x0d, 0xe3, 0x59, 0, 0}},
	{"lock xadd %rax, %fs:-8(%r13)", 7, 0, {0x64, 0xf0, 0x49, 0x0f, 0xc1, 0x45, 0xf8}},
	{"lock xadd %al, (%r8,%r9)", 6, 0, {0xf0, 0x43, 0x0f, 0xc0, 0x04, 0x08}},
};

static int32_t number(const uint8_t *p)
{
	int32_t n;

	memcpy(&n, p, sizeof n);
	return n;
}

// The same bytes but for a distance, and a jump to what comes behind; and no other length is taken for it.
START_TEST(forms)
{
	const uint8_t *was = known[_i].bytes;
	uint32_t size = known[_i].size, at = known[_i].distance_at;
	uint8_t is[RELOCATED_MOST + RELOCATED_MORE + 1];

	memset(is, 0xaa, sizeof is);
	ck_assert_msg(relocate(was, size, FROM, TO, is), "%s", known[_i].name);
	ck_assert_uint_eq(is[size + RELOCATED_MORE], 0xaa);
	ck_assert_uint_eq(is[size], 0xe9);
	ck_assert_int_eq(TO + size + RELOCATED_MORE + number(is + size + 1), FROM + size);
	if (at) {
		ck_assert_int_eq(TO + number(is + at), FROM + number(was + at));
		memcpy(is + at, was + at, sizeof(int32_t));
	}
	ck_assert_mem_eq(is, was, size);
	for (uint32_t other = 0; other <= RELOCATED_MOST + 1; other++)
		if (other != size)
			ck_assert_msg(!relocate(was, other, FROM, TO, is), "%s: %u bytes",
				      known[_i].name, other);
}
END_TEST

// Other instructions, prefixes that mean something else, and registers only.
START_TEST(others)
{
	static const uint8_t bytes[][8] = {
		{0x87, 0xd0},		  // xchg %edx, %eax
		{0xf3, 0x90},		  // pause
		{0xf2, 0x87, 0x07},	  // xacquire xchg
		{0x67, 0x87, 0x07},	  // xchg %eax, (%edi)
		{0x48, 0x66, 0x87, 0x07}, // the REX prefix does not count
		{0xf0, 0x0f, 0xb1, 0x07}, // lock cmpxchg
		{0x89, 0x07},		  // mov
	};
	uint8_t is[RELOCATED_MOST + RELOCATED_MORE];

	for (unsigned i = 0; i < sizeof bytes / sizeof *bytes; i++)
		for (uint32_t size = 0; size <= 8; size++)
			ck_assert_msg(!relocate(bytes[i], size, FROM, TO, is), "%u", i);
}
END_TEST

// What it changes would be out of reach.
START_TEST(far)
{
	static const uint8_t high[] = {0x87, 0x15, 0xff, 0xff, 0xff, 0x7f},
			     low[] = {0x87, 0x15, 0, 0, 0, 0x80};
	uint8_t is[RELOCATED_MOST + RELOCATED_MORE];

	ck_assert(relocate(high, sizeof high, FROM, TO, is));
	ck_assert(!relocate(high, sizeof high, TO, FROM, is));
	ck_assert(relocate(low, sizeof low, TO, FROM, is));
	ck_assert(!relocate(low, sizeof low, FROM, TO, is));
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, forms, 0, sizeof known / sizeof *known);
	tcase_add_test(tc, others);
	tcase_add_test(tc, far);
}

int main(void)
{
	return unit_run("relocate", add);
}
