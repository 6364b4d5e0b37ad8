// test_maps.c: lines of /proc/self/maps, reading them in steps, and memory that may not be there.

#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "unit.h"

START_TEST(lines)
{
	static const char *const bad[] = {
		"",
		"5-4 r-xp 0 8:1 5 /x",
		"g-10 r-xp 0 8:1 5 /x",
		"1000-2000",
		"1000-2000 r-",
		"1000-2000 r-xp 0 8-1 5 /x",
		"1000-2000 r-xp 0 8:1 x /x",
		"10000000000000000-20000000000000000 r-xp 0 8:1 5 /x",
		"-",
	};
	char buf[256];
	struct map_line l;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(buf, sizeof(buf), "%s", bad[i]);
		ck_assert_msg(!maps_parse(buf, &l), "%s", bad[i]);
	}
	strcpy(buf, "7f0012345000-7f0012346000 r-xp 0001f000 103:12c 4711     /a b/c (x)");
	ck_assert(maps_parse(buf, &l));
	ck_assert_uint_eq(l.start, 0x7f0012345000);
	ck_assert_uint_eq(l.end, 0x7f0012346000);
	ck_assert_uint_eq(l.offset, 0x1f000);
	ck_assert_uint_eq(l.dev, makedev(0x103, 0x12c));
	ck_assert_uint_eq(l.ino, 4711);
	ck_assert(l.exec && l.text && !l.deleted);
	ck_assert_str_eq(l.path, "/a b/c (x)");
	strcpy(buf, "1000-2000 rw-p 00000000 00:00 0");
	ck_assert(maps_parse(buf, &l) && !l.exec);
	ck_assert_str_eq(l.path, "");
	strcpy(buf, "1000-2000 r-xp 00000000 00:00 0                  [vdso]");
	ck_assert(maps_parse(buf, &l) && l.exec && !l.text); // no text that may be rewritten
	ck_assert_str_eq(l.path, "[vdso]");
	strcpy(buf, "1000-2000 r-xp 00000000 00:00 0                  [heap]");
	ck_assert(maps_parse(buf, &l) && !l.text);
	ck_assert_str_eq(l.path, "");
	strcpy(buf, "1000-2000 r-xp 00000000 08:01 77 /lib/x.so (deleted)");
	ck_assert(maps_parse(buf, &l) && l.deleted);
	ck_assert_str_eq(l.path, "/lib/x.so");
	strcpy(buf, "1000-2000 r-xp 00000000 08:01 77 /lib/x\\012.so");
	ck_assert(maps_parse(buf, &l) && l.deleted); // not a path to hand on
}
END_TEST

static void count_line(void *arg, const struct map_line *line)
{
	int *n = arg;

	*n += line->exec && *line->path;
}

// In steps of a few lines it finds as many executable files as in one go.
START_TEST(steps)
{
	int want = 0, whole = 0, stepped = 0, n = 0;
	struct map_cursor c = {0};
	char line[4096], buf[8192];
	FILE *f = fopen("/proc/self/maps", "r");

	while (fgets(line, sizeof(line), f)) {
		char perm[8], path[512] = "";

		sscanf(line, "%*s %7s %*s %*s %*s %500s", perm, path);
		want += perm[2] == 'x' && (path[0] == '/' || strcmp(path, "[vdso]") == 0);
	}
	fclose(f);
	ck_assert_int_ge(want, 3);
	ck_assert_int_eq(maps_read(&c, buf, sizeof(buf), INT64_MAX, count_line, &whole), 0);
	ck_assert(c.done);
	ck_assert_int_eq(whole, want);
	c = (struct map_cursor){0};
	while (!c.done) {
		uint64_t before = c.offset;

		ck_assert_int_eq(maps_read(&c, buf, 512, 0, count_line, &stepped), 0);
		ck_assert(c.done || c.offset > before); // always a step further
		ck_assert_int_lt(n++, 1000);
	}
	ck_assert_int_eq(stepped, want);
	ck_assert_int_gt(n, 2);
	// A buffer too small for a line: an error, no endless loop.
	c = (struct map_cursor){0};
	ck_assert_int_lt(maps_read(&c, buf, 16, INT64_MAX, count_line, &stepped), 0);
	ck_assert(c.done);
}
END_TEST

START_TEST(memory)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char buf[16];

	strcpy(p + 4090, "hello");
	ck_assert_int_eq(memory_read((uintptr_t)p + 4090, buf, 6), 0);
	ck_assert_str_eq(buf, "hello");
	munmap(p + 4096, 4096);
	ck_assert_int_lt(memory_read((uintptr_t)p + 4090, buf, 16), 0);
	ck_assert_int_lt(memory_read(8, buf, 1), 0);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, lines);
	tcase_add_test(tc, steps);
	tcase_add_test(tc, memory);
}

int main(void)
{
	return unit_run("maps", add);
}
