// elf.c: opens a module and its debug file.
//
// Problem. The other passes want the code, the frame descriptions, the symbols and the identity of an ELF file that
// nobody vouches for, and they must not have to check a single offset themselves.
//
// Approach. libelf maps the file and reads its headers; the contents are taken straight from the mapping, after each
// offset and size is compared with the file's. Nothing is copied but compressed sections and the list of functions,
// so memory is in proportion to the file. The executable sections must lie where a segment maps them from, or the
// table would describe bytes that never run there. A file without section headers is read by its segments.
//
// Debug information lies in the file, or in /usr/lib/debug by build-id; the second is asked only for what the first
// has not, and must carry the same build-id.
//
// Rejected: copying files into memory (debug files may have gigabytes); .zdebug_* sections (no toolchain has written
// them by itself for ten years). If somebody cuts the file while it is read, the process gets SIGBUS: the compiler
// runs in a process of its own, and the program just has no table.

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compiler.h"

enum {
	MAX_SEGMENTS = 1024,
	MAX_TEXTS = 65536,
	PAGE = 4096,
	// A compressed .debug_frame may be this large; the largest seen in use has 30 MB.
	MAX_UNCOMPRESSED = 256 << 20,
};

// The mapped bytes of an ELF file.
struct image {
	Elf *elf;
	const uint8_t *bytes;
	size_t size;
};

static bool image_of(void *elf, struct image *ret)
{
	size_t size = 0;
	char *bytes = elf_rawfile(elf, &size);

	*ret = (struct image){elf, (const uint8_t *)bytes, size};
	return bytes && size >= sizeof(Elf64_Ehdr);
}

static bool inside(const struct image *im, uint64_t offset, uint64_t size)
{
	return offset <= im->size && size <= im->size - offset;
}

static const Elf64_Ehdr *ehdr_of(const struct image *im)
{
	return (const Elf64_Ehdr *)im->bytes;
}

static Elf64_Phdr phdr_at(const struct image *im, size_t i)
{
	Elf64_Phdr ph;

	memcpy(&ph, im->bytes + ehdr_of(im)->e_phoff + i * sizeof(ph), sizeof(ph));
	return ph;
}

// Only what this project can run: 64-bit little-endian x86-64.
static bool right_kind(const struct image *im)
{
	const Elf64_Ehdr *eh = ehdr_of(im);

	return memcmp(eh->e_ident, ELFMAG, SELFMAG) == 0 && eh->e_ident[EI_CLASS] == ELFCLASS64 &&
	       eh->e_ident[EI_DATA] == ELFDATA2LSB && eh->e_machine == EM_X86_64;
}

// --- notes ------------------------------------------------------------------------------------

// The build-id among the notes at [p, p + size); its end in the same bytes in *ret_end.
static const uint8_t *find_build_id(const uint8_t *p, uint64_t size, uint64_t align,
				    uint32_t *ret_len, uint64_t *ret_end)
{
	uint64_t pos = 0, mask = align == 8 ? 7 : 3;

	while (size - pos >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t name, desc, end;

		memcpy(&note, p + pos, sizeof(note));
		name = pos + sizeof(note);
		desc = (name + note.n_namesz + mask) & ~mask;
		end = desc + note.n_descsz; // no overflow: both are 32 bits
		if (end > size)
			return NULL;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && note.n_descsz > 0 &&
		    memcmp(p + name, "GNU", 4) == 0) {
			*ret_len = note.n_descsz;
			*ret_end = end;
			return p + desc;
		}
		pos = (end + mask) & ~mask;
		if (pos > size)
			return NULL;
	}
	return NULL;
}

// --- identity and segments ----------------------------------------------------------------------

static void identify(struct module *m, const uint8_t *build_id, uint32_t len, const struct stat *st)
{
	uint64_t id[4] = {(uint64_t)st->st_dev, (uint64_t)st->st_ino, (uint64_t)st->st_size,
			  (uint64_t)st->st_mtim.tv_sec * 1000000000u +
				  (uint64_t)st->st_mtim.tv_nsec};

	_Static_assert(sizeof(id) == TABLE_ID_MAX, "four numbers fill the id");
	if (build_id) {
		m->id_size = len < TABLE_ID_MAX ? len : TABLE_ID_MAX;
		memcpy(m->id, build_id, m->id_size);
	} else {
		memcpy(m->id, id, sizeof(id));
	}
}

