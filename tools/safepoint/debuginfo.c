// debuginfo.c: critical functions that only the debug information knows: inlined instances, and static functions of stripped files.
//
// Problem. A lock function that is inlined has no symbol and no frame, yet parking in it hurts as much.
//
// Approach. All units of .debug_info are walked, of the separate debug file where there is one, else of the module. Only what can
// contain code is entered: subprograms with addresses, blocks, inlined subroutines, namespaces. The name of an inlined subroutine is that of
// its abstract origin; the linkage name counts if there is one, else the plain name. Names are looked up once
// for each origin, by a small cache. Ranges are low_pc and high_pc, .debug_ranges or .debug_rnglists.
//   dwz moves what files have in common to another one (.gnu_debugaltlink): it is opened by its build-id, and by its path if the build-id
// there is the same. Where it cannot be found, origins in it have no name and are not critical; TABLE_DEBUG_ALT says that it was read.
//   DIEs are given back at once. libdwarf reads sections as a whole, so their sizes, uncompressed, are added up first and
// limited. Damage ends the walk; what was found so far stays. libdwarf of 2021 may crash on damage: the compiler runs
// in a process of its own, and then once more without this pass (build.c).
//
// Rejected. The line table's prologue_end and epilogue_begin: stack.c compares the CFI with the instructions, so that prologues and
// epilogues are safe where the CFI is exact; marking them all would cost an eighth of the code. .debug_types: no code in it.

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libdwarf/dwarf.h>
#include <libdwarf/libdwarf.h>

#include "compiler.h"

#define DEBUG_BYTES_MAX ((uint64_t)1 << 30) // of all debug sections, in memory

enum {
	DEPTH_MAX = 256,   // of DIEs: blocks in blocks, inlined in inlined
	CHAIN_MAX = 8,	   // abstract origins and specifications
	CACHE_SIZE = 8192, // names
	RATIO_MAX = 1100,  // zlib cannot do better
};

struct name_cache {
	uint64_t key; // offset << 1 | in the alternate file, + 1; 0: empty
	bool critical;
};

struct walk {
	const struct module *m;
	const char *globs;
	struct marks *marks;
	Dwarf_Debug dbg, alt;
	uint64_t cu_base; // low_pc of the unit
	Dwarf_Half version;
	struct name_cache *cache;
	int err;
};

// --- Sections -----------------------------------------------------------------------------------

static Elf_Scn *find_section(Elf *elf, const char *name, GElf_Shdr *ret_shdr)
{
	Elf_Scn *scn = NULL;
	size_t strings;

	if (elf_getshdrstrndx(elf, &strings))
		return NULL;
	while ((scn = elf_nextscn(elf, scn))) {
		const char *s;

		if (!gelf_getshdr(scn, ret_shdr) || ret_shdr->sh_type == SHT_NOBITS)
			continue;
		s = elf_strptr(elf, strings, ret_shdr->sh_name);
		if (s && !strcmp(s, name))
			return scn;
	}
	return NULL;
}

// Are all debug sections inside the file, and small enough to be read?
static bool sizes_sane(Elf *elf, int fd)
{
	Elf_Scn *scn = NULL;
	uint64_t total = 0;
	struct stat st;
	size_t strings;

	if (fstat(fd, &st) || elf_getshdrstrndx(elf, &strings))
		return false;
	while ((scn = elf_nextscn(elf, scn))) {
		GElf_Shdr sh;
		GElf_Chdr ch;
		const char *s;
		uint64_t size;

		if (!gelf_getshdr(scn, &sh) || sh.sh_type == SHT_NOBITS)
			continue;
		s = elf_strptr(elf, strings, sh.sh_name);
		if (!s || (strncmp(s, ".debug_", 7) && strncmp(s, ".zdebug_", 8)))
			continue;
		size = sh.sh_size;
		if (sh.sh_offset > (uint64_t)st.st_size ||
		    size > (uint64_t)st.st_size - sh.sh_offset)
			return false;
		if (sh.sh_flags & SHF_COMPRESSED) {
			if (!gelf_getchdr(scn, &ch) || ch.ch_size / RATIO_MAX > size)
				return false;
			size = ch.ch_size;
		} else if (s[1] == 'z') {
			return false; // the old GNU form: nobody makes it any more
		}
		if (size > DEBUG_BYTES_MAX - total)
			return false;
		total += size;
	}
	return true;
}

// --- The alternate file -------------------------------------------------------------------------

