// snapshots.c: asks a process what its threads do, and reads the answer.
//
// The file is found in /proc/PID/maps, so it does not matter in which directory the process has it, nor in which container. It is the
// process's, or that of somebody who deceives us: it is read, never mapped (it may be cut short meanwhile), and each number in it is checked.

#include "snapshots.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FILE_MOST = 64 << 20, PAUSE_MS = 2, ASK_AGAIN_MS = 300, PATIENCE_MS = 3000 };

// --- checking -------------------------------------------------------------------------------------------

static bool ends(const char *text, size_t size)
{
	return memchr(text, 0, size);
}

// n things of this size at this place, within the file and behind the head.
static bool lies_within(uint32_t at, uint32_t n, size_t one, size_t size)
{
	return at % 8 == 0 && at >= sizeof(struct snapshot_head) && at <= size &&
	       n <= (size - at) / one;
}

static bool head_is_good(const struct snapshot_head *h, size_t size)
{
	return h->file_size == size && !(h->seq & 1) && h->seq &&
	       ends(h->policy, sizeof h->policy) && h->procs <= MAX_PROCS && h->idle <= MAX_PROCS &&
	       h->nps <= MAX_PROCS && h->nthreads <= SNAPSHOT_THREADS_MAX &&
	       h->nmodules <= SNAPSHOT_MODULES && h->started >= 0 && h->now >= h->started &&
	       h->quantum >= 0 && lies_within(h->at_ps, h->nps, sizeof(struct snapshot_p), size) &&
	       lies_within(h->at_threads, h->nthreads, sizeof(struct snapshot_thread), size) &&
	       lies_within(h->at_modules, h->nmodules, sizeof(struct snapshot_module), size);
}

static bool is_status(unsigned status)
{
	return status == G_RUNNABLE || status == G_RUNNING || status == G_SYSCALL ||
	       status == G_WAITING || status == G_PREEMPTED;
}

static bool is_past(int64_t when, const struct snapshot_head *h)
{
	return when >= 0 && when <= h->now;
}

int snapshot_check(void *bytes, size_t size, struct snapshot *ret)
{
	const struct snapshot_head *h = bytes;
	const char *base = bytes;

	if (size < sizeof *h || memcmp(h->magic, SNAPSHOT_MAGIC, sizeof h->magic) != 0)
		return -EBADMSG;
	if (h->layout != SNAPSHOT_LAYOUT || h->head_size != sizeof *h ||
	    !ends(h->version, sizeof h->version) || strcmp(h->version, PREEMPT_VERSION) != 0)
		return -EPROTO;
	if (!head_is_good(h, size))
		return -EBADMSG;
	*ret = (struct snapshot){
		.head = h,
		.ps = (const void *)(base + h->at_ps),
		.threads = (const void *)(base + h->at_threads),
		.modules = (const void *)(base + h->at_modules),
		.bytes = bytes,
	};
	for (uint32_t i = 0; i < h->nps; i++) {
		if (ret->ps[i].id >= MAX_PROCS || ret->ps[i].state > P_SCHED ||
		    ret->ps[i].since < 0)
			return -EBADMSG;
	}
	for (uint32_t i = 0; i < h->nthreads; i++) {
		const struct snapshot_thread *t = &ret->threads[i];

		if (!is_status(t->status) || t->reason >= WAIT_REASONS || t->tid < 0 ||
		    t->owner < 0 || t->p < -1 || t->p >= MAX_PROCS || !is_past(t->since, h))
			return -EBADMSG;
	}
	for (uint32_t i = 0; i < h->nmodules; i++) {
		if (!ends(ret->modules[i].path, sizeof ret->modules[i].path))
			return -EBADMSG;
	}
	return 0;
}

// --- finding --------------------------------------------------------------------------------------------

// Is this the path of a snapshot of process pid, or of any if pid is 0? In /run/user/1000/preempt/PID or /tmp/preempt-1000/PID.
static bool is_snapshot(const char *path, int pid)
{
	const char *leaf = strrchr(path, '/'), *dir;
	char *end;
	long n;

	if (!leaf || leaf == path)
		return false;
	n = strtol(leaf + 1, &end, 10);
	if (end == leaf + 1 || *end || n <= 0 || (pid && n != pid))
		return false;
	dir = memrchr(path, '/', (size_t)(leaf - path));
	return dir && (strncmp(dir, "/preempt/", 9) == 0 || strncmp(dir, "/preempt-", 9) == 0);
}

// The path of the file that t has mapped, as we reach it, and its inode.
static bool find_mapped(const struct target *t, char path[PATH_MAX], ino_t *ret_ino)
{
	char maps[64], *line = NULL;
	size_t cap = 0;
	bool found = false;
	FILE *f;

	snprintf(maps, sizeof maps, "/proc/%d/maps", t->pid);
	f = fopen(maps, "re");
	while (f && !found && getline(&line, &cap, f) > 0) {
		unsigned long ino;
		int at = 0;

		// start-end mode offset device inode path
		if (sscanf(line, "%*s rw-s %*s %*s %lu %n", &ino, &at) != 1 || !at ||
		    line[at] != '/')
			continue;
		line[strcspn(line, "\n")] = 0;
		if (!is_snapshot(line + at, t->inner))
			continue;
		snprintf(path, PATH_MAX, "/proc/%d/root%s", t->pid, line + at);
		*ret_ino = ino;
		found = true;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

// A regular file that belongs to the user of the process and to nobody else.
static int open_snapshot(const struct target *t, const char *path, size_t *ret_size)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat s;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_uid == t->uid && !(s.st_mode & 022) &&
	    s.st_size >= (off_t)sizeof(struct snapshot_head) && s.st_size <= FILE_MOST) {
		*ret_size = (size_t)s.st_size;
		return fd;
	}
	close(fd);
	return -EPERM;
}

