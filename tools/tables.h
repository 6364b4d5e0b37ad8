// tables.h: what tables.c, jobs.c, build.c and coverage.c share.

#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "command.h"
#include "shim.h"

enum job_state {
	JOB_TODO,
	JOB_BUILT,
	JOB_CACHED,
	JOB_NO_CODE, // nothing to build, nothing wrong
	JOB_FAILED,
};

// One file of which a table is wanted.
struct job {
	char *path;
	struct module_id id;
	enum job_state state;
	char *why;		    // JOB_FAILED
	bool no_debug_info;	    // a worker died of the file; another is to leave that out
	bool has_header;	    // JOB_BUILT, and JOB_CACHED if the whole table was looked at
	struct table_header header; // copied from the table
};
struct jobs {
	struct job *v;
	size_t n, cap;
	size_t missing; // libraries that the dynamic linker does not find
	char first_missing[100];
};

// --- jobs.c: which files ----------------------------------------------------------------------------
enum { JOBS_NEEDED = 1 }; // also the libraries that the file needs
// Add a file, or all ELF files below a directory. What cannot be used becomes a failed job.
void jobs_add(struct jobs *jobs, const char *path, unsigned flags);
// Add what `command` will run: the program or the interpreter of the script, and its libraries.
// Nothing happens when there is no such command.
void jobs_add_command(struct jobs *jobs, const char *command);
void jobs_free(struct jobs *jobs);
// As execvp finds it; false: there is none in PATH. A name with a slash is taken as it is.
bool find_command(const char *name, char ret_path[PATH_MAX]);
// The program that runs a script, also by way of env. False: it is no script.
bool script_interpreter(const char *path, char ret_path[PATH_MAX]);
void job_fail(struct job *job, const char *why);

// --- build.c: tables by worker processes --------------------------------------------------------------
struct build {
	int workers; // 0: as many as CPUs
	int seconds; // CPU time for one file
	bool force;
	bool progress; // show a bar on stderr
	const char *globs;
};
// Take from the cache what is there (whole: after looking at all of each table), so that JOB_TODO are the rest.
void build_find(struct jobs *jobs, bool whole);
// Build all JOB_TODO. 0, or -errno with one line in *ret_why: no table can be stored at all.
int build_run(struct jobs *jobs, const struct build *build, const char **ret_why);

// --- coverage.c -----------------------------------------------------------------------------------------
void coverage_print(FILE *out, const struct jobs *jobs);
void coverage_json(FILE *out, const struct jobs *jobs);

// --- tables.c ---------------------------------------------------------------------------------------------
int cmd_tables(int argc, char **argv);
void tables_help(FILE *out);
// Before `preempt run` starts command with library: build what is missing. Never fails.
void tables_before_run(const char *command, const char *library);