// Build-id of an ELF file, 0 if it has none.
static size_t build_id(Elf *elf, uint8_t *ret_id, size_t max)
{
	Elf_Scn *scn = NULL;
	GElf_Shdr sh;

	while ((scn = elf_nextscn(elf, scn))) {
		Elf_Data *data;
		size_t at = 0, name, desc;
		GElf_Nhdr note;

		if (!gelf_getshdr(scn, &sh) || sh.sh_type != SHT_NOTE)
			continue;
		data = elf_getdata(scn, NULL);
		while (data && data->d_buf &&
		       (at = gelf_getnote(data, at, &note, &name, &desc)) > 0) {
			if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 ||
			    memcmp((const char *)data->d_buf + name, "GNU", 4) || !note.n_descsz ||
			    note.n_descsz > max)
				continue;
			memcpy(ret_id, (const char *)data->d_buf + desc, note.n_descsz);
			return note.n_descsz;
		}
	}
	return 0;
}

// fd of the file at path, if it is an ELF file with that build-id and sane sections; else -1.
static int open_alt_path(const char *path, const uint8_t *id, size_t id_size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t got[64];
	Elf *elf;
	bool ok;

	if (fd < 0)
		return -1;
	elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	ok = elf && elf_kind(elf) == ELF_K_ELF && build_id(elf, got, sizeof(got)) == id_size &&
	     !memcmp(got, id, id_size) && sizes_sane(elf, fd);
	elf_end(elf);
	if (ok)
		return fd;
	close(fd);
	return -1;
}

// .gnu_debugaltlink: a path, 0, the build-id.
static int open_alt(const struct module *m, Elf *elf)
{
	const char *file = m->debug_elf && m->debug_path ? m->debug_path : m->path, *slash;
	char path[PATH_MAX], hex[2 * 64 + 1];
	const uint8_t *id;
	size_t len, id_size;
	Elf_Data *data;
	GElf_Shdr sh;
	Elf_Scn *scn = find_section(elf, ".gnu_debugaltlink", &sh);
	int fd;

	data = scn ? elf_getdata(scn, NULL) : NULL;
	if (!data || !data->d_buf)
		return -1;
	len = strnlen(data->d_buf, data->d_size);
	if (len == 0 || data->d_size - len < 2 || data->d_size - len - 1 > 64)
		return -1;
	id = (const uint8_t *)data->d_buf + len + 1;
	id_size = data->d_size - len - 1;
	for (size_t i = 0; i < id_size; i++)
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	snprintf(path, sizeof(path), "/usr/lib/debug/.build-id/%.2s/%s.debug", hex, hex + 2);
	fd = open_alt_path(path, id, id_size);
	if (fd >= 0)
		return fd;
	slash = file ? strrchr(file, '/') : NULL;
	if (((char *)data->d_buf)[0] == '/' || !slash)
		len = (size_t)snprintf(path, sizeof(path), "%s", (char *)data->d_buf);
	else
		len = (size_t)snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - file), file,
				       (char *)data->d_buf);
	return len < sizeof(path) ? open_alt_path(path, id, id_size) : -1;
}

// --- DIEs ---------------------------------------------------------------------------------------

// libdwarf allocates an error each time it returns one.
static void drop_error(Dwarf_Debug dbg, Dwarf_Error *err)
{
	if (*err)
		dwarf_dealloc_error(dbg, *err);
	*err = NULL;
}

static bool get_attr(Dwarf_Debug dbg, Dwarf_Die die, Dwarf_Half at, Dwarf_Attribute *ret_attr)
{
	Dwarf_Error err = NULL;
	int r = dwarf_attr(die, at, ret_attr, &err);

	if (r == DW_DLV_ERROR)
		drop_error(dbg, &err);
	return r == DW_DLV_OK;
}

// The string of an attribute, which lives as long as dbg; or NULL.
static const char *get_string(Dwarf_Debug dbg, Dwarf_Die die, Dwarf_Half at)
{
	Dwarf_Attribute attr;
	Dwarf_Error err = NULL;
	char *s = NULL;
	int r;

	if (!get_attr(dbg, die, at, &attr))
		return NULL;
	r = dwarf_formstring(attr, &s, &err);
	if (r == DW_DLV_ERROR)
		drop_error(dbg, &err);
	dwarf_dealloc_attribute(attr);
	return r == DW_DLV_OK ? s : NULL;
}

