// Tests of cache.c in directories of their own: which file is found, and everything that must be refused.

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "unit.h"

// The offsets that HACKING.md, section 6, gives.
#define AT(field, offset) _Static_assert(offsetof(struct table_header, field) == (offset), #field)
AT(version, 8);
AT(checksum, 24);
AT(id, 32);
AT(id_size, 64);
AT(globs_hash, 72);
AT(head_size, 84);
AT(text_size, 104);
AT(off_syscalls, 128);
AT(nsyscalls, 140);
AT(bytes, 144);
AT(bytes_critical, 224);
_Static_assert(sizeof(struct table_header) == 240 && TABLE_VERSION == 6, "header");
_Static_assert(offsetof(struct table_row, base_reason) == 6 && sizeof(struct table_row) == 8,
	       "row");
_Static_assert(sizeof(struct table_syscall) == 8 && TABLE_REASONS == 10, "system call, reasons");

static char root[64], user[80], sys[80];
static struct module_id id;

// A table of one unsafe row over two blocks; size bytes in buf, all valid.
static size_t make(char *buf, const struct module_id *of, const char *globs)
{
	struct table_header *h = (struct table_header *)buf;
	const size_t skip = offsetof(struct table_header, checksum) + sizeof h->checksum;
	size_t off = sizeof *h;
	uint32_t *blocks;

	memset(buf, 0, 4096);
	memcpy(h->magic, TABLE_MAGIC, sizeof h->magic);
	h->version = TABLE_VERSION;
	h->header_size = sizeof *h;
	memcpy(h->id, of->id, sizeof h->id);
	h->id_size = of->size;
	h->machine = EM_X86_64;
	h->globs_hash = cache_globs_hash(globs);
	h->source = TABLE_EH_FRAME;
	h->head_size = 64;
	h->load_vaddr = 0;
	h->text_base = 0x1000;
	h->text_size = 2 * TABLE_BLOCK;
	h->nblocks = 2;
	h->nrows = 1;
	h->bytes[TABLE_NO_CFI] = h->text_size;
	h->off_head = (uint32_t)off;
	off += 64;
	h->off_blocks = (uint32_t)off;
	blocks = (uint32_t *)(buf + off);
	blocks[0] = blocks[1] = blocks[2] = 0;
	off += 16;
	h->off_pcs = (uint32_t)off;
	off += 8;
	h->off_rows = (uint32_t)off;
	((struct table_row *)(buf + off))->base_reason = TABLE_NO_CFI << 4;
	off += 8;
	h->off_syscalls = (uint32_t)off;
	h->file_size = off;
	h->checksum = table_checksum(TABLE_CHECKSUM_INIT, buf + skip, off - skip);
	return off;
}

static void write_file(const char *path, const char *buf, size_t size, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, buf, size), (ssize_t)size);
	ck_assert_int_eq(fchmod(fd, mode), 0);
	close(fd);
}

static const char *path_in(const char *dir, const struct module_id *of)
{
	static char path[512];
	struct text t = {path, 0, sizeof path};

	path[0] = 0;
	ck_assert_int_eq(cache_path(of, &t), 0);
	memmove(path + strlen(dir), strrchr(path, '/'), strlen(strrchr(path, '/')) + 1);
	memcpy(path, dir, strlen(dir));
	return path;
}

// Put a valid table for id there.
static const char *put(const char *dir)
{
	char buf[4096];
	const char *path = path_in(dir, &id);

	write_file(path, buf, make(buf, &id, NULL), 0600);
	return path;
}

static int find(void)
{
	struct table table = {0};
	size_t size = 0;
	int r = cache_open(&id, &table, &size);

	if (r == 0) {
		ck_assert_int_eq(memcmp(table.header->id, id.id, sizeof id.id), 0);
		ck_assert_uint_eq(table.header->file_size, size);
		cache_close(&table, size);
		ck_assert_ptr_null(table.header);
	} else {
		ck_assert_ptr_null(table.header); // the caller's table is left alone
	}
	return r;
}

