// test_rows.c: marks and frame rows merged into a table: every byte once, borders exact, equal neighbours joined.

#include "compiler.h"
#include "unit.h"

// .plt and .text with a gap between them; .text begins with padding.
enum { PLT = 0x1000, PLT_SIZE = 0x20, TEXT = 0x1040, TEXT_SIZE = 0x2000, SIZE = 0x2040 };
static uint8_t code[TEXT_SIZE];
static struct section sections[2] = {{".plt", PLT, PLT_SIZE, code},
				     {".text", TEXT, TEXT_SIZE, code}};
static struct cfi_row frames[] = {
	{PLT, PLT + 16, PLT, 16, 0, TABLE_CFA_RSP, TABLE_SAFE},
	{TEXT + 0x20, TEXT + 0x30, TEXT + 0x20, 8, 0, TABLE_CFA_RSP, TABLE_SAFE},
	{TEXT + 0x30, TEXT + 0x1000, TEXT + 0x20, 16, -16, TABLE_CFA_RBP, TABLE_SAFE},
	{TEXT + 0x1000, TEXT + TEXT_SIZE, TEXT + 0x1000, 0, 0, TABLE_CFA_END, TABLE_BAD_RA},
};
static const struct cfi cfi = {frames, 4, 4};
static struct module m;
static struct marks marks;
static struct buffer buf;
static struct table t;

static void setup(void)
{
	memset(code, 0x55, sizeof(code));
	memcpy(code, "\x66\x2e\x0f\x1f\x84\0\0\0\0\0\x0f\x1f\x40\0\x66\x90\xcc\0\x90", 19);
	m = (struct module){.path = "made up",
			    .head = code,
			    .head_size = 100,
			    .machine = 62,
			    .load_vaddr = 0x1000,
			    .text = sections,
			    .ntext = 2};
}

static void teardown(void)
{
	marks_free(&marks);
	free(buf.data);
	buf = (struct buffer){0};
}

static void build(void)
{
	free(buf.data);
	ck_assert_int_eq(rows_build(&m, &cfi, &marks, 0, &buf), 0);
	ck_assert_str_eq(table_check(buf.data, buf.size, &t) ?: "good", "good");
	ck_assert_uint_eq(t.header->text_base, PLT);
	ck_assert_uint_eq(t.header->text_size, SIZE);
	ck_assert_mem_eq(t.head, code, 100);
}

static void mark(enum mark_kind kind, uint64_t lo, uint64_t hi, int value)
{
	ck_assert_int_eq(marks_add(&marks, kind, lo, hi, value), 0);
}

// Row i begins at an address and says this.
static void expect(uint32_t i, uint64_t lo, enum table_base base, enum table_reason reason,
		   int flags)
{
	ck_assert_uint_lt(i, t.header->nrows);
	ck_assert_uint_eq(table_row_start(&t, i), lo);
	ck_assert_uint_eq(table_base(&t.rows[i]), base);
	ck_assert_uint_eq(table_reason(&t.rows[i]), reason);
	ck_assert_uint_eq(t.rows[i].flags, flags);
}

START_TEST(plain)
{
	build();
	ck_assert_uint_eq(t.header->nrows, 8);
	expect(0, PLT, TABLE_CFA_RSP, TABLE_PLT, 0);
	expect(1, PLT + 16, TABLE_CFA_NONE, TABLE_PLT, 0);
	expect(2, PLT + PLT_SIZE, TABLE_CFA_NONE, TABLE_NO_CFI, 0); // between sections
	expect(3, TEXT, TABLE_CFA_NONE, TABLE_PADDING, 0);
	expect(4, TEXT + 19, TABLE_CFA_NONE, TABLE_NO_CFI, 0); // code
	expect(5, TEXT + 0x20, TABLE_CFA_RSP, TABLE_SAFE, 0);
	expect(6, TEXT + 0x30, TABLE_CFA_RBP, TABLE_SAFE, 0);
	expect(7, TEXT + 0x1000, TABLE_CFA_END, TABLE_BAD_RA, 0);
	ck_assert_int_eq(t.rows[6].rbp_offset, -16);
	ck_assert_uint_eq(t.header->bytes[TABLE_SAFE], 0xfe0);
	ck_assert_uint_eq(t.header->bytes[TABLE_PADDING], 19);
	ck_assert_uint_eq(t.header->bytes[TABLE_PLT], PLT_SIZE);
}
END_TEST