// Where the image begins, which bytes of its first page identify it, and the build-id.
static int read_segments(struct module *m, const struct image *im, const struct stat *st,
			 const char **ret_why)
{
	const Elf64_Ehdr *eh = ehdr_of(im);
	const uint8_t *build_id = NULL;
	uint64_t first_filesz = 0, head, phdrs_end;
	uint32_t id_len = 0;
	bool found = false;

	*ret_why = "bad program headers";
	if (eh->e_phentsize != sizeof(Elf64_Phdr) || eh->e_phnum == 0 ||
	    eh->e_phnum > MAX_SEGMENTS ||
	    !inside(im, eh->e_phoff, (uint64_t)eh->e_phnum * sizeof(Elf64_Phdr)))
		return -ENOEXEC;
	phdrs_end = eh->e_phoff + (uint64_t)eh->e_phnum * sizeof(Elf64_Phdr);
	head = phdrs_end;
	for (size_t i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph = phdr_at(im, i);

		if (ph.p_type == PT_LOAD && !found) {
			// Loaders need ascending addresses, so the first one begins the image.
			if (ph.p_offset / PAGE != 0 || !inside(im, 0, ph.p_offset + ph.p_filesz) ||
			    ph.p_vaddr % PAGE != ph.p_offset)
				return -ENOEXEC;
			m->load_vaddr = ph.p_vaddr - ph.p_offset;
			first_filesz = ph.p_offset + ph.p_filesz;
			found = true;
		} else if (ph.p_type == PT_NOTE && !build_id &&
			   inside(im, ph.p_offset, ph.p_filesz)) {
			uint64_t end;

			build_id = find_build_id(im->bytes + ph.p_offset, ph.p_filesz, ph.p_align,
						 &id_len, &end);
			if (build_id && ph.p_offset + end > head &&
			    ph.p_offset + end <= TABLE_HEAD_MAX)
				head = ph.p_offset + end;
		}
	}
	if (!found)
		return -ENOEXEC;
	if (head > first_filesz)
		head = phdrs_end <= first_filesz ? phdrs_end : sizeof(*eh);
	if (head > TABLE_HEAD_MAX)
		head = TABLE_HEAD_MAX;
	if (head > first_filesz)
		return -ENOEXEC;
	m->head = im->bytes;
	m->head_size = (uint32_t)head;
	m->machine = eh->e_machine;
	identify(m, build_id, id_len, st);
	return 0;
}

// Is [addr, addr + size) executable, and mapped from this offset of the file?
static bool mapped_text(const struct image *im, uint64_t addr, uint64_t offset, uint64_t size)
{
	for (size_t i = 0; i < ehdr_of(im)->e_phnum; i++) {
		Elf64_Phdr ph = phdr_at(im, i);

		if (ph.p_type == PT_LOAD && (ph.p_flags & PF_X) && addr >= ph.p_vaddr &&
		    addr - ph.p_vaddr <= ph.p_filesz && size <= ph.p_filesz - (addr - ph.p_vaddr) &&
		    offset == ph.p_offset + (addr - ph.p_vaddr))
			return true;
	}
	return false;
}

// --- sections ------------------------------------------------------------------------------------