static bool read_seq(int fd, uint32_t *ret)
{
	return pread(fd, ret, sizeof *ret, offsetof(struct snapshot_head, seq)) == sizeof *ret;
}

// 0, -EAGAIN: it is just being written; or as snapshot_check.
static int read_snapshot(const struct target *t, const char *path, struct snapshot *ret)
{
	uint32_t before, after;
	size_t size = 0;
	char *bytes;
	int fd = open_snapshot(t, path, &size), r = -EAGAIN;

	if (fd < 0)
		return fd;
	bytes = malloc(size);
	if (!bytes) {
		close(fd);
		return -ENOMEM;
	}
	if (read_seq(fd, &before) && before && !(before & 1) &&
	    pread(fd, bytes, size, 0) == (ssize_t)size && read_seq(fd, &after) && after == before)
		r = snapshot_check(bytes, size, ret);
	close(fd);
	if (r == 0 && ret->head->pid == t->inner)
		return 0;
	free(bytes);
	return r ? r : -EBADMSG;
}

void snapshot_free(struct snapshot *s)
{
	free(s->bytes);
	*s = (struct snapshot){0};
}

// What was written last before we ask.
struct last {
	ino_t ino;
	uint32_t seq;
};

static struct last last_of(const struct target *t)
{
	struct last last = {0};
	struct snapshot s;
	char path[PATH_MAX];

	if (find_mapped(t, path, &last.ino) && read_snapshot(t, path, &s) == 0) {
		last.seq = s.head->seq;
		snapshot_free(&s);
	}
	return last;
}

int snapshot_take(const struct target *t, struct snapshot *ret)
{
	const struct timespec pause = {0, PAUSE_MS * 1000000};
	struct last last = last_of(t);
	char path[PATH_MAX];
	ino_t ino;
	int r = -ETIMEDOUT;

	for (int ms = 0; ms < PATIENCE_MS; ms += PAUSE_MS) {
		if (ms % ASK_AGAIN_MS == 0 && !target_lives(t))
			return -ESRCH;
		if (ms > 0 && ms % ASK_AGAIN_MS == 0 && target_is_deaf(t))
			return -EACCES;
		if (ms % ASK_AGAIN_MS == 0) {
			r = target_ask(t, (uint64_t)SNAPSHOT_MARK << 32);
			if (r < 0)
				return r;
			r = -ETIMEDOUT;
		}
		nanosleep(&pause, NULL);
		if (!find_mapped(t, path, &ino))
			continue;
		r = read_snapshot(t, path, ret);
		if (r == -EPROTO)
			return r;
		if (r == 0 && (ino != last.ino || ret->head->seq != last.seq))
			return 0;
		if (r == 0)
			snapshot_free(ret);
		r = -ETIMEDOUT;
	}
	return target_lives(t) ? r : -ESRCH;
}

const char *snapshot_error(int error)
{
	switch (error) {
	case -EPROTO:
		return "runs with another version of libpreempt than this command";
	case -ETIMEDOUT:
		return "has not answered; it may be stopped, or have no "
		       "directory of its own (see PREEMPT_LOG=info)";
	default:
		return target_error(error);
	}
}

// --- left behind ------------------------------------------------------------------------------------------

static void tidy(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char path[PATH_MAX], mapped[PATH_MAX];
		struct target t = {.pid = atoi(e->d_name), .inner = atoi(e->d_name)};
		ino_t ino;

		snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
		if (!is_snapshot(path, t.pid) || t.pid <= 0)
			continue;
		// One that lives, but does not have it mapped, is another process, or has executed another program; or
		// lives in another container and makes a new file when it is asked again.
		if (!target_lives(&t) || !find_mapped(&t, mapped, &ino))
			unlink(path);
	}
	if (d)
		closedir(d);
}

void snapshot_tidy(void)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char dir[PATH_MAX];

	if (runtime && *runtime == '/') {
		snprintf(dir, sizeof dir, "%s/preempt", runtime);
		tidy(dir);
	}
	snprintf(dir, sizeof dir, "/tmp/preempt-%d", (int)geteuid());
	tidy(dir);
}

// --- histograms ---------------------------------------------------------------------------------------------

uint64_t snapshot_percentile(const struct histogram *now, const struct histogram *before,
			     unsigned percent, uint64_t *ret_count)
{
	uint64_t count = 0, seen = 0, rank;

	for (int i = 0; i < BUCKETS; i++)
		count += now->bucket[i] - (before ? before->bucket[i] : 0);
	*ret_count = count;
	rank = count / 100 * percent + (count % 100 * percent + 99) / 100;
	for (uint32_t i = 0; count && i < BUCKETS; i++) {
		seen += now->bucket[i] - (before ? before->bucket[i] : 0);
		if (seen >= rank && seen > 0) {
			uint64_t lo = bucket_bound(i), hi = bucket_bound(i + 1);
			uint64_t v = lo + (hi - lo) / 2;

			return v < now->max ? v : now->max;
		}
	}
	return 0;
}