// Marks in any order, overlapping, beyond the text, empty; where they touch and are equal, one row.
START_TEST(overlapping)
{
	mark(MARK_CRITICAL, TEXT + 0x28, TEXT + 0x38, 0);
	mark(MARK_CRITICAL, TEXT + 0x2c, TEXT + 0x34, 0);
	mark(MARK_CRITICAL, TEXT + 0x38, TEXT + 0x3c, 0);
	mark(MARK_CRITICAL, TEXT + 0x50, TEXT + 0x50, 0);
	mark(MARK_SPIN, TEXT + 0x36, TEXT + 0x40, 0);
	mark(MARK_UNSAFE, TEXT + 0x3e, TEXT + 0x40, TABLE_MISMATCH);
	mark(MARK_UNSAFE, TEXT + 0x3e, TEXT + 0x42, TABLE_PROLOGUE);
	mark(MARK_UNSAFE, TEXT + 0x60, TEXT + 0x70, 99);
	mark(MARK_CRITICAL, 0, PLT, 0);
	mark(MARK_CRITICAL, TEXT + TEXT_SIZE - 1, UINT64_MAX, 0);
	build();
	expect(5, TEXT + 0x20, TABLE_CFA_RSP, TABLE_SAFE, 0);
	expect(6, TEXT + 0x28, TABLE_CFA_RSP, TABLE_SAFE, TABLE_CRITICAL);
	expect(7, TEXT + 0x30, TABLE_CFA_RBP, TABLE_SAFE, TABLE_CRITICAL);
	expect(8, TEXT + 0x36, TABLE_CFA_RBP, TABLE_SAFE, TABLE_CRITICAL | TABLE_SPIN);
	expect(9, TEXT + 0x3c, TABLE_CFA_RBP, TABLE_SAFE, TABLE_SPIN);
	expect(10, TEXT + 0x3e, TABLE_CFA_RBP, TABLE_MISMATCH, TABLE_SPIN);
	expect(11, TEXT + 0x40, TABLE_CFA_RBP, TABLE_PROLOGUE, 0);
	expect(12, TEXT + 0x42, TABLE_CFA_RBP, TABLE_SAFE, 0);
	expect(13, TEXT + 0x1000, TABLE_CFA_END, TABLE_BAD_RA, 0);
	expect(14, TEXT + TEXT_SIZE - 1, TABLE_CFA_END, TABLE_BAD_RA, TABLE_CRITICAL);
	ck_assert_uint_eq(t.header->nrows, 15);
	ck_assert_uint_eq(t.header->bytes_critical, 0x15);
	ck_assert_uint_eq(t.header->bytes_spin, 10);
}
END_TEST

