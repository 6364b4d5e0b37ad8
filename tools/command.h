// command.h: what the subcommands of preempt share. tables.h has the rest, about tables.

#pragma once

#include <argp.h>
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>

// Exit codes follow env(1); all others are the program's own.
enum { EXIT_FAILED = 125, EXIT_NOEXEC = 126, EXIT_NOENT = 127 };

// --- the subcommands: argv[0] is "preempt NAME"; help prints the options -------------------------------
int cmd_run(int argc, char **argv);
void run_help(FILE *out);
int cmd_stat(int argc, char **argv);
void stat_help(FILE *out);
int cmd_compare(int argc, char **argv);
void compare_help(FILE *out);
int cmd_doctor(int argc, char **argv);
void doctor_help(FILE *out);
int cmd_dump(int argc, char **argv);
void dump_help(FILE *out);
int cmd_top(int argc, char **argv);
void top_help(FILE *out);
int cmd_trace(int argc, char **argv);
void trace_help(FILE *out);

// --- command.c -----------------------------------------------------------------------------------------
// "preempt: ...", one line on stderr, and exit with 125.
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
void *must(void *p); // or die: out of memory
void set_env(const char *name, const char *value);
// Parse, with 125 for wrong usage; options end at the first word that is none.
void parse_options(const struct argp *argp, int argc, char **argv, void *input);
int64_t parse_count(const struct argp_state *state, const char *option, const char *arg,
		    int64_t min, int64_t max);
int finish_output(int status); // status, or 125 if standard output could not be written

// --- settings.c: an option for each setting of the library ------------------------------------------
// --procs sets PREEMPT_PROCS in this process, and so on. A bad value is an error before anything starts.
const struct argp *settings_argp(bool with_stats);

// --- launch.c: a program, with the library or without it ------------------------------------------------
struct launch {
	const char *library; // --library, then the path that was found
	bool no_tables;
	char **command; // set by the subcommand
	char found[PATH_MAX];
};
// Options of a subcommand that runs a program: its own, in argp, those of launch.c and those of the settings. launch_words is what its parser
// returns for all keys that are not its own.
const struct argp *launch_argp(struct argp *argp, bool with_stats);
error_t launch_words(int key, struct launch *l, struct argp_state *state);
void launch_library(struct launch *l);	  // find it, or exit with a message
void launch_prepare(struct launch *l);	  // the same, and build the missing tables
void launch_preload(const char *library); // first in LD_PRELOAD of this process
void launch_plain(void);		  // out of LD_PRELOAD
int launch_exec(char **command);	  // fails with a message; returns the exit code

// --- child.c: run it and wait ---------------------------------------------------------------------------
struct child {
	// In.
	char **command;
	const char *library; // NULL: plain
	const char *stats;   // figures_pattern(), or NULL
	int in, out, err;    // -1: inherited
	// Out.
	int status;		 // as of waitpid
	int64_t wall, user, sys; // ns
	int64_t max_rss;	 // KiB
	int interrupted;	 // signal that was passed on last and asks to end, or 0
};
// 0, or the exit code after a message: it could not be started.
int child_run(struct child *child);
void child_begin(void); // once, before the first
bool child_failed(const struct child *child);
const char *child_ended(const struct child *child, char buf[64]); // "exit code 3", "killed by ..."
// End as the child did: its exit code, or by its signal.
int child_exit(const struct child *child);

// --- report.c: output for people and programs ---------------------------------------------------------
enum colour { PLAIN, BOLD, GOOD, WARN, BAD, DIM };
const char *colour(FILE *to, enum colour c); // escape sequence, or "" where there is no terminal
void print_count(char buf[32], double v);    // 1,234,567
void print_time(char buf[32], double ns);    // 12.3 us
json_t *json_text(const char *s);	     // any bytes; what is no UTF-8 becomes U+FFFD
json_t *json_words(char *const *words);
void json_set(json_t *object, const char *key, json_t *value); // takes value; dies without memory
int json_print(FILE *out, json_t *object);		       // takes object; the exit code

// --- sample.c: figures of several runs ------------------------------------------------------------------
struct sample {
	double *v;
	size_t n, cap;
};
void sample_add(struct sample *s, double v);
void sample_free(struct sample *s);
double sample_mean(const struct sample *s);
double sample_deviation(const struct sample *s); // standard deviation; 0 for fewer than 2
double sample_median(const struct sample *s);
double sample_min(const struct sample *s);
double sample_max(const struct sample *s);
double t_quantile(size_t n); // Student's t, 97.5 %, for n values
