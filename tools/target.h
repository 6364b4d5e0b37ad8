// target.h: a process that runs with the library, and the library's own thread in it, which is asked by signal.

#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct target {
	int pid;
	int inner;	    // pid as it sees itself, in its container
	int sysmon, signal; // the library's thread, and the one signal that it takes
	int deaf;	    // such a thread that takes none
	uid_t uid;
	char name[32];
};

// These say what is wrong in one line on stderr and return false.
bool target_parse(struct target *t, const char *pid);
bool target_find(struct target *t); // by pid

int target_ask(const struct target *t,
	       uint64_t value); // 0 or -errno; target_error has words for it
const char *target_error(int error);

bool target_is_there(struct target *t); // as target_find, without a word
bool target_lives(const struct target *t);
// It takes no requests any more: it has found a seccomp filter (-EACCES for target_error).
bool target_is_deaf(const struct target *t);
// All that this user may ask, by pid. *ret is to be freed.
size_t target_list(struct target **ret);
// The name of a thread (tid as the caller sees it), or "".
void target_comm(int pid, int tid, char name[32]);