// A system call is one row whatever begins inside it; two in a row are two; impossible ones are left out.
START_TEST(syscalls)
{
	mark(MARK_SYSCALL, TEXT + 0x42, TEXT + 0x44, -1);
	mark(MARK_SYSCALL, TEXT + 0x40, TEXT + 0x42, 202);
	mark(MARK_SYSCALL, TEXT + 0x40, TEXT + 0x42, 203);		   // again
	mark(MARK_SYSCALL, TEXT + 0x43, TEXT + 0x45, 1);		   // overlaps
	mark(MARK_SYSCALL, TEXT + 0x80, TEXT + 0x90, 1);		   // too long
	mark(MARK_SYSCALL, TEXT + TEXT_SIZE - 1, TEXT + TEXT_SIZE + 1, 1); // beyond the end
	mark(MARK_SYSCALL, PLT + PLT_SIZE, PLT + PLT_SIZE + 2, 1);	   // no code there
	mark(MARK_CRITICAL, TEXT + 0x41, TEXT + 0x50, 0);		   // begins inside
	mark(MARK_SYSCALL, TEXT + 0x2f, TEXT + 0x31, 0); // so does another frame row
	build();
	ck_assert_uint_eq(t.header->nsyscalls, 3);
	ck_assert_int_eq(t.syscalls[0].nr, 0);
	ck_assert_int_eq(t.syscalls[1].nr, -1);
	ck_assert_int_eq(t.syscalls[2].nr, -1);
	expect(6, TEXT + 0x2f, TABLE_CFA_RSP, TABLE_SAFE, TABLE_SYSCALL);
	expect(7, TEXT + 0x31, TABLE_CFA_RBP, TABLE_SAFE, 0);
	expect(8, TEXT + 0x40, TABLE_CFA_RBP, TABLE_SAFE, TABLE_SYSCALL);
	expect(9, TEXT + 0x42, TABLE_CFA_RBP, TABLE_SAFE, TABLE_SYSCALL | TABLE_CRITICAL);
	expect(10, TEXT + 0x44, TABLE_CFA_RBP, TABLE_SAFE, TABLE_CRITICAL);
	expect(11, TEXT + 0x50, TABLE_CFA_RBP, TABLE_SAFE, 0);
}
END_TEST

// PAUSEs are rows of their own. A cave is never a safe point, and none where it is critical or a call is.
START_TEST(pauses_and_caves)
{
	mark(MARK_SPIN, TEXT + 0x40, TEXT + 0x50, 0);
	mark(MARK_PAUSE, TEXT + 0x44, TEXT + 0x46, 0);
	mark(MARK_PAUSE, TEXT + 0x46, TEXT + 0x48, 0);
	mark(MARK_PAUSE, TEXT + 0x46, TEXT + 0x48, 0); // by another loop around
	mark(MARK_CAVE, TEXT, TEXT + 19, 0);
	mark(MARK_CAVE, TEXT + 0x60, TEXT + 0x70, 0);
	mark(MARK_CRITICAL, TEXT + 0x68, TEXT + 0x70, 0);
	mark(MARK_CAVE, TEXT + 0x80, TEXT + 0x84, 0);
	mark(MARK_SYSCALL, TEXT + 0x80, TEXT + 0x82, 1);
	build();
	expect(3, TEXT, TABLE_CFA_NONE, TABLE_PADDING, TABLE_CAVE);
	expect(6, TEXT + 0x30, TABLE_CFA_RBP, TABLE_SAFE, 0);
	expect(7, TEXT + 0x40, TABLE_CFA_RBP, TABLE_SAFE, TABLE_SPIN);
	expect(8, TEXT + 0x44, TABLE_CFA_RBP, TABLE_SAFE, TABLE_SPIN | TABLE_PAUSE);
	expect(9, TEXT + 0x48, TABLE_CFA_RBP, TABLE_SAFE, TABLE_SPIN);
	expect(10, TEXT + 0x50, TABLE_CFA_RBP, TABLE_SAFE, 0);
	expect(11, TEXT + 0x60, TABLE_CFA_RBP, TABLE_PADDING, TABLE_CAVE);
	expect(12, TEXT + 0x68, TABLE_CFA_RBP, TABLE_SAFE, TABLE_CRITICAL);
	expect(13, TEXT + 0x70, TABLE_CFA_RBP, TABLE_SAFE, 0);
	expect(14, TEXT + 0x80, TABLE_CFA_RBP, TABLE_PADDING, TABLE_SYSCALL);
	expect(15, TEXT + 0x82, TABLE_CFA_RBP, TABLE_PADDING, TABLE_CAVE);
	expect(16, TEXT + 0x84, TABLE_CFA_RBP, TABLE_SAFE, 0);
}
END_TEST

