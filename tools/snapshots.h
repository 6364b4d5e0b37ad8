// snapshots.h: what a process shows of its threads (shim/snapshot.h), asked for, read and checked.

#pragma once

#include <stddef.h>

#include "snapshot.h"
#include "target.h"

struct snapshot {
	const struct snapshot_head *head;
	const struct snapshot_p *ps;
	const struct snapshot_thread *threads;
	const struct snapshot_module *modules;
	void *bytes; // which all of these lie in
};

// bytes, aligned to 8, are what a file had. Nothing of it is trusted: what is accepted has all numbers in range and all texts ended. 0 or -EBADMSG;
// -EPROTO: of another version of the library.
int snapshot_check(void *bytes, size_t size, struct snapshot *ret);

// Ask t for one and wait for it: 0, -ESRCH: it has ended, -ETIMEDOUT, -EPROTO, or another -errno. After ret->bytes have been used,
// snapshot_free.
int snapshot_take(const struct target *t, struct snapshot *ret);
void snapshot_free(struct snapshot *s);
const char *snapshot_error(int error);
// Remove the files that killed processes of this user have left.
void snapshot_tidy(void);

// The value that so many percent are not above, of what was counted between two snapshots; 0: nothing was. before may be NULL.
uint64_t snapshot_percentile(const struct histogram *now, const struct histogram *before,
			     unsigned percent, uint64_t *ret_count);
