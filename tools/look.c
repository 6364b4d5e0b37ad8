// look.c: looks at an ELF file without running it. The file is untrusted: libelf checks all sizes.

#include "look.h"
#include "safepoint/compiler.h"

#include <fcntl.h>
#include <gelf.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	enum import import;
} names[] = {
	{"pthread_create", IMPORT_THREADS}, {"thrd_create", IMPORT_THREADS},
	{"sigaction", IMPORT_SIGNALS},	    {"__sigaction", IMPORT_SIGNALS},
	{"signal", IMPORT_SIGNALS},	    {"__sysv_signal", IMPORT_SIGNALS},
	{"bsd_signal", IMPORT_SIGNALS},	    {"sigset", IMPORT_SIGNALS},
	{"signalfd", IMPORT_SIGNALS},	    {"clone", IMPORT_CLONE},
	{"__clone", IMPORT_CLONE},	    {"makecontext", IMPORT_STACKS},
	{"swapcontext", IMPORT_STACKS},	    {"dlopen", IMPORT_DLOPEN},
	{"dlmopen", IMPORT_DLOPEN},
};

static void look_at_symbols(Elf *elf, Elf_Scn *scn, const GElf_Shdr *sh, struct look *ret)
{
	Elf_Data *data = elf_getdata(scn, NULL);
	size_t n = data && sh->sh_entsize ? data->d_size / sh->sh_entsize : 0;
	GElf_Sym sym;

	for (size_t i = 1; i < n && gelf_getsym(data, (int)i, &sym); i++) {
		const char *name;

		if (sym.st_shndx != SHN_UNDEF)
			continue;
		name = elf_strptr(elf, sh->sh_link, sym.st_name);
		for (size_t k = 0; name && k < sizeof names / sizeof *names; k++) {
			if (strcmp(name, names[k].name) == 0)
				ret->imports |= names[k].import;
		}
	}
}

static void look_at_sections(Elf *elf, struct look *ret)
{
	Elf_Scn *scn = NULL;
	size_t strings;
	GElf_Shdr sh;

	if (elf_getshdrstrndx(elf, &strings) != 0)
		return;
	while ((scn = elf_nextscn(elf, scn))) {
		const char *name;

		if (!gelf_getshdr(scn, &sh))
			continue;
		name = elf_strptr(elf, strings, sh.sh_name);
		if (name && strcmp(name, ".eh_frame") == 0 && sh.sh_size > 8)
			ret->unwind = true;
		if (name && strcmp(name, ".note.go.buildid") == 0)
			ret->go = true;
		if (sh.sh_type == SHT_DYNSYM)
			look_at_symbols(elf, scn, &sh, ret);
	}
}

static void look_at_segments(Elf *elf, int fd, struct look *ret)
{
	size_t n;
	GElf_Phdr ph;

	if (elf_getphdrnum(elf, &n) != 0)
		return;
	for (size_t i = 0; i < n && gelf_getphdr(elf, (int)i, &ph); i++) {
		if (ph.p_type == PT_INTERP && ph.p_filesz < sizeof ret->interpreter &&
		    pread(fd, ret->interpreter, ph.p_filesz, (off_t)ph.p_offset) !=
			    (ssize_t)ph.p_filesz)
			ret->interpreter[0] = 0;
		if (ph.p_type == PT_GNU_EH_FRAME) // also without section headers
			ret->unwind = true;
		if (ph.p_type == PT_LOAD && (ph.p_flags & PF_X) && ph.p_filesz)
			ret->code = true;
	}
}

bool look_at(const char *path, struct look *ret)
{
	int fd = module_file(path);
	GElf_Ehdr eh;
	Elf *elf;

	*ret = (struct look){0};
	if (fd < 0)
		return false;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	if (elf && elf_kind(elf) == ELF_K_ELF && gelf_getehdr(elf, &eh)) {
		ret->elf = true;
		ret->bits = gelf_getclass(elf) == ELFCLASS64 ? 64 : 32;
		ret->x86_64 = eh.e_machine == EM_X86_64 && ret->bits == 64;
		ret->dynamic_object = eh.e_type == ET_DYN;
		look_at_segments(elf, fd, ret);
		look_at_sections(elf, ret);
	}
	elf_end(elf);
	close(fd);
	return ret->elf;
}
