// tables.c: `preempt tables build|dump|check`, and what `preempt run` does before it starts a program.
//
// The tables are keyed by the settings that the library will see in the same environment, so this command
// reads them with the library's own code, and names and judges files with its cache.c.
//
// Exit codes: 0; 1: some file has no valid table; 125: wrong usage, or nothing could be done at all.

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "safepoint/compiler.h"
#include "tables.h"

enum { EXIT_MISSING = 1 };

enum {
	BUILD_SECONDS = 600,  // of CPU time; the largest libraries need some 30
	HELPER_SECONDS = 120, // in the background of a program
	HELPER_NICE = 5,
};

enum { OPT_NEEDED = 256, OPT_JSON, OPT_SYSTEM, OPT_HELPER, OPT_FRESH };

struct options {
	bool needed, force, json, quiet, verbose, helper, system, fresh;
	int workers;
	char **files;
};

// --- settings -------------------------------------------------------------------------------------------

static const char *getenv_loud(const char *name)
{
	return getenv(name);
}

// The library is going to complain itself.
static const char *getenv_quiet(const char *name)
{
	return strcmp(name, "PREEMPT_LOG") == 0 ? "off" : getenv(name);
}

static void settings(bool quiet, bool system)
{
	env_read(quiet ? getenv_quiet : getenv_loud, NULL);
	if (system) {
		umask(022); // what is made is for all
		cache_init(cache_system_dir, NULL, NULL, config.critical);
	} else {
		cache_init(config.cache_dir, getenv("XDG_CACHE_HOME"), getenv("HOME"),
			   config.critical);
	}
}

// --- options ----------------------------------------------------------------------------------------------

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	char *end;
	long n;

	switch (key) {
	case OPT_NEEDED:
		o->needed = true;
		return 0;
	case 'f':
		o->force = true;
		return 0;
	case 'j':
		n = strtol(arg, &end, 10);
		if (*end || end == arg || n < 1 || n > 256)
			argp_error(state, "-j %s: not a number from 1 to 256", arg);
		o->workers = (int)n;
		return 0;
	case 'q':
		o->quiet = true;
		return 0;
	case 'v':
		o->verbose = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	case OPT_SYSTEM:
		o->system = true;
		return 0;
	case OPT_HELPER:
		o->helper = true;
		return 0;
	case OPT_FRESH:
		o->fresh = true;
		return 0;
	case ARGP_KEY_ARGS:
		o->files = state->argv + state->next;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no file given");
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option build_options[] = {
	{"needed", OPT_NEEDED, NULL, 0, "Also the libraries that the files need", 0},
	{"force", 'f', NULL, 0, "Build tables that are there already", 0},
	{"jobs", 'j', "N", 0, "Build N at a time (default: one per CPU)", 0},
	{"json", OPT_JSON, NULL, 0, "Report as JSON", 0},
	{"quiet", 'q', NULL, 0, "No report and no progress, only errors", 0},
	{"system", OPT_SYSTEM, NULL, 0, "Build for all users, in the system's directory", 0},
	{"helper", OPT_HELPER, NULL, 0,
	 "As the library's background process: no output, low priority, one at a time", 0},
	{0},
};
static const struct argp_option check_options[] = {
	{"needed", OPT_NEEDED, NULL, 0, "Also the libraries that the files need", 0},
	{"json", OPT_JSON, NULL, 0, "Report as JSON", 0},
	{"quiet", 'q', NULL, 0, "No output, only the exit code", 0},
	{"verbose", 'v', NULL, 0, "Report the coverage of the tables as well", 0},
	{"system", OPT_SYSTEM, NULL, 0, "Look in the system's directory only", 0},
	{0},
};
static const struct argp_option dump_options[] = {
	{"json", OPT_JSON, NULL, 0, "Print an object for each file", 0},
	{"fresh", OPT_FRESH, NULL, 0, "Compile the file anew, whatever is in the cache", 0},
	{0},
};

static const char build_doc[] =
	"Build the tables of safe points of programs and libraries; directories are searched for "
	"them. "
	"[vdso] is the code that the kernel maps into every process."
	"\vTables go to PREEMPT_CACHE_DIR, else $XDG_CACHE_HOME/preempt, else ~/.cache/preempt.";
static const char check_doc[] =
	"Say whether FILEs have valid tables in the cache.\vThe exit code is 1 if one has not.";
static const char dump_doc[] = "Print the table of a program or library, or a table file.\vOne "
			       "line for each row: LO HI CFA RA FLAGS.";

static const struct argp argps[] = {
	{build_options, parse, "FILE...", build_doc, NULL, NULL, NULL},
	{check_options, parse, "FILE...", check_doc, NULL, NULL, NULL},
	{dump_options, parse, "FILE...", dump_doc, NULL, NULL, NULL},
};
enum verb { BUILD, CHECK, DUMP, VERBS };
static const char *const verbs[VERBS] = {"build", "check", "dump"};

// --- results ------------------------------------------------------------------------------------------------

static void add_files(struct jobs *jobs, const struct options *o)
{
	for (char **f = o->files; *f; f++)
		jobs_add(jobs, *f, o->needed ? JOBS_NEEDED : 0);
}

static bool any_bad(const struct jobs *jobs)
{
	for (size_t i = 0; i < jobs->n; i++) {
		if (jobs->v[i].state == JOB_FAILED || jobs->v[i].state == JOB_TODO)
			return true;
	}
	return false;
}

// --- build ----------------------------------------------------------------------------------------------------

// In the background of a program, which must not feel it.
static void be_helper(struct options *o)
{
	int null = open("/dev/null", O_RDWR), fd;

	for (fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	// Not the lowest priority: a program that keeps all CPUs busy, which needs its tables most, would wait
	// minutes for them.
	if (getpriority(PRIO_PROCESS, 0) < HELPER_NICE)
		setpriority(PRIO_PROCESS, 0, HELPER_NICE);
	// When memory runs out, this goes first.
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)!write(fd, "1000", 4);
		close(fd);
	}
	o->workers = 1;
	o->quiet = true;
}

