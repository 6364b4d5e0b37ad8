// test_text.c: text is replaced as it is: its mappings, its locks, its threads.

#include "sites.h"

// A cave that somebody has used since it was chosen: no jump leads there.
START_TEST(cave_used_meanwhile)
{
	struct text_patch cave = {
		.at = (uintptr_t)symbol("cave_inside"), .size = 2, .was = {1, 2}, .is = {3, 4}};
	struct text_patch jump = {.at = (uintptr_t)site("spin_inside"),
				  .size = 2,
				  .was = {0xf3, 0x90},
				  .is = {0xeb, 0}};
	bool never = false;
	struct text_order order = {.start = module->start,
				   .end = module->end,
				   .pid = getpid(),
				   .v = {&cave, &jump},
				   .n = {1, 1},
				   .stop = &never};

	ck_assert_int_eq(text_write(&order), -ESTALE);
	ck_assert_mem_eq(site("spin_inside"), "\xf3\x90", 2);
}
END_TEST

// Is the memory there locked? By the kernel's own word.
static bool locked(const void *p)
{
	uintptr_t at = (uintptr_t)p, start, end;
	bool inside = false, yes = false;
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[512];

	while (fgets(line, sizeof line, f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = at >= start && at < end;
		else if (inside && strncmp(line, "VmFlags:", 8) == 0)
			yes = strstr(line, " lo") != NULL;
	}
	fclose(f);
	return yes;
}

#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

// Text that is locked in memory stays so, and what is not locked does not become so.
START_TEST(locked_text)
{
	uintptr_t page = (uintptr_t)site("spin_plain") & -(uintptr_t)4096;

	if (mlock((void *)page, 4096) < 0)
		return; // not allowed
	if (SANITIZED && !locked(site("spin_plain")))
		return; // sanitizers make mlock do nothing
	ck_assert(locked(site("spin_plain")));
	rewrite();
	ck_assert(rewritten("spin_plain"));
	ck_assert(locked(site("spin_plain")));
	ck_assert(rewritten("step_call"));
	ck_assert((uintptr_t)site("step_call") / 4096 != page / 4096);
	ck_assert(!locked(site("step_call")));
}
END_TEST

// Text that is not what it was mapped from: nothing is touched.
START_TEST(not_from_a_file)
{
	uintptr_t page = (uintptr_t)site("spin_plain") & -(uintptr_t)4096;
	static char copy[4096];

	memcpy(copy, (void *)page, 4096);
	ck_assert(mmap((void *)page, 4096, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void *)page);
	memcpy((void *)page, copy, 4096);
	mprotect((void *)page, 4096, PROT_READ | PROT_EXEC);
	rewrite();
	ck_assert_mem_eq(site("spin_plain"), "\xf3\x90", 2);
	ck_assert_mem_eq(site("step_call"), "\x0f\x05", 2);
}
END_TEST

// Profilers and crash reports look into /proc/self/maps; and nothing may be writable and executable.
START_TEST(maps_as_before)
{
	char line[512], path[256], perm[8];
	uintptr_t start, end, covered = module->start;
	unsigned long offset, inode;
	FILE *f;

	rewrite();
	ck_assert(rewritten("spin_plain"));
	f = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof line, f)) {
		path[0] = 0;
		ck_assert_int_ge(sscanf(line, "%lx-%lx %7s %lx %*s %lu %255s", &start, &end, perm,
					&offset, &inode, path),
				 5);
		ck_assert_msg(!(strchr(perm, 'w') && strchr(perm, 'x')), "%s", line);
		if (start < module->start || start >= module->end)
			continue;
		ck_assert_uint_eq(start, covered);
		covered = end;
		ck_assert_msg(strstr(path, "sites_plugin") != NULL, "%s", line);
	}
	fclose(f);
	ck_assert_uint_ge(covered, module->end & -(uintptr_t)4096);
}
END_TEST

static bool over;

static void *spinner(void *arg)
{
	long *rounds = arg;

	while (!load_relaxed(&over)) {
		((void (*)(long))symbol("spin_plain"))(50);
		((void (*)(long))symbol("spin_inside"))(50);
		((void (*)(long))symbol("spin_chain"))(50);
		(*rounds)++;
	}
	return NULL;
}

// Four threads execute what is written to, again and again.
START_TEST(executed)
{
	long rounds[4][8] = {{0}};
	pthread_t t[4];
	struct text_patch caves[1], jumps[1];
	struct text_order order = {.start = module->start,
				   .end = module->end,
				   .pid = getpid(),
				   .v = {caves, jumps},
				   .n = {1, 1},
				   .stop = &over};
	uint8_t *p = site("spin_plain");

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, spinner, rounds[i]);
	rewrite();
	ck_assert(rewritten("spin_plain"));
	// On and off. As the first patch one that changes nothing.
	for (int i = 0; i < 300; i++) {
		uint8_t on[2] = {p[0], p[1]};

		caves[0] = (struct text_patch){.at = (uintptr_t)p, .size = 2};
		memcpy(caves[0].was, on, 2);
		memcpy(caves[0].is, "\xf3\x90", 2);
		jumps[0] = caves[0];
		memcpy(jumps[0].was, "\xf3\x90", 2);
		memcpy(jumps[0].is, on, 2);
		order.pages = 0;
		ck_assert_int_eq(text_write(&order), 0);
		ck_assert_uint_eq(order.pages, 2);
	}
	over = true;
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		ck_assert_int_gt(rounds[i][0], 0);
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, cave_used_meanwhile);
	tcase_add_test(tc, locked_text);
	tcase_add_test(tc, not_from_a_file);
	tcase_add_test(tc, maps_as_before);
	tcase_add_test(tc, executed);
}

int main(void)
{
	return unit_run("text", add);
}
