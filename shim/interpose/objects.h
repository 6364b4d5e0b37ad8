// objects.h: what the wrappers of pthread objects share.

#pragma once

#include <pthread.h>

#include "interpose.h"

struct g *getg_adopt(void); // thread.c
// thread.c: the caller is about to end by the system call exit. Arguments as those of syscall(2).
void shim_thread_exits(long nr, long status);
bool mutex_is_glibcs(const pthread_mutex_t *m); // mutex.c: glibc's own path must be taken
// mutex.c: which kinds may be taken without glibc? Before the process is active.
void mutex_probe(void);
void shim_child_after_fork(void); // fork.c
void vfork_prepare(void);	  // fork.c: before and after a child borrows our memory
long vfork_parent(long ret);	  // ret: of the system call; what vfork returns
