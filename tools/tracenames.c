// tracenames.c: names of addresses, by the modules that a trace lists.
//
// Code is named as `preempt dump` names it (symbols.c). Objects are looked for in the symbol tables of the same files. A file that has been
// replaced since (another build-id) names nothing. What is no module's stays a number: locks in allocated memory.

#include "trace.h"

#include <elf.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "safepoint/compiler.h"
#include "symbols.h"

const char *const trace_waits[TRACE_WAITS] = {
	[TRACE_WAIT_NONE] = "wait",
	[TRACE_WAIT_MUTEX] = "mutex",
	[TRACE_WAIT_COND] = "condition",
	[TRACE_WAIT_SEM] = "semaphore",
	[TRACE_WAIT_RWLOCK_R] = "rwlock (read)",
	[TRACE_WAIT_RWLOCK_W] = "rwlock (write)",
	[TRACE_WAIT_BARRIER] = "barrier",
	[TRACE_WAIT_ONCE] = "once",
};

enum { SEGMENTS = 16, OBJECTS_MAX = 1 << 20, NAMES = 4096 };

struct object {
	uint64_t at, size;
	char *name;
};
static struct image {
	struct image *next;
	const struct trace_module *module;
	const char *path;
	bool usable;
	uint64_t bias;	 // run-time minus link-time address
	uint64_t lo, hi; // as linked
	struct object *objects;
	size_t nobjects;
} * images;

// Names that were given, in a table that is emptied when it is full: each is asked for many times.
static struct {
	uint64_t addr;
	char *name, *function;
	bool code;
} given[NAMES];

static bool same_id(Elf *elf, size_t nphdr, const struct trace_module *m)
{
	for (size_t i = 0; i < nphdr; i++) {
		size_t at = 0, name, desc;
		GElf_Nhdr note;
		GElf_Phdr ph;
		Elf_Data *data;

		if (!gelf_getphdr(elf, (int)i, &ph) || ph.p_type != PT_NOTE)
			continue;
		data = elf_getdata_rawchunk(elf, (int64_t)ph.p_offset, ph.p_filesz, ELF_T_NHDR);
		while (data && (at = gelf_getnote(data, at, &note, &name, &desc)) > 0) {
			size_t n = note.n_descsz < sizeof(m->id) ? note.n_descsz : sizeof(m->id);

			if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4)
				return n == m->id_size &&
				       memcmp((char *)data->d_buf + desc, m->id, n) == 0;
		}
	}
	return m->id_size == 0;
}

static void read_objects(struct image *im, Elf *elf)
{
	Elf_Scn *scn = NULL;

	while ((scn = elf_nextscn(elf, scn))) {
		GElf_Shdr sh;
		Elf_Data *data;

		if (!gelf_getshdr(scn, &sh) ||
		    (sh.sh_type != SHT_SYMTAB && sh.sh_type != SHT_DYNSYM))
			continue;
		data = elf_getdata(scn, NULL);
		for (size_t i = 0; data && sh.sh_entsize && i < sh.sh_size / sh.sh_entsize; i++) {
			const char *name;
			GElf_Sym sym;

			if (!gelf_getsym(data, (int)i, &sym) ||
			    GELF_ST_TYPE(sym.st_info) != STT_OBJECT || sym.st_shndx == SHN_UNDEF ||
			    !sym.st_size || im->nobjects == OBJECTS_MAX)
				continue;
			name = elf_strptr(elf, sh.sh_link, sym.st_name);
			if (!name || !*name)
				continue;
			if ((im->nobjects & (im->nobjects - 1)) == 0)
				im->objects = must(reallocarray(im->objects,
								im->nobjects ? 2 * im->nobjects : 1,
								sizeof(*im->objects)));
			im->objects[im->nobjects++] =
				(struct object){sym.st_value, sym.st_size, must(strdup(name))};
		}
	}
}

static void look_into(struct image *im)
{
	const struct trace_module *m = im->module;
	int fd = module_file(im->path);
	size_t nphdr;
	Elf *elf;

	if (fd < 0)
		return;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	if (elf && elf_kind(elf) == ELF_K_ELF && elf_getphdrnum(elf, &nphdr) == 0 &&
	    same_id(elf, nphdr, m)) {
		im->lo = UINT64_MAX;
		for (size_t i = 0; i < nphdr; i++) {
			GElf_Phdr ph;

			if (!gelf_getphdr(elf, (int)i, &ph) || ph.p_type != PT_LOAD)
				continue;
			if (ph.p_vaddr < im->lo)
				im->lo = ph.p_vaddr;
			if (ph.p_vaddr + ph.p_memsz > im->hi)
				im->hi = ph.p_vaddr + ph.p_memsz;
			if (m->offset + 4096 > ph.p_offset &&
			    m->offset < ph.p_offset + ph.p_filesz && ph.p_flags & PF_X) {
				im->bias = m->start - (ph.p_vaddr + m->offset - ph.p_offset);
				im->usable = true;
			}
		}
		if (im->usable)
			read_objects(im, elf);
	}
	elf_end(elf);
	close(fd);
}

