// cgroup.c: how many CPUs the control group's quota allows.
//
// Problem: in a container the affinity mask often shows all CPUs of the machine while a quota
// allows the time of two. More Ps than that make the kernel stop all threads at once when the quota
// is used up, lock holders included. Approach: at start, find where the controller's files are
// (mountinfo gives the mount point and which part of the hierarchy it shows, /proc/self/cgroup our
// place in it). Later calls read the quota of our group and of every group above it, as far as
// visible: the smallest one counts. Both versions may be mounted at once (hybrid set-ups); the
// controller is then in one of them, and the other has no such files, which reads as "no limit".
// Rejected: watching the files (a kernel thread of ours would have to poll them just the same).

#include <fcntl.h>
#include <sys/syscall.h>

#include "shim.h"

enum { PATH_BYTES = 1024 };

// One hierarchy: the directory of our group, and the length of its visible root.
struct hierarchy {
	bool found;
	char dir[PATH_BYTES];
	size_t root_len;
};
static struct hierarchy v1, v2;

// --- reading line by line: mountinfo may be larger than any buffer of ours ---------------------

struct lines {
	int fd;
	size_t pos, len;
	char buf[1024];
};

static int lines_getc(struct lines *in)
{
	if (in->pos == in->len) {
		long n = sys3(SYS_read, in->fd, in->buf, sizeof(in->buf));

		if (n <= 0)
			return -1;
		in->len = (size_t)n;
		in->pos = 0;
	}
	return (unsigned char)in->buf[in->pos++];
}

// The next line without its newline. Overlong lines are cut; false at the end.
static bool lines_next(struct lines *in, char *line, size_t size)
{
	size_t n = 0;
	int c;

	while ((c = lines_getc(in)) >= 0 && c != '\n') {
		if (n < size - 1)
			line[n++] = (char)c;
	}
	line[n] = 0;
	return c >= 0 || n > 0;
}

static bool lines_open(struct lines *in, const char *root, const char *path)
{
	char full[PATH_BYTES];
	struct text t = {.buf = full, .len = 0, .cap = sizeof(full) - 1};
	long fd;

	text_printf(&t, "%s%s", root, path);
	full[t.len] = 0;
	fd = sys4(SYS_openat, AT_FDCWD, full, O_RDONLY | O_CLOEXEC, 0);
	in->fd = (int)fd;
	in->pos = in->len = 0;
	return fd >= 0;
}

static void lines_close(struct lines *in)
{
	(void)sys1(SYS_close, in->fd);
}

// --- finding the files
// ----------------------------------------------------------------------------

// Cut the next field off *s at the separator. NULL: no more.
static char *field(char **s, char sep)
{
	char *start = *s, *p = start;

	if (!start)
		return NULL;
	while (*p && *p != sep)
		p++;
	*s = *p ? p + 1 : NULL;
	*p = 0;
	return start;
}

// Is word one of the comma-separated words of list?
static bool listed(const char *list, const char *word)
{
	while (*list) {
		const char *w = word;

		while (*w && *list == *w) {
			list++;
			w++;
		}
		if (!*w && (!*list || *list == ','))
			return true;
		while (*list && *list++ != ',')
			;
	}
	return false;
}

static bool octal(char c)
{
	return c >= '0' && c <= '7';
}

