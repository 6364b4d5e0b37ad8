// maps.c: what is mapped, and which module it is.
//
// Problem. sysmon has to know the modules of the process. The loader's list needs the loader's lock, and dlclose may
// unmap a module while we look at it.
// Approach. /proc/self/maps says where files are mapped. Which file it is, the mapped image itself says, by its
// build-id. It is read by process_vm_readv on ourselves, which fails where a plain read would fault.
// Rejected: opening the file and reading the build-id there. The file at the path may be another one by now; dev and inode
// of the mapping and of the path differ on overlayfs and btrfs; and an open may hang on a dead network mount, and sysmon with
// it. Only a module without build-id needs the path, for size and mtime, and statx does not ask the server for these.
// Both are asked for as the calling thread's: the process, that is its first thread, has no memory any more once that has ended.
// Rejected: keeping /proc/self/maps open between calls: the program may close any descriptor and use its number anew.
//
// Delicate: lines come and go between two calls, so the offset may end up inside a line. Lines that
// do not parse are skipped, and what a line says is checked against memory before it is used.

#include <errno.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "shim.h"

// --- memory that may vanish ---------------------------------------------------------------------

static int read_by_proc(uintptr_t addr, void *buf, size_t size)
{
	long fd = sys3(SYS_open, "/proc/thread-self/mem", O_RDONLY | O_CLOEXEC, 0), n;

	if (fd < 0)
		return (int)fd;
	n = sys4(SYS_pread64, fd, buf, size, addr);
	sys1(SYS_close, fd);
	return n < 0 ? (int)n : n == (long)size ? 0 : -EFAULT;
}

// Signal-safe.
int memory_read(uintptr_t addr, void *buf, size_t size)
{
	struct iovec local = {buf, size}, remote = {(void *)addr, size};
	long n;

	if (confined_somehow()) // filters for services forbid what debuggers use, some of them by death
		return read_by_proc(addr, buf, size);
	n = sys6(SYS_process_vm_readv, os_gettid(), (long)&local, 1, (long)&remote, 1, 0);
	if (n == -ENOSYS || n == -EPERM) // old, or forbidden otherwise
		return read_by_proc(addr, buf, size);
	return n < 0 ? (int)n : n == (long)size ? 0 : -EFAULT;
}

// --- /proc/self/maps ------------------------------------------------------------------------------

static bool number(char **s, unsigned base, char end, uint64_t *ret)
{
	uint64_t v = 0;
	char *p = *s;

	for (;; p++) {
		unsigned digit = (unsigned char)*p;

		if (digit >= '0' && digit <= '9')
			digit -= '0';
		else if (base == 16 && digit >= 'a' && digit <= 'f')
			digit -= 'a' - 10;
		else
			break;
		if (v >> 60)
			return false;
		v = v * base + digit;
	}
	if (p == *s || *p != end)
		return false;
	*s = p + 1;
	*ret = v;
	return true;
}

// The kernel's encoding, as in st_dev.
static uint64_t device(uint64_t major, uint64_t minor)
{
	return (minor & 0xff) | (major & 0xfff) << 8 | (minor & ~(uint64_t)0xff) << 12 |
	       (major & ~(uint64_t)0xfff) << 32;
}

// "START-END PERM OFFSET MAJOR:MINOR INODE   PATH"; the path may be missing.
bool maps_parse(char *s, struct map_line *ret)
{
	static const char deleted[] = " (deleted)", vdso[] = "[vdso]";
	uint64_t start, end, offset, major, minor, ino;
	const char *perm;
	size_t len;

	if (!number(&s, 16, '-', &start) || !number(&s, 16, ' ', &end) || start >= end)
		return false;
	perm = s;
	for (int i = 0; i < 4; i++)
		if (*s++ == 0)
			return false;
	if (*s++ != ' ' || !number(&s, 16, ' ', &offset) || !number(&s, 16, ':', &major) ||
	    !number(&s, 16, ' ', &minor))
		return false;
	len = str_len(s);
	if (!number(&s, 10, ' ', &ino) && !number(&s, 10, 0, &ino))
		return false;
	if (s[-1] == 0)
		s--;
	while (*s == ' ')
		s++;
	*ret = (struct map_line){
		.start = start,
		.end = end,
		.offset = offset,
		.dev = device(major, minor),
		.ino = ino,
		.exec = perm[2] == 'x',
		.text = ino && perm[0] == 'r' && perm[1] == '-' && perm[2] == 'x' && perm[3] == 'p',
		.path = (*s == '/' && ino) || str_eq(s, vdso) ? s : "",
	};
	len = str_len(s);
	if (len >= sizeof deleted && str_eq(s + len - (sizeof deleted - 1), deleted)) {
		s[len - (sizeof deleted - 1)] = 0;
		ret->deleted = true;
	}
	// A newline in a name is shown as \012, and so is a real "\012": such a path is not known.
	for (const char *p = s; *p; p++)
		if (p[0] == '\\' && p[1] == '0' && p[2] == '1' && p[3] == '2')
			ret->deleted = true;
	return true;
}

