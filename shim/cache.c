// cache.c: where the tables of safe points lie in the file system, and which of them are believed.
//
// Problem. A table decides where threads are stopped. One that somebody else wrote, that belongs to another
// build of the module, or that a power failure tore must never be used; and the program runs on while we look.
// Approach. Two directories: the user's, which builders fill, and one of the system, which an administrator may
// have filled. A directory or a file counts only if it belongs to the effective user or to root and nobody else may
// write to it. Both are opened first and judged by their open descriptors, the file relative to the directory's, so a
// name that is exchanged in between changes nothing. Symbolic links are followed in the way to the directory only.
// Then table_check() looks at all of the file, and identity, machine and globs must be those that were asked for.
// Rejected: one file for all tables (writers would need locks that readers see); copying tables into anonymous memory (a
// file that is cut while it is mapped would do no harm, but builders only ever rename whole files into place, and the
// only others who can write are the user and root; every process would pay the memory).
// Delicate: a builder replaces a file between open and mmap. The mapping is that of the old file, whole and valid.

#include <errno.h>
#include <fcntl.h>
#include <elf.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "shim.h"

enum {
	DIR_MAX = 512,
	NAME_SIZE = 2 + 2 * TABLE_ID_MAX + 1 + 16 + 4 + 1, // s-ID-GLOBS.tab
};
// No table comes near: that of 100 MB of text has 30 MB.
#define FILE_MAX ((off_t)1 << 30)

const char *cache_system_dir = PREEMPT_SYSTEM_CACHE;

static struct {
	char dir[DIR_MAX]; // the user's; "": there is none
	bool chosen;	   // by PREEMPT_CACHE_DIR
	bool told;
	uint64_t globs;
} cache;

// --- which directory ------------------------------------------------------------------------------

// dir + tail without slashes at the end (a name that ends in one would follow a symbolic link there).
static bool choose(const char *dir, const char *tail)
{
	struct text t = {cache.dir, 0, sizeof cache.dir};

	cache.dir[0] = 0;
	if (!dir || dir[0] != '/' || str_len(dir) + str_len(tail) >= sizeof cache.dir)
		return false;
	text_printf(&t, "%s", dir);
	while (t.len > 1 && cache.dir[t.len - 1] == '/')
		cache.dir[--t.len] = 0;
	text_printf(&t, "%s", tail);
	return true;
}

void cache_init(const char *dir, const char *xdg_cache_home, const char *home, const char *globs)
{
	cache.globs = cache_globs_hash(globs);
	cache.chosen = dir && *dir;
	cache.told = false;
	if (cache.chosen) {
		if (choose(dir, ""))
			return;
		log_line(LOG_WARN, "PREEMPT_CACHE_DIR=%s: %s; using the default", dir,
			 dir[0] == '/' ? "too long" : "not an absolute path");
		cache.chosen = false;
	}
	if (!choose(xdg_cache_home, "/preempt"))
		choose(home, "/.cache/preempt");
}

uint64_t cache_globs_hash(const char *globs)
{
	uint64_t hash = TABLE_CHECKSUM_INIT;

	if (!globs || !*globs)
		return 0;
	for (; *globs; globs++)
		hash = (hash ^ (unsigned char)*globs) * 0x100000001b3; // FNV-1a
	return hash ? hash : 1;
}

// --- what is believed -------------------------------------------------------------------------------

static bool trusted(const struct stat *st)
{
	return (st->st_uid == 0 || st->st_uid == (uid_t)sys0(SYS_geteuid)) &&
	       !(st->st_mode & (S_IWGRP | S_IWOTH));
}

