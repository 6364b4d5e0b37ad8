// program.c: what `preempt doctor` sees in a program and its libraries without running it.
//
// An import proves little: a program that uses sigaction need not handle SIGURG, and one that does not may do it by system call. So what
// is seen there "may" be. What the library does depends on the file being dynamic and not privileged, and that is certain.

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "doctor.h"
#include "look.h"
#include "safepoint/compiler.h"

static const char *base(const char *path)
{
	return strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
}

static bool begins(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

// --- the file ---------------------------------------------------------------------------------------------

// Would it run with other rights than its caller's, so that the dynamic linker ignores LD_PRELOAD?
static const char *privileged(const char *path)
{
	struct statvfs fs;
	struct stat st;

	if (stat(path, &st) != 0)
		return NULL;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ||
	    (statvfs(path, &fs) == 0 && (fs.f_flag & ST_NOSUID)))
		return NULL; // then the kernel ignores the bits
	if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
		return "set-user-ID";
	if ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP) && st.st_gid != getgid())
		return "set-group-ID";
	if (getuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0)
		return "with file capabilities";
	return NULL;
}

// It runs others, where or how LD_PRELOAD does not reach.
static const char *wrapper(const char *name)
{
	static const char *const names[] = {"sudo", "su",     "doas",	 "runuser",    "docker",
					    "ssh",  "podman", "kubectl", "systemd-run"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (strcmp(name, names[i]) == 0)
			return names[i];
	}
	return NULL;
}

static void judge_linker(struct doctor *d, const struct look *look)
{
	const char *name = base(look->interpreter);

	if (!*name) {
		find_that(d, LEVEL_STOP, "static",
			  look->go ? "build it with CGO_ENABLED=1 and -linkmode=external; but a Go "
				     "program has a scheduler of its own"
				   : "link it dynamically",
			  "it is static%s: it loads no libraries, also not this one",
			  look->go ? ", by the Go tool chain" : "");
	} else if (begins(name, "ld-musl")) {
		find_that(d, LEVEL_STOP, "libc", "use a build for glibc",
			  "it uses the C library musl; libpreempt needs glibc");
	} else if (strcmp(look->interpreter, "/lib64/ld-linux-x86-64.so.2") != 0) {
		find_that(d, LEVEL_NOTE, "libc",
			  "check that it is glibc 2.34 or later: run that file with --version",
			  "it brings a dynamic linker of its own, %s", look->interpreter);
	} else {
		find_that(d, LEVEL_OK, "dynamic", NULL,
			  "dynamically linked, with the system's C library");
	}
}

static bool judge_file(struct doctor *d)
{
	const char *how;
	struct look look;

	if (!look_at(d->path, &look)) {
		find_that(d, LEVEL_NOTE, "format", "give it a first line such as #!/bin/sh",
			  "neither a program nor a script with an interpreter; shells run it as "
			  "theirs");
		return false;
	}
	if (!look.x86_64) {
		find_that(d, LEVEL_STOP, "machine", "use a build for x86-64",
			  "it is %s: the library is for x86-64 only",
			  look.bits == 32 ? "a 32-bit program" : "for another machine");
		return false;
	}
	how = privileged(d->path);
	if (how)
		find_that(d, LEVEL_STOP, "privileged",
			  "start it as the user it becomes, or copy it without that",
			  "it is %s: the dynamic linker ignores LD_PRELOAD for it", how);
	judge_linker(d, &look);
	if (look.go && look.interpreter[0])
		find_that(d, LEVEL_WARN, "go", NULL,
			  "a Go program: its runtime schedules goroutines on threads of its own, "
			  "which "
			  "the library leaves alone for the most part");
	how = wrapper(base(d->path));
	if (how)
		find_that(d, LEVEL_WARN, "wrapper",
			  "put 'preempt run' behind it, before the real program",
			  "%s starts another program, which LD_PRELOAD does not reach", how);
	return look.interpreter[0] != 0;
}

static void follow_scripts(struct doctor *d)
{
	char next[PATH_MAX];

	for (int i = 0; i < 4 && script_interpreter(d->path, next); i++) {
		find_that(d, LEVEL_NOTE, "script", NULL, "%s is a script, run by %s", d->path,
			  next);
		strcpy(d->path, next);
	}
}

// --- its modules -----------------------------------------------------------------------------------------