static int section_cmp(const void *a, const void *b)
{
	const struct section *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

// Executable sections in order; those that overlap an earlier one are left out.
static void sort_text(struct module *m)
{
	size_t n = 0;

	if (m->ntext == 0)
		return;
	qsort(m->text, m->ntext, sizeof(*m->text), section_cmp);
	for (size_t i = 0; i < m->ntext; i++) {
		if (n == 0 || m->text[i].addr >= m->text[n - 1].addr + m->text[n - 1].size)
			m->text[n++] = m->text[i];
	}
	m->ntext = n;
}

static int add_text(struct module *m, const struct image *im, const char *name, uint64_t addr,
		    uint64_t offset, uint64_t size)
{
	if (size == 0 || addr + size < addr || !inside(im, offset, size) ||
	    !mapped_text(im, addr, offset, size) || m->ntext >= MAX_TEXTS)
		return 0;
	if ((m->ntext & (m->ntext - 1)) == 0) {
		size_t cap = m->ntext ? 2 * m->ntext : 1;
		void *v = realloc(m->text, cap * sizeof(*m->text));

		if (!v)
			return -ENOMEM;
		m->text = v;
	}
	m->text[m->ntext++] = (struct section){name, addr, size, im->bytes + offset};
	return 0;
}

// The contents of a section that need not be loaded; compressed ones are unpacked, within bounds.
static void take_section(const struct image *im, Elf_Scn *scn, const GElf_Shdr *sh,
			 struct section *ret)
{
	if (sh->sh_type == SHT_NOBITS || ret->size)
		return;
	if (sh->sh_flags & SHF_COMPRESSED) {
		GElf_Chdr ch;
		Elf_Data *data;

		if (!gelf_getchdr(scn, &ch) || ch.ch_size > MAX_UNCOMPRESSED ||
		    elf_compress(scn, 0, 0) < 0)
			return;
		data = elf_rawdata(scn, NULL);
		if (data && data->d_buf)
			*ret = (struct section){NULL, sh->sh_addr, data->d_size, data->d_buf};
	} else if (inside(im, sh->sh_offset, sh->sh_size)) {
		*ret = (struct section){NULL, sh->sh_addr, sh->sh_size, im->bytes + sh->sh_offset};
	}
}

// DT_SONAME and DT_PLTGOT. strtab is the section that the dynamic section is linked to.
static void read_dynamic(struct module *m, const struct image *im, const GElf_Shdr *dyn)
{
	Elf_Scn *scn = elf_getscn(im->elf, dyn->sh_link);
	GElf_Shdr str;

	if (!scn || !gelf_getshdr(scn, &str) || str.sh_type != SHT_STRTAB ||
	    !inside(im, dyn->sh_offset, dyn->sh_size) || !inside(im, str.sh_offset, str.sh_size))
		return;
	for (uint64_t pos = 0; dyn->sh_size - pos >= sizeof(Elf64_Dyn); pos += sizeof(Elf64_Dyn)) {
		Elf64_Dyn d;

		memcpy(&d, im->bytes + dyn->sh_offset + pos, sizeof(d));
		if (d.d_tag == DT_NULL)
			break;
		if (d.d_tag == DT_PLTGOT)
			m->got = d.d_un.d_ptr;
		if (d.d_tag == DT_SONAME && d.d_un.d_val < str.sh_size) {
			const char *name = (const char *)im->bytes + str.sh_offset + d.d_un.d_val;
			size_t len = strnlen(name, str.sh_size - d.d_un.d_val);
			const char *slash = memrchr(name, '/', len);

			if (slash) {
				len -= (size_t)(slash + 1 - name);
				name = slash + 1;
			}
			if (len > 0 && len < sizeof(m->soname)) {
				memcpy(m->soname, name, len);
				m->soname[len] = 0;
			}
		}
	}
}

// .eh_frame of a file without section headers: .eh_frame_hdr, a segment, points to it. It ends at its zero word, or
// with the segment it lies in.
static void find_eh_frame(struct module *m, const struct image *im)
{
	for (size_t i = 0; i < ehdr_of(im)->e_phnum; i++) {
		Elf64_Phdr hdr = phdr_at(im, i);
		int32_t rel;
		uint64_t addr;

		// Version 1, pointer pc-relative in 4 bytes: the only form that linkers write.
		if (hdr.p_type != PT_GNU_EH_FRAME || hdr.p_filesz < 8 ||
		    !inside(im, hdr.p_offset, 8) || im->bytes[hdr.p_offset] != 1 ||
		    im->bytes[hdr.p_offset + 1] != 0x1b)
			continue;
		memcpy(&rel, im->bytes + hdr.p_offset + 4, sizeof(rel));
		addr = hdr.p_vaddr + 4 + (uint64_t)(int64_t)rel;
		for (size_t k = 0; k < ehdr_of(im)->e_phnum; k++) {
			Elf64_Phdr ph = phdr_at(im, k);
			uint64_t offset, left, pos = 0;
			uint32_t len;

			if (ph.p_type != PT_LOAD || addr < ph.p_vaddr ||
			    addr - ph.p_vaddr >= ph.p_filesz ||
			    !inside(im, ph.p_offset, ph.p_filesz))
				continue;
			offset = ph.p_offset + (addr - ph.p_vaddr);
			left = ph.p_filesz - (addr - ph.p_vaddr);
			while (left - pos >= 4) {
				memcpy(&len, im->bytes + offset + pos, 4);
				if (len == 0 || len > left - pos - 4)
					break;
				pos += 4 + (uint64_t)len;
			}
			m->eh_frame = (struct section){NULL, addr, pos, im->bytes + offset};
			return;
		}
	}
}

struct symtab {
	GElf_Shdr sym, str;
	const struct image *im;
};

static int read_sections(struct module *m, const struct image *im, struct symtab *symtab,
			 struct symtab *dynsym)
{
	size_t shnum = 0, shstr = 0;
	Elf_Scn *scn = NULL;
	int err = 0;

	if (elf_getshdrnum(im->elf, &shnum) || elf_getshdrstrndx(im->elf, &shstr))
		shnum = 0;
	while (shnum && err == 0 && (scn = elf_nextscn(im->elf, scn))) {
		GElf_Shdr sh, link;
		const char *name;
		Elf_Scn *str;

		if (!gelf_getshdr(scn, &sh))
			continue;
		name = elf_strptr(im->elf, shstr, sh.sh_name);
		if (sh.sh_type == SHT_PROGBITS && (sh.sh_flags & SHF_ALLOC) &&
		    (sh.sh_flags & SHF_EXECINSTR))
			err = add_text(m, im, name ? name : "", sh.sh_addr, sh.sh_offset,
				       sh.sh_size);
		else if (name && strcmp(name, ".eh_frame") == 0 && (sh.sh_flags & SHF_ALLOC))
			take_section(im, scn, &sh, &m->eh_frame);
		else if (name && strcmp(name, ".debug_frame") == 0)
			take_section(im, scn, &sh, &m->debug_frame);
		else if (sh.sh_type == SHT_DYNAMIC)
			read_dynamic(m, im, &sh);
		else if ((sh.sh_type == SHT_SYMTAB || sh.sh_type == SHT_DYNSYM) &&
			 (str = elf_getscn(im->elf, sh.sh_link)) && gelf_getshdr(str, &link) &&
			 link.sh_type == SHT_STRTAB && inside(im, sh.sh_offset, sh.sh_size) &&
			 inside(im, link.sh_offset, link.sh_size))
			*(sh.sh_type == SHT_SYMTAB ? symtab : dynsym) =
				(struct symtab){sh, link, im};
	}
	if (err || m->ntext)
		return err;
	for (size_t i = 0; i < ehdr_of(im)->e_phnum && err == 0; i++) {
		Elf64_Phdr ph = phdr_at(im, i);

		if (ph.p_type == PT_LOAD && (ph.p_flags & PF_X))
			err = add_text(m, im, "", ph.p_vaddr, ph.p_offset, ph.p_filesz);
	}
	if (m->eh_frame.size == 0)
		find_eh_frame(m, im);
	return err;
}

// --- the separate debug file --------------------------------------------------------------------

static bool same_build_id(const struct image *im, const struct module *m)
{
	Elf_Scn *scn = NULL;

	while ((scn = elf_nextscn(im->elf, scn))) {
		GElf_Shdr sh;
		uint32_t len;
		uint64_t end;
		const uint8_t *id;

		if (!gelf_getshdr(scn, &sh) || sh.sh_type != SHT_NOTE ||
		    !inside(im, sh.sh_offset, sh.sh_size))
			continue;
		id = find_build_id(im->bytes + sh.sh_offset, sh.sh_size, sh.sh_addralign, &len,
				   &end);
		if (id)
			return len >= m->id_size && memcmp(id, m->id, m->id_size) == 0;
	}
	return false;
}

// Symbols and .debug_frame from /usr/lib/debug. That there is none, or a bad one, is no error.
static void open_debug(struct module *m, uint32_t id_len, const uint8_t *id, struct image *ret_im,
		       struct symtab *ret_symtab)
{
	static const char dir[] = "/usr/lib/debug/.build-id/";
	size_t size = sizeof(dir) + 2 * (size_t)id_len + sizeof("/.debug");
	char *path, *p;
	Elf_Scn *scn = NULL;
	size_t shstr;

	if (id_len < 2 || id_len > 64 || !(path = malloc(size)))
		return;
	p = stpcpy(path, dir);
	for (uint32_t i = 0; i < id_len; i++) {
		p += snprintf(p, 3, "%02x", id[i]);
		if (i == 0)
			*p++ = '/';
	}
	strcpy(p, ".debug");
	m->debug_path = path;
	m->debug_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (m->debug_fd < 0)
		return;
	m->debug_elf = elf_begin(m->debug_fd, ELF_C_READ_MMAP, NULL);
	if (!m->debug_elf || elf_kind(m->debug_elf) != ELF_K_ELF ||
	    !image_of(m->debug_elf, ret_im) || !right_kind(ret_im) || !same_build_id(ret_im, m) ||
	    elf_getshdrstrndx(ret_im->elf, &shstr)) {
		if (m->debug_elf)
			elf_end(m->debug_elf);
		m->debug_elf = NULL;
		return;
	}
	m->source |= TABLE_DEBUG_SEPARATE;
	while ((scn = elf_nextscn(ret_im->elf, scn))) {
		GElf_Shdr sh, link;
		const char *name;
		Elf_Scn *str;

		if (!gelf_getshdr(scn, &sh))
			continue;
		name = elf_strptr(ret_im->elf, shstr, sh.sh_name);
		if (name && strcmp(name, ".debug_frame") == 0)
			take_section(ret_im, scn, &sh, &m->debug_frame);
		if (sh.sh_type == SHT_SYMTAB && !ret_symtab->im &&
		    (str = elf_getscn(ret_im->elf, sh.sh_link)) && gelf_getshdr(str, &link) &&
		    link.sh_type == SHT_STRTAB && inside(ret_im, sh.sh_offset, sh.sh_size) &&
		    inside(ret_im, link.sh_offset, link.sh_size))
			*ret_symtab = (struct symtab){sh, link, ret_im};
	}
}

// --- functions -----------------------------------------------------------------------------------

static int func_cmp(const void *a, const void *b)
{
	const struct func *x = a, *y = b;

	if (x->lo != y->lo)
		return x->lo < y->lo ? -1 : 1;
	if (x->hi != y->hi)
		return x->hi < y->hi ? -1 : 1;
	return strcmp(x->name, y->name);
}

const struct section *module_text(const struct module *m, uint64_t addr)
{
	size_t lo = 0, hi = m->ntext;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (addr < m->text[mid].addr)
			hi = mid;
		else if (addr - m->text[mid].addr >= m->text[mid].size)
			lo = mid + 1;
		else
			return &m->text[mid];
	}
	return NULL;
}

