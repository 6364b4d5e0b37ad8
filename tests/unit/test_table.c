// test_table.c: lookups agree with a linear search, and no damaged table gets through, checksum or not.

#include "unit.h"

// Text of 3 blocks, the last one short. A row crosses the border of blocks, one is exactly a block's start.
enum { BASE = 0x401020, LOAD = 0x400000, TEXT = 2 * TABLE_BLOCK + 1000, NROWS = 8, NCALLS = 2 };
static const uint32_t pcs[NROWS] = {0, 16, 18, 3000, 5000, 5002, 2 * TABLE_BLOCK, 8200};

static struct table_row make(enum table_base base, int cfa, int rbp, enum table_reason reason,
			     int flags)
{
	return (struct table_row){cfa, (int16_t)rbp, (uint8_t)(base | reason << 4), (uint8_t)flags};
}

struct file {
	struct table_header h;
	uint8_t head[64];
	uint32_t blocks[4];
	uint32_t pcs[NROWS];
	struct table_row rows[NROWS];
	struct table_syscall calls[NCALLS];
};
_Static_assert(sizeof(struct file) % 8 == 0 && offsetof(struct file, calls) % 8 == 0,
	       "no hidden padding");

static union {
	struct file f;
	uint8_t bytes[sizeof(struct file)];
} u __attribute__((aligned(8)));
static struct file *const f = &u.f;
static struct table t;

static void seal(void)
{
	f->h.checksum = table_checksum(TABLE_CHECKSUM_INIT, f->h.id,
				       sizeof(*f) - offsetof(struct table_header, id));
}

static const char *check(void)
{
	seal();
	return table_check(&u, sizeof(u), &t);
}

static void setup(void)
{
	memset(&u, 0, sizeof(u));
	memcpy(f->h.magic, TABLE_MAGIC, 8);
	f->h.version = TABLE_VERSION;
	f->h.header_size = sizeof(f->h);
	f->h.file_size = sizeof(*f);
	memset(f->h.id, 7, 20);
	f->h.id_size = 20;
	f->h.machine = 62;
	f->h.source = TABLE_EH_FRAME | TABLE_SYMTAB;
	f->h.head_size = sizeof(f->head);
	f->h.load_vaddr = LOAD;
	f->h.text_base = BASE;
	f->h.text_size = TEXT;
	f->h.off_head = offsetof(struct file, head);
	f->h.off_blocks = offsetof(struct file, blocks);
	f->h.off_pcs = offsetof(struct file, pcs);
	f->h.off_rows = offsetof(struct file, rows);
	f->h.off_syscalls = offsetof(struct file, calls);
	f->h.nblocks = 3;
	f->h.nrows = NROWS;
	f->h.nsyscalls = NCALLS;
	memcpy(f->pcs, pcs, sizeof(pcs));
	f->rows[0] = make(TABLE_CFA_RSP, 8, 0, TABLE_SAFE, 0);
	f->rows[1] = make(TABLE_CFA_RSP, 16, -16, TABLE_SAFE, TABLE_SYSCALL);
	f->rows[2] = make(TABLE_CFA_RBP, 16, -16, TABLE_SAFE, TABLE_CRITICAL);
	f->rows[3] = make(TABLE_CFA_NONE, 0, 0, TABLE_NO_CFI, 0);
	f->rows[4] = make(TABLE_CFA_RSP, 24, TABLE_RBP_UNKNOWN, TABLE_MISMATCH, TABLE_SYSCALL);
	f->rows[5] = make(TABLE_CFA_RBP_DEREF, -8, TABLE_RBP_AT_RBP, TABLE_BAD_CFA, 0);
	f->rows[6] = make(TABLE_CFA_END, 0, 0, TABLE_BAD_RA, 0);
	f->rows[7] = make(TABLE_CFA_RSP, 8, 0, TABLE_SAFE, TABLE_SPIN);
	f->blocks[1] = 3;
	f->blocks[2] = 6;
	f->blocks[3] = NROWS - 1;
	f->calls[0] = (struct table_syscall){16, 202};
	f->calls[1] = (struct table_syscall){5000, -1};
	f->h.bytes[TABLE_SAFE] = 16 + 2 + (TEXT - 8200);
	f->h.bytes[TABLE_NO_CFI] = 2000;
	f->h.bytes[TABLE_MISMATCH] = 2;
	f->h.bytes[TABLE_BAD_CFA] = 2 * TABLE_BLOCK - 5002;
	f->h.bytes[TABLE_BAD_RA] = 8;
	f->h.bytes_critical = 3000 - 18;
	f->h.bytes_spin = TEXT - 8200;
	ck_assert_ptr_null(check());
}