// The printed form: exactly these lines.
START_TEST(dump)
{
	static const char want[] = "1000 1010 rsp+16 c-8 unsafe:plt\n"
				   "1010 1020 - - unsafe:plt\n"
				   "1020 1040 - - unsafe:no-cfi\n"
				   "1040 1053 - - unsafe:padding\n"
				   "1053 1060 - - unsafe:no-cfi\n"
				   "1060 1068 rsp+8 c-8 safe\n"
				   "1068 1070 rsp+8 c-8 critical\n"
				   "1070 1080 rbp+16 c-8 safe\n"
				   "1080 1082 rbp+16 c-8 safe,syscall:202\n"
				   "1082 1084 rbp+16 c-8 safe,syscall:?\n"
				   "1084 1088 rbp+16 c-8 safe,spin\n"
				   "1088 108c rbp+16 c-8 unsafe:mismatch,critical,spin\n"
				   "108c 2040 rbp+16 c-8 safe\n"
				   "2040 3040 - - unsafe:ra\n";
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	mark(MARK_CRITICAL, TEXT + 0x28, TEXT + 0x30, 0);
	mark(MARK_SYSCALL, TEXT + 0x40, TEXT + 0x42, 202);
	mark(MARK_SYSCALL, TEXT + 0x42, TEXT + 0x44, -1);
	mark(MARK_SPIN, TEXT + 0x44, TEXT + 0x4c, 0);
	mark(MARK_CRITICAL, TEXT + 0x48, TEXT + 0x4c, 0);
	mark(MARK_UNSAFE, TEXT + 0x48, TEXT + 0x4c, TABLE_MISMATCH);
	build();
	ck_assert_int_eq(dump_table(&t, out), 0);
	fclose(out);
	ck_assert_str_eq(text, want);
	free(text);
}
END_TEST

// Random marks: what the table says of a byte is what the marks over it say.
START_TEST(random_marks)
{
	uint32_t rand = 1;

	for (int round = 0; round < 200; round++) {
		static uint8_t critical[SIZE], spin[SIZE], unsafe[SIZE];

		marks_free(&marks);
		memset(critical, 0, sizeof(critical));
		memset(spin, 0, sizeof(spin));
		memset(unsafe, 0, sizeof(unsafe));
		for (int n = 0; n < 100; n++) {
			uint32_t lo, hi, kind;

			rand = rand * 1664525 + 1013904223;
			lo = (rand >> 8) % SIZE;
			rand = rand * 1664525 + 1013904223;
			hi = lo + (rand >> 8) % 200;
			hi = hi < SIZE ? hi : SIZE;
			kind = (rand >> 20) % 3;
			mark(kind == 0	 ? MARK_CRITICAL
			     : kind == 1 ? MARK_SPIN
					 : MARK_UNSAFE,
			     PLT + lo, PLT + hi, TABLE_EPILOGUE);
			memset((kind == 0 ? critical : kind == 1 ? spin : unsafe) + lo, 1, hi - lo);
		}
		build();
		for (uint32_t i = 0; i < SIZE; i++) {
			const struct table_row *row = table_find(&t, PLT + i);

			// A call of libcheck for each byte would take a minute.
			if (!!(row->flags & TABLE_CRITICAL) != critical[i] ||
			    !!(row->flags & TABLE_SPIN) != spin[i] ||
			    (i >= 0x60 && i < 0x1040 &&
			     (table_reason(row) == TABLE_EPILOGUE) != unsafe[i]))
				ck_abort_msg("round %d, byte %x", round, i);
		}
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, plain);
	tcase_add_test(tc, overlapping);
	tcase_add_test(tc, syscalls);
	tcase_add_test(tc, pauses_and_caves);
	tcase_add_test(tc, dump);
	tcase_add_test(tc, random_marks);
}

int main(void)
{
	return unit_run("rows", add);
}
