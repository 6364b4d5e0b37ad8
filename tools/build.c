// build.c: builds the tables of many files, in worker processes.
//
// Problem. The compiler reads untrusted files with large libraries; one that crashes it, or keeps it busy for
// ever, must cost that file only. Many processes may want the same table at the same time: when a service starts 50
// workers, libc must not be compiled 50 times at once. And a reader must never see half a table.
// Approach. One process per file, with a limit on its CPU time; it tells its result through a pipe. The table is made in
// memory, checked as the library will check it, written to a file ".NAME.new" in the cache directory and renamed. The builder
// holds a lock (flock) on ".NAME.tmp" meanwhile: whoever waited for it finds the table in the cache afterwards. A builder that
// dies leaves these files unlocked, and the next one uses or removes them, so nothing piles up.
// A worker that dies is nearly always one of libdwarf's on damaged debug information. Another one tries without: the table
// lacks inlined critical functions then, as for a file that has no debug information.
// There is no fsync: it costs more than some tables do, and a power failure leaves a file that the checksum refuses and
// the next builder replaces.
// Rejected: a mark for files that cannot be compiled. The library asks once per process, in the background and at
// low priority; a mark would outlive the reason for it.
// Rejected: the lock and the table in one file. Where locks do not work, or between machines that mount a file system with
// locks of their own, a second builder would cut the file when readers have it mapped, and they would die of SIGBUS.
// Delicate: the lock is on the inode. After waiting, the name may be gone (the table is there) or belong to
// another file: then all is looked at again. Only the holder removes it, so a file that is locked and still has
// its name stays ours.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "safepoint/compiler.h"
#include "tables.h"

// What a worker says; less than PIPE_BUF, so it arrives whole.
struct result {
	enum job_state state;
	struct table_header header;
	char why[200];
};
_Static_assert(sizeof(struct result) < 4096, "one write");

struct worker {
	pid_t pid; // 0: free
	int fd;
	struct job *job;
};

// --- in the worker ------------------------------------------------------------------------------------

static void fail(struct result *result, const char *why)
{
	result->state = JOB_FAILED;
	snprintf(result->why, sizeof result->why, "%s", why);
}

static bool cached(const struct job *job, struct table_header *ret)
{
	struct table table;
	size_t size;

	if (cache_open(&job->id, &table, &size) != 0)
		return false;
	*ret = *table.header;
	cache_close(&table, size);
	return true;
}