static int build(struct options *o)
{
	struct build b = {.force = o->force, .seconds = BUILD_SECONDS};
	struct jobs jobs = {0};
	const char *why;
	int r, status;

	if (o->helper) {
		be_helper(o);
		b.seconds = HELPER_SECONDS;
	}
	settings(o->helper, o->system);
	config.log = LOG_OFF; // about the directory this command speaks itself
	b.globs = config.critical;
	b.workers = o->workers;
	b.progress = !o->quiet && isatty(2);

	add_files(&jobs, o);
	if (!o->force)
		build_find(&jobs, true);
	r = build_run(&jobs, &b, &why);
	if (r != 0) {
		fprintf(stderr, "preempt: %s\n", why);
		jobs_free(&jobs);
		return EXIT_FAILED;
	}
	for (size_t i = 0; i < jobs.n; i++) {
		if (jobs.v[i].state == JOB_FAILED)
			fprintf(stderr, "preempt: %s: %s\n", jobs.v[i].path, jobs.v[i].why);
		else if (jobs.v[i].no_debug_info)
			fprintf(stderr,
				"preempt: %s: built without its debug information, of which the "
				"compiler died\n",
				jobs.v[i].path);
	}
	if (o->json)
		coverage_json(stdout, &jobs);
	else if (!o->quiet)
		coverage_print(stdout, &jobs);
	status = any_bad(&jobs) && !o->helper ? EXIT_MISSING : 0;
	jobs_free(&jobs);
	return finish_output(status);
}

// --- check ----------------------------------------------------------------------------------------------------

static const char *answer(int r)
{
	switch (r) {
	case 0:
		return "valid";
	case -ENOENT:
		return "no table";
	case -EBADMSG:
		return "the table is stale or damaged";
	case -EPERM:
		return "not used: the file or its directory is not of this user or root alone";
	default:
		return strerror(-r);
	}
}