// How many symbols there are in tab.
static size_t count_symbols(const struct symtab *tab)
{
	const char *names = (const char *)tab->im->bytes + tab->str.sh_offset;

	// A name is only a name if it ends inside its table: look at the last byte once.
	if (tab->str.sh_size == 0 || names[tab->str.sh_size - 1] != 0)
		return 0;
	return tab->sym.sh_size / sizeof(Elf64_Sym);
}

// Symbol i of tab; false unless it is a function of this module.
static bool read_func(const struct module *m, const struct symtab *tab, size_t i, struct func *ret)
{
	const uint8_t *syms = tab->im->bytes + tab->sym.sh_offset;
	const char *names = (const char *)tab->im->bytes + tab->str.sh_offset;
	Elf64_Sym sym;
	int type;

	memcpy(&sym, syms + i * sizeof(sym), sizeof(sym));
	type = ELF64_ST_TYPE(sym.st_info);
	if ((type != STT_FUNC && type != STT_GNU_IFUNC) || sym.st_shndx == SHN_UNDEF ||
	    sym.st_name >= tab->str.sh_size || !module_text(m, sym.st_value))
		return false;
	*ret = (struct func){.lo = sym.st_value,
			     .hi = sym.st_size <= UINT64_MAX - sym.st_value
					   ? sym.st_value + sym.st_size
					   : sym.st_value,
			     .name = names + sym.st_name,
			     .ifunc = type == STT_GNU_IFUNC};
	return true;
}

