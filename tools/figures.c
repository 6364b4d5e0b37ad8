// figures.c: reads what the processes of one run left in a directory (PREEMPT_STATS=DIR/%p), and adds it up.
//
// A run may be many processes: a shell, the program, its children. Counts add up. Of maxima the largest counts, of shares
// of fairness the least. Percentiles do not add up: they are those of the process that counted most, which the report says.
// A process that was killed, ended by _exit or still runs has written nothing, but its counters are in its page (shim/page.c).
// Nothing here knows the names of the figures, so one that the library learns to count is in the JSON at once.

#include "figures.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

double figures_get(const json_t *flat, const char *key)
{
	return json_number_value(json_object_get(flat, key));
}

const char *figures_name(const json_t *process)
{
	json_int_t pid = json_integer_value(json_object_get(process, "pid"));
	json_t *threads = json_object_get(process, "threads"), *thread;
	size_t i;

	json_array_foreach(threads, i, thread)
	{
		const char *name = json_string_value(json_object_get(thread, "name"));

		if (name && json_integer_value(json_object_get(thread, "tid")) == pid)
			return name;
	}
	return "?";
}

// All numbers of an object, with the path as the key.
static void flatten(json_t *flat, const char *path, json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		char full[200];

		if (strcmp(key, "pid") == 0)
			continue;
		snprintf(full, sizeof full, "%s%s%s", path, *path ? "." : "", key);
		if (json_is_object(value))
			flatten(flat, full, value);
		else if (json_is_number(value))
			json_set(flat, full, json_incref(value));
	}
}

static bool ends(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && strcmp(s + n - m, end) == 0;
}

static bool is_percentile(const char *key)
{
	const char *dot = strrchr(key, '.');

	return dot && dot[1] == 'p' && dot[2] >= '0' && dot[2] <= '9';
}

static bool is_maximum(const char *key)
{
	static const char *const keys[] = {"procs", "quantum_ns", "elapsed_ns", "threads_peak"};

	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		if (strcmp(key, keys[i]) == 0)
			return true;
	}
	return ends(key, ".max");
}

// How many values the histogram of this percentile has. most: the largest number so far, by key.
static bool counted_most(const json_t *flat, json_t *most, const char *key)
{
	char count[200];
	double n;

	snprintf(count, sizeof count, "%.*s.count", (int)(strrchr(key, '.') - key), key);
	n = figures_get(flat, count);
	if (json_object_get(most, key) && n <= figures_get(most, key))
		return false;
	json_set(most, key, json_real(n));
	return true;
}

static void add(json_t *total, json_t *most, json_t *process)
{
	json_t *flat = must(json_object()), *value;
	const char *key;

	flatten(flat, "", process);
	json_object_foreach(flat, key, value)
	{
		json_t *old = json_object_get(total, key);
		double v = json_number_value(value), o = json_number_value(old);
		bool taken;

		if (is_percentile(key))
			taken = counted_most(flat, most, key);
		else if (is_maximum(key))
			taken = !old || v > o;
		else if (strncmp(key, "fairness.", 9) == 0)
			taken = !old || v < o;
		else if (old && json_is_integer(old) && json_is_integer(value)) {
			json_set(total, key,
				 json_integer(json_integer_value(old) + json_integer_value(value)));
			continue;
		} else {
			taken = !old;
		}
		if (taken)
			json_set(total, key, json_incref(value));
	}
	json_decref(flat);
}

static json_t *read_one(int fd)
{
	json_t *object = json_loadfd(fd, 0, NULL);

	close(fd);
	if (object && !json_is_object(object)) {
		json_decref(object);
		return NULL;
	}
	return object;
}

// What a process that did not come to write its figures left: the counters in its page. fd is closed.
static json_t *read_page(int fd)
{
	FILE *f = tmpfile();
	json_t *object = NULL;
	int pid;

	if (f && page_load(fd, &pid) == 0 && stats_write(fileno(f))) {
		rewind(f);
		object = json_loadf(f, 0, NULL);
	}
	if (object) {
		json_set(object, "pid", json_integer(pid));
		json_set(object, "partial", json_true());
		// What is told of threads lies in no page.
		json_object_del(object, "fairness");
		json_object_del(object, "threads");
	}
	if (f)
		fclose(f);
	close(fd);
	return object;
}

