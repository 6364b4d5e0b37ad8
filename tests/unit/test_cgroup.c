// test_cgroup.c: quotas in made-up trees below a temporary directory.

#include <sys/stat.h>

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
	strcpy(root, "/tmp/unit-cgroup-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
}

static void teardown(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -r '%s'", root);
	ck_assert_int_eq(system(cmd), 0);
}

static int cpus(void)
{
	cgroup_init(root);
	return cgroup_cpus();
}

#define V2_MOUNT                                                                                   \
	"24 1 0:22 / /proc rw - proc proc rw\n"                                                    \
	"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:2 - cgroup2 cgroup2 "               \
	"rw,nsdelegate\n"

START_TEST(nothing_there)
{
	ck_assert_int_eq(cpus(), 0);
	put("/proc/self/cgroup", "0::/a\n");
	ck_assert_int_eq(cpus(), 0);
	put("/proc/self/mountinfo", V2_MOUNT);
	ck_assert_int_eq(cpus(), 0);
}
END_TEST

static const struct {
	const char *text;
	int want;
} maxima[] = {
	{"max 100000\n", 0},
	{"100000 100000\n", 1},
	{"150000 100000\n", 2},
	{"1000 100000\n", 1},
	{"400000 100000\n", 4},
	{"20000 5000\n", 4},
	{"", 0},
	{"junk\n", 0},
	{"100000\n", 0},
	{"5 0\n", 0},
	{"0 100000\n", 0},
	{"999999999999999999999 1\n", 0},
};

START_TEST(v2_maxima)
{
	put("/proc/self/cgroup", "0::/a\n");
	put("/proc/self/mountinfo", V2_MOUNT);
	put("/sys/fs/cgroup/a/cpu.max", maxima[_i].text);
	ck_assert_int_eq(cpus(), maxima[_i].want);
}
END_TEST

START_TEST(v2_minimum_of_path)
{
	put("/proc/self/cgroup", "0::/user.slice/a b/c\n");
	put("/proc/self/mountinfo", V2_MOUNT);
	put("/sys/fs/cgroup/user.slice/a b/c/cpu.max", "max 100000\n");
	ck_assert_int_eq(cpus(), 0);
	put("/sys/fs/cgroup/user.slice/a b/cpu.max", "300000 100000\n");
	ck_assert_int_eq(cgroup_cpus(), 3); // followed live
	put("/sys/fs/cgroup/user.slice/cpu.max", "500000 100000\n");
	ck_assert_int_eq(cgroup_cpus(), 3);
	put("/sys/fs/cgroup/cpu.max", "200000 100000\n"); // a container's root has one
	ck_assert_int_eq(cgroup_cpus(), 2);
	put("/sys/fs/cgroup/user.slice/a b/c/cpu.max", "50000 100000\n");
	ck_assert_int_eq(cgroup_cpus(), 1);
	put("/sys/fs/cpu.max", "1 100000\n"); // above the mount point: not ours
	put("/sys/fs/cgroup/user.slice/a b/c/cpu.max", "max 100000\n");
	ck_assert_int_eq(cgroup_cpus(), 2);
}
END_TEST

// The mount shows only a part of the hierarchy, as bind mounts in containers do.
START_TEST(v2_mount_root)
{
	put("/proc/self/cgroup", "0::/docker/1234/sub\n");
	put("/proc/self/mountinfo",
	    "30 23 0:26 /docker/1234 /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
	put("/sys/fs/cgroup/sub/cpu.max", "200000 100000\n");
	ck_assert_int_eq(cpus(), 2);
	// Names that only begin alike, or lie outside: the mount point itself.
	put("/sys/fs/cgroup/cpu.max", "700000 100000\n");
	put("/proc/self/cgroup", "0::/docker/12345\n");
	ck_assert_int_eq(cpus(), 7);
	put("/proc/self/cgroup", "0::/../sub\n");
	ck_assert_int_eq(cpus(), 7);
}
END_TEST

START_TEST(escaped_mount_point)
{
	put("/proc/self/cgroup", "0::/\n");
	put("/proc/self/mountinfo", "30 23 0:26 / /my\\040cgroup rw - cgroup2 none rw\n");
	put("/my cgroup/cpu.max", "600000 100000\n");
	ck_assert_int_eq(cpus(), 6);
}
END_TEST

START_TEST(v1_quota)
{
	put("/proc/self/cgroup", "11:cpuset:/x\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/y\n");
	put("/proc/self/mountinfo",
	    "31 23 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
	    "32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n");
	put("/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us", "-1\n");
	put("/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us", "100000\n");
	ck_assert_int_eq(cpus(), 0);
	put("/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us", "250000\n");
	ck_assert_int_eq(cgroup_cpus(), 3);
	put("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "50000\n");
	put("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "50000\n");
	ck_assert_int_eq(cgroup_cpus(), 1);
}
END_TEST

// Both versions mounted; the controller is in v1.
START_TEST(hybrid)
{
	put("/proc/self/cgroup", "2:cpuacct,cpu:/a\n0::/b\n");
	put("/proc/self/mountinfo",
	    "32 23 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
	    "33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
	put("/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "200000\n");
	put("/sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
	ck_assert_int_eq(cpus(), 2);
}
END_TEST

// A host with hundreds of mounts, and lines longer than any buffer.
START_TEST(large_mountinfo)
{
	static char text[400000];
	size_t n = 0;

	for (int i = 0; i < 2000; i++)
		n += (size_t)sprintf(text + n, "%d 1 0:5 / /mnt/%d rw shared:1 - ext4 /dev/x rw\n",
				     100 + i, i);
	n += (size_t)sprintf(text + n, "9 1 0:5 / /");
	memset(text + n, 'y', 9000);
	n += 9000;
	sprintf(text + n, " rw - overlay o rw\n%s", V2_MOUNT);
	put("/proc/self/mountinfo", text);
	put("/proc/self/cgroup", "0::/a\n");
	put("/sys/fs/cgroup/a/cpu.max", "200000 100000\n");
	ck_assert_int_eq(cpus(), 2);
}
END_TEST

START_TEST(junk)
{
	put("/proc/self/cgroup", "\n:\n::\n0:\n0::\n0::relative\nx\n");
	put("/proc/self/mountinfo",
	    "\n-\n - \n1 2 3\n1 2 3 / /m rw - cgroup2\n1 2 3 / /m - cgroup\n");
	ck_assert_int_eq(cpus(), 0);
}
END_TEST

// Whatever this machine has, it must not crash.
START_TEST(real)
{
	cgroup_init("");
	ck_assert_int_ge(cgroup_cpus(), 0);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, nothing_there);
	tcase_add_loop_test(tc, v2_maxima, 0, sizeof(maxima) / sizeof(maxima[0]));
	tcase_add_test(tc, v2_minimum_of_path);
	tcase_add_test(tc, v2_mount_root);
	tcase_add_test(tc, escaped_mount_point);
	tcase_add_test(tc, v1_quota);
	tcase_add_test(tc, hybrid);
	tcase_add_test(tc, large_mountinfo);
	tcase_add_test(tc, junk);
	tcase_add_test(tc, real);
}

int main(void)
{
	return unit_run("cgroup", add);
}