// Where a reference leads: an offset in .debug_info, of the alternate file if *ret_alt.
static bool get_ref(Dwarf_Debug dbg, Dwarf_Die die, Dwarf_Half at, Dwarf_Off *ret_off,
		    bool *ret_alt)
{
	Dwarf_Attribute attr;
	Dwarf_Error err = NULL;
	Dwarf_Half form = 0;
	int r;

	if (!get_attr(dbg, die, at, &attr))
		return false;
	r = dwarf_whatform(attr, &form, &err);
	if (r == DW_DLV_OK && form != DW_FORM_ref_sig8)
		r = dwarf_global_formref(attr, ret_off, &err);
	else if (r == DW_DLV_OK)
		r = DW_DLV_NO_ENTRY;
	if (r == DW_DLV_ERROR)
		drop_error(dbg, &err);
	dwarf_dealloc_attribute(attr);
	*ret_alt =
		form == DW_FORM_GNU_ref_alt || form == DW_FORM_ref_sup4 || form == DW_FORM_ref_sup8;
	return r == DW_DLV_OK;
}

static bool name_of(const struct walk *w, Dwarf_Debug dbg, Dwarf_Die die, unsigned hops);

// The function described at an offset, perhaps by reference to yet another.
static bool critical_at(const struct walk *w, bool alt, Dwarf_Off off, unsigned hops)
{
	struct name_cache *c = &w->cache[(off >> 1 ^ off >> 14) % CACHE_SIZE];
	Dwarf_Debug dbg = alt ? w->alt : w->dbg;
	uint64_t key = (off << 1 | alt) + 1;
	Dwarf_Error err = NULL;
	Dwarf_Die die;
	int r;

	if (!dbg)
		return false;
	if (c->key == key)
		return c->critical;
	r = dwarf_offdie_b(dbg, off, true, &die, &err);
	if (r != DW_DLV_OK) {
		if (r == DW_DLV_ERROR)
			drop_error(dbg, &err);
		return false;
	}
	c->critical = name_of(w, dbg, die, hops);
	c->key = key;
	dwarf_dealloc_die(die);
	return c->critical;
}

static bool name_of(const struct walk *w, Dwarf_Debug dbg, Dwarf_Die die, unsigned hops)
{
	const char *name = get_string(dbg, die, DW_AT_linkage_name);
	Dwarf_Off off;
	bool alt;

	if (!name)
		name = get_string(dbg, die, DW_AT_MIPS_linkage_name);
	if (name)
		return critical_name(name, w->globs);
	if (hops < CHAIN_MAX && (get_ref(dbg, die, DW_AT_abstract_origin, &off, &alt) ||
				 get_ref(dbg, die, DW_AT_specification, &off, &alt)))
		// What the alternate file refers to is in it, too.
		return critical_at(w, alt || dbg == w->alt, off, hops + 1);
	name = get_string(dbg, die, DW_AT_name);
	return name && critical_name(name, w->globs);
}

// --- Ranges -------------------------------------------------------------------------------------

// Only what lies in one executable section: a discarded function has addresses near 0.
static void mark_range(struct walk *w, uint64_t lo, uint64_t hi)
{
	int r;

	for (size_t i = 0; i < w->m->ntext && lo < hi; i++) {
		const struct section *s = &w->m->text[i];

		if (lo < s->addr || lo - s->addr >= s->size || hi - s->addr > s->size)
			continue;
		r = marks_add(w->marks, MARK_CRITICAL, lo, hi, 0);
		if (r < 0)
			w->err = r;
		return;
	}
}

static void mark_rnglist(struct walk *w, Dwarf_Attribute attr, Dwarf_Half form,
			 Dwarf_Unsigned value)
{
	Dwarf_Rnglists_Head head = NULL;
	Dwarf_Unsigned n = 0, off;
	Dwarf_Error err = NULL;

	if (dwarf_rnglists_get_rle_head(attr, form, value, &head, &n, &off, &err) != DW_DLV_OK) {
		drop_error(w->dbg, &err);
		return;
	}
	for (Dwarf_Unsigned i = 0; i < n; i++) {
		Dwarf_Unsigned raw1, raw2, lo = 0, hi = 0;
		unsigned len, code;
		Dwarf_Bool missing = false;

		if (dwarf_get_rnglists_entry_fields_a(head, i, &len, &code, &raw1, &raw2, &missing,
						      &lo, &hi, &err) != DW_DLV_OK) {
			drop_error(w->dbg, &err);
			break;
		}
		if (!missing && (code == DW_RLE_startx_endx || code == DW_RLE_startx_length ||
				 code == DW_RLE_offset_pair || code == DW_RLE_start_end ||
				 code == DW_RLE_start_length))
			mark_range(w, lo, hi);
	}
	dwarf_dealloc_rnglists_head(head);
}

