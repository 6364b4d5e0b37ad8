// symbols.c: the name of the function at an address of a file, for reports.
//
// Read with pread, piece by piece: a file that is cut off meanwhile is then no more than a name that is not found. The file may be another
// than the one that is mapped; then the name is wrong, and nothing else. Executed at the end of the process, so it takes its time.

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "shim.h"

enum { SECTIONS = 256, PIECE = 128 };

static bool read_at(int fd, void *buf, size_t size, uint64_t at)
{
	return sys4(SYS_pread64, fd, buf, size, at) == (long)size;
}

// The best symbol of this table, if there is one.
static bool search(int fd, const Elf64_Shdr *syms, const Elf64_Shdr *names, uint64_t addr,
		   struct symbol *ret)
{
	uint64_t n = syms->sh_size / sizeof(Elf64_Sym), best = 0;
	Elf64_Sym piece[PIECE];
	Elf64_Word name = 0;

	for (uint64_t i = 0; i < n; i += PIECE) {
		uint64_t k = n - i < PIECE ? n - i : PIECE;

		if (!read_at(fd, piece, k * sizeof *piece, syms->sh_offset + i * sizeof *piece))
			return false;
		for (uint64_t s = 0; s < k; s++) {
			if (ELF64_ST_TYPE(piece[s].st_info) == STT_FUNC && piece[s].st_shndx &&
			    piece[s].st_value <= addr &&
			    addr - piece[s].st_value < piece[s].st_size &&
			    piece[s].st_value >= best) {
				best = piece[s].st_value;
				name = piece[s].st_name;
			}
		}
	}
	if (!name || name >= names->sh_size)
		return false;
	memset(ret->name, 0, sizeof ret->name);
	if (sys4(SYS_pread64, fd, ret->name, sizeof ret->name - 1, names->sh_offset + name) <= 0 ||
	    !ret->name[0])
		return false;
	ret->offset = addr - best;
	return true;
}

bool symbol_at(const char *path, uint64_t addr, struct symbol *ret)
{
	Elf64_Ehdr head;
	Elf64_Shdr section, names;
	bool found = false;
	int fd = (int)sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
			   0);

	if (fd < 0)
		return false;
	if (!read_at(fd, &head, sizeof head, 0) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
	    head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_shentsize != sizeof section)
		head.e_shnum = 0;
	// All symbols, if there are; else those that are exported.
	for (int pass = 0; pass < 2 && !found; pass++) {
		for (uint32_t i = 0; i < head.e_shnum && i < SECTIONS && !found; i++) {
			if (!read_at(fd, &section, sizeof section,
				     head.e_shoff + i * sizeof section))
				break;
			if (section.sh_type != (pass == 0 ? SHT_SYMTAB : SHT_DYNSYM) ||
			    section.sh_link >= head.e_shnum ||
			    !read_at(fd, &names, sizeof names,
				     head.e_shoff + section.sh_link * sizeof section))
				continue;
			found = search(fd, &section, &names, addr, ret);
		}
	}
	sys1(SYS_close, fd);
	return found;
}
