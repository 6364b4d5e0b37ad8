// jobs.c: which files need tables: those named, those below a directory, and the libraries they need.
//
// Problem. `preempt run` asks this before every start, so it must take a few milliseconds, and the answer about
// libraries must be that of the dynamic linker, with its caches, run paths and hardware directories.
// Approach. Of each file only the headers and the notes are read. The libraries are what the dynamic linker
// itself lists. `tables build` uses the system's one: running the interpreter that a file names, as ldd does, would
// run code of a file that was only to be looked at. `preempt run` uses the program's own, which is about to run anyway.
// Rejected: an own search by DT_NEEDED: a second dynamic linker, wrong in details, and no faster.

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "safepoint/compiler.h"
#include "tables.h"

#define SYSTEM_LINKER "/lib64/ld-linux-x86-64.so.2"

enum {
	MAX_PHDRS = 512, // real files have 15
	NOTES_MAX = 64 * 1024,
};

extern char **environ;

void job_fail(struct job *job, const char *why)
{
	free(job->why);
	job->why = must(strdup(why));
	job->state = JOB_FAILED;
}

void jobs_free(struct jobs *jobs)
{
	for (size_t i = 0; i < jobs->n; i++) {
		free(jobs->v[i].path);
		free(jobs->v[i].why);
	}
	free(jobs->v);
	*jobs = (struct jobs){0};
}

// --- one ELF file -----------------------------------------------------------------------------------

struct elf_file {
	struct module_id id;
	bool code;
	char interp[256];
};

static bool read_at(int fd, void *buf, size_t size, uint64_t at)
{
	return at <= INT64_MAX && pread(fd, buf, size, (off_t)at) == (ssize_t)size;
}

static bool find_build_id(const char *notes, size_t size, uint64_t align, struct module_id *ret)
{
	size_t mask = align == 8 ? 7 : 3, pos = 0;

	while (size - pos >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		size_t name = pos + sizeof note, desc, end;

		memcpy(&note, notes + pos, sizeof note);
		desc = (name + note.n_namesz + mask) & ~mask;
		end = desc + note.n_descsz;
		if (end > size)
			return false;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && note.n_descsz > 0 &&
		    memcmp(notes + name, "GNU", 4) == 0) {
			ret->size = note.n_descsz < TABLE_ID_MAX ? note.n_descsz : TABLE_ID_MAX;
			memcpy(ret->id, notes + desc, ret->size);
			return true;
		}
		pos = (end + mask) & ~mask;
		if (pos > size)
			return false;
	}
	return false;
}

static void read_note(int fd, const Elf64_Phdr *ph, struct module_id *ret)
{
	char *notes;

	if (ph->p_filesz > NOTES_MAX)
		return;
	notes = must(malloc(ph->p_filesz + 1));
	if (read_at(fd, notes, ph->p_filesz, ph->p_offset))
		find_build_id(notes, ph->p_filesz, ph->p_align, ret);
	free(notes);
}

static const char *read_elf(int fd, const struct stat *st, struct elf_file *ret)
{
	Elf64_Phdr ph[MAX_PHDRS];
	Elf64_Ehdr eh;

	if (!read_at(fd, &eh, sizeof eh, 0) || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0)
		return "not an ELF file";
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh.e_machine != EM_X86_64)
		return "not for x86-64";
	if (eh.e_type != ET_EXEC && eh.e_type != ET_DYN)
		return "neither a program nor a shared library";
	if (eh.e_phentsize != sizeof ph[0] || eh.e_phnum == 0 || eh.e_phnum > MAX_PHDRS ||
	    !read_at(fd, ph, eh.e_phnum * sizeof ph[0], eh.e_phoff))
		return "bad program headers";

	for (int i = 0; i < eh.e_phnum; i++) {
		uint64_t off = ph[i].p_offset, size = ph[i].p_filesz;

		if (off > (uint64_t)st->st_size || size > (uint64_t)st->st_size - off)
			continue; // a file of debug information; its segments are elsewhere
		if (ph[i].p_type == PT_LOAD && (ph[i].p_flags & PF_X) && size)
			ret->code = true;
		if (ph[i].p_type == PT_NOTE && !ret->id.size)
			read_note(fd, &ph[i], &ret->id);
		if (ph[i].p_type == PT_INTERP && size < sizeof ret->interp &&
		    !read_at(fd, ret->interp, size, off))
			ret->interp[0] = 0;
	}
	if (!ret->id.size) {
		const uint64_t id[4] = {st->st_dev, st->st_ino, (uint64_t)st->st_size,
					(uint64_t)st->st_mtim.tv_sec * 1000000000u +
						(uint64_t)st->st_mtim.tv_nsec};

		memcpy(ret->id.id, id, sizeof id);
	}
	return NULL;
}

