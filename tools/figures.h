// figures.h: what PREEMPT_STATS says of the processes of one run (figures.c), for stat.c.

#pragma once

#include "command.h"

// PREEMPT_STATS_PAGE is the same as PREEMPT_STATS, and this.
#define PAGE_SUFFIX ".page"

struct figures {
	json_t *processes; // array of the objects, by pid; those with threads first
	json_t *total;	   // one flat object, "preempt.async": the keys of all processes together
	size_t threaded;   // processes that had threads
	size_t partial; // that left only their counters: killed, ended by _exit, or still running
	size_t damaged; // files that are no figures
};

// PREEMPT_STATS for the programs to run: files in a directory of ours, which is made, and removed at exit.
const char *figures_pattern(void);
// What the processes left there so far; it is removed.
void figures_read(struct figures *f);
void figures_end(void); // remove it; at exit that is done anyway, but not at an end by a signal
void figures_free(struct figures *f);
double figures_get(const json_t *flat, const char *key); // 0 if there is none
const char *figures_name(const json_t *process);	 // of its first thread, or "?"