static void setup(void)
{
	unit_config();
	strcpy(root, "/tmp/cache-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	sprintf(user, "%s/user", root);
	sprintf(sys, "%s/sys", root);
	ck_assert_int_eq(mkdir(user, 0700), 0);
	ck_assert_int_eq(mkdir(sys, 0755), 0);
	cache_system_dir = sys;
	memset(&id, 0, sizeof id);
	id.size = 20;
	for (int i = 0; i < 20; i++)
		id.id[i] = (uint8_t)(i + 1);
	cache_init(user, NULL, NULL, NULL);
}

static void teardown(void)
{
	char command[256];

	sprintf(command, "chmod -R u+rwx %s; rm -rf %s", root, root);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(found)
{
	ck_assert_int_eq(find(), -ENOENT);
	put(user);
	ck_assert_int_eq(find(), 0);
	ck_assert_int_eq(cache_probe(&id, false, NULL), 0);
	ck_assert_int_eq(cache_probe(&id, true, NULL), 0);
}
END_TEST

static void ck_path(const char *dir)
{
	char path[1024], want[1024];
	struct text t = {path, 0, sizeof path};

	ck_assert_int_eq(cache_path(&id, &t), 0);
	sprintf(want, "%s/0102030405060708090a0b0c0d0e0f1011121314.tab", dir);
	ck_assert_str_eq(path, want);
}

// The order of the variables; relative and empty ones do not count; no slash stays at the end.
START_TEST(choice)
{
	char path[512], longer[600], xdg[100], home[100];
	struct text t = {path, 0, sizeof path};

	sprintf(xdg, "%s/xdg", root);
	sprintf(home, "%s/home", root);
	cache_init(user, xdg, home, NULL);
	ck_path(user);
	cache_init("", xdg, home, NULL);
	strcat(xdg, "/preempt");
	ck_path(xdg);
	sprintf(xdg, "%s/xdg///", root);
	cache_init(NULL, "relative", home, NULL);
	strcat(home, "/.cache/preempt");
	ck_path(home);
	cache_init(NULL, xdg, NULL, NULL);
	sprintf(xdg, "%s/xdg/preempt", root);
	ck_path(xdg);

	memset(longer, 'x', sizeof longer - 1);
	longer[0] = '/';
	longer[sizeof longer - 1] = 0;
	config.log = LOG_OFF;
	cache_init(longer, "", "", NULL);
	if (geteuid() == 0) {
		ck_assert_str_eq(cache_dir(), sys);
	} else {
		ck_assert_ptr_null(cache_dir());
		ck_assert_int_eq(cache_path(&id, &t), -ENOENT);
	}
	// The buffer of the caller is too short: no half path.
	cache_init(user, NULL, NULL, NULL);
	t.cap = 30;
	ck_assert_int_eq(cache_path(&id, &t), -ENOENT);
	id.size = TABLE_ID_MAX + 1;
	ck_assert_int_eq(find(), -EINVAL);
}
END_TEST

static void init_relative(void *unused)
{
	(void)unused;
	cache_init("some/dir", user, NULL, NULL);
}

START_TEST(relative_is_told)
{
	char line[256], want[256];

	unit_stderr(init_relative, NULL, line, sizeof line);
	ck_assert_str_eq(line,
			 "libpreempt: PREEMPT_CACHE_DIR=some/dir: not an absolute path; using the "
			 "default\n");
	sprintf(want, "%s/preempt", user);
	ck_path(want);
}
END_TEST

START_TEST(names)
{
	char path[512];
	struct text t = {path, 0, sizeof path};
	char want[512];

	cache_init(user, NULL, NULL, "my_*");
	ck_assert_int_eq(cache_path(&id, &t), 0);
	sprintf(want, "%s/0102030405060708090a0b0c0d0e0f1011121314-%016lx.tab", user,
		(unsigned long)cache_globs_hash("my_*"));
	ck_assert_str_eq(path, want);

	cache_init(user, NULL, NULL, "");
	id.size = 0;
	t.len = 0;
	ck_assert_int_eq(cache_path(&id, &t), 0);
	sprintf(want, "%s/s-0102030405060708090a0b0c0d0e0f1011121314000000000000000000000000.tab",
		user);
	ck_assert_str_eq(path, want);
	ck_assert_uint_eq(cache_globs_hash(NULL), 0);
	ck_assert_uint_eq(cache_globs_hash(""), 0);
	ck_assert_uint_ne(cache_globs_hash("a"), cache_globs_hash("b"));
}
END_TEST

// A table made with other globs is another table, also under the right name.
START_TEST(globs)
{
	char buf[4096];

	put(user);
	cache_init(user, NULL, NULL, "a");
	ck_assert_int_eq(find(), -ENOENT);
	put(user); // without globs, in the place of the one with
	ck_assert_int_eq(find(), -EBADMSG);
	ck_assert_int_eq(cache_probe(&id, false, NULL), -EBADMSG);
	write_file(path_in(user, &id), buf, make(buf, &id, "a"), 0600);
	ck_assert_int_eq(find(), 0);
}
END_TEST

// A module without build-id: all 32 bytes are its identity, and it is never taken for one with.
START_TEST(no_build_id)
{
	id.size = 0;
	id.id[31] = 7;
	put(user);
	ck_assert_int_eq(find(), 0);
	id.id[31] = 8;
	ck_assert_int_eq(find(), -ENOENT);
	id.id[31] = 7;
	id.size = TABLE_ID_MAX;
	ck_assert_int_eq(find(), -ENOENT);
}
END_TEST

START_TEST(system_directory)
{
	char path[512];
	struct text t = {path, 0, sizeof path};

	put(sys);
	ck_assert_int_eq(find(), 0);
	ck_assert_int_eq(cache_probe(&id, true, &t), 0);
	ck_assert_str_eq(path, path_in(sys, &id));
	// What is wrong in the user's does not hide it.
	write_file(path_in(user, &id), "junk", 4, 0600);
	ck_assert_int_eq(find(), 0);
	ck_assert_int_eq(chmod(user, 0777), 0);
	config.log = LOG_OFF;
	ck_assert_int_eq(find(), 0);
	// Nor does what is wrong there hide that a builder can help.
	ck_assert_int_eq(chmod(user, 0700), 0);
	ck_assert_int_eq(unlink(path_in(user, &id)), 0);
	ck_assert_int_eq(chmod(sys, 0777), 0);
	ck_assert_int_eq(find(), -ENOENT);
	// The user's comes first.
	t.len = 0;
	put(user);
	ck_assert_int_eq(chmod(sys, 0755), 0);
	ck_assert_int_eq(cache_probe(&id, true, &t), 0);
	ck_assert_str_eq(path, path_in(user, &id));
	// Without a user's directory.
	cache_init(NULL, NULL, NULL, NULL);
	ck_assert_int_eq(find(), 0);
	ck_assert_int_eq(chmod(sys, 0777), 0);
	ck_assert_int_eq(find(), -EPERM);
	cache_system_dir = "/proc/nonexistent/preempt";
	ck_assert_int_eq(find(), -ENOENT);
}
END_TEST

START_TEST(directory_modes)
{
	static const struct {
		mode_t mode;
		int want;
	} cases[] = {
		{0700, 0},	{0755, 0},	{0711, 0},	 {0770, -EPERM},
		{0720, -EPERM}, {0702, -EPERM}, {01777, -EPERM},
	};

	put(user);
	config.log = LOG_OFF;
	ck_assert_int_eq(chmod(user, cases[_i].mode), 0);
	ck_assert_int_eq(find(), cases[_i].want);
	ck_assert_int_eq(cache_probe(&id, false, NULL), cases[_i].want);
}
END_TEST

static void find_quietly(void *unused)
{
	(void)unused;
	ck_assert_int_eq(find(), -EPERM);
	ck_assert_int_eq(find(), -EPERM);
}

// Said once, and only about a directory that the user named.
START_TEST(refusal_is_told)
{
	char line[512], want[512];

	ck_assert_int_eq(chmod(user, 0777), 0);
	unit_stderr(find_quietly, NULL, line, sizeof line);
	sprintf(want,
		"libpreempt: %s: not used as table cache: it is no directory of this user's or "
		"root's that only "
		"its owner may write to\n",
		user);
	ck_assert_str_eq(line, want);

	sprintf(want, "%s/preempt", user);
	ck_assert_int_eq(symlink(user, want), 0);
	cache_init(NULL, user, NULL, NULL);
	unit_stderr(find_quietly, NULL, line, sizeof line);
	ck_assert_str_eq(line, "");
}
END_TEST

static const mode_t bad_modes[] = {0620, 0602, 0666};

START_TEST(file_modes)
{
	const char *path = put(user);

	ck_assert_int_eq(chmod(path, bad_modes[_i]), 0);
	ck_assert_int_eq(find(), -EPERM);
	ck_assert_int_eq(cache_probe(&id, false, NULL), -EPERM);
	ck_assert_int_eq(chmod(path, 0644), 0);
	ck_assert_int_eq(find(), 0);
}
END_TEST

// Somebody else's directory, and somebody else's file in an own one. Needs root to make them.
START_TEST(owners)
{
	const char *path = put(user);

	if (geteuid() != 0)
		return;
	config.log = LOG_OFF;
	ck_assert_int_eq(chown(user, 4321, (gid_t)-1), 0);
	ck_assert_int_eq(find(), -EPERM);
	ck_assert_int_eq(chown(user, 0, (gid_t)-1), 0);
	ck_assert_int_eq(chown(path, 4321, (gid_t)-1), 0);
	ck_assert_int_eq(find(), -EPERM);
	ck_assert_int_eq(chown(path, 0, (gid_t)-1), 0);
	ck_assert_int_eq(find(), 0);
	// The effective user counts, and root is always believed.
	ck_assert_int_eq(chmod(root, 0755), 0);
	ck_assert_int_eq(chmod(user, 0755), 0);
	ck_assert_int_eq(chmod(path, 0644), 0);
	ck_assert_int_eq(seteuid(4321), 0);
	ck_assert_int_eq(find(), 0);
	ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(chown(user, 4321, (gid_t)-1), 0);
	ck_assert_int_eq(chown(path, 4321, (gid_t)-1), 0);
	ck_assert_int_eq(seteuid(4321), 0);
	ck_assert_int_eq(find(), 0);
	ck_assert_int_eq(seteuid(4322), 0 - 1); // not root now: cannot
	ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(seteuid(4322), 0);
	ck_assert_int_eq(find(), -EPERM);
	ck_assert_int_eq(seteuid(0), 0);
}
END_TEST

// Links in the place of the directory or the file are not followed, though what they name is good.
START_TEST(symlinks)
{
	char link[512], other[512], target[512];
	const char *path;

	config.log = LOG_OFF;
	sprintf(link, "%s/link", root);
	put(user);
	ck_assert_int_eq(symlink(user, link), 0);
	cache_init(link, NULL, NULL, NULL);
	ck_assert_int_eq(find(), -EPERM);
	strcat(link, "/");
	cache_init(link, NULL, NULL, NULL);
	ck_assert_int_eq(find(), -EPERM);

	// Above the last component they are the user's own affair.
	sprintf(other, "%s/up", root);
	ck_assert_int_eq(symlink(root, other), 0);
	strcat(other, "/user");
	cache_init(other, NULL, NULL, NULL);
	ck_assert_int_eq(find(), 0);

	cache_init(user, NULL, NULL, NULL);
	path = path_in(user, &id);
	sprintf(target, "%s/target", root);
	ck_assert_int_eq(rename(path, target), 0);
	ck_assert_int_eq(symlink(target, path), 0);
	ck_assert_int_eq(find(), -EPERM);
}
END_TEST

// None of these may block, crash or be mapped.
START_TEST(not_a_file)
{
	const char *path = path_in(user, &id);

	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(find(), -EPERM);
	ck_assert_int_eq(rmdir(path), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(find(), -EPERM);
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

// A file where the directory should be, and no directory.
START_TEST(not_a_directory)
{
	char path[512];
	struct text t = {path, 0, sizeof path};

	ck_assert_int_eq(rmdir(user), 0);
	ck_assert_int_eq(find(), -ENOENT);
	ck_assert_int_eq(cache_path(&id, &t), 0); // a builder makes it
	write_file(user, "x", 1, 0600);
	config.log = LOG_OFF;
	ck_assert_int_eq(find(), -EPERM);
	ck_assert_int_eq(cache_path(&id, &t), -EPERM);
	ck_assert_int_eq(unlink(user), 0);
}
END_TEST

// Every length shorter than the file, and longer.
START_TEST(truncated)
{
	char buf[4096];
	const char *path = path_in(user, &id);
	size_t size = make(buf, &id, NULL);

	for (size_t n = 0; n < size; n++) {
		write_file(path, buf, n, 0600);
		ck_assert_int_eq(find(), -EBADMSG);
		ck_assert_int_eq(cache_probe(&id, false, NULL), -EBADMSG);
	}
	write_file(path, buf, size, 0600);
	ck_assert_int_eq(find(), 0);
	write_file(path, buf, size + 8, 0600);
	ck_assert_int_eq(find(), -EBADMSG);
	ck_assert_int_eq(truncate(path, (off_t)1 << 40), 0);
	ck_assert_int_eq(find(), -EBADMSG);
}
END_TEST

// Any one bit that differs is noticed.
START_TEST(corrupt)
{
	char buf[4096];
	const char *path = path_in(user, &id);
	size_t size = make(buf, &id, NULL);

	for (size_t i = 0; i < size; i++) {
		buf[i] ^= 1 << i % 8;
		write_file(path, buf, size, 0600);
		ck_assert_int_eq(find(), -EBADMSG);
		buf[i] ^= 1 << i % 8;
	}
}
END_TEST

// A valid table of another module or version under this one's name.
START_TEST(stale)
{
	char buf[4096];
	const char *path = path_in(user, &id);
	struct table_header *h = (struct table_header *)buf;
	const size_t skip = offsetof(struct table_header, checksum) + sizeof h->checksum;
	struct module_id other = id;
	size_t size;

	other.id[19] ^= 1;
	write_file(path, buf, make(buf, &other, NULL), 0600);
	ck_assert_int_eq(find(), -EBADMSG);
	ck_assert_int_eq(cache_probe(&id, false, NULL), -EBADMSG);
	other = id;
	other.size = 0;
	write_file(path, buf, make(buf, &other, NULL), 0600);
	ck_assert_int_eq(find(), -EBADMSG);

	size = make(buf, &id, NULL);
	h->machine = EM_386;
	h->checksum = table_checksum(TABLE_CHECKSUM_INIT, buf + skip, size - skip);
	write_file(path, buf, size, 0600);
	ck_assert_int_eq(find(), -EBADMSG);

	size = make(buf, &id, NULL);
	h->version++;
	write_file(path, buf, size, 0600);
	ck_assert_int_eq(find(), -EBADMSG);
	ck_assert_int_eq(cache_probe(&id, false, NULL), -EBADMSG);
}
END_TEST

// A table that is replaced or removed while it is mapped stays as it was.
START_TEST(replaced_while_mapped)
{
	char path[512], fresh[512], buf[4096];
	struct table table;
	size_t size;

	strcpy(path, put(user));
	ck_assert_int_eq(cache_open(&id, &table, &size), 0);
	sprintf(fresh, "%s/fresh", root);
	memset(buf, 0xff, sizeof buf);
	write_file(fresh, buf, sizeof buf, 0600);
	ck_assert_int_eq(rename(fresh, path), 0);
	ck_assert_int_eq(memcmp(table.header->id, id.id, sizeof id.id), 0);
	ck_assert_uint_eq(table.rows[0].base_reason, TABLE_NO_CFI << 4);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(memcmp(table.header->id, id.id, sizeof id.id), 0);
	cache_close(&table, size);
}
END_TEST

// No descriptor is left open, whatever the outcome.
START_TEST(descriptors)
{
	int before, after;

	config.log = LOG_OFF;
	before = dup(0);
	close(before);
	put(user);
	ck_assert_int_eq(find(), 0);
	ck_assert_int_eq(chmod(path_in(user, &id), 0666), 0);
	ck_assert_int_eq(find(), -EPERM);
	write_file(path_in(user, &id), "x", 1, 0600);
	ck_assert_int_eq(find(), -EBADMSG);
	ck_assert_int_eq(chmod(user, 0777), 0);
	ck_assert_int_eq(find(), -EPERM);
	after = dup(0);
	close(after);
	ck_assert_int_eq(before, after);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, found);
	tcase_add_test(tc, choice);
	tcase_add_test(tc, relative_is_told);
	tcase_add_test(tc, names);
	tcase_add_test(tc, globs);
	tcase_add_test(tc, no_build_id);
	tcase_add_test(tc, system_directory);
	tcase_add_loop_test(tc, directory_modes, 0, 7);
	tcase_add_test(tc, refusal_is_told);
	tcase_add_loop_test(tc, file_modes, 0, 3);
	tcase_add_test(tc, owners);
	tcase_add_test(tc, symlinks);
	tcase_add_test(tc, not_a_file);
	tcase_add_test(tc, not_a_directory);
	tcase_add_test(tc, truncated);
	tcase_add_test(tc, corrupt);
	tcase_add_test(tc, stale);
	tcase_add_test(tc, replaced_while_mapped);
	tcase_add_test(tc, descriptors);
}

int main(void)
{
	return unit_run("cache", add);
}