// The row found is the one that a linear search finds, for each byte, and there is none outside.
START_TEST(find)
{
	for (uint32_t pc = 0, row = 0; pc < TEXT; pc++) {
		if (row + 1 < NROWS && pcs[row + 1] == pc)
			row++;
		ck_assert_ptr_eq(table_find(&t, BASE + pc), &f->rows[row]);
	}
	ck_assert_ptr_null(table_find(&t, BASE - 1));
	ck_assert_ptr_null(table_find(&t, BASE + TEXT));
	ck_assert_ptr_null(table_find(&t, 0));
	ck_assert_ptr_null(table_find(&t, UINT64_MAX));
	ck_assert_uint_eq(table_row_start(&t, 3), BASE + 3000);
	ck_assert_uint_eq(table_row_start(&t, NROWS), BASE + TEXT);
	ck_assert(table_is_safe(&t.rows[0]));
	ck_assert(!table_is_safe(&t.rows[2]));
	ck_assert(!table_is_safe(&t.rows[3]));
	ck_assert_ptr_eq(t.head, f->head);
}
END_TEST

// Every byte counts: without a new checksum no change passes.
START_TEST(every_byte)
{
	for (size_t i = 0; i < sizeof(u); i++) {
		u.bytes[i] ^= 0x40;
		ck_assert_msg(table_check(&u, sizeof(u), &t) != NULL, "byte %zu", i);
		u.bytes[i] ^= 0x40;
	}
	ck_assert_ptr_null(table_check(&u, sizeof(u), &t));
}
END_TEST

// A file that was cut, and one that lies at an odd address.
START_TEST(cut)
{
	for (size_t size = 0; size < sizeof(u); size++)
		ck_assert_ptr_nonnull(table_check(&u, size, &t));
	ck_assert_ptr_nonnull(table_check(u.bytes + 4, sizeof(u) - 8, &t));
}
END_TEST

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		setup();                                                                           \
		change;                                                                            \
		ck_assert_msg(check() != NULL, "%s", #change);                                     \
	} while (0)

// Each rule of the format by itself, with a right checksum.
START_TEST(header)
{
	REFUSED(f->rows[0].flags = TABLE_CAVE); // and a safe point
	REFUSED(f->rows[3].flags = TABLE_CAVE | TABLE_SPIN);
	REFUSED(f->rows[1].flags |= TABLE_PAUSE);
	REFUSED(f->rows[1].flags |= TABLE_ENQUEUE);
	REFUSED(f->h.magic[7] = 2);
	REFUSED(f->h.version++);
	REFUSED(f->h.header_size += 8);
	REFUSED(f->h.file_size += 8);
	REFUSED(f->h.machine = 183);
	REFUSED(f->h.source = 1u << 31);
	REFUSED(f->h.id_size = 33);
	REFUSED(f->h.id[25] = 1);
	REFUSED(f->h.head_size = 0);
	REFUSED(f->h.head_size = 72);
	REFUSED(f->h.head_size = UINT32_MAX);
	REFUSED(f->h.load_vaddr++);
	REFUSED(f->h.load_vaddr = BASE + 0xfe0);
	REFUSED(f->h.text_base = UINT64_MAX - 10);
	REFUSED(f->h.text_size = 0);
	REFUSED(f->h.text_size = 8200);
	REFUSED(f->h.text_size = 1ull << 32);
	REFUSED(f->h.text_size = UINT64_MAX);
	REFUSED(f->h.off_head += 8);
	REFUSED(f->h.off_blocks = 0);
	REFUSED(f->h.off_pcs -= 8);
	REFUSED(f->h.off_rows = UINT32_MAX - 7);
	REFUSED(f->h.off_syscalls += 8);
	REFUSED(f->h.nblocks = 2);
	REFUSED(f->h.nblocks = UINT32_MAX);
	REFUSED(f->h.nrows = 0);
	REFUSED(f->h.nrows--);
	REFUSED(f->h.nrows = UINT32_MAX);
	REFUSED(f->h.nsyscalls = 1);
	REFUSED(f->h.nsyscalls = UINT32_MAX);
	REFUSED(f->h.bytes[TABLE_SAFE]++);
	REFUSED(f->h.bytes[TABLE_PLT]++);
	REFUSED(f->h.bytes_critical = 0);
	REFUSED(f->h.bytes_spin++);
}
END_TEST