// The locked temporary file for name, or -errno. -EAGAIN: look into the cache again.
static int lock_temp(int dir, const char *temp)
{
	struct stat ours, named;
	int fd = openat(dir, temp, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
	int r;

	if (fd < 0)
		return -errno;
	do
		r = flock(fd, LOCK_EX);
	while (r != 0 && errno == EINTR);
	// A file system without locks: two builders may each make the table.
	if (r != 0 && errno != ENOLCK && errno != EOPNOTSUPP && errno != EINVAL)
		r = -errno;
	else if (fstat(fd, &ours) != 0)
		r = -errno;
	else if (fstatat(dir, temp, &named, AT_SYMLINK_NOFOLLOW) != 0)
		r = errno == ENOENT ? -EAGAIN : -errno;
	else if (named.st_ino != ours.st_ino || named.st_dev != ours.st_dev)
		r = -EAGAIN;
	else if (!S_ISREG(ours.st_mode))
		r = -EPERM;
	else
		return fd;
	close(fd);
	return r;
}

static int write_all(int fd, const uint8_t *data, size_t size)
{
	while (size) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

// The caller holds the lock. Should another builder do so too, where locks do not work, it makes a file of its own: none is
// ever written to by two, or cut, for readers may have it mapped already.
static int store(int dir, const char *fresh, const char *name, const struct buffer *table)
{
	struct stat st;
	int fd, r;

	unlinkat(dir, fresh, 0); // a builder died there
	fd = openat(dir, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = write_all(fd, table->data, table->size);
	// A directory that others may read was made for them.
	if (r == 0 && (fstat(dir, &st) != 0 || fchmod(fd, st.st_mode & S_IROTH ? 0644 : 0600) != 0))
		r = -errno;
	close(fd);
	// Without its name, it has got its place by that other builder, or a better one has.
	if (r == 0 && renameat(dir, fresh, dir, name) != 0 && errno != ENOENT)
		r = -errno;
	if (r != 0)
		unlinkat(dir, fresh, 0);
	return r;
}

static void compile(const struct job *job, const struct build *build, int dir, const char *fresh,
		    const char *name, struct result *result)
{
	struct buffer buffer = {0};
	const char *why = NULL;
	struct table table;
	int r = compile_module(job->path, build->globs, !job->no_debug_info, &buffer, &why);

	if (r != 0) {
		fail(result, why ? why : strerror(-r));
		return;
	}
	why = table_check(buffer.data, buffer.size, &table);
	if (why) {
		snprintf(result->why, sizeof result->why, "the table made of it is wrong: %s", why);
		result->state = JOB_FAILED;
		return;
	}
	if (table.header->id_size != job->id.size ||
	    memcmp(table.header->id, job->id.id, TABLE_ID_MAX) != 0 ||
	    table.header->globs_hash != cache_globs_hash(build->globs)) {
		fail(result, "it changed meanwhile");
		return;
	}
	result->header = *table.header;
	r = store(dir, fresh, name, &buffer);
	if (r != 0)
		fail(result, strerror(-r));
	else
		result->state = JOB_BUILT;
}

static void work(const struct job *job, const struct build *build, int dir, struct result *result)
{
	char path[1024], temp[256], fresh[256];
	struct text text = {path, 0, sizeof path};
	const char *name;
	int fd;

	if (cache_path(&job->id, &text) != 0) {
		fail(result, "the cache directory cannot be used");
		return;
	}
	name = strrchr(path, '/') + 1;
	snprintf(temp, sizeof temp, ".%s.tmp", name);
	snprintf(fresh, sizeof fresh, ".%s.new", name);
	do {
		fd = lock_temp(dir, temp);
		if (!build->force && (fd >= 0 || fd == -EAGAIN) && cached(job, &result->header)) {
			result->state = JOB_CACHED;
			if (fd >= 0)
				unlinkat(dir, temp, 0);
			return;
		}
	} while (fd == -EAGAIN);
	if (fd < 0) {
		fail(result, strerror(-fd));
		return;
	}
	compile(job, build, dir, fresh, name, result);
	unlinkat(dir, temp, 0);
}

static void limit(int resource, rlim_t value)
{
	struct rlimit r;

	if (getrlimit(resource, &r) == 0 && (r.rlim_max == RLIM_INFINITY || r.rlim_max > value)) {
		r.rlim_cur = r.rlim_max = value;
		setrlimit(resource, &r);
	}
}

// --- in the parent ------------------------------------------------------------------------------------

static int start(struct worker *worker, struct job *job, const struct build *build, int dir)
{
	struct result result = {0};
	pid_t parent = getpid();
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) != 0)
		return -errno;
	fflush(NULL);
	worker->pid = fork();
	if (worker->pid < 0) {
		int r = -errno;

		worker->pid = 0;
		close(fds[0]);
		close(fds[1]);
		return r;
	}
	if (worker->pid > 0) {
		close(fds[1]);
		worker->fd = fds[0];
		worker->job = job;
		return 0;
	}
	close(fds[0]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	signal(SIGXCPU, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	limit(RLIMIT_CPU, (rlim_t)build->seconds);
	limit(RLIMIT_CORE, 0);
	work(job, build, dir, &result);
	_exit(write(fds[1], &result, sizeof result) != (ssize_t)sizeof result);
}

// The worker closed its end: it is done, or it died. False: another one has taken its place.
static bool finish(struct worker *worker, const struct build *build, int dir)
{
	struct job *job = worker->job;
	struct result result;
	ssize_t n = read(worker->fd, &result, sizeof result);
	char why[100];
	int status = 0;

	close(worker->fd);
	while (waitpid(worker->pid, &status, 0) < 0 && errno == EINTR)
		;
	worker->pid = 0;
	if (n == (ssize_t)sizeof result) {
		job->state = result.state;
		job->header = result.header;
		job->has_header = result.state != JOB_FAILED;
		if (result.state == JOB_FAILED)
			job_fail(job, result.why);
		return true;
	}
	if (!job->no_debug_info) {
		job->no_debug_info = true;
		if (start(worker, job, build, dir) == 0)
			return false;
	}
	if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL)) {
		snprintf(why, sizeof why,
			 "given up: it needs more than %d s or the memory there is",
			 build->seconds);
		job_fail(job, why);
	} else {
		snprintf(why, sizeof why, "the compiler died of it (%s)",
			 WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "no answer");
		job_fail(job, why);
	}
	return true;
}

// The last two names of path, which is .cache/preempt in a home: a home that is not there is not made.
static int make_directory(const char *path)
{
	// What is made for one user is that user's; the system's is for all.
	mode_t mode = strcmp(path, cache_system_dir) == 0 ? 0755 : 0700;
	char *parent = strdup(path), *slash = parent ? strrchr(parent, '/') : NULL;
	int r = 0;

	if (!slash) {
		free(parent);
		return -ENOMEM;
	}
	*slash = 0;
	if (*parent && mkdir(parent, mode) != 0 && errno == ENOENT)
		r = -ENOENT;
	else if (mkdir(path, mode) != 0 && errno != EEXIST)
		r = -errno;
	free(parent);
	return r;
}

static int open_directory(const char **ret_why)
{
	static char why[1200];
	const char *path = cache_dir();
	int fd, r;

	*ret_why = why;
	if (!path) {
		*ret_why = "no cache directory: HOME, XDG_CACHE_HOME and PREEMPT_CACHE_DIR are not "
			   "set";
		return -ENOENT;
	}
	r = make_directory(path);
	fd = cache_dir_open(path);
	if (fd >= 0 && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0)
		return fd;
	if (fd >= 0) {
		r = -errno;
		close(fd);
	} else if (r == 0 || fd == -EPERM) {
		r = fd;
	} // else why it could not be made
	snprintf(why, sizeof why, "%s: %s", path,
		 fd == -EPERM ? "not used: it must be a directory of this user or root that nobody "
				"else may "
				"write to"
			      : strerror(-r));
	return r;
}

void build_find(struct jobs *jobs, bool whole)
{
	for (size_t i = 0; i < jobs->n; i++) {
		struct job *job = &jobs->v[i];

		if (job->state != JOB_TODO)
			continue;
		if (whole ? cached(job, &job->header) : cache_probe(&job->id, false, NULL) == 0) {
			job->state = JOB_CACHED;
			job->has_header = whole;
		}
	}
}

enum { MAX_WORKERS = 256 };
static struct worker workers[MAX_WORKERS];

static void progress(size_t done, size_t todo, int n)
{
	enum { WIDTH = 30 };
	char bar[WIDTH + 1];
	const char *name = "";

	for (int i = 0; i < n; i++) {
		if (workers[i].pid)
			name = workers[i].job->path;
	}
	if (strrchr(name, '/'))
		name = strrchr(name, '/') + 1;
	memset(bar, '.', WIDTH);
	memset(bar, '#', done * WIDTH / todo);
	bar[WIDTH] = 0;
	fprintf(stderr, "\rsafe-point tables [%s] %zu/%zu %-24.24s", bar, done, todo, name);
	fflush(stderr);
}

// Returns the number of workers that are done.
static int wait_for_any(int n, const struct build *build, int dir)
{
	static struct pollfd fds[MAX_WORKERS];
	int done = 0;

	for (int i = 0; i < n; i++)
		fds[i] = (struct pollfd){.fd = workers[i].pid ? workers[i].fd : -1,
					 .events = POLLIN};
	if (poll(fds, (nfds_t)n, -1) < 0)
		return 0;
	for (int i = 0; i < n; i++) {
		if (fds[i].fd >= 0 && fds[i].revents)
			done += finish(&workers[i], build, dir);
	}
	return done;
}

static struct job *next_todo(struct jobs *jobs, size_t *i)
{
	while (*i < jobs->n && jobs->v[*i].state != JOB_TODO)
		++*i;
	return *i < jobs->n ? &jobs->v[*i] : NULL;
}

static struct worker *free_worker(void)
{
	struct worker *w = workers;

	while (w->pid)
		w++;
	return w;
}

// Start workers until n run or all jobs are taken. Returns how many were started; jobs for which no
// process can be had at all are failed.
static int start_some(struct jobs *jobs, size_t *next, const struct build *build, int dir,
		      int running, int n)
{
	int started = 0;
	struct job *job;

	while (running + started < n && (job = next_todo(jobs, next))) {
		int r = start(free_worker(), job, build, dir);

		if (r == 0)
			started++;
		else if (running + started > 0)
			break; // out of processes or memory: again when a worker has ended
		else
			job_fail(job, strerror(-r));
		++*next;
	}
	return started;
}

int build_run(struct jobs *jobs, const struct build *build, const char **ret_why)
{
	int n = build->workers ? build->workers : os_affinity_cpus(0), running = 0, ended, dir;
	size_t todo = 0, done = 0, next = 0;

	for (size_t i = 0; i < jobs->n; i++)
		todo += jobs->v[i].state == JOB_TODO;
	if (!todo)
		return 0;
	dir = open_directory(ret_why);
	if (dir < 0)
		return dir;
	n = n < 1 ? 1 : n > MAX_WORKERS ? MAX_WORKERS : n;

	for (;;) {
		running += start_some(jobs, &next, build, dir, running, n);
		if (!running)
			break;
		if (build->progress)
			progress(done, todo, n);
		ended = wait_for_any(n, build, dir);
		running -= ended;
		done += (size_t)ended;
	}
	if (build->progress)
		fprintf(stderr, "\r%*s\r", 78, "");
	close(dir);
	return 0;
}