static bool has_threads(const json_t *process)
{
	return json_integer_value(json_object_get(process, "threads_created")) > 0;
}

// Those with threads first, then by pid.
static int by_pid(const void *a, const void *b)
{
	const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	json_int_t p = json_integer_value(json_object_get(x, "pid"));
	json_int_t q = json_integer_value(json_object_get(y, "pid"));

	if (has_threads(x) != has_threads(y))
		return has_threads(x) ? -1 : 1;
	return (p > q) - (p < q);
}

static void add_up(struct figures *f, json_t **v, size_t n)
{
	json_t *most = must(json_object());

	if (n)
		qsort(v, n, sizeof *v, by_pid);
	for (size_t i = 0; i < n; i++) {
		// One without threads has no Ps and no fairness to speak of.
		if (has_threads(v[i]))
			add(f->total, most, v[i]);
		f->threaded += has_threads(v[i]);
		if (json_array_append_new(f->processes, v[i]) != 0)
			must(NULL);
	}
	json_decref(most);
}

// --- the directory ----------------------------------------------------------------------------------------

enum { PATH_ROOM = 200 };

static char directory[PATH_ROOM];
static pid_t owner;

void figures_end(void)
{
	struct figures late; // of processes that outlived the command

	if (!directory[0] || getpid() != owner)
		return;
	if (rmdir(directory) == 0 || errno != ENOTEMPTY)
		return;
	figures_read(&late);
	figures_free(&late);
	rmdir(directory);
}

const char *figures_pattern(void)
{
	static char pattern[PATH_ROOM + 4];
	const char *tmp = getenv("TMPDIR");

	if (directory[0])
		return pattern;
	// PREEMPT_STATS has no way to quote a %, and not much room.
	if (!tmp || tmp[0] != '/' || strchr(tmp, '%') || strlen(tmp) > PATH_ROOM - 40 ||
	    access(tmp, W_OK) != 0)
		tmp = "/tmp";
	snprintf(directory, sizeof directory, "%s/preempt-stat.XXXXXX", tmp);
	if (!mkdtemp(directory))
		die("no directory for the figures in %s: %s; set TMPDIR", tmp, strerror(errno));
	owner = getpid();
	atexit(figures_end);
	snprintf(pattern, sizeof pattern, "%s/%%p", directory);
	return pattern;
}

// The next file that is a page, or not. Its descriptor, -1 at the end; it is removed.
static int next_file(DIR *dir, bool page)
{
	struct dirent *e;
	int fd;

	while ((e = readdir(dir))) {
		if (e->d_name[0] == '.' || ends(e->d_name, PAGE_SUFFIX) != page)
			continue;
		fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		unlinkat(dirfd(dir), e->d_name, 0);
		if (fd >= 0)
			return fd;
	}
	return -1;
}

static bool known(json_t **v, size_t n, const json_t *object)
{
	json_int_t pid = json_integer_value(json_object_get(object, "pid"));

	for (size_t i = 0; i < n; i++) {
		if (json_integer_value(json_object_get(v[i], "pid")) == pid)
			return true;
	}
	return false;
}

void figures_read(struct figures *f)
{
	DIR *dir = opendir(directory);
	json_t **v = NULL;
	size_t n = 0;

	*f = (struct figures){.processes = must(json_array()), .total = must(json_object())};
	if (!dir)
		die("%s: %s", directory, strerror(errno));
	for (int page = 0; page < 2; page++) {
		int fd;

		rewinddir(dir);
		while ((fd = next_file(dir, page)) >= 0) {
			json_t *one = page ? read_page(fd) : read_one(fd);

			if (!one) {
				f->damaged++;
			} else if (page && known(v, n, one)) {
				json_decref(one); // it came to write them
			} else {
				f->partial += (size_t)page;
				v = must(reallocarray(v, n + 1, sizeof *v));
				v[n++] = one;
			}
		}
	}
	closedir(dir);
	add_up(f, v, n);
	free(v);
}

void figures_free(struct figures *f)
{
	json_decref(f->processes);
	json_decref(f->total);
	*f = (struct figures){0};
}
