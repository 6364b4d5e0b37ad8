// objects.h: what the wrappers of pthread objects share.

#pragma once

#include <pthread.h>

#include "interpose.h"

struct g *getg_adopt(void);			// thread.c
bool mutex_is_glibcs(const pthread_mutex_t *m); // mutex.c: glibc's own path must be taken
void shim_child_after_fork(void);		// fork.c
