// text.c: a few bytes of text that other threads are executing are replaced.
//
// Problem. A thread may be anywhere in the page that is to be changed. The page must be executable at every moment, no
// thread may ever fetch half of a new instruction, and no page may be writable and executable.
// Approach. A second copy of the page is made: the same file, privately mapped at another place, with the present content and
// the new bytes, made executable like the first, locked in memory if the first is. mremap then puts it in the place of the first. It does so under the kernel's lock
// for the address space: a thread that runs into the page meanwhile takes a page fault, and waits in it until the new one is
// there. When mremap returns, the old page is in no CPU's translation buffer any more, and each CPU that ran one of
// our threads has taken an interrupt, or has been told in a way that counts as much; so there is no code modified under
// execution in the sense of the processors' manuals: no CPU ever executes from a page that is being written to. Cache lines do not
// matter, and neither does membarrier(2). The mapping is of the same file, offset and rights as before, and so are its lines in
// /proc/self/maps.
//
// What is mapped is looked at first, and once more at the last moment: it must be a private mapping of a file, r-x, the file at its
// path still the same, and the content what was copied. If anything is different, or refused (SELinux, PaX, a sealed mapping), nothing
// is changed. A program that changes the very same page itself must do so within some microseconds for its change to be lost.
//
// Rejected:
//  - mprotect to read-write and back: others fault meanwhile. To read, write and execute: forbidden on hardened systems, and
//    the store is then one to code that runs: Intel promises nothing for that.
//  - /proc/self/mem: keeps the page executable, but the kernel copies two bytes with two stores, or as its CPU likes.
//  - int3 first, as the kernel does it for itself: it needs SIGTRAP, which is the program's; who blocks it would die.
//  - an anonymous page: the file's name would vanish from /proc/self/maps, where profilers and crash reporters look for it.
//  - one copy of all the text at once: where memory is locked (MCL_FUTURE) or strictly accounted, it is the whole library's.
//
// Delicate. mremap unmaps the old page before it moves the new one. The kernel checks beforehand what can fail; should it
// fail still, the file is mapped there again at once. And if the module is unloaded at that moment, the page would be put
// where other memory may be by then: dlclose waits until we are done (sites.c).
//
// All of this runs in a process of its own that shares our memory (helper_call), for files may be slow; sysmon must not
// wait, and no thread-local data may be used here.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "shim.h"

enum {
	PAGE = 4096,
	LINES_MAX =
		50000, // of /proc/self/maps, to which each page adds two; the kernel's limit is 65530
	SPAN_MAX = 1 << 30, // bytes of text
	SECOND = 1000000000,
};

static struct {
	uint32_t lines;
	uintptr_t lo, hi; // all pages to be replaced
	uintptr_t done;	  // [lo, done) is text, of one file, at one distance from its offsets
	uint64_t distance, dev, ino;
	bool bad;
	bool locked;	    // some memory of the process is locked
	uintptr_t from, to; // the copy, and the page it is of
	bool copy_good, page_good;
	char path[256];
	char buf[16384];
	uint8_t was[PAGE], is[PAGE];
} w;

static int memory_write(uintptr_t addr, const void *buf, size_t size)
{
	struct iovec local = {(void *)(uintptr_t)buf, size}, remote = {(void *)addr, size};
	long n = sys6(SYS_process_vm_writev, os_getpid(), (long)&local, 1, (long)&remote, 1, 0);

	return n < 0 ? (int)n : n == (long)size ? 0 : -EFAULT;
}

// The lines that the pages lie in: all alike.
static void look(void *arg, const struct map_line *line)
{
	size_t len = str_len(line->path);

	(void)arg;
	w.lines++;
	if (line->end <= w.lo || line->start >= w.hi)
		return;
	if (line->start > w.done || !line->text || line->deleted || !len || len >= sizeof w.path) {
		w.bad = true;
		return;
	}
	if (w.done == w.lo) {
		w.distance = line->start - line->offset;
		w.dev = line->dev;
		w.ino = line->ino;
		memcpy(w.path, line->path, len + 1);
	} else if (line->start - line->offset != w.distance || line->dev != w.dev ||
		   line->ino != w.ino) {
		w.bad = true;
	}
	w.done = line->end;
}