static void mark_old_ranges(struct walk *w, Dwarf_Die die, Dwarf_Off off)
{
	Dwarf_Ranges *ranges = NULL;
	Dwarf_Signed n = 0;
	Dwarf_Unsigned bytes;
	Dwarf_Error err = NULL;
	uint64_t base = w->cu_base;

	if (dwarf_get_ranges_a(w->dbg, off, die, &ranges, &n, &bytes, &err) != DW_DLV_OK) {
		drop_error(w->dbg, &err);
		return;
	}
	for (Dwarf_Signed i = 0; i < n && ranges[i].dwr_type != DW_RANGES_END; i++) {
		if (ranges[i].dwr_type == DW_RANGES_ADDRESS_SELECTION)
			base = ranges[i].dwr_addr2;
		else
			mark_range(w, base + ranges[i].dwr_addr1, base + ranges[i].dwr_addr2);
	}
	dwarf_ranges_dealloc(w->dbg, ranges, n);
}

static bool get_low(struct walk *w, Dwarf_Die die, uint64_t *ret_lo)
{
	Dwarf_Error err = NULL;
	Dwarf_Addr lo;
	int r = dwarf_lowpc(die, &lo, &err);

	if (r == DW_DLV_ERROR)
		drop_error(w->dbg, &err);
	if (r == DW_DLV_OK)
		*ret_lo = lo;
	return r == DW_DLV_OK;
}

static void mark_die(struct walk *w, Dwarf_Die die)
{
	Dwarf_Attribute attr;
	Dwarf_Error err = NULL;
	Dwarf_Half form = 0;
	Dwarf_Unsigned value = 0;
	int r;

	if (get_attr(w->dbg, die, DW_AT_ranges, &attr)) {
		r = dwarf_whatform(attr, &form, &err);
		if (r == DW_DLV_OK && form == DW_FORM_rnglistx)
			r = dwarf_formudata(attr, &value, &err);
		else if (r == DW_DLV_OK)
			r = dwarf_global_formref(attr, &value, &err);
		if (r == DW_DLV_OK && w->version >= 5)
			mark_rnglist(w, attr, form, value);
		else if (r == DW_DLV_OK)
			mark_old_ranges(w, die, value);
		else
			drop_error(w->dbg, &err);
		dwarf_dealloc_attribute(attr);
	} else {
		enum Dwarf_Form_Class class = DW_FORM_CLASS_UNKNOWN;
		Dwarf_Addr hi;
		uint64_t lo;

		if (!get_low(w, die, &lo))
			return;
		r = dwarf_highpc_b(die, &hi, &form, &class, &err);
		if (r == DW_DLV_OK)
			mark_range(w, lo, class == DW_FORM_CLASS_CONSTANT ? lo + hi : hi);
		else
			drop_error(w->dbg, &err);
	}
}

static bool has_code(struct walk *w, Dwarf_Die die)
{
	Dwarf_Error err = NULL;
	Dwarf_Bool has = false;

	if (dwarf_hasattr(die, DW_AT_low_pc, &has, &err) != DW_DLV_OK)
		drop_error(w->dbg, &err);
	if (!has && dwarf_hasattr(die, DW_AT_ranges, &has, &err) != DW_DLV_OK)
		drop_error(w->dbg, &err);
	return has;
}

// --- The walk -----------------------------------------------------------------------------------

// Look at one DIE. True: its children, too.
static bool visit(struct walk *w, Dwarf_Die die)
{
	Dwarf_Error err = NULL;
	Dwarf_Half tag = 0;

	if (dwarf_tag(die, &tag, &err) != DW_DLV_OK) {
		drop_error(w->dbg, &err);
		return false;
	}
	switch (tag) {
	case DW_TAG_compile_unit:
	case DW_TAG_namespace:
	case DW_TAG_module:
		return true;
	case DW_TAG_lexical_block:
	case DW_TAG_try_block:
	case DW_TAG_catch_block:
		return true;
	case DW_TAG_subprogram:
	case DW_TAG_inlined_subroutine:
		if (!has_code(w, die))
			return false;
		if (!name_of(w, w->dbg, die, 0))
			return true;
		mark_die(w, die);
		return false; // what is inlined in it lies inside
	default:
		return false;
	}
}