static const struct runtime {
	const char *name; // the program's, or how a library's begins
	bool library;
	const char *what;
} runtimes[] = {
	{"java", false, "Java's virtual machine"},
	{"node", false, "the JavaScript engine V8"},
	{"nodejs", false, "the JavaScript engine V8"},
	{"deno", false, "the JavaScript engine V8"},
	{"bun", false, "a JavaScript engine"},
	{"chrome", false, "the JavaScript engine V8"},
	{"chromium", false, "the JavaScript engine V8"},
	{"firefox", false, "a JavaScript engine"},
	{"luajit", false, "LuaJIT"},
	{"pypy3", false, "PyPy"},
	{"dotnet", false, ".NET"},
	{"mono", false, "Mono"},
	{"julia", false, "Julia"},
	{"beam.smp", false, "Erlang's BeamAsm"},
	{"sbcl", false, "SBCL"},
	{"libjvm.so", true, "Java's virtual machine"},
	{"libnode.so", true, "the JavaScript engine V8"},
	{"libv8", true, "the JavaScript engine V8"},
	{"libmozjs", true, "the JavaScript engine SpiderMonkey"},
	{"libjavascriptcoregtk", true, "a JavaScript engine"},
	{"libQt5Qml.so", true, "a JavaScript engine"},
	{"libQt6Qml.so", true, "a JavaScript engine"},
	{"libluajit", true, "LuaJIT"},
	{"libpypy", true, "PyPy"},
	{"libcoreclr.so", true, ".NET"},
	{"libmono", true, "Mono"},
	{"libjulia.so", true, "Julia"},
	{"libwasmtime", true, "WebAssembly"},
	{"libgccjit", true, "gcc as a library"},
	{"libLLVM", true, "LLVM"},
};

static void judge_runtime(struct doctor *d, const char *path, bool library)
{
	for (size_t i = 0; i < sizeof runtimes / sizeof *runtimes; i++) {
		const struct runtime *r = &runtimes[i];

		if (r->library != library ||
		    !(library ? begins(base(path), r->name) : strcmp(base(path), r->name) == 0))
			continue;
		find_that(d, LEVEL_WARN, "jit",
			  "with --force-after less than 100ms such code gives way sooner",
			  "%s: %s makes code at run time, which has no tables: threads in it are "
			  "stopped by PREEMPT_FORCE_AFTER only",
			  base(path), r->what);
		d->runtime = true;
		return;
	}
	if (library && begins(base(path), "libtsan.so"))
		find_that(d, LEVEL_STOP, "tsan", "use a build without -fsanitize=thread",
			  "ThreadSanitizer is loaded: the library passes everything through");
}

// Which module uses what first.
struct imports {
	unsigned all;
	const char *who[5];
};

static void note_imports(struct imports *in, unsigned imports, const char *name)
{
	for (int i = 0; i < 5; i++) {
		if ((imports & 1u << i) && !(in->all & 1u << i))
			in->who[i] = name;
	}
	in->all |= imports;
}

static const char *who(const struct imports *in, enum import import)
{
	return in->who[__builtin_ctz(import)];
}

static void judge_imports(struct doctor *d, const struct imports *in)
{
	if (!(in->all & (IMPORT_THREADS | IMPORT_CLONE | IMPORT_DLOPEN)) && !d->runtime)
		find_that(d, LEVEL_NOTE, "threads", NULL,
			  "nothing in it creates threads, as far as can be seen: then the library "
			  "does nothing");
	if (in->all & IMPORT_CLONE)
		find_that(d, LEVEL_NOTE, "clone", NULL,
			  "%s may create threads by clone; these run outside of the scheduler",
			  who(in, IMPORT_CLONE));
	if (in->all & IMPORT_STACKS)
		find_that(
			d, LEVEL_NOTE, "coroutines", NULL,
			"%s may switch stacks (coroutines); a thread on such a stack is stopped by "
			"PREEMPT_FORCE_AFTER only",
			who(in, IMPORT_STACKS));
	if (!(in->all & IMPORT_SIGNALS))
		return;
	if (config.signal != SIG_SETXID)
		find_that(d, LEVEL_WARN, "signal", "leave PREEMPT_SIGNAL unset",
			  "%s installs signal handlers and may use %s, which PREEMPT_SIGNAL shares "
			  "with it",
			  who(in, IMPORT_SIGNALS), getenv("PREEMPT_SIGNAL"));
	else
		find_that(d, LEVEL_OK, "signal", NULL,
			  "%s installs signal handlers and may use SIGURG; that stays its own, for "
			  "preemption uses signal %d of libc's",
			  who(in, IMPORT_SIGNALS), config.signal);
}

