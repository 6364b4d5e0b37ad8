// test_cfi.c: small frame sections made by hand: each encoding, each rule, broken ones, and random damage.

#include "compiler.h"
#include "unit.h"

// The section under construction, at this link-time address, and code that it describes.
enum { SECTION = 0x9000, TEXT = 0x1000, TEXT_SIZE = 0x1000 };
static uint8_t sec[4096];
static size_t len;
static uint8_t code[TEXT_SIZE];
static struct section text = {".text", TEXT, TEXT_SIZE, code};
static struct module m;
static struct cfi cfi;

static void put(uint64_t v, size_t n)
{
	memcpy(sec + len, &v, n);
	len += n;
}

static void bytes(const char *s, size_t n)
{
	memcpy(sec + len, s, n);
	len += n;
}
#define BYTES(s) bytes(s, sizeof(s) - 1)

// Begin an entry; end() writes its length. wide: with a length of 64 bits.
static size_t begin(bool wide)
{
	size_t at = len;

	if (wide)
		put(0xffffffff, 4);
	put(0, wide ? 8 : 4);
	return at;
}

static void end(size_t at, bool wide)
{
	uint64_t n;

	n = len - at - (wide ? 12 : 4);
	memcpy(sec + at + (wide ? 4 : 0), &n, wide ? 8 : 4);
}

// CIE with rsp+8, c-8 and the given augmentation; returns where it is.
static size_t cie_with(const char *aug, const char *data, size_t n)
{
	size_t at = begin(false);

	put(0, 4);
	put(1, 1);
	bytes(aug, strlen(aug) + 1);
	if (strcmp(aug, "eh") == 0)
		put(0, 8);
	BYTES("\x01\x78\x10"); // alignments 1 and -8, return address 16
	if (*aug == 'z') {
		put(n, 1);
		bytes(data, n);
	}
	BYTES("\x0c\x07\x08\x90\x01"); // CFA rsp+8, return address at c-8
	end(at, false);
	return at;
}

static size_t cie(void)
{
	return cie_with("zR", "\x1b", 1);
}

// FDE with pc-relative 4-byte pointers.
static void fde(size_t at_cie, uint64_t lo, uint64_t size, const char *insns, size_t n)
{
	size_t at = begin(false);

	put(len - at_cie, 4);
	put(lo - (SECTION + len), 4);
	put(size, 4);
	put(0, 1);
	bytes(insns, n);
	end(at, false);
}
#define FDE(cie, lo, size, insns) fde(cie, lo, size, insns, sizeof(insns) - 1)

static void setup(void)
{
	memset(sec, 0, sizeof(sec));
	len = 0;
	m = (struct module){.path = "made up", .text = &text, .ntext = 1};
	cfi = (struct cfi){0};
}

static void teardown(void)
{
	cfi_free(&cfi);
}

static void read_eh(void)
{
	cfi_free(&cfi);
	m.eh_frame = (struct section){".eh_frame", SECTION, len, sec};
	ck_assert_int_eq(cfi_read(&cfi, &m), 0);
}

static void expect(size_t i, uint64_t lo, uint64_t hi, enum table_base base, int cfa, int rbp,
		   enum table_reason reason)
{
	const struct cfi_row *row = &cfi.rows[i];

	ck_assert_uint_lt(i, cfi.n);
	ck_assert_uint_eq(row->lo, lo);
	ck_assert_uint_eq(row->hi, hi);
	ck_assert_uint_eq(row->base, base);
	ck_assert_int_eq(row->cfa_offset, cfa);
	ck_assert_int_eq(row->rbp_offset, rbp);
	ck_assert_uint_eq(row->reason, reason);
}