static struct image *image_of(const struct trace_module *m)
{
	const char *path = (const char *)(m + 1);
	struct image *im;

	for (im = images; im; im = im->next)
		if (im->module == m)
			return im;
	im = must(calloc(1, sizeof(*im)));
	im->module = m;
	im->path = path;
	im->next = images;
	images = im;
	look_into(im);
	return im;
}

static char *name_code(const struct trace_file *t, uint64_t addr)
{
	// The last one to be mapped there.
	for (size_t i = t->nmodules; i-- > 0;) {
		const struct trace_module *m = t->modules[i];
		struct image *im;
		char *name = NULL;
		size_t size;
		FILE *out;

		if (addr < m->start || addr >= m->end)
			continue;
		im = image_of(m);
		if (im->usable && (out = open_memstream(&name, &size))) {
			bool found = symbol_print(out, "", im->path, addr - im->bias, true);

			fclose(out);
			if (found && name)
				return name;
			free(name);
		}
		if (asprintf(&name, "%s+0x%lx", im->path,
			     (unsigned long)(im->usable ? addr - im->bias
							: addr - m->start + m->offset)) < 0)
			must(NULL);
		return name;
	}
	return NULL;
}

static char *name_object(const struct trace_file *t, uint64_t addr)
{
	for (size_t i = t->nmodules; i-- > 0;) {
		struct image *im = image_of(t->modules[i]);
		uint64_t at = addr - im->bias;
		char *name;

		if (!im->usable || at < im->lo || at >= im->hi)
			continue;
		for (size_t k = 0; k < im->nobjects; k++) {
			const struct object *o = &im->objects[k];

			if (at - o->at >= o->size)
				continue;
			if (asprintf(&name, at > o->at ? "%s+0x%lx" : "%s", o->name,
				     (unsigned long)(at - o->at)) < 0)
				must(NULL);
			return name;
		}
		if (asprintf(&name, "%s+0x%lx", im->path, (unsigned long)at) < 0)
			must(NULL);
		return name;
	}
	return NULL;
}

static size_t give(const struct trace_file *t, uint64_t addr, bool code)
{
	size_t i = (addr * 0x9e3779b97f4a7c15u >> 40) % NAMES;

	if (given[i].name && given[i].addr == addr && given[i].code == code)
		return i;
	free(given[i].name);
	free(given[i].function);
	given[i].addr = addr;
	given[i].code = code;
	given[i].name = code ? name_code(t, addr) : name_object(t, addr);
	if (!given[i].name && asprintf(&given[i].name, "0x%lx", (unsigned long)addr) < 0)
		must(NULL);
	given[i].function = must(strdup(given[i].name));
	if (given[i].name[0] != '/')
		given[i].function[strcspn(given[i].function, "+ ")] = 0;
	return i;
}

const char *trace_name(const struct trace_file *t, uint64_t addr, bool code)
{
	return given[give(t, addr, code)].name;
}

const char *trace_function(const struct trace_file *t, uint64_t addr)
{
	return given[give(t, addr, true)].function;
}

// Its own name; of several threads with the name of the program, the routine that they started with says more.
const char *trace_label(const struct trace_file *t, const struct trace_thread *th, char buf[80])
{
	const char *start = th->start_routine ? trace_function(t, th->start_routine) : NULL;

	if (start && *start != '/' && *start != '0')
		snprintf(buf, 80, "%s %.40s %u", th->name, start, th->g);
	else
		snprintf(buf, 80, "%s %u", *th->name ? th->name : "thread", th->g);
	return buf;
}

void trace_names_free(void)
{
	for (struct image *im = images, *next; im; im = next) {
		next = im->next;
		for (size_t i = 0; i < im->nobjects; i++)
			free(im->objects[i].name);
		free(im->objects);
		free(im);
	}
	images = NULL;
	for (size_t i = 0; i < NAMES; i++) {
		free(given[i].name);
		free(given[i].function);
		given[i].name = given[i].function = NULL;
	}
	symbols_free();
}