static void check_job(struct job *job, const struct options *o)
{
	char path[1024] = "";
	struct text text = {path, 0, sizeof path};
	struct table table;
	size_t size;
	int r;

	if (job->state == JOB_TODO) {
		cache_probe(&job->id, false, &text); // for the path
		r = cache_open(&job->id, &table, &size);
		if (r == 0) {
			job->header = *table.header;
			job->has_header = true;
			job->state = JOB_CACHED;
			cache_close(&table, size);
		}
		if (r != 0)
			job_fail(job, answer(r));
	}
	if (o->quiet || o->json)
		return;
	if (job->state == JOB_FAILED)
		printf("%s: %s%s%s%s\n", job->path, job->why, *path ? " (" : "", path,
		       *path ? ")" : "");
	else
		printf("%s: %s\n", job->path, job->state == JOB_NO_CODE ? "no code" : path);
}

static int check(struct options *o)
{
	struct jobs jobs = {0};
	int status;

	settings(false, o->system);
	add_files(&jobs, o);
	for (size_t i = 0; i < jobs.n; i++)
		check_job(&jobs.v[i], o);
	if (o->json)
		coverage_json(stdout, &jobs);
	else if (o->verbose && !o->quiet)
		coverage_print(stdout, &jobs);
	status = any_bad(&jobs) ? EXIT_MISSING : 0;
	jobs_free(&jobs);
	return finish_output(status);
}

// --- dump -----------------------------------------------------------------------------------------------------

// A table file, wherever it lies. 1: it is none.
static int dump_file(const char *path, FILE *out)
{
	struct table table;
	const char *why = "too short";
	struct stat st;
	void *p = MAP_FAILED;
	char magic[8];
	int fd = module_file(path), r = 1;

	if (fd < 0)
		return 1;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    pread(fd, magic, sizeof magic, 0) == (ssize_t)sizeof magic &&
	    memcmp(magic, TABLE_MAGIC, sizeof magic) == 0) {
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		r = 0;
	}
	close(fd);
	if (r)
		return r;
	if (p != MAP_FAILED) {
		why = table_check(p, (size_t)st.st_size, &table);
		if (!why)
			r = dump_table(&table, out);
		munmap(p, (size_t)st.st_size);
	}
	if (why) {
		fprintf(stderr, "preempt: %s: not a valid table: %s\n", path, why);
		return -EBADMSG;
	}
	return r;
}

static int dump_fresh(const char *path, FILE *out)
{
	struct buffer buffer = {0};
	struct table table;
	const char *why = NULL;
	int r = compile_module(path, config.critical, true, &buffer, &why);

	if (r == 0 && (why = table_check(buffer.data, buffer.size, &table)))
		r = -EBADMSG;
	if (r != 0)
		fprintf(stderr, "preempt: %s: %s\n", path, why ? why : strerror(-r));
	else
		r = dump_table(&table, out);
	free(buffer.data);
	return r;
}

static int dump_module(const char *path, bool fresh, FILE *out)
{
	struct jobs jobs = {0};
	struct table table;
	size_t size;
	int r;

	jobs_add(&jobs, path, 0);
	if (jobs.n != 1 || jobs.v[0].state != JOB_TODO) {
		fprintf(stderr, "preempt: %s: %s\n", path,
			jobs.n == 1 && jobs.v[0].why	 ? jobs.v[0].why
			: jobs.n == 1 && *jobs.v[0].path ? "no code"
							 : "not a file");
		r = -EINVAL;
	} else if (!fresh && cache_open(&jobs.v[0].id, &table, &size) == 0) {
		r = dump_table(&table, out);
		cache_close(&table, size);
	} else {
		r = dump_fresh(path, out);
	}
	jobs_free(&jobs);
	return r;
}

static int dump_either(const char *path, bool fresh, FILE *out)
{
	int r = dump_file(path, out);

	return r == 1 ? dump_module(path, fresh, out) : r;
}

static json_t *word_or_null(const char *word)
{
	return must(strcmp(word, "-") == 0 ? json_null() : json_string(word));
}