static const char *open_elf(const char *path, struct elf_file *ret)
{
	const char *why;
	struct stat st;
	int fd = module_file(path);

	*ret = (struct elf_file){0};
	if (fd < 0)
		return strerror(errno);
	if (fstat(fd, &st) != 0)
		why = strerror(errno);
	else if (!S_ISREG(st.st_mode))
		why = "not a regular file";
	else
		why = read_elf(fd, &st, ret);
	if (!why && module_is_vdso(path) && !ret->id.size)
		why = "it has no build-id"; // and no file to be known by
	close(fd);
	return why;
}

static struct job *add(struct jobs *jobs, const char *path)
{
	struct job *job;

	if (jobs->n == jobs->cap) {
		jobs->cap = jobs->cap ? 2 * jobs->cap : 16;
		jobs->v = must(reallocarray(jobs->v, jobs->cap, sizeof *jobs->v));
	}
	job = &jobs->v[jobs->n++];
	*job = (struct job){.path = must(strdup(path))};
	return job;
}

// One table serves all copies and links of a file; of those that were not named, the first one is taken.
static void add_elf(struct jobs *jobs, const char *path, const struct elf_file *elf, bool named)
{
	struct job *job;

	for (size_t i = 0; i < jobs->n && !named; i++) {
		if (jobs->v[i].state != JOB_FAILED && jobs->v[i].id.size == elf->id.size &&
		    memcmp(jobs->v[i].id.id, elf->id.id, TABLE_ID_MAX) == 0)
			return;
	}
	job = add(jobs, path);
	job->id = elf->id;
	if (!elf->code)
		job->state = JOB_NO_CODE;
}

// --- directories --------------------------------------------------------------------------------------

static struct jobs *walk_jobs; // nftw passes no argument

static int walk(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	struct elf_file elf;

	(void)ftw;
	if (type == FTW_F && S_ISREG(st->st_mode) && st->st_size > (off_t)sizeof(Elf64_Ehdr) &&
	    !open_elf(path, &elf) && elf.code)
		add_elf(walk_jobs, path, &elf, false);
	return 0;
}

// --- libraries ------------------------------------------------------------------------------------------

// A line is "\tNAME => PATH (0xADDRESS)", "\tPATH (0xADDRESS)", "\tlinux-vdso.so.1 (0xADDRESS)", or says that something is missing.
static const char *path_in_line(char *line)
{
	char *arrow = strstr(line, " => "), *end = strrchr(line, '(');
	char *path = arrow ? arrow + 4 : line + strspn(line, "\t ");

	if (strncmp(path, "linux-vdso.so.", 14) == 0)
		return "[vdso]";
	if (*path != '/' || !end || end <= path || end[-1] != ' ')
		return NULL;
	end[-1] = 0;
	return path;
}

// "PROGRAM: error while loading shared libraries: NAME: cannot open ...", or "NAME => not found".
static void note_missing(struct jobs *jobs, const char *line)
{
	static const char error[] = "error while loading shared libraries: ";
	const char *name = strstr(line, error);

	if (name)
		name += sizeof error - 1;
	else if (strstr(line, " => not found"))
		name = line + strspn(line, "\t ");
	else
		return;
	if (jobs->missing++ == 0)
		snprintf(jobs->first_missing, sizeof jobs->first_missing, "%.*s",
			 (int)strcspn(name, ": \n"), name);
}

static void add_listed(struct jobs *jobs, FILE *list)
{
	char *line = NULL;
	size_t size = 0;

	while (getline(&line, &size, list) > 0) {
		const char *path = path_in_line(line);
		struct elf_file elf;

		if (!path)
			note_missing(jobs, line);
		if (path && !open_elf(path, &elf))
			add_elf(jobs, path, &elf, false);
	}
	free(line);
}

