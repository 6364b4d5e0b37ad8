// test_cgroups.c: tools/cgroups.c: limits of memory and threads, in made-up trees below a temporary directory.

#include <sys/stat.h>

#include "../../tools/cgroups.h"
#include "unit.h"

static char root[64];

static void put(const char *path, const char *text)
{
	char full[512];
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", root, path);
	for (char *s = full + strlen(root) + 1; *s; s++) {
		if (*s == '/') {
			*s = 0;
			mkdir(full, 0755);
			*s = '/';
		}
	}
	f = fopen(full, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

static void setup(void)
{
	strcpy(root, "/tmp/unit-cgroups-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
}

static void teardown(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -r '%s'", root);
	ck_assert_int_eq(system(cmd), 0);
}

static void want(const char *controller, int64_t max, int64_t used)
{
	struct limit l = limit_of(root, controller);

	ck_assert_int_eq(l.max, max);
	if (max >= 0)
		ck_assert_int_eq(l.used, used);
}

#define PROC "24 1 0:22 / /proc rw - proc proc rw\n"
#define V2 "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
#define V1(c) "31 23 0:27 / /sys/" c " rw - cgroup cgroup rw," c "\n"

// Without files, or with no limit in them, there is none.
START_TEST(none)
{
	want("memory", -1, 0);
	put("/proc/self/cgroup", "0::/a\n");
	want("memory", -1, 0);
	put("/proc/self/mountinfo", PROC V2);
	want("memory", -1, 0);
	put("/sys/fs/cgroup/a/memory.max", "max\n");
	put("/sys/fs/cgroup/a/pids.max", "junk\n");
	want("memory", -1, 0);
	want("pids", -1, 0);
}
END_TEST

// The group that leaves least counts, not the one with the smallest limit.
START_TEST(least_room)
{
	put("/proc/self/cgroup", "0::/a/b\n");
	put("/proc/self/mountinfo", PROC V2);
	put("/sys/fs/cgroup/a/b/memory.max", "1000\n");
	put("/sys/fs/cgroup/a/b/memory.current", "100\n");
	want("memory", 1000, 100);
	put("/sys/fs/cgroup/a/memory.max", "2000\n");
	put("/sys/fs/cgroup/a/memory.current", "1999\n");
	want("memory", 2000, 1999);
	put("/sys/fs/cgroup/a/b/pids.max", "30\n");
	put("/sys/fs/cgroup/a/b/pids.current", "7\n");
	want("pids", 30, 7);
}
END_TEST

// Version 1 has other names for memory, a number for "none", and a hierarchy for each controller; version 2 may be mounted besides.
START_TEST(version_1)
{
	put("/proc/self/cgroup", "4:memory:/m\n3:cpu,pids:/p\n0::/\n");
	put("/proc/self/mountinfo", PROC V1("memory") V1("cpu,pids") V2);
	put("/sys/memory/m/memory.limit_in_bytes", "4096\n");
	put("/sys/memory/m/memory.usage_in_bytes", "96\n");
	put("/sys/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put("/sys/cpu,pids/p/pids.max", "5\n");
	put("/sys/cpu,pids/p/pids.current", "5\n");
	want("memory", 4096, 96);
	want("pids", 5, 5);
}
END_TEST

// In a container: the mount shows a part of the hierarchy, the path may or may not lie in it.
START_TEST(mount_root)
{
	put("/proc/self/cgroup", "0::/docker/x/y\n");
	put("/proc/self/mountinfo",
	    PROC "30 23 0:26 /docker/x /sys/fs/my\\040group rw - cgroup2 cgroup2 rw\n");
	put("/sys/fs/my group/y/pids.max", "9\n");
	want("pids", 9, 0);
	put("/proc/self/cgroup", "0::/elsewhere\n");
	put("/sys/fs/my group/pids.max", "8\n");
	want("pids", 8, 0);
	put("/proc/self/cgroup", "0::/docker/xy\n"); // begins alike, is another
	want("pids", 8, 0);
}
END_TEST

START_TEST(junk)
{
	static const char *const lines[] = {"",	       "\n",	       "::",
					    "0\n",     "0::\n",	       "0:::::\n",
					    "- - -\n", " - cgroup2\n", "1 2 3 4 5 - cgroup2 x y\n"};

	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		for (size_t j = 0; j < sizeof lines / sizeof *lines; j++) {
			put("/proc/self/cgroup", lines[i]);
			put("/proc/self/mountinfo", lines[j]);
			want("memory", -1, 0);
		}
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, none);
	tcase_add_test(tc, least_room);
	tcase_add_test(tc, version_1);
	tcase_add_test(tc, mount_root);
	tcase_add_test(tc, junk);
}

int main(void)
{
	return unit_run("cgroups", add);
}
