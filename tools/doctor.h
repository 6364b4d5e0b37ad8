// doctor.h: what the parts of `preempt doctor` share.

#pragma once

#include "tables.h"

enum level {
	LEVEL_OK,
	LEVEL_NOTE, // good to know
	LEVEL_WARN, // works, but not as well as it could
	LEVEL_STOP, // the library steps aside, or is not even loaded
};

struct finding {
	const char *section, *id; // "program", "static"
	enum level level;
	char *text, *advice; // what to do, or NULL
};

struct doctor {
	struct launch launch;
	bool json;
	bool runtime; // it is one that makes code
	const char *section;
	struct finding *v;
	size_t n;
	json_t *facts;
	char path[PATH_MAX]; // of the program; "": none was named
	struct jobs jobs;    // the program and its libraries
};

void find_that(struct doctor *d, enum level level, const char *id, const char *advice,
	       const char *fmt, ...) __attribute__((format(printf, 5, 6)));

// --- program.c: the file and its libraries -----------------------------------------------------------
void doctor_program(struct doctor *d);
// All modules: tables, runtimes that make code, what they import.
void doctor_modules(struct doctor *d);
// --- machine.c: kernel, libc, limits, cache, settings ----------------------------------------------------
void doctor_settings(struct doctor *d); // first: others look at config
void doctor_machine(struct doctor *d);
void doctor_cache(struct doctor *d);
// What the trial program does: `preempt --trial`.
#define DOCTOR_TRIAL "--trial"
int doctor_trial(void);
