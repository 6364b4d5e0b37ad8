// symbols.c: names and lines of addresses, from ELF symbols and DWARF.
//
// Functions come from the safe-point compiler's own reader of ELF files (.symtab of the file or of its debug file, else .dynsym), lines from
// libdwarf: .debug_aranges leads to the unit, and where there are none (clang), all units are looked at, once. What is open stays
// open: a dump has the same few files many thousand times.
//
// Names of C++ are printed as they are: c++filt reads them.

#include <elf.h>
#include <libelf.h>
#include <libdwarf/dwarf.h>
#include <libdwarf/libdwarf.h>
#include <stdlib.h>
#include <string.h>

#include "compiler.h"
#include "symbols.h"

struct line {
	uint64_t lo, hi;
	unsigned number;
	char *file;
};

struct file {
	struct file *next;
	char *path;
	bool opened;
	struct module module;
	Dwarf_Debug dbg;
	struct line *lines; // of the units looked at so far, in no order
	size_t nlines, cap;
	bool all_units;
	Dwarf_Off *units; // those
	size_t nunits;
};

static struct file *files;

static void drop(Dwarf_Debug dbg, Dwarf_Error *err)
{
	if (*err)
		dwarf_dealloc_error(dbg, *err);
	*err = NULL;
}

static bool has_lines(void *elf)
{
	Elf_Scn *scn = NULL;
	size_t names;

	if (!elf || elf_getshdrstrndx(elf, &names) != 0)
		return false;
	while ((scn = elf_nextscn(elf, scn))) {
		Elf64_Shdr *sh = elf64_getshdr(scn);
		const char *name = sh ? elf_strptr(elf, names, sh->sh_name) : NULL;

		if (name && strcmp(name, ".debug_line") == 0 && sh->sh_type != SHT_NOBITS)
			return true;
	}
	return false;
}

static void open_lines(struct file *f)
{
	Dwarf_Error err = NULL;
	int fd = has_lines(f->module.elf)	  ? f->module.fd
		 : has_lines(f->module.debug_elf) ? f->module.debug_fd
						  : -1;

	if (fd < 0)
		return;
	if (dwarf_init_b(fd, DW_DLC_READ, DW_GROUPNUMBER_ANY, NULL, NULL, &f->dbg, &err) !=
	    DW_DLV_OK) {
		drop(NULL, &err);
		f->dbg = NULL;
	}
}

static struct file *file_of(const char *root, const char *path)
{
	const char *why;
	struct file *f;
	char *whole;

	if (asprintf(&whole, "%s%s", module_is_vdso(path) ? "" : root, path) < 0)
		return NULL;
	for (f = files; f; f = f->next)
		if (strcmp(f->path, whole) == 0) {
			free(whole);
			return f->opened ? f : NULL;
		}
	f = calloc(1, sizeof(*f));
	if (!f) {
		free(whole);
		return NULL;
	}
	f->path = whole;
	f->next = files;
	files = f;
	f->opened = module_open(&f->module, whole, &why) == 0;
	if (f->opened)
		open_lines(f);
	return f->opened ? f : NULL;
}

// --- lines --------------------------------------------------------------------------------------

static void add_line(struct file *f, uint64_t lo, uint64_t hi, unsigned number, const char *file)
{
	struct line *more = f->lines;

	if (f->nlines == f->cap) {
		f->cap = f->cap ? 2 * f->cap : 1024;
		more = reallocarray(f->lines, f->cap, sizeof(*more));
		if (!more) {
			f->cap = f->nlines;
			return;
		}
		f->lines = more;
	}
	f->lines[f->nlines++] = (struct line){lo, hi, number, strdup(file)};
}

// A line ends where the next one of its sequence begins.
static void take_lines(struct file *f, Dwarf_Line *lines, Dwarf_Signed n)
{
	for (Dwarf_Signed i = 0; i + 1 < n; i++) {
		Dwarf_Addr lo, hi;
		Dwarf_Unsigned number;
		Dwarf_Bool end = true;
		Dwarf_Error err = NULL;
		char *file;

		if (dwarf_lineendsequence(lines[i], &end, &err) == DW_DLV_OK && !end &&
		    dwarf_lineaddr(lines[i], &lo, &err) == DW_DLV_OK &&
		    dwarf_lineaddr(lines[i + 1], &hi, &err) == DW_DLV_OK && hi > lo &&
		    dwarf_lineno(lines[i], &number, &err) == DW_DLV_OK && number > 0 &&
		    dwarf_linesrc(lines[i], &file, &err) == DW_DLV_OK) {
			add_line(f, lo, hi, (unsigned)number, file);
			dwarf_dealloc(f->dbg, file, DW_DLA_STRING);
		}
		drop(f->dbg, &err);
	}
}