START_TEST(rows)
{
	REFUSED(f->pcs[0] = 1);
	REFUSED(f->pcs[3] = f->pcs[2]);
	REFUSED(f->pcs[3] = 6000);
	REFUSED(f->pcs[7] = TEXT);
	REFUSED(f->pcs[7] = UINT32_MAX);
	REFUSED(f->blocks[0] = 1);
	REFUSED(f->blocks[1] = 4);
	REFUSED(f->blocks[2] = 5);
	REFUSED(f->blocks[2] = UINT32_MAX);
	REFUSED(f->blocks[3] = NROWS);
	REFUSED(f->rows[3].base_reason = 15);
	REFUSED(f->rows[3].base_reason = TABLE_REASONS << 4);
	REFUSED(f->rows[0].base_reason = TABLE_CFA_NONE);
	REFUSED(f->rows[0].base_reason = TABLE_CFA_RBP_DEREF);
	REFUSED(f->rows[0].base_reason = TABLE_CFA_END);
	REFUSED(f->rows[0].cfa_offset = 0);
	REFUSED(f->rows[0].cfa_offset = -8);
	REFUSED(f->rows[0].cfa_offset = 12);
	REFUSED(f->rows[0].rbp_offset = 4);
	REFUSED(f->rows[3].cfa_offset = 8);
	REFUSED(f->rows[6].rbp_offset = -16);
	REFUSED(f->rows[0].flags = 0x80);
	REFUSED(f->rows[7].flags = TABLE_SPIN | TABLE_SYSCALL);
	REFUSED(f->rows[1].flags = 0);
	REFUSED(f->calls[0].pc = 17);
	REFUSED(f->calls[1].pc = 16);
	REFUSED(f->calls[1].nr = -2);
	// A system call instruction of 16 bytes.
	REFUSED((f->pcs[5] = 5016, f->h.bytes[TABLE_MISMATCH] += 14,
		 f->h.bytes[TABLE_BAD_CFA] -= 14));
}
END_TEST

// Whatever passes, lookups stay inside. Random damage, always with a right checksum; most is refused.
START_TEST(damage)
{
	uint32_t rand = 1, passed = 0;

	for (int round = 0; round < 200000; round++) {
		setup();
		for (uint32_t n = 1 + round % 3; n > 0; n--) {
			rand = rand * 1664525 + 1013904223;
			u.bytes[32 + (rand >> 8) % (sizeof(u) - 32)] = (uint8_t)(rand >> 3);
		}
		if (check())
			continue;
		passed++;
		for (uint64_t pc = 0; pc < t.header->text_size; pc += 97) {
			const struct table_row *row = table_find(&t, t.header->text_base + pc);

			if (row < f->rows || row >= f->rows + NROWS)
				ck_abort_msg("round %d", round);
		}
	}
	ck_assert_uint_gt(passed, 0); // the id may be anything, so some must
}
END_TEST

START_TEST(names)
{
	for (int i = 0; i < TABLE_REASONS; i++) {
		ck_assert_str_ne(table_reason_name((enum table_reason)i), "?");
		for (int k = 0; k < i; k++)
			ck_assert_str_ne(table_reason_name((enum table_reason)i),
					 table_reason_name((enum table_reason)k));
	}
	ck_assert_str_eq(table_reason_name(TABLE_REASONS), "?");
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, find);
	tcase_add_test(tc, every_byte);
	tcase_add_test(tc, cut);
	tcase_add_test(tc, header);
	tcase_add_test(tc, rows);
	tcase_add_test(tc, damage);
	tcase_add_test(tc, names);
}

int main(void)
{
	return unit_run("table", add);
}
