// dump.c: prints a table in the form that interface tests and people read: LO HI CFA RA FLAGS.

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "compiler.h"

enum { FLAGS_MAX = 128 };

// What follows the addresses of row i. Rows that give the same text are printed as one.
static void describe(const struct table *t, uint32_t i, uint32_t *syscall, char *buf, size_t size)
{
	const struct table_row *row = &t->rows[i];
	char cfa[32] = "-";
	const char *sep = "";
	int n;

	if (table_base(row) == TABLE_CFA_RSP || table_base(row) == TABLE_CFA_RBP)
		snprintf(cfa, sizeof(cfa), "%s%+d",
			 table_base(row) == TABLE_CFA_RSP ? "rsp" : "rbp", row->cfa_offset);
	n = snprintf(buf, size, "%s %s ", cfa, cfa[0] == '-' ? "-" : "c-8");
	if (table_is_safe(row)) {
		n += snprintf(buf + n, size - (size_t)n, "safe");
		sep = ",";
	} else if (table_reason(row) != TABLE_SAFE) {
		n += snprintf(buf + n, size - (size_t)n, "unsafe:%s",
			      table_reason_name(table_reason(row)));
		sep = ",";
	}
	if (row->flags & TABLE_CRITICAL) {
		n += snprintf(buf + n, size - (size_t)n, "%scritical", sep);
		sep = ",";
	}
	if (row->flags & TABLE_SPIN)
		n += snprintf(buf + n, size - (size_t)n, "%sspin", sep);
	if (row->flags & TABLE_SYSCALL) {
		int32_t nr = t->syscalls[(*syscall)++].nr;

		if (nr >= 0)
			snprintf(buf + n, size - (size_t)n, ",syscall:%d", nr);
		else
			snprintf(buf + n, size - (size_t)n, ",syscall:?");
	}
}

int dump_table(const struct table *t, FILE *out)
{
	char text[2][FLAGS_MAX];
	uint32_t syscall = 0, n = t->header->nrows;
	uint64_t lo = table_row_start(t, 0);

	describe(t, 0, &syscall, text[0], FLAGS_MAX);
	for (uint32_t i = 0; i < n; i++) {
		char *this = text[i & 1], *next = text[~i & 1];

		if (i + 1 < n) {
			describe(t, i + 1, &syscall, next, FLAGS_MAX);
			// A system call's row is as long as its instruction, so two of them stay two.
			if (strcmp(this, next) == 0 && !(t->rows[i].flags & TABLE_SYSCALL))
				continue;
		}
		fprintf(out, "%" PRIx64 " %" PRIx64 " %s\n", lo, table_row_start(t, i + 1), this);
		lo = table_row_start(t, i + 1);
	}
	return fflush(out) || ferror(out) ? -EIO : 0;
}