static int read_funcs(struct module *m, const struct symtab *tab)
{
	size_t n = count_symbols(tab), kept = 0;
	struct func func;

	for (int pass = 0; pass < 2; pass++) { // count, then fill
		kept = 0;
		for (size_t i = 0; i < n; i++) {
			if (!read_func(m, tab, i, &func))
				continue;
			if (pass == 1)
				m->funcs[kept] = func;
			kept++;
		}
		if (pass == 0 && kept == 0)
			return 0;
		if (pass == 0 && !(m->funcs = calloc(kept, sizeof(*m->funcs))))
			return -ENOMEM;
	}
	m->nfuncs = kept;
	qsort(m->funcs, kept, sizeof(*m->funcs), func_cmp);
	return 0;
}

// Index of the first function that begins after addr.
static size_t func_after(const struct module *m, uint64_t addr)
{
	size_t lo = 0, hi = m->nfuncs;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (m->funcs[mid].lo <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

// The functions at an address that .dynsym names, under whatever names.
static void mark_exported(struct module *m, const struct symtab *dynsym)
{
	struct func func;

	for (size_t n = count_symbols(dynsym), i = 0; i < n; i++) {
		if (!read_func(m, dynsym, i, &func))
			continue;
		// Those that are marked have been before, with all at that address.
		for (size_t k = func_after(m, func.lo);
		     k > 0 && m->funcs[k - 1].lo == func.lo && !m->funcs[k - 1].exported; k--)
			m->funcs[k - 1].exported = true;
	}
}

const struct func *module_func(const struct module *m, uint64_t addr)
{
	size_t lo = func_after(m, addr);

	// Functions seldom overlap: a few steps back find an outer one. One without a size goes on to the next.
	for (size_t i = lo, steps = 0; i > 0 && steps < 16; i--, steps++) {
		const struct func *f = &m->funcs[i - 1];

		if (addr < f->hi || (f->hi == f->lo && i == lo))
			return f;
	}
	return NULL;
}

// --- opening -----------------------------------------------------------------------------------

static int open_elf(struct module *m, const char **ret_why)
{
	struct symtab symtab = {0}, dynsym = {0};
	struct image im, debug_im;
	struct stat st;
	const char *slash = strrchr(m->path, '/');
	int err;

	*ret_why = "cannot open";
	m->fd = module_file(m->path);
	if (m->fd < 0 || fstat(m->fd, &st))
		return -errno;
	*ret_why = "not an ELF file for x86-64";
	if (!S_ISREG(st.st_mode) || elf_version(EV_CURRENT) == EV_NONE)
		return -ENOEXEC;
	m->elf = elf_begin(m->fd, ELF_C_READ_MMAP, NULL);
	if (!m->elf || elf_kind(m->elf) != ELF_K_ELF || !image_of(m->elf, &im) || !right_kind(&im))
		return -ENOEXEC;
	*ret_why = "neither a program nor a shared library";
	if (ehdr_of(&im)->e_type != ET_EXEC && ehdr_of(&im)->e_type != ET_DYN)
		return -ENOEXEC;
	err = read_segments(m, &im, &st, ret_why);
	if (err)
		return err;
	slash = slash ? slash + 1 : m->path;
	snprintf(m->soname, sizeof(m->soname), "%s", slash);

	*ret_why = "out of memory";
	err = read_sections(m, &im, &symtab, &dynsym);
	if (err)
		return err;
	sort_text(m);
	*ret_why = "no executable code";
	if (m->ntext == 0)
		return -ENOEXEC;
	*ret_why = "more than 4 GiB of code";
	if (m->text[m->ntext - 1].addr + m->text[m->ntext - 1].size - m->text[0].addr >= UINT32_MAX)
		return -EFBIG;
	*ret_why = "code before the start of the image";
	if (m->text[0].addr < m->load_vaddr)
		return -ENOEXEC;
	if (m->id_size)
		open_debug(m, m->id_size, m->id, &debug_im, &symtab);

	*ret_why = "out of memory";
	if (symtab.im) {
		err = read_funcs(m, &symtab);
		if (err)
			return err;
		if (m->nfuncs)
			m->source |= TABLE_SYMTAB;
	}
	if (m->nfuncs == 0 && dynsym.im) {
		err = read_funcs(m, &dynsym);
		if (err)
			return err;
	}
	if (dynsym.im)
		mark_exported(m, &dynsym);
	return 0;
}

int module_open(struct module *m, const char *path, const char **ret_why)
{
	int err;

	*m = (struct module){.path = path, .fd = -1, .debug_fd = -1};
	err = open_elf(m, ret_why);
	if (err)
		module_close(m);
	return err;
}

void module_close(struct module *m)
{
	free(m->text);
	free(m->funcs);
	free(m->debug_path);
	if (m->debug_elf)
		elf_end(m->debug_elf);
	if (m->elf)
		elf_end(m->elf);
	if (m->debug_fd >= 0)
		close(m->debug_fd);
	if (m->fd >= 0)
		close(m->fd);
	*m = (struct module){.fd = -1, .debug_fd = -1};
}
