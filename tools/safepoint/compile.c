// compile.c: from one ELF file to its table, in the order in which the passes need each other.
//
// The instruction pass checks what the CFI says; critical functions are found with what the instruction pass saw of
// jumps and locks; debug information adds what was inlined. Then all is merged. What was made is checked by the same
// function that the library uses, so that a table that would be refused is never written.

#include <errno.h>
#include <stdlib.h>

#include "compiler.h"
#include "shim.h"

// Who waits in the vDSO waits for the kernel, which is done in a moment; and its instructions are nobody's to rewrite.
static void forget_waits(struct marks *marks)
{
	size_t n = 0;

	for (size_t i = 0; i < marks->n; i++) {
		uint8_t kind = marks->v[i].kind;

		if (kind != MARK_SPIN && kind != MARK_PAUSE && kind != MARK_ENQUEUE &&
		    kind != MARK_SYSCALL)
			marks->v[n++] = marks->v[i];
	}
	marks->n = n;
}

static int compile(struct module *m, const char *globs, bool debug_info, struct cfi *cfi,
		   struct marks *marks, struct code_facts *facts, struct buffer *ret_table,
		   const char **ret_why)
{
	struct table table;
	int err;

	*ret_why = "cannot read the frame descriptions";
	err = cfi_read(cfi, m);
	if (err)
		return err;
	if (m->eh_frame.size)
		m->source |= TABLE_EH_FRAME;
	if (m->debug_frame.size)
		m->source |= TABLE_DEBUG_FRAME;
	*ret_why = "cannot read the instructions";
	err = insn_scan(m, cfi, marks, facts);
	if (err)
		return err;
	if (module_is_vdso(m->path))
		forget_waits(marks);
	*ret_why = "cannot look for critical functions";
	err = critical_mark(m, facts, globs, marks);
	if (err)
		return err;
	*ret_why = "cannot read the debug information";
	err = debug_info ? debuginfo_mark(m, globs, marks) : 0;
	if (err)
		return err;
	*ret_why = "cannot build the table";
	err = rows_build(m, cfi, marks, cache_globs_hash(globs), ret_table);
	if (err)
		return err;
	*ret_why = table_check(ret_table->data, ret_table->size, &table);
	if (*ret_why) { // a bug of ours, or memory that is going bad
		free(ret_table->data);
		*ret_table = (struct buffer){0};
		return -EBADMSG;
	}
	return 0;
}

int compile_module(const char *path, const char *globs, bool debug_info, struct buffer *ret_table,
		   const char **ret_why)
{
	struct module m;
	struct cfi cfi = {0};
	struct marks marks = {0};
	struct code_facts facts = {0};
	int err;

	*ret_table = (struct buffer){0};
	err = module_open(&m, path, ret_why);
	if (err)
		return err;
	err = compile(&m, globs ? globs : "", debug_info, &cfi, &marks, &facts, ret_table, ret_why);
	code_facts_free(&facts);
	marks_free(&marks);
	cfi_free(&cfi);
	module_close(&m);
	return err;
}