static void read_unit(struct file *f, Dwarf_Die die)
{
	Dwarf_Line_Context context;
	Dwarf_Unsigned version;
	Dwarf_Small tables;
	Dwarf_Error err = NULL;
	Dwarf_Line *lines;
	Dwarf_Signed n;

	if (dwarf_srclines_b(die, &version, &tables, &context, &err) != DW_DLV_OK) {
		drop(f->dbg, &err);
		return;
	}
	if (dwarf_srclines_from_linecontext(context, &lines, &n, &err) == DW_DLV_OK)
		take_lines(f, lines, n);
	drop(f->dbg, &err);
	dwarf_srclines_dealloc_b(context);
}

static void read_all_units(struct file *f)
{
	for (;;) {
		Dwarf_Unsigned length, abbrev, type, next;
		Dwarf_Half version, address, offset, extension, kind;
		Dwarf_Sig8 signature;
		Dwarf_Error err = NULL;
		Dwarf_Die die;

		if (dwarf_next_cu_header_d(f->dbg, true, &length, &version, &abbrev, &address,
					   &offset, &extension, &signature, &type, &next, &kind,
					   &err) != DW_DLV_OK) {
			drop(f->dbg, &err);
			return;
		}
		if (dwarf_siblingof_b(f->dbg, NULL, true, &die, &err) == DW_DLV_OK) {
			read_unit(f, die);
			dwarf_dealloc_die(die);
		}
		drop(f->dbg, &err);
	}
}

// Read the unit that address is in. False: .debug_aranges do not tell.
static bool read_unit_of(struct file *f, uint64_t address)
{
	Dwarf_Error err = NULL;
	Dwarf_Arange *ranges, range;
	Dwarf_Signed n;
	Dwarf_Off off;
	bool found = false;
	Dwarf_Die die;
	Dwarf_Off *more;

	if (dwarf_get_aranges(f->dbg, &ranges, &n, &err) != DW_DLV_OK) {
		drop(f->dbg, &err);
		return false;
	}
	if (dwarf_get_arange(ranges, (Dwarf_Unsigned)n, address, &range, &err) == DW_DLV_OK &&
	    dwarf_get_cu_die_offset(range, &off, &err) == DW_DLV_OK)
		found = true;
	drop(f->dbg, &err);
	for (Dwarf_Signed i = 0; i < n; i++)
		dwarf_dealloc(f->dbg, ranges[i], DW_DLA_ARANGE);
	dwarf_dealloc(f->dbg, ranges, DW_DLA_LIST);
	for (size_t i = 0; found && i < f->nunits; i++)
		if (f->units[i] == off)
			return true;
	if (!found || dwarf_offdie_b(f->dbg, off, true, &die, &err) != DW_DLV_OK) {
		drop(f->dbg, &err);
		return found;
	}
	read_unit(f, die);
	dwarf_dealloc_die(die);
	more = reallocarray(f->units, f->nunits + 1, sizeof(*more));
	if (more) {
		f->units = more;
		f->units[f->nunits++] = off;
	}
	return true;
}

static const struct line *known_line(const struct file *f, uint64_t address)
{
	for (size_t i = 0; i < f->nlines; i++)
		if (address >= f->lines[i].lo && address < f->lines[i].hi)
			return &f->lines[i];
	return NULL;
}

static const struct line *line_of(struct file *f, uint64_t address)
{
	const struct line *line = known_line(f, address);

	if (line || !f->dbg || f->all_units)
		return line;
	if (!read_unit_of(f, address)) {
		f->all_units = true;
		read_all_units(f);
	}
	return known_line(f, address);
}

bool symbol_print(FILE *out, const char *root, const char *path, uint64_t address, bool exact)
{
	struct file *f = file_of(root, path);
	uint64_t at = exact ? address : address - 1;
	const struct func *func = f ? module_func(&f->module, at) : NULL;
	const struct line *line = f ? line_of(f, at) : NULL;

	if (!func || !func->name)
		return false;
	// Without the version of a symbol.
	fprintf(out, "%.*s+0x%lx", (int)strcspn(func->name, "@"), func->name,
		(unsigned long)(address - func->lo));
	if (line)
		fprintf(out, " (%s:%u)", line->file, line->number);
	return true;
}

void symbols_free(void)
{
	for (struct file *f = files, *next; f; f = next) {
		Dwarf_Error err = NULL;

		next = f->next;
		for (size_t i = 0; i < f->nlines; i++)
			free(f->lines[i].file);
		if (f->dbg && dwarf_finish(f->dbg, &err) == DW_DLV_ERROR)
			dwarf_dealloc_error(NULL, err);
		if (f->opened)
			module_close(&f->module);
		free(f->lines);
		free(f->units);
		free(f->path);
		free(f);
	}
	files = NULL;
}