// mountinfo writes blanks and backslashes in paths as \ooo.
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && octal(s[1]) && octal(s[2]) && octal(s[3])) {
			*to++ = (char)(((s[1] - '0') << 6) | ((s[2] - '0') << 3) | (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = 0;
}

// Our place below the mount point: path without the part of the hierarchy that is not mounted. A
// path outside of it (another cgroup namespace) leaves the mount point itself, which is right in
// containers that hide the path.
static const char *below(const char *path, const char *mount_root)
{
	const char *p = path;

	if (str_eq(mount_root, "/"))
		mount_root = "";
	while (*mount_root && *p == *mount_root) {
		p++;
		mount_root++;
	}
	if (*mount_root || (*p && *p != '/') || str_eq(p, "/"))
		return "";
	for (const char *s = p; *s; s++) {
		if (s[0] == '/' && s[1] == '.' && s[2] == '.' && (!s[3] || s[3] == '/'))
			return "";
	}
	return p;
}

// Remember root + mount point + place. The first mount that shows the hierarchy serves.
static void found(struct hierarchy *h, const char *root, const char *mount, const char *place)
{
	struct text t = {.buf = h->dir, .len = 0, .cap = sizeof(h->dir) - 1};

	text_printf(&t, "%s%s", root, mount);
	h->root_len = t.len;
	text_printf(&t, "%s", place);
	h->dir[t.len] = 0;
	h->found = t.len + 1 < t.cap; // a cut path is of no use
}

void cgroup_init(const char *root)
{
	static char path1[PATH_BYTES], path2[PATH_BYTES]; // only used here, once, at start
	static char line[4 * PATH_BYTES];
	static struct lines in;

	v1.found = v2.found = false;
	path1[0] = path2[0] = 0;
	if (!lines_open(&in, root, "/proc/self/cgroup"))
		return;
	while (lines_next(&in, line, sizeof(line))) {
		char *s = line, *id = field(&s, ':'), *controllers = field(&s, ':');
		char *to = NULL;

		if (!controllers || !s || s[0] != '/')
			continue;
		if (str_eq(id, "0") && !*controllers)
			to = path2;
		else if (listed(controllers, "cpu"))
			to = path1;
		if (!to)
			continue;
		for (size_t i = 0; i < PATH_BYTES - 1; i++) {
			to[i] = s[i];
			if (!s[i])
				break;
		}
		to[PATH_BYTES - 1] = 0;
	}
	lines_close(&in);

	if (!lines_open(&in, root, "/proc/self/mountinfo"))
		return;
	while (lines_next(&in, line, sizeof(line))) {
		// ID PARENT MAJ:MIN ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE SUPEROPTIONS
		char *s = line, *mount_root, *mount, *type, *options;

		(void)field(&s, ' ');
		(void)field(&s, ' ');
		(void)field(&s, ' ');
		mount_root = field(&s, ' ');
		mount = field(&s, ' ');
		do
			type = field(&s, ' ');
		while (type && !str_eq(type, "-"));
		type = field(&s, ' ');
		(void)field(&s, ' ');
		options = field(&s, ' ');
		if (!type || !mount)
			continue;
		unescape(mount_root);
		unescape(mount);
		if (str_eq(type, "cgroup2") && path2[0] && !v2.found)
			found(&v2, root, mount, below(path2, mount_root));
		else if (str_eq(type, "cgroup") && path1[0] && !v1.found && options &&
			 listed(options, "cpu"))
			found(&v1, root, mount, below(path1, mount_root));
	}
	lines_close(&in);
}

// --- reading the quota
// ------------------------------------------------------------------------------

// A positive number at *s, which moves behind it and one blank. -1: none there ("max", "-1").
static int64_t number(const char **s)
{
	int64_t n = 0;

	if (**s < '0' || **s > '9')
		return -1;
	for (; **s >= '0' && **s <= '9'; ++*s) {
		if (n < INT64_MAX / 100)
			n = n * 10 + (**s - '0');
	}
	if (**s == ' ')
		++*s;
	return n;
}

static bool read_in(const char *dir, const char *name, char *buf, size_t size)
{
	char path[PATH_BYTES + 32];
	struct text t = {.buf = path, .len = 0, .cap = sizeof(path) - 1};

	text_printf(&t, "%s/%s", dir, name);
	path[t.len] = 0;
	return os_read_file(path, buf, size) > 0;
}

static int cpus_of(int64_t quota, int64_t period)
{
	int64_t n;

	if (quota <= 0 || period <= 0)
		return 0;
	n = quota / period + (quota % period != 0);
	return n > MAX_PROCS ? 0 : (int)n;
}

static int v2_cpus(const char *dir)
{
	char buf[64];
	const char *s = buf;
	int64_t quota;

	if (!read_in(dir, "cpu.max", buf, sizeof(buf)))
		return 0;
	quota = number(&s);
	return quota < 0 ? 0 : cpus_of(quota, number(&s));
}

static int v1_cpus(const char *dir)
{
	char buf[64];
	const char *s = buf;
	int64_t quota;

	if (!read_in(dir, "cpu.cfs_quota_us", buf, sizeof(buf)))
		return 0;
	quota = number(&s);
	if (quota < 0 || !read_in(dir, "cpu.cfs_period_us", buf, sizeof(buf)))
		return 0;
	s = buf;
	return cpus_of(quota, number(&s));
}

// The smallest limit from our group up to the visible root of the hierarchy, combined with least.
static int walk(const struct hierarchy *h, int (*cpus)(const char *dir), int least)
{
	char dir[PATH_BYTES];
	size_t len = 0;

	if (!h->found)
		return least;
	for (; h->dir[len]; len++)
		dir[len] = h->dir[len];
	for (;;) {
		int n;

		dir[len] = 0;
		n = cpus(dir);
		if (n && (!least || n < least))
			least = n;
		if (len <= h->root_len)
			return least;
		while (len > h->root_len && dir[len - 1] != '/')
			len--;
		if (len > h->root_len)
			len--; // the slash
	}
}

int cgroup_cpus(void)
{
	return walk(&v1, v1_cpus, walk(&v2, v2_cpus, 0));
}