// One unit, depth first, with at most DEPTH_MAX DIEs in memory. limit: it cannot have more of them, but by references that
// form a circle. False if it is damaged.
static bool walk_unit(struct walk *w, Dwarf_Die top, uint64_t limit)
{
	Dwarf_Die stack[DEPTH_MAX];
	Dwarf_Error err = NULL;
	unsigned depth = 1;
	bool ok = true;

	stack[0] = top;
	while (depth && ok && !w->err) {
		Dwarf_Die die = stack[depth - 1], next;
		int r = DW_DLV_NO_ENTRY;

		if (!limit--) {
			ok = false;
			break;
		}
		if (visit(w, die) && depth < DEPTH_MAX)
			r = dwarf_child(die, &next, &err);
		if (r == DW_DLV_OK) {
			stack[depth++] = next;
			continue;
		}
		// No children: the next sibling, or that of the nearest parent that has one.
		while (r == DW_DLV_NO_ENTRY && depth) {
			die = stack[--depth];
			if (depth) // the unit has none
				r = dwarf_siblingof_b(w->dbg, die, true, &next, &err);
			dwarf_dealloc_die(die);
		}
		if (r == DW_DLV_OK)
			stack[depth++] = next;
		ok = r != DW_DLV_ERROR;
	}
	drop_error(w->dbg, &err);
	while (depth)
		dwarf_dealloc_die(stack[--depth]);
	return ok;
}

static void walk_all(struct walk *w)
{
	Dwarf_Error err = NULL;
	uint64_t last = 0;

	for (;;) {
		Dwarf_Unsigned length, type_offset, next = 0;
		Dwarf_Off abbrev;
		Dwarf_Half address_size, length_size, extension_size, cu_type;
		Dwarf_Sig8 signature;
		Dwarf_Die die;
		int r = dwarf_next_cu_header_d(w->dbg, true, &length, &w->version, &abbrev,
					       &address_size, &length_size, &extension_size,
					       &signature, &type_offset, &next, &cu_type, &err);

		if (r != DW_DLV_OK || next <= last || w->err)
			break;
		last = next;
		r = dwarf_siblingof_b(w->dbg, NULL, true, &die, &err);
		if (r == DW_DLV_ERROR)
			break;
		if (r == DW_DLV_NO_ENTRY)
			continue;
		w->cu_base = 0;
		get_low(w, die, &w->cu_base);
		if (!walk_unit(w, die, length))
			break;
	}
	drop_error(w->dbg, &err);
}

static bool open_dwarf(int fd, Dwarf_Debug *ret_dbg)
{
	Dwarf_Error err = NULL;
	int r = dwarf_init_b(fd, DW_DLC_READ, DW_GROUPNUMBER_ANY, NULL, NULL, ret_dbg, &err);

	if (r == DW_DLV_ERROR)
		dwarf_dealloc_error(NULL, err);
	if (r != DW_DLV_OK)
		*ret_dbg = NULL;
	return r == DW_DLV_OK;
}

static void close_dwarf(Dwarf_Debug dbg)
{
	Dwarf_Error err = NULL;

	if (dbg && dwarf_finish(dbg, &err) == DW_DLV_ERROR)
		dwarf_dealloc_error(NULL, err);
}

int debuginfo_mark(struct module *m, const char *globs, struct marks *marks)
{
	struct walk w = {.m = m, .globs = globs, .marks = marks};
	GElf_Shdr sh;
	Dwarf_Error err = NULL;
	Elf *elf = m->debug_elf;
	int fd = m->debug_fd, alt_fd = -1;

	if (!elf || !find_section(elf, ".debug_info", &sh)) {
		elf = m->elf;
		fd = m->fd;
	}
	if (!elf || !find_section(elf, ".debug_info", &sh) || !sizes_sane(elf, fd))
		return 0;
	w.cache = calloc(CACHE_SIZE, sizeof(*w.cache));
	if (!w.cache)
		return -ENOMEM;
	// All that is asked for is given back here; the library need not keep lists of it.
	dwarf_set_de_alloc_flag(0);
	if (open_dwarf(fd, &w.dbg)) {
		m->source |= TABLE_DEBUG_INFO;
		if (find_section(elf, ".debug_line", &sh))
			m->source |= TABLE_DEBUG_LINE;
		alt_fd = open_alt(m, elf);
		if (alt_fd >= 0 && open_dwarf(alt_fd, &w.alt)) {
			// For strings in it.
			if (dwarf_set_tied_dbg(w.dbg, w.alt, &err) == DW_DLV_OK)
				m->source |= TABLE_DEBUG_ALT;
			drop_error(w.dbg, &err);
		}
		walk_all(&w);
		if (w.alt)
			dwarf_set_tied_dbg(w.dbg, NULL, &err);
		drop_error(w.dbg, &err);
	}
	close_dwarf(w.dbg);
	close_dwarf(w.alt);
	if (alt_fd >= 0)
		close(alt_fd);
	free(w.cache);
	return w.err;
}