int cache_dir_open(const char *path)
{
	struct stat st;
	// O_PATH: a directory that may be searched but not listed will do.
	int fd = (int)sys3(SYS_open, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
	int r;

	if (fd == -ELOOP || fd == -ENOTDIR)
		return -EPERM; // a symbolic link in its place, or a file
	if (fd < 0)
		return fd;
	r = (int)sys2(SYS_fstat, fd, &st);
	if (r == 0 && trusted(&st))
		return fd;
	sys1(SYS_close, fd);
	return r < 0 ? r : -EPERM;
}

static int file_open(int dir, const char *name, struct stat *ret_st)
{
	// Not to wait for the writer of a FIFO.
	int fd = (int)sys4(SYS_openat, dir, name,
			   O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
	int r;

	if (fd == -ELOOP || fd == -ENXIO)
		return -EPERM;
	if (fd < 0)
		return fd;
	r = (int)sys2(SYS_fstat, fd, ret_st);
	if (r == 0 && (!S_ISREG(ret_st->st_mode) || !trusted(ret_st)))
		r = -EPERM;
	if (r == 0 &&
	    (ret_st->st_size < (off_t)sizeof(struct table_header) || ret_st->st_size > FILE_MAX))
		r = -EBADMSG;
	if (r == 0)
		return fd;
	sys1(SYS_close, fd);
	return r;
}

static bool matches(const struct table_header *h, const struct module_id *id)
{
	if (h->id_size != id->size || h->machine != EM_X86_64 || h->globs_hash != cache.globs)
		return false;
	for (int i = 0; i < TABLE_ID_MAX; i++) {
		if (h->id[i] != id->id[i])
			return false;
	}
	return true;
}

// Enough to know that a builder made this file whole; the body is not read.
static int peek(int fd, const struct stat *st, const struct module_id *id)
{
	struct table_header h;
	long n = sys4(SYS_pread64, fd, &h, sizeof h, 0);

	if (n < 0)
		return (int)n;
	if (n != sizeof h)
		return -EBADMSG;
	for (int i = 0; i < 8; i++) {
		if (h.magic[i] != TABLE_MAGIC[i])
			return -EBADMSG;
	}
	return h.version == TABLE_VERSION && h.file_size == (uint64_t)st->st_size && matches(&h, id)
		       ? 0
		       : -EBADMSG;
}

static int map(int fd, const struct stat *st, const struct module_id *id, struct table *ret_table)
{
	struct table table;
	// All of it is about to be read: one walk instead of a fault for every few pages.
	long p = sys6(SYS_mmap, 0, st->st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);

	if (p < 0 && p > -4096)
		return (int)p;
	if (table_check((void *)p, (size_t)st->st_size, &table) || !matches(table.header, id)) {
		sys2(SYS_munmap, p, st->st_size);
		return -EBADMSG;
	}
	*ret_table = table;
	return 0;
}

// --- lookup -----------------------------------------------------------------------------------------

static void name_of(const struct module_id *id, struct text *t)
{
	uint32_t n = id->size ? id->size : TABLE_ID_MAX;

	text_printf(t, "%s", id->size ? "" : "s-");
	for (uint32_t i = 0; i < n && i < TABLE_ID_MAX; i++)
		text_printf(t, "%02x", id->id[i]);
	if (cache.globs)
		text_printf(t, "-%016lx", cache.globs);
	text_printf(t, ".tab");
}

// Once for a directory that the user named; one of the defaults may well be of no use, as under sudo.
static void tell(const char *path)
{
	if (cache.told)
		return;
	cache.told = true;
	log_line(cache.chosen ? LOG_WARN : LOG_INFO,
		 "%s: not used as table cache: it is no directory of this user's or root's that "
		 "only "
		 "its owner may write to",
		 path);
}

// Look in one directory. ret_table NULL: the header only.
static int look(const char *dir, const struct module_id *id, struct table *ret_table,
		size_t *ret_size)
{
	char name[NAME_SIZE];
	struct text t = {name, 0, sizeof name};
	struct stat st;
	int dirfd, fd, r;

	dirfd = cache_dir_open(dir);
	if (dirfd == -EPERM && dir == cache.dir)
		tell(dir);
	if (dirfd < 0)
		return dirfd;
	name_of(id, &t);
	fd = file_open(dirfd, name, &st);
	sys1(SYS_close, dirfd);
	if (fd < 0)
		return fd;
	r = ret_table ? map(fd, &st, id, ret_table) : peek(fd, &st, id);
	sys1(SYS_close, fd);
	if (r == 0 && ret_size)
		*ret_size = (size_t)st.st_size;
	return r;
}

// The answer of the user's directory tells the caller whether a builder can help; that of the
// system's counts when it has the table, or when there is no other.
static int find(const struct module_id *id, struct table *ret_table, size_t *ret_size,
		const char **ret_dir)
{
	int r = -ENOENT, r2;

	if (id->size > TABLE_ID_MAX)
		return -EINVAL;
	if (cache.dir[0]) {
		r = look(cache.dir, id, ret_table, ret_size);
		*ret_dir = cache.dir;
		if (r == 0)
			return 0;
	}
	r2 = look(cache_system_dir, id, ret_table, ret_size);
	if (r2 == 0 || !cache.dir[0]) {
		*ret_dir = cache_system_dir;
		r = r2;
	}
	return r;
}

int cache_open(const struct module_id *id, struct table *ret_table, size_t *ret_size)
{
	const char *dir;

	return find(id, ret_table, ret_size, &dir);
}

int cache_probe(const struct module_id *id, bool whole, struct text *ret_path)
{
	struct table table;
	const char *dir = NULL;
	size_t size;
	int r = find(id, whole ? &table : NULL, &size, &dir);

	if (r == 0 && whole)
		cache_close(&table, size);
	if (ret_path && dir) {
		text_printf(ret_path, "%s/", dir);
		name_of(id, ret_path);
	}
	return r;
}

void cache_close(struct table *table, size_t size)
{
	sys2(SYS_munmap, table->header, size);
	*table = (struct table){0};
}

const char *cache_dir(void)
{
	if (cache.dir[0])
		return cache.dir;
	// A daemon of root's without HOME.
	return sys0(SYS_geteuid) == 0 ? cache_system_dir : NULL;
}

int cache_path(const struct module_id *id, struct text *ret_path)
{
	const char *dir = cache_dir();
	int fd;

	if (!dir)
		return -ENOENT;
	fd = cache_dir_open(dir);
	if (fd >= 0)
		sys1(SYS_close, fd);
	else if (fd != -ENOENT) // the builder makes it
		return fd == -EPERM ? -EPERM : -ENOENT;
	if (id->size > TABLE_ID_MAX || str_len(dir) + 1 + NAME_SIZE > ret_path->cap)
		return -ENOENT;
	text_printf(ret_path, "%s/", dir);
	name_of(id, ret_path);
	return 0;
}
