// insn.c: one pass over the instructions. Replaced by the file with the pass.

#include <stdlib.h>

#include "compiler.h"

int insn_scan(const struct module *m, const struct cfi *cfi, struct marks *marks,
	      struct code_facts *facts)
{
	(void)m;
	(void)cfi;
	(void)marks;
	(void)facts;
	return 0;
}

void code_facts_free(struct code_facts *facts)
{
	free(facts->funcs);
	free(facts->jumps);
}