static int64_t table_size(const struct job *job, char path[PATH_MAX])
{
	struct text text = {path, 0, PATH_MAX};
	struct stat st;

	path[0] = 0;
	return cache_probe(&job->id, false, &text) == 0 && stat(path, &st) == 0 ? st.st_size : 0;
}

static double share(const struct table_header *h, int reason)
{
	double code = (double)h->text_size - (double)h->bytes[TABLE_PADDING];

	return code > 0 ? (double)h->bytes[reason] / code : 0;
}

static void add_fact(json_t *list, const struct job *job, int64_t *ret_bytes)
{
	json_t *one = must(json_object());
	char path[PATH_MAX];
	int64_t size = table_size(job, path);

	json_set(one, "path", json_text(job->path));
	json_set(one, "state",
		 json_string(job->state == JOB_CACHED	 ? "cached"
			     : job->state == JOB_NO_CODE ? "no-code"
							 : "missing"));
	if (job->has_header) {
		json_set(one, "table", json_text(path));
		json_set(one, "table_bytes", json_integer(size));
		json_set(one, "text_bytes", json_integer((json_int_t)job->header.text_size));
		json_set(one, "safe", json_real(share(&job->header, TABLE_SAFE)));
		json_set(one, "no_cfi", json_real(share(&job->header, TABLE_NO_CFI)));
	}
	if (json_array_append_new(list, one) != 0)
		must(NULL);
	*ret_bytes += size;
}

// In words, what the tables say.
static void judge_tables(struct doctor *d)
{
	json_t *list = must(json_array());
	size_t missing = 0, n = 0;
	char size[32], advice[PATH_MAX + 100];
	const char *first = NULL;
	int64_t bytes = 0;

	build_find(&d->jobs, true);
	for (size_t i = 0; i < d->jobs.n; i++) {
		const struct job *job = &d->jobs.v[i];

		add_fact(list, job, &bytes);
		n += job->state == JOB_CACHED;
		if (job->state == JOB_TODO) {
			missing++;
			first = first ? first : job->path;
		}
		// The kernel's own code is nobody's to build again, and nobody stays in it: from 6.11 on a sixth of it has no description.
		if (job->has_header && !module_is_vdso(job->path) &&
		    share(&job->header, TABLE_NO_CFI) > 0.1)
			find_that(d, LEVEL_WARN, "unwind", NULL,
				  "%s: %.0f %% of its code has no frame description; threads there "
				  "are "
				  "stopped by PREEMPT_FORCE_AFTER only",
				  job->path, 100 * share(&job->header, TABLE_NO_CFI));
	}
	json_set(d->facts, "tables", list);
	print_count(size, (double)((bytes + 1023) / 1024));
	snprintf(advice, sizeof advice,
		 "'preempt run' builds them first; to do it now: preempt tables build --needed %s",
		 d->path);
	if (missing)
		find_that(d, LEVEL_NOTE, "tables", advice,
			  "%zu of %zu modules have no table yet, such as %s", missing, n + missing,
			  first);
	else
		find_that(d, LEVEL_OK, "tables", NULL, "all %zu modules have tables, %s KiB in all",
			  n, size);
}

void doctor_program(struct doctor *d)
{
	d->section = "program";
	follow_scripts(d);
	if (!judge_file(d))
		return;
	jobs_add_command(&d->jobs, d->path);
	if (d->jobs.missing)
		find_that(d, LEVEL_STOP, "libraries",
			  "install the package that has it, or set LD_LIBRARY_PATH",
			  "%s is missing, a library that it needs: the program does not start",
			  d->jobs.first_missing);
}

void doctor_modules(struct doctor *d)
{
	struct imports imports = {0};

	d->section = "code";
	judge_runtime(d, d->path, false);
	for (size_t i = 0; i < d->jobs.n; i++) {
		const char *path = d->jobs.v[i].path, *name = base(path);
		struct look look;

		// glibc's own parts create threads and use signals for themselves.
		if (begins(name, "libc.so.6") || begins(name, "ld-linux") || !look_at(path, &look))
			continue;
		note_imports(&imports, look.imports, name);
		if (i > 0)
			judge_runtime(d, path, true);
		if (look.code && !look.unwind)
			find_that(d, LEVEL_WARN, "unwind",
				  "build it with -fasynchronous-unwind-tables",
				  "%s has no frame descriptions: threads in it are stopped by "
				  "PREEMPT_FORCE_AFTER only",
				  path);
	}
	judge_imports(d, &imports);
	d->section = "tables";
	judge_tables(d);
}