// The lines of a dump as an object.
static json_t *rows_of(char *text)
{
	json_t *rows = must(json_array());
	char *line, *rest = text;

	while ((line = strsep(&rest, "\n")) && *line) {
		json_t *row = must(json_object()), *flags = must(json_array());
		char *word, *at = line, *comma;

		json_set(row, "lo",
			 must(json_integer((json_int_t)strtoull(strsep(&at, " "), NULL, 16))));
		json_set(row, "hi",
			 must(json_integer((json_int_t)strtoull(strsep(&at, " "), NULL, 16))));
		json_set(row, "cfa", word_or_null(strsep(&at, " ")));
		json_set(row, "ra", word_or_null(strsep(&at, " ")));
		for (comma = at; (word = strsep(&comma, ","));)
			json_array_append_new(flags, must(json_string(word)));
		json_set(row, "flags", flags);
		json_array_append_new(rows, row);
	}
	return rows;
}

static int dump_json(const char *path, bool fresh)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = must(open_memstream(&text, &size));
	int r = dump_either(path, fresh, out);

	fclose(out);
	if (r == 0) {
		json_t *file = must(json_object());

		json_set(file, "file", must(json_string(path)));
		json_set(file, "rows", rows_of(text));
		json_dumpf(file, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(file);
	}
	free(text);
	return r;
}

static int dump(struct options *o)
{
	int status = 0;

	settings(false, false);
	for (char **f = o->files; *f; f++) {
		int r = o->json ? dump_json(*f, o->fresh) : dump_either(*f, o->fresh, stdout);

		if (r != 0)
			status = EXIT_MISSING;
	}
	return finish_output(status);
}

// --- run ------------------------------------------------------------------------------------------------------

// One line, the first reason; the program runs all the same.
static void warn(const struct jobs *jobs)
{
	const struct job *first = NULL;
	size_t n = 0;

	for (size_t i = 0; i < jobs->n; i++) {
		if (jobs->v[i].state != JOB_FAILED)
			continue;
		n++;
		if (!first)
			first = &jobs->v[i];
	}
	if (n == 1)
		fprintf(stderr, "preempt: no table for %s: %s\n", first->path, first->why);
	else if (n)
		fprintf(stderr, "preempt: no tables for %zu files; %s: %s\n", n, first->path,
			first->why);
}

void tables_before_run(const char *command, const char *library)
{
	struct build b = {.seconds = BUILD_SECONDS};
	struct jobs jobs = {0};
	const char *why;

	settings(true, false);
	if (config.off || config.asyncpreemptoff)
		return; // no signals, no use for tables
	jobs_add_command(&jobs, command);
	if (jobs.n)
		jobs_add(&jobs, library, 0); // its frames are the first on every thread's stack
	build_find(&jobs, false);
	b.globs = config.critical;
	b.progress = isatty(2);
	if (build_run(&jobs, &b, &why) != 0)
		fprintf(stderr, "preempt: no tables built: %s\n", why);
	else
		warn(&jobs);
	jobs_free(&jobs);
}

// --- the command ----------------------------------------------------------------------------------------------

void tables_help(FILE *out)
{
	for (int i = 0; i < VERBS; i++) {
		char name[40];

		snprintf(name, sizeof name, "preempt tables %s", verbs[i]);
		if (i)
			fputc('\n', out);
		argp_help(&argps[i], out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK, name);
	}
}

int cmd_tables(int argc, char **argv)
{
	struct options o = {0};
	char name[40];
	error_t err;
	int verb;

	for (verb = 0; verb < VERBS && (argc < 2 || strcmp(argv[1], verbs[verb]) != 0); verb++)
		;
	if (verb == VERBS) {
		if (argc == 2 && strcmp(argv[1], "--help") == 0) {
			tables_help(stdout);
			return finish_output(0);
		}
		fputs("preempt: usage: preempt tables build|check|dump [OPTION...] FILE...\n",
		      stderr);
		return EXIT_FAILED;
	}
	argp_err_exit_status = EXIT_FAILED;
	snprintf(name, sizeof name, "preempt tables %s", verbs[verb]);
	argv[1] = name;
	err = argp_parse(&argps[verb], argc - 1, argv + 1, 0, NULL, &o);
	if (err) {
		fprintf(stderr, "preempt: %s\n", strerror(err));
		return EXIT_FAILED;
	}
	return verb == BUILD ? build(&o) : verb == CHECK ? check(&o) : dump(&o);
}
