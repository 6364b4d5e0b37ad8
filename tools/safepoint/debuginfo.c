// debuginfo.c: inlined instances of critical functions. Replaced by the file with the pass.

#include "compiler.h"

int debuginfo_mark(struct module *m, const char *globs, struct marks *marks)
{
	(void)m;
	(void)globs;
	(void)marks;
	return 0;
}