// Errors are not told: the program's start will, and no table is lost but those. (preempt doctor tells them.)
static void add_needed(struct jobs *jobs, const char *path, const char *linker)
{
	// $ORIGIN in a run path is the place of the file, not of a link to it.
	char *real = realpath(path, NULL);
	char *argv[] = {(char *)linker, (char *)"--list", real ? real : (char *)path, NULL};
	posix_spawn_file_actions_t actions;
	int fds[2], status, r;
	FILE *list;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) != 0) {
		free(real);
		return;
	}
	if (posix_spawn_file_actions_init(&actions) != 0 ||
	    posix_spawn_file_actions_adddup2(&actions, fds[1], 1) != 0 ||
	    posix_spawn_file_actions_adddup2(&actions, fds[1], 2) != 0)
		must(NULL);
	r = posix_spawn(&pid, linker, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	free(real);
	close(fds[1]);
	list = fdopen(fds[0], "r");
	if (r == 0 && list)
		add_listed(jobs, list);
	if (list)
		fclose(list);
	else
		close(fds[0]);
	if (r == 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct job *)a)->path, ((const struct job *)b)->path);
}

void jobs_add(struct jobs *jobs, const char *path, unsigned flags)
{
	size_t first = jobs->n;
	struct elf_file elf;
	const char *why;
	struct stat st;

	if (!module_is_vdso(path) && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
		walk_jobs = jobs;
		if (nftw(path, walk, 32, FTW_PHYS) != 0)
			job_fail(add(jobs, path), strerror(errno));
		if (jobs->n > first) // the directory's own order is none
			qsort(jobs->v + first, jobs->n - first, sizeof *jobs->v, by_path);
		return;
	}
	why = open_elf(path, &elf);
	if (why) {
		job_fail(add(jobs, path), why);
		return;
	}
	add_elf(jobs, path, &elf, true);
	if (flags & JOBS_NEEDED)
		add_needed(jobs, path, SYSTEM_LINKER);
}

// --- commands ---------------------------------------------------------------------------------------------

bool find_command(const char *name, char ret_path[PATH_MAX])
{
	const char *dir = getenv("PATH"), *end;
	struct stat st;

	if (strchr(name, '/'))
		return snprintf(ret_path, PATH_MAX, "%s", name) < PATH_MAX;
	for (dir = dir ? dir : "/bin:/usr/bin";; dir = end + 1) {
		end = strchrnul(dir, ':');
		if (snprintf(ret_path, PATH_MAX, "%.*s%s%s", (int)(end - dir), dir,
			     end > dir ? "/" : "", name) < PATH_MAX &&
		    stat(ret_path, &st) == 0 && S_ISREG(st.st_mode) && access(ret_path, X_OK) == 0)
			return true;
		if (!*end)
			return false;
	}
}

bool script_interpreter(const char *path, char ret_path[PATH_MAX])
{
	char line[256], *word, *next, *save;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);

	if (fd >= 0)
		close(fd);
	if (n < 3 || line[0] != '#' || line[1] != '!')
		return false;
	line[n] = 0;
	line[strcspn(line, "\n")] = 0;
	word = strtok_r(line + 2, " \t", &save);
	if (!word)
		return false;
	if (strcmp(strrchr(word, '/') ? strrchr(word, '/') + 1 : word, "env") == 0) {
		while ((next = strtok_r(NULL, " \t", &save)) && (*next == '-' || strchr(next, '=')))
			;
		if (next)
			word = next;
	}
	return find_command(word, ret_path);
}

void jobs_add_command(struct jobs *jobs, const char *command)
{
	char path[PATH_MAX], interpreter[PATH_MAX];
	struct elf_file elf;

	if (!find_command(command, path))
		return;
	// The kernel follows scripts run by scripts a few times.
	for (int i = 0; i < 4 && script_interpreter(path, interpreter); i++)
		strcpy(path, interpreter);
	if (open_elf(path, &elf) || !elf.interp[0])
		return; // no program, or a static one, which does not load the library
	add_elf(jobs, path, &elf, true);
	add_needed(jobs, path, elf.interp);
}