// Does addr, in this line, show what the file has for the page w.to?
static bool shows_page(const struct map_line *line, uintptr_t addr)
{
	return line->dev == w.dev && line->ino == w.ino &&
	       line->offset + (addr - line->start) == w.to - w.distance;
}

static void look_again(void *arg, const struct map_line *line)
{
	(void)arg;
	if (w.from >= line->start && w.from < line->end)
		w.copy_good = shows_page(line, w.from);
	if (w.to >= line->start && w.to < line->end)
		w.page_good = line->text && !line->deleted && shows_page(line, w.to);
}

static int read_maps(map_fn *fn)
{
	struct map_cursor cursor = {0, false};
	int r;

	do
		r = maps_read(&cursor, w.buf, sizeof w.buf, SECOND, fn, NULL);
	while (r == 0 && !cursor.done);
	return r;
}

// The number in such a line of /proc/PID/status, or -1.
static int64_t status(const char *path, const char *key)
{
	size_t len = str_len(key);
	int n = os_read_file(path, w.buf, sizeof w.buf);

	for (int i = 0; i + (int)len < n; i++) {
		int64_t v = 0;

		if (memcmp(w.buf + i, key, len) != 0)
			continue;
		for (i += (int)len; w.buf[i] == ' ' || w.buf[i] == '\t'; i++)
			;
		for (; w.buf[i] >= '0' && w.buf[i] <= '9' && v < INT32_MAX; i++)
			v = v * 10 + w.buf[i] - '0';
		return v;
	}
	return -1;
}

// Is a debugger attached? It has breakpoints in the text, and expectations.
static bool traced(int pid)
{
	char path[64];
	struct text t = {path, 0, sizeof path};

	text_printf(&t, "/proc/%d/status", pid);
	return status(path, "\nTracerPid:") != 0;
}

// Text of these is theirs alone: the C library and the loader, whose own locks and waits must stay what they are, and
// run-time libraries that watch the program.
static bool is_taboo(const char *path)
{
	static const char *const names[] = {
		"libc.",   "libc-",   "ld-",	  "ld.so",   "libpthread", "libpreempt", "libgcc_s",
		"libasan", "libtsan", "libubsan", "liblsan", "libdl",	   "librt.",	 "librt-"};
	const char *base = path;

	for (const char *p = path; *p; p++) {
		static const char gconv[] = "/gconv/"; // the C library unloads them on its own

		if (*p == '/')
			base = p + 1;
		for (size_t k = 0; gconv[k] == p[k]; k++)
			if (!gconv[k + 1])
				return true;
	}
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		for (size_t k = 0; names[i][k] == base[k]; k++)
			if (!names[i][k + 1])
				return true;
	return false;
}

// A page that is locked stays so. The kernel tells by refusing advice; where it does not know this one (before 5.4), all pages
// are taken for locked if any memory is.
static int lock_as(uintptr_t page, uintptr_t copy)
{
	enum { ADVISE_COLD = 20 };

	if (!w.locked || sys3(SYS_madvise, page, PAGE, ADVISE_COLD) != -EINVAL)
		return 0;
	return (int)sys2(SYS_mlock, copy, PAGE);
}

// Write the new content to the copy, and make it like the page it is of.
static int fill_copy(struct text_order *o)
{
	int r = memory_write(w.from, w.is, PAGE);

	if (r == 0)
		r = lock_as(w.to, w.from);
	if (r < 0)
		return r;
	r = (int)sys3(SYS_mprotect, w.from, PAGE, PROT_READ | PROT_EXEC);
	o->refused |= r < 0;
	return r;
}