// push rbp; mov rsp,rbp; ...; leave; then code that remember_state was for.
START_TEST(frame_pointer)
{
	FDE(cie(), 0x1100, 0x40,
	    "\x41\x0e\x10\x86\x02"     // 1: CFA rsp+16, rbp at c-16
	    "\x43\x0d\x06"	       // 4: CFA rbp+16
	    "\x50\x0a\x0c\x07\x08\xc6" // 20: remember, rsp+8, rbp restored
	    "\x41\x0b");	       // 21: as before
	read_eh();
	ck_assert_uint_eq(cfi.n, 5);
	expect(0, 0x1100, 0x1101, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(1, 0x1101, 0x1104, TABLE_CFA_RSP, 16, -16, TABLE_SAFE);
	expect(2, 0x1104, 0x1114, TABLE_CFA_RBP, 16, -16, TABLE_SAFE);
	expect(3, 0x1114, 0x1115, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(4, 0x1115, 0x1140, TABLE_CFA_RBP, 16, -16, TABLE_SAFE);
	ck_assert_uint_eq(cfi.rows[4].fde, 0x1100);
	ck_assert_ptr_eq(cfi_find(&cfi, 0x1103), &cfi.rows[1]);
	ck_assert_ptr_eq(cfi_find(&cfi, 0x113f), &cfi.rows[4]);
	ck_assert_ptr_null(cfi_find(&cfi, 0x10ff));
	ck_assert_ptr_null(cfi_find(&cfi, 0x1140));
}
END_TEST

// Rules that are no safe point, each in one FDE of its own.
START_TEST(unsafe_rules)
{
	size_t c = cie();

	FDE(c, 0x1000, 16, "\x0f\x03\x76\x78\x06\x10\x06\x02\x76\x00"); // *(rbp-8), rbp at *rbp
	FDE(c, 0x1010, 16, "\x0f\x02\x77\x08");				// another expression
	FDE(c, 0x1020, 16, "\x0c\x0a\x00");				// r10
	FDE(c, 0x1030, 16, "\x07\x10");					// return address undefined
	FDE(c, 0x1040, 16, "\x90\x02");					// at c-16
	FDE(c, 0x1050, 16, "\x09\x10\x01");				// in rdx
	FDE(c, 0x1060, 16, "\x0e\x0c");					// rsp+12
	FDE(c, 0x1070, 16, "\x0e\x00");					// rsp+0
	FDE(c, 0x1080, 16, "\x09\x07\x08");				// the caller's rsp is in r8
	FDE(c, 0x1090, 16, "\x0e\x80\x80\x80\x80\x80\x01");		// 32 GiB
	FDE(c, 0x10a0, 16, "\x16\x10\x02\x77\x00"); // return address by expression
	read_eh();
	ck_assert_uint_eq(cfi.n, 11);
	expect(0, 0x1000, 0x1010, TABLE_CFA_RBP_DEREF, -8, TABLE_RBP_AT_RBP, TABLE_BAD_CFA);
	expect(1, 0x1010, 0x1020, TABLE_CFA_NONE, 0, 0, TABLE_BAD_CFA);
	expect(2, 0x1020, 0x1030, TABLE_CFA_NONE, 0, 0, TABLE_BAD_CFA);
	expect(3, 0x1030, 0x1040, TABLE_CFA_END, 0, 0, TABLE_BAD_RA);
	expect(4, 0x1040, 0x1050, TABLE_CFA_NONE, 0, 0, TABLE_BAD_RA);
	expect(5, 0x1050, 0x1060, TABLE_CFA_NONE, 0, 0, TABLE_BAD_RA);
	for (size_t i = 6; i < 10; i++)
		ck_assert_uint_eq(cfi.rows[i].reason, TABLE_BAD_CFA);
	ck_assert_uint_eq(cfi.rows[10].reason, TABLE_BAD_RA);
}
END_TEST

// rbp where a row cannot say it: the row stays good, rbp is unknown.
START_TEST(rbp_rules)
{
	size_t c = cie();

	FDE(c, 0x1000, 16, "\x09\x06\x03");	// in rbx
	FDE(c, 0x1010, 16, "\x07\x06");		// undefined
	FDE(c, 0x1020, 16, "\x86\xff\xff\x7f"); // far away
	FDE(c, 0x1030, 16, "\x05\x06\x03");	// offset_extended: c-24
	FDE(c, 0x1040, 16, "\x11\x06\x7e");	// offset_extended_sf: c+16
	FDE(c, 0x1050, 16, "\x2f\x06\x03");	// negative offset: c+24
	FDE(c, 0x1060, 16, "\x14\x06\x02");	// its value is c-16
	FDE(c, 0x1070, 16, "\x86\x02\x08\x06"); // saved, then the same value
	FDE(c, 0x1080, 16, "\x86\x02\x06\x06"); // saved, then restored
	read_eh();
	ck_assert_uint_eq(cfi.n, 9);
	expect(0, 0x1000, 0x1010, TABLE_CFA_RSP, 8, TABLE_RBP_UNKNOWN, TABLE_SAFE);
	expect(1, 0x1010, 0x1020, TABLE_CFA_RSP, 8, TABLE_RBP_UNKNOWN, TABLE_SAFE);
	expect(2, 0x1020, 0x1030, TABLE_CFA_RSP, 8, TABLE_RBP_UNKNOWN, TABLE_SAFE);
	expect(3, 0x1030, 0x1040, TABLE_CFA_RSP, 8, -24, TABLE_SAFE);
	expect(4, 0x1040, 0x1050, TABLE_CFA_RSP, 8, 16, TABLE_SAFE);
	expect(5, 0x1050, 0x1060, TABLE_CFA_RSP, 8, 24, TABLE_SAFE);
	expect(6, 0x1060, 0x1070, TABLE_CFA_RSP, 8, TABLE_RBP_UNKNOWN, TABLE_SAFE);
	expect(7, 0x1070, 0x1080, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(8, 0x1080, 0x1090, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
}
END_TEST

// Each way to move on and to set the CFA.
START_TEST(instructions)
{
	FDE(cie(), 0x1000, 0x800,
	    "\x02\x10\x0e\x10"		   // advance_loc1
	    "\x03\x00\x01\x0e\x18"	   // advance_loc2: to 0x1110
	    "\x04\x00\x01\x00\x00\x13\x7c" // advance_loc4: to 0x1210, def_cfa_offset_sf 32
	    "\x50\x12\x06\x7e"		   // to 0x1220, def_cfa_sf rbp+16
	    "\x50\x2e\x10\x00\x0d\x07");   // to 0x1230, args_size, nop, def_cfa_register rsp
	read_eh();
	ck_assert_uint_eq(cfi.n, 6);
	expect(1, 0x1010, 0x1110, TABLE_CFA_RSP, 16, 0, TABLE_SAFE);
	expect(2, 0x1110, 0x1210, TABLE_CFA_RSP, 24, 0, TABLE_SAFE);
	expect(3, 0x1210, 0x1220, TABLE_CFA_RSP, 32, 0, TABLE_SAFE);
	expect(4, 0x1220, 0x1230, TABLE_CFA_RBP, 16, 0, TABLE_SAFE);
	expect(5, 0x1230, 0x1800, TABLE_CFA_RSP, 16, 0, TABLE_SAFE);
}
END_TEST

// Pointer encodings of FDEs: value and size as given in the FDE at their place.
static void encoding_case(uint8_t enc, uint64_t lo, size_t size, uint64_t base)
{
	char e = (char)enc;
	size_t c, at;

	len = 0;
	c = cie_with("zR", &e, 1);
	at = begin(false);
	put(len - c, 4);
	lo -= base == SECTION ? SECTION + len : base;
	if (size) {
		put(lo, size);
		put(0x20, size);
	} else { // LEB128 of up to 14 bits, positive
		put((lo & 0x7f) | 0x80, 1);
		put(lo >> 7, 1);
		put(0x20, 1);
	}
	put(0, 1);
	end(at, false);
	read_eh();
	ck_assert_uint_eq(cfi.n, 1);
	expect(0, 0x1200, 0x1220, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
}

START_TEST(encodings)
{
	m.got = 0x1100;
	encoding_case(0x00, 0x1200, 8, 0);
	encoding_case(0x04, 0x1200, 8, 0);
	encoding_case(0x0c, 0x1200, 8, 0);
	encoding_case(0x03, 0x1200, 4, 0);
	encoding_case(0x0b, 0x1200, 4, 0);
	encoding_case(0x02, 0x1200, 2, 0);
	encoding_case(0x0a, 0x1200, 2, 0);
	encoding_case(0x01, 0x1200, 0, 0);
	encoding_case(0x09, 0x1200, 0, 0);
	encoding_case(0x10, 0x1200, 8, SECTION);
	encoding_case(0x1a, 0x1200, 2, SECTION);
	encoding_case(0x1b, 0x1200, 4, SECTION);
	encoding_case(0x1c, 0x1200, 8, SECTION);
	encoding_case(0x23, 0x1200, 4, TEXT);
	encoding_case(0x3b, 0x1200, 4, 0x1100);
}
END_TEST

// The augmentations that exist, and some that do not: their FDEs are left out, others stay.
START_TEST(augmentations)
{
	size_t c, at;

	c = cie_with("zPLR", "\x9b\1\2\3\4\x1b\x1b", 7);
	FDE(c, 0x1000, 16, "");
	c = cie_with("zRS", "\x1b", 1);
	FDE(c, 0x1101, 16, "");
	c = cie_with("zX", "\x1b", 1);
	FDE(c, 0x1200, 16, "");
	for (int i = 0; i < 2; i++) {
		c = cie_with(i ? "" : "eh", NULL, 0);
		at = begin(false);
		put(len - c, 4);
		put(0x1300 + 16 * (unsigned)i, 8);
		put(16, 8);
		end(at, false);
	}
	read_eh();
	ck_assert_uint_eq(cfi.n, 4);
	expect(0, 0x1000, 0x1010, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(1, 0x1100, 0x1111, TABLE_CFA_NONE, 0, 0, TABLE_TRAMPOLINE); // and the byte before
	expect(2, 0x1300, 0x1310, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(3, 0x1310, 0x1320, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
}
END_TEST

// 64-bit lengths, in .eh_frame with ids of 4 bytes; a terminator in between.
START_TEST(wide)
{
	size_t c = begin(true), at;

	put(0, 4);
	BYTES("\x01zR\0\x01\x78\x10\x01\x1b\x0c\x07\x08\x90\x01");
	end(c, true);
	put(0, 4);
	at = begin(true);
	put(len - c, 4);
	put(0x1400 - (SECTION + len), 4);
	put(8, 4);
	put(0, 1);
	end(at, true);
	read_eh();
	ck_assert_uint_eq(cfi.n, 1);
	expect(0, 0x1400, 0x1408, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
}
END_TEST

// .debug_frame, 32-bit and 64-bit, fills gaps only.
START_TEST(debug_frame)
{
	size_t c, at, eh;

	FDE(cie(), 0x1010, 0x10, "\x0e\x18");
	m.eh_frame = (struct section){".eh_frame", SECTION, len, sec};
	eh = len;
	for (int w = 0; w < 2; w++) {
		c = begin(w) - eh;
		put(w ? UINT64_MAX : 0xffffffff, w ? 8 : 4);
		BYTES("\x04\0\x08\0\x01\x78\x10\x0c\x07\x08\x90\x01"); // version 4
		end(c + eh, w);
		at = begin(w);
		put(c, w ? 8 : 4);
		put(0x1000 + 0x100 * (unsigned)w, 8);
		put(0x40, 8);
		end(at, w);
	}
	m.debug_frame = (struct section){".debug_frame", 0, len - eh, sec + eh};
	ck_assert_int_eq(cfi_read(&cfi, &m), 0);
	ck_assert_uint_eq(cfi.n, 4);
	expect(0, 0x1000, 0x1010, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(1, 0x1010, 0x1020, TABLE_CFA_RSP, 24, 0, TABLE_SAFE);
	expect(2, 0x1020, 0x1040, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(3, 0x1100, 0x1140, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
}
END_TEST

// Of overlapping FDEs the one that begins first has the bytes, among equals the earlier. Outside code: none.
START_TEST(overlaps)
{
	size_t c = cie();

	FDE(c, 0x1080, 0x100, "\x0e\x18");
	FDE(c, 0x1000, 0x100, "\x0e\x10");
	FDE(c, 0x1000, 0x200, "\x0e\x20");
	FDE(c, 0x1ff0, 0x100, "\x0e\x28"); // beyond the end: cut
	FDE(c, 0x3000, 0x100, "");
	FDE(c, 0x1300, 0, "");
	read_eh();
	ck_assert_uint_eq(cfi.n, 3);
	expect(0, 0x1000, 0x1100, TABLE_CFA_RSP, 16, 0, TABLE_SAFE);
	expect(1, 0x1100, 0x1200, TABLE_CFA_RSP, 32, 0, TABLE_SAFE);
	expect(2, 0x1ff0, 0x2000, TABLE_CFA_RSP, 40, 0, TABLE_SAFE);
}
END_TEST

// What is not understood ends its FDE, and nothing else.
START_TEST(broken)
{
	static const char remember[] = "\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a"
				       "\x0a\x0a\x0a";
	size_t c = cie();

	FDE(c, 0x1000, 16, "\x44\x3f"); // unknown instruction
	FDE(c, 0x1010, 16, "\x44\x0b"); // nothing remembered
	fde(c, 0x1020, 16, remember, sizeof(remember) - 1);
	FDE(c, 0x1030, 16, "\x44\x0e\x80");	// cut in a number
	FDE(c, 0x1040, 16, "\x44\x0f\x7f\x76"); // expression longer than the entry
	FDE(c, 0x1050, 16, "\x0e\x10");
	FDE(c + 4, 0x1060, 16, "");	    // no CIE there
	FDE(c, 0x1070, 16, "\x7f\x0e\x10"); // beyond its end
	read_eh();
	ck_assert_uint_eq(cfi.n, 6);
	expect(0, 0x1000, 0x1004, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(1, 0x1010, 0x1014, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(2, 0x1030, 0x1034, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(3, 0x1040, 0x1044, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	expect(4, 0x1050, 0x1060, TABLE_CFA_RSP, 16, 0, TABLE_SAFE);
	expect(5, 0x1070, 0x1080, TABLE_CFA_RSP, 8, 0, TABLE_SAFE);
	put(0x7fffffff, 4); // an entry longer than the section: the end
	read_eh();
	ck_assert_uint_eq(cfi.n, 6);
}
END_TEST

// Random damage never breaks the promises to the other passes: sorted, not overlapping, inside code. The section is
// in memory of exactly its size, so that a sanitizer sees reads beyond it.
START_TEST(damage)
{
	uint32_t rand = 1;
	uint8_t *copy;
	size_t c = cie();

	FDE(c, 0x1000, 0x100, "\x41\x0e\x10\x86\x02\x43\x0d\x06\x02\x10\x0c\x07\x08");
	FDE(c, 0x1100, 0x100, "\x0f\x03\x76\x78\x06\x10\x06\x02\x76\x00\x44\x0a\x44\x0b");
	c = cie_with("zPLR", "\x9b\1\2\3\4\x1b\x1b", 7);
	FDE(c, 0x1200, 0x100, "\x50\x2e\x10\x0d\x07\x11\x06\x7e");
	copy = malloc(len);
	for (int round = 0; round < 300000; round++) {
		memcpy(copy, sec, len);
		for (int n = 1 + round % 4; n > 0; n--) {
			rand = rand * 1664525 + 1013904223;
			copy[(rand >> 8) % len] = (uint8_t)(rand >> 3);
		}
		cfi_free(&cfi);
		m.eh_frame = (struct section){".eh_frame", SECTION, len, copy};
		m.debug_frame = (struct section){".debug_frame", 0, round % 2 ? len : 0, copy};
		ck_assert_int_eq(cfi_read(&cfi, &m), 0);
		for (size_t i = 0; i < cfi.n; i++) {
			const struct cfi_row *row = &cfi.rows[i];

			if (row->lo < (i ? row[-1].hi : TEXT) || row->lo >= row->hi ||
			    row->hi > TEXT + TEXT_SIZE ||
			    (row->reason == TABLE_SAFE && row->base != TABLE_CFA_RSP &&
			     row->base != TABLE_CFA_RBP))
				ck_abort_msg("round %d, row %zu", round, i);
		}
	}
	free(copy);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, frame_pointer);
	tcase_add_test(tc, unsafe_rules);
	tcase_add_test(tc, rbp_rules);
	tcase_add_test(tc, instructions);
	tcase_add_test(tc, encodings);
	tcase_add_test(tc, augmentations);
	tcase_add_test(tc, wide);
	tcase_add_test(tc, debug_frame);
	tcase_add_test(tc, overlaps);
	tcase_add_test(tc, broken);
	tcase_add_test(tc, damage);
}

int main(void)
{
	return unit_run("cfi", add);
}