// The kernel walks over the lines before the offset, 0.1 us each, in the first read: the time counts from there, or a long list
// would take the square of its length.
int maps_read(struct map_cursor *c, char *buf, size_t size, int64_t time, map_fn *fn, void *arg)
{
	long fd = sys3(SYS_open, "/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0), n;
	int64_t start = 0;
	size_t have = 0;

	if (fd < 0)
		return (int)fd;
	n = sys3(SYS_lseek, fd, c->offset, 0 /* SEEK_SET */);
	while (n >= 0) {
		char *line = buf, *p;

		n = sys3(SYS_read, fd, buf + have, size - have);
		if (n <= 0)
			break;
		have += (size_t)n;
		for (p = buf; p < buf + have; p++) {
			struct map_line parsed;

			if (*p != '\n')
				continue;
			*p = 0;
			c->offset += (size_t)(p + 1 - line);
			if (maps_parse(line, &parsed))
				fn(arg, &parsed);
			line = p + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
		if (have == size) {
			n = -EOVERFLOW; // no line is that long
			break;
		}
		if (!start)
			start = os_nanotime();
		if (os_nanotime() - start >= time)
			break;
	}
	sys1(SYS_close, fd);
	if (n <= 0)
		c->done = true;
	return n < 0 ? (int)n : 0;
}

// --- which module -----------------------------------------------------------------------------------

// The notes of one segment: the GNU build-id.
static bool find_build_id(const uint8_t *notes, size_t size, size_t align, struct module_id *ret)
{
	size_t at = 0;

	while (size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		size_t name, desc, next;

		memcpy(&note, notes + at, sizeof note);
		name = at + sizeof note;
		if (note.n_namesz > size || note.n_descsz > size)
			return false;
		desc = (name + note.n_namesz + align - 1) & ~(align - 1);
		next = (desc + note.n_descsz + align - 1) & ~(align - 1);
		if (desc + note.n_descsz > size)
			return false;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && note.n_descsz > 0 &&
		    memcmp(notes + name, "GNU", 4) == 0) {
			ret->size = note.n_descsz < TABLE_ID_MAX ? note.n_descsz : TABLE_ID_MAX;
			memcpy(ret->id, notes + desc, ret->size);
			return true;
		}
		if (next >= size)
			return false;
		at = next;
	}
	return false;
}

// Without a build-id: device, inode, size and mtime of the file, if the path still leads to it.
static int identify_by_file(const struct map_line *line, struct module_id *ret)
{
	struct statx st;
	uint64_t id[4];
	long r;

	if (!line || *line->path != '/' || line->deleted)
		return -ENOENT;
	if (confine_deadly(CONFINE_TABLES))
		return -EPERM;
	r = sys5(SYS_statx, AT_FDCWD, line->path, 0x4000 /* AT_STATX_DONT_SYNC */,
		 STATX_BASIC_STATS, &st);
	if (r < 0)
		return (int)r;
	id[0] = device(st.stx_dev_major, st.stx_dev_minor);
	id[1] = st.stx_ino;
	id[2] = st.stx_size;
	id[3] = (uint64_t)st.stx_mtime.tv_sec * 1000000000 + st.stx_mtime.tv_nsec;
	if (id[0] != line->dev || id[1] != line->ino)
		return -ESTALE;
	memcpy(ret->id, id, sizeof id);
	return 0;
}

static bool program_header(const uint8_t *head, size_t size, const Elf64_Ehdr *eh, size_t i,
			   Elf64_Phdr *ret)
{
	size_t at = eh->e_phoff + i * sizeof *ret;

	if (i >= eh->e_phnum || at + sizeof *ret > size)
		return false;
	memcpy(ret, head + at, sizeof *ret);
	return true;
}

// All of the image is untrusted: the program may have written anything there.
int module_identify(uintptr_t start, uintptr_t end, const struct map_line *line,
		    struct module_id *ret_id)
{
	enum { HEAD = 2048, NOTES = 2048 };
	uint8_t head[HEAD], notes[NOTES];
	struct module_id id = {.size = 0};
	uintptr_t bias;
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	int r;

	if (end < start || end - start < HEAD)
		return -ENOEXEC;
	r = memory_read(start, head, HEAD);
	if (r < 0)
		return r;
	memcpy(&eh, head, sizeof eh);
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh.e_machine != EM_X86_64 || eh.e_phentsize != sizeof ph || eh.e_phoff > HEAD)
		return -ENOEXEC;
	for (size_t i = 0;; i++) {
		if (!program_header(head, HEAD, &eh, i, &ph))
			return -ENOEXEC;
		if (ph.p_type == PT_LOAD)
			break;
	}
	bias = start - (ph.p_vaddr & ~(uintptr_t)4095);
	for (size_t i = 0; !id.size && program_header(head, HEAD, &eh, i, &ph); i++) {
		uintptr_t addr = bias + ph.p_vaddr;
		size_t size = ph.p_memsz < NOTES ? ph.p_memsz : NOTES;

		if (ph.p_type == PT_NOTE && addr >= start && addr <= end && size <= end - addr &&
		    memory_read(addr, notes, size) == 0)
			find_build_id(notes, size, ph.p_align == 8 ? 8 : 4, &id);
	}
	if (!id.size) {
		r = identify_by_file(line, &id);
		if (r < 0)
			return r;
	}
	*ret_id = id;
	return 0;
}