// The last look: nobody has changed the page meanwhile, a debugger has not come, dlclose does not wait.
static int may_replace(const struct text_order *o)
{
	int r;

	w.copy_good = w.page_good = false;
	r = read_maps(look_again);
	if (r < 0)
		return r;
	if (!w.copy_good || !w.page_good)
		return -ESTALE;
	if (traced(o->pid))
		return -EBUSY;
	r = memory_read(w.to, w.is, PAGE);
	if (r < 0)
		return r;
	if (memcmp(w.is, w.was, PAGE) != 0)
		return -ESTALE;
	return *(const volatile bool *)o->stop ? -ECANCELED : 0;
}

// Put the patches v[0..n), all in the page w.to, into a copy of it, and that in its place.
static int replace(struct text_order *o, const struct text_patch *v, uint32_t n, long fd)
{
	uint32_t written = 0;
	long r;

	r = memory_read(w.to, w.was, PAGE);
	if (r < 0)
		return (int)r;
	memcpy(w.is, w.was, PAGE);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t *p = w.is + (v[i].at - w.to);

		if (memcmp(p, v[i].was, v[i].size) != 0) {
			o->skipped++;
			continue;
		}
		memcpy(p, v[i].is, v[i].size);
		written++;
	}
	if (!written)
		return 0;
	r = sys6(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd,
		 (long)(w.to - w.distance));
	if (r < 0 && r > -PAGE)
		return (int)r;
	w.from = (uintptr_t)r;
	r = fill_copy(o);
	if (r == 0)
		r = may_replace(o);
	if (r == 0) {
		r = sys5(SYS_mremap, w.from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, w.to);
		if (r >= 0) {
			o->pages++;
			return 0;
		}
		if (memory_read(w.to, w.is, 1) < 0)
			sys6(SYS_mmap, (long)w.to, PAGE, PROT_READ | PROT_EXEC,
			     MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, (long)(w.to - w.distance));
	}
	sys2(SYS_munmap, w.from, PAGE);
	return (int)r;
}

static int replace_all(struct text_order *o, const struct text_patch *v, uint32_t n, long fd)
{
	int r = 0;

	for (uint32_t i = 0, k; r == 0 && i < n; i = k) {
		w.to = v[i].at & -(uintptr_t)PAGE;
		for (k = i + 1; k < n && v[k].at - w.to < PAGE; k++)
			;
		r = replace(o, v + i, k - i, fd);
	}
	return r;
}

int text_write(struct text_order *o)
{
	long fd;
	int r;

	w.lines = 0;
	w.bad = false;
	w.lo = UINTPTR_MAX;
	w.hi = 0;
	w.path[0] = 0;
	for (int i = 0; i < 2; i++) {
		if (o->n[i] == 0)
			continue;
		if (o->v[i][0].at < w.lo)
			w.lo = o->v[i][0].at;
		if (o->v[i][o->n[i] - 1].at >= w.hi)
			w.hi = o->v[i][o->n[i] - 1].at + 1;
	}
	w.lo &= -(uintptr_t)PAGE;
	w.hi = (w.hi + PAGE - 1) & -(uintptr_t)PAGE;
	if (w.lo < o->start || w.hi > ((o->end + PAGE - 1) & -(uintptr_t)PAGE) || w.hi <= w.lo ||
	    w.hi - w.lo > SPAN_MAX)
		return -EINVAL;
	w.done = w.lo;
	// Ours, under whatever name: what stands for a system call makes one itself.
	if ((uintptr_t)text_write - o->start < o->end - o->start)
		return -EPERM;
	if (traced(o->pid))
		return -EBUSY;
	r = read_maps(look);
	memcpy(o->path, w.path, sizeof o->path);
	if (r < 0)
		return r;
	if (w.bad || w.done < w.hi)
		return -EACCES;
	if (is_taboo(w.path))
		return -EPERM;
	if (w.lines > LINES_MAX)
		return -ENOMEM;
	fd = sys3(SYS_open, w.path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	w.locked = status("/proc/self/status", "\nVmLck:") > 0;
	r = replace_all(o, o->v[0], o->n[0], fd);
	// Where one of the first is missing the second could lead nowhere.
	if (r == 0 && o->skipped)
		r = -ESTALE;
	if (r == 0)
		r = replace_all(o, o->v[1], o->n[1], fd);
	sys1(SYS_close, fd);
	return r;
}
