/*
 * io.c - blocking calls: data intact, durations exact, EINTR exactly when the program's own handler
 * ran and never otherwise.
 */
#include "prog.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Waits of 5 ms among busy threads: not one is early, not one says EINTR. */
#define WAIT (5 * MS)
#define ROUNDS 8

static sem_t no_sem;
static int ep, queue_id, quiet[2];

static void *exact_main(void *arg)
{
	struct timespec rel = {.tv_nsec = WAIT}, abs;
	struct epoll_event ev;
	struct timeval tv;
	sigset_t set;
	fd_set fds;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	for (int i = 0; i < ROUNDS; i++) {
		struct pollfd pfd = {.fd = quiet[0], .events = POLLIN};
		long long t0 = now(CLOCK_MONOTONIC), t1;

		FD_ZERO(&fds);
		FD_SET(quiet[0], &fds);
		tv = (struct timeval){.tv_usec = WAIT / 1000};
		switch ((intptr_t)arg) {
		case 0:
			CHECK_EQ(nanosleep(&rel, NULL), 0);
			break;
		case 1:
			CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &rel, NULL), 0);
			break;
		case 2:
			abs = after(CLOCK_MONOTONIC, WAIT);
			CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &abs, NULL), 0);
			break;
		case 3:
			CHECK_EQ(usleep(WAIT / 1000), 0);
			break;
		case 4:
			CHECK_EQ(poll(&pfd, 1, WAIT / MS), 0);
			break;
		case 5:
			CHECK_EQ(ppoll(&pfd, 1, &rel, &set), 0);
			CHECK_EQ(rel.tv_nsec, WAIT); /* poll's caller keeps its timeout */
			break;
		case 6:
			CHECK_EQ(select(quiet[0] + 1, &fds, NULL, NULL, &tv), 0);
			CHECK(!FD_ISSET(quiet[0], &fds));
			break;
		case 7:
			CHECK_EQ(pselect(quiet[0] + 1, &fds, NULL, NULL, &rel, &set), 0);
			CHECK_EQ(rel.tv_nsec, WAIT);
			break;
		case 8:
			CHECK_EQ(epoll_wait(ep, &ev, 1, WAIT / MS), 0);
			break;
		case 9:
			abs = after(CLOCK_REALTIME, WAIT);
			CHECK_ERRNO(sem_timedwait(&no_sem, &abs), ETIMEDOUT);
			break;
		case 10:
			CHECK_ERRNO(sigtimedwait(&set, NULL, &rel), EAGAIN);
			break;
		case 11:
			CHECK_EQ(epoll_pwait(ep, &ev, 1, WAIT / MS, &set), 0);
			break;
		case 12:
			tv = (struct timeval){.tv_usec = WAIT / 1000};
			CHECK_EQ(setsockopt(quiet[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), 0);
			CHECK_ERRNO(recv(quiet[0], &fds, 1, 0), EAGAIN);
			break;
		}
		t1 = now(CLOCK_MONOTONIC);
		/* The kernel's timeouts on coarse clocks may round by a part of a tick. */
		if (t1 - t0 < ((intptr_t)arg == 12 ? WAIT - 4 * MS : WAIT))
			fail(__FILE__, __LINE__, "wait %d was %lld ns, not %lld",
			     (int)(intptr_t)arg, t1 - t0, WAIT);
	}
	return NULL;
}

CASE_STRESS(exact_waits)
{
	pthread_t t[13];

	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, quiet), 0);
	ep = epoll_create1(0);
	CHECK(ep >= 0);
	CHECK_EQ(sem_init(&no_sem, 0, 0), 0);
	hogs_start(4);
	for (intptr_t i = 0; i < 13; i++)
		t[i] = spawn(exact_main, (void *)i);
	for (int i = 0; i < 13; i++)
		join(t[i]);
	hogs_stop();
}

/* Endless waits among busy threads end when they should and not with EINTR. */
struct endless {
	int what, fds[2];
	sem_t s;
};

static atomic_int endless_in;

static void *endless_main(void *arg)
{
	struct endless *e = arg;
	struct pollfd pfd = {.fd = e->fds[0], .events = POLLIN};
	struct {
		long type;
		char text[8];
	} msg;
	struct epoll_event ev = {.events = EPOLLIN};
	int poller, child;
	fd_set fds;
	char c;

	FD_ZERO(&fds);
	FD_SET(e->fds[0], &fds);
	atomic_fetch_add(&endless_in, 1);
	switch (e->what) {
	case 0:
		CHECK_EQ(poll(&pfd, 1, -1), 1);
		break;
	case 1:
		CHECK_EQ(select(e->fds[0] + 1, &fds, NULL, NULL, NULL), 1);
		break;
	case 2:
		poller = epoll_create1(0);
		CHECK_EQ(epoll_ctl(poller, EPOLL_CTL_ADD, e->fds[0], &ev), 0);
		CHECK_EQ(epoll_wait(poller, &ev, 1, -1), 1);
		break;
	case 3:
		CHECK_EQ(msgrcv(queue_id, &msg, sizeof(msg.text), 1, 0), 1);
		break;
	case 4:
		CHECK_EQ(sem_wait(&e->s), 0);
		break;
	case 5:
		CHECK_EQ(recv(e->fds[0], &c, 1, 0), 1);
		break;
	case 6:
		child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			CHECK_EQ(read(e->fds[0], &c, 1), 1);
			_exit(0);
		}
		CHECK_EQ(waitpid(child, NULL, 0), child);
		break;
	default:
		CHECK_EQ(read(e->fds[0], &c, 1), 1);
	}
	return NULL;
}

CASE_STRESS(endless_waits)
{
	struct {
		long type;
		char text[8];
	} msg = {1, "x"};
	struct endless e[8];
	pthread_t t[8];

	queue_id = msgget(IPC_PRIVATE, 0600);
	CHECK(queue_id >= 0);
	hogs_start(4);
	for (int i = 0; i < 8; i++) {
		e[i].what = i;
		CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, e[i].fds), 0);
		CHECK_EQ(sem_init(&e[i].s, 0, 0), 0);
		t[i] = spawn(endless_main, &e[i]);
	}
	AWAIT(&endless_in, 8);
	sleep_ns(60 * MS);
	for (int i = 0; i < 8; i++) {
		CHECK_EQ(write(e[i].fds[1], "x", 1), 1);
		CHECK_EQ(sem_post(&e[i].s), 0);
	}
	CHECK_EQ(msgsnd(queue_id, &msg, 1, 0), 0);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	CHECK_EQ(msgctl(queue_id, IPC_RMID, NULL), 0);
	hogs_stop();
}

/* The program's own handler does interrupt: EINTR from the calls that never restart, with the time
 * left where the call tells it; read restarts exactly if SA_RESTART was asked for. */
static atomic_int own_hits, own_in, own_out;
static int own_pipe[2];

static void own_handler(int sig)
{
	(void)sig;
	atomic_fetch_add(&own_hits, 1);
}

/* The kernel counts its timer slack of 50 us in: who is interrupted at once may have more left than it asked for. */
static bool left_of_100(const struct timespec *left)
{
	return left->tv_sec > 0 &&
	       (left->tv_sec < 100 || (left->tv_sec == 100 && left->tv_nsec < 100000));
}

static void *own_main(void *arg)
{
	struct timespec ts = {.tv_sec = 100}, left = {0, 0};
	struct pollfd pfd = {.fd = own_pipe[0], .events = POLLIN};
	struct epoll_event ev;
	fd_set fds;
	char c;

	FD_ZERO(&fds);
	FD_SET(own_pipe[0], &fds);
	atomic_store(&own_in, 1);
	switch ((intptr_t)arg) {
	case 0:
		CHECK_ERRNO(nanosleep(&ts, &left), EINTR);
		CHECK(left_of_100(&left));
		break;
	case 1:
		CHECK_ERRNO(poll(&pfd, 1, -1), EINTR);
		break;
	case 2:
		CHECK_ERRNO(sem_wait(&no_sem), EINTR);
		break;
	case 3:
		CHECK_ERRNO(select(own_pipe[0] + 1, &fds, NULL, NULL, NULL), EINTR);
		break;
	case 4:
		CHECK_ERRNO(epoll_wait(ep, &ev, 1, -1), EINTR);
		break;
	case 5:
		CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &left), EINTR);
		CHECK(left_of_100(&left));
		break;
	case 6:
		CHECK_ERRNO(pause(), EINTR);
		break;
	case 7:
		CHECK(sleep(100) > 0);
		break;
	case 8:
		CHECK_ERRNO(read(own_pipe[0], &c, 1), EINTR);
		break;
	default:
		CHECK_EQ(read(own_pipe[0], &c, 1), 1);
	}
	atomic_store(&own_out, 1);
	return NULL;
}

static void own_eintr(int flags, bool hogs)
{
	struct sigaction sa = {.sa_handler = own_handler, .sa_flags = flags};

	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	if (hogs)
		hogs_start(4);
	for (intptr_t what = 0; what < 10; what++) {
		pthread_t t;

		/* sem_wait and read do restart. */
		if (flags ? what == 2 || what == 8 : what == 9)
			continue;
		atomic_store(&own_hits, 0);
		atomic_store(&own_in, 0);
		atomic_store(&own_out, 0);
		t = spawn(own_main, (void *)what);
		AWAIT(&own_in, 1);
		/* It may not be in the call yet: again until it is out. */
		for (int k = 0; k < 5000 && !atomic_load(&own_out) && !(what == 9 && k == 20);
		     k++) {
			sleep_ns(MS);
			CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
		}
		if (what == 9) {
			CHECK_EQ(atomic_load(&own_out), 0);
			CHECK_EQ(write(own_pipe[1], "x", 1), 1);
		} else if (!atomic_load(&own_out)) {
			fail(__FILE__, __LINE__, "call %d goes on after %d signals", (int)what,
			     atomic_load(&own_hits));
		}
		join(t);
	}
	if (hogs)
		hogs_stop();
}

CASE_STRESS(own_eintr)
{
	CHECK_EQ(pipe(own_pipe), 0);
	CHECK_EQ(sem_init(&no_sem, 0, 0), 0);
	ep = epoll_create1(0);
	CHECK(ep >= 0);
	own_eintr(0, false);
	own_eintr(0, true);
}

CASE_STRESS(own_eintr_restart)
{
	CHECK_EQ(pipe(own_pipe), 0);
	ep = epoll_create1(0);
	CHECK(ep >= 0);
	own_eintr(SA_RESTART, true);
}

/* Bytes through pipes and sockets, by read/write, poll, select and epoll, arrive in order. */
struct link {
	int kind, a[2], b[2];
};

static void ready(int kind, int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	struct epoll_event ev = {.events = EPOLLIN};
	fd_set fds;
	int poller;

	switch (kind) {
	case 1:
		CHECK_EQ(poll(&pfd, 1, 20000), 1);
		break;
	case 2:
		FD_ZERO(&fds);
		FD_SET(fd, &fds);
		CHECK_EQ(select(fd + 1, &fds, NULL, NULL, NULL), 1);
		break;
	case 3:
		poller = epoll_create1(0);
		CHECK_EQ(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &ev), 0);
		CHECK_EQ(epoll_wait(poller, &ev, 1, -1), 1);
		CHECK_EQ(close(poller), 0);
		break;
	}
}

static void *link_first(void *arg)
{
	struct link *l = arg;

	for (uint32_t i = 0, got; i < 200; i++) {
		CHECK_EQ(write(l->a[1], &i, 4), 4);
		ready(l->kind, l->b[0]);
		CHECK_EQ(read(l->b[0], &got, 4), 4);
		CHECK_EQ(got, ~i);
	}
	return NULL;
}

static void *link_second(void *arg)
{
	struct link *l = arg;

	for (uint32_t i = 0, got; i < 200; i++) {
		ready(l->kind, l->a[0]);
		CHECK_EQ(read(l->a[0], &got, 4), 4);
		CHECK_EQ(got, i);
		got = ~got;
		CHECK_EQ(write(l->b[1], &got, 4), 4);
	}
	return NULL;
}

CASE_STRESS(io_ping_pong)
{
	struct link l[8];
	pthread_t t[16];

	for (int i = 0; i < 8; i++) {
		l[i].kind = i & 3;
		if (i < 4) {
			CHECK_EQ(pipe(l[i].a), 0);
			CHECK_EQ(pipe(l[i].b), 0);
		} else {
			CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, l[i].a), 0);
			CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, l[i].b), 0);
		}
		t[2 * i] = spawn(link_first, &l[i]);
		t[2 * i + 1] = spawn(link_second, &l[i]);
	}
	for (int i = 0; i < 16; i++)
		join(t[i]);
}

/* A stream larger than the pipe, through a chain of threads, keeps every byte. */
struct stage {
	int from, to;
};

#define STREAM 1000000

static void *stage_main(void *arg)
{
	struct stage *s = arg;
	char buf[3000];
	ssize_t n;

	while ((n = read(s->from, buf, sizeof(buf))) > 0)
		for (ssize_t done = 0; done < n;) {
			ssize_t w = write(s->to, buf + done, (size_t)(n - done));

			CHECK(w > 0);
			done += w;
		}
	CHECK_EQ(n, 0);
	CHECK_EQ(close(s->to), 0);
	return NULL;
}

static void *source_main(void *arg)
{
	struct stage *s = arg;
	unsigned char buf[1000];
	uint32_t x = 1;

	for (int i = 0; i < STREAM / 1000; i++) {
		for (size_t k = 0; k < sizeof(buf); k++) {
			x = x * 1664525 + 1013904223;
			buf[k] = (unsigned char)(x >> 24);
		}
		for (ssize_t done = 0; done < 1000;) {
			ssize_t w = write(s->to, buf + done, (size_t)(1000 - done));

			CHECK(w > 0);
			done += w;
		}
	}
	CHECK_EQ(close(s->to), 0);
	return NULL;
}

CASE_STRESS(pipe_chain)
{
	struct stage s[5];
	pthread_t t[5];
	unsigned char buf[4096];
	uint32_t x = 1;
	long total = 0;
	ssize_t n;

	for (int i = 0; i < 5; i++) {
		int fds[2];

		CHECK_EQ(pipe(fds), 0);
		s[i].to = fds[1];
		if (i < 4)
			s[i + 1].from = fds[0];
		else
			s[0].from = fds[0];
	}
	for (int i = 0; i < 5; i++)
		t[i] = spawn(i ? stage_main : source_main, &s[i]);
	while ((n = read(s[0].from, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			x = x * 1664525 + 1013904223;
			CHECK_EQ(buf[i], x >> 24);
		}
		total += n;
	}
	CHECK_EQ(total, STREAM);
	for (int i = 0; i < 5; i++)
		join(t[i]);
}

/* File locks between threads (flock on two descriptions) and fcntl's F_OFD_SETLKW. */
static char lock_name[64];
static atomic_int file_inside;

static void *flock_main(void *arg)
{
	int fd = open(lock_name, O_RDWR);
	struct flock fl = {.l_type = F_WRLCK};

	CHECK(fd >= 0);
	for (int i = 0; i < 20; i++) {
		fl.l_type = F_WRLCK;
		if (arg)
			CHECK_EQ(flock(fd, LOCK_EX), 0);
		else
			CHECK_EQ(fcntl(fd, F_OFD_SETLKW, &fl), 0);
		CHECK_EQ(atomic_fetch_add(&file_inside, 1), 0);
		spin(20000);
		atomic_fetch_sub(&file_inside, 1);
		fl.l_type = F_UNLCK;
		if (arg)
			CHECK_EQ(flock(fd, LOCK_UN), 0);
		else
			CHECK_EQ(fcntl(fd, F_OFD_SETLK, &fl), 0);
	}
	close(fd);
	return NULL;
}

CASE_STRESS(file_locks)
{
	pthread_t t[6];
	int fd;

	strcpy(lock_name, "/tmp/progs-lock-XXXXXX");
	CHECK((fd = mkstemp(lock_name)) >= 0);
	for (int k = 0; k < 2; k++) {
		for (int i = 0; i < 6; i++)
			t[i] = spawn(flock_main, k ? &fd : NULL);
		for (int i = 0; i < 6; i++)
			join(t[i]);
	}
	unlink(lock_name);
}

/* Futex waits through libc's syscall(): wake, EAGAIN, exact ETIMEDOUT. */
static int futex_word;
static atomic_int futex_n;

static void *futex_main(void *arg)
{
	while (!__atomic_load_n(&futex_word, __ATOMIC_ACQUIRE))
		if (syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0))
			CHECK_EQ(errno, EAGAIN);
	atomic_fetch_add(&futex_n, 1);
	return arg;
}

CASE_STRESS(syscall_futex)
{
	struct timespec ts = {.tv_nsec = 10 * MS};
	pthread_t t[16];
	long long t0;
	int word = 0;

	hogs_start(2);
	for (int i = 0; i < 16; i++)
		t[i] = spawn(futex_main, NULL);
	sleep_ns(5 * MS);
	__atomic_store_n(&futex_word, 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0) <= 16);
	for (int i = 0; i < 16; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&futex_n), 16);
	CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0), EAGAIN);
	t0 = now(CLOCK_MONOTONIC);
	CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0), ETIMEDOUT);
	CHECK(now(CLOCK_MONOTONIC) - t0 >= 10 * MS);
	CHECK_EQ(syscall(SYS_gettid), gettid());
	hogs_stop();
}

/* Errors of blocking calls come through, errno and all. */
CASE(io_errors)
{
	struct pollfd *volatile bad = (struct pollfd *)(uintptr_t)16;
	char c;

	for (int k = 0; k < 2; k++) {
		CHECK_ERRNO(read(-1, &c, 1), EBADF);
		CHECK_ERRNO(write(-1, &c, 1), EBADF);
		CHECK_ERRNO(open("/proc/nonexistent/file", O_RDONLY), ENOENT);
		CHECK_ERRNO(accept(-1, NULL, NULL), EBADF);
		CHECK_ERRNO(recv(-1, &c, 1, 0), EBADF);
		CHECK_ERRNO(waitpid(-1, NULL, 0), ECHILD);
		CHECK_ERRNO(nanosleep(&(struct timespec){.tv_nsec = -1}, NULL), EINVAL);
		CHECK_ERRNO(fsync(-1), EBADF);
		CHECK_ERRNO(flock(-1, LOCK_EX), EBADF);
		CHECK_ERRNO(msgrcv(-1, &c, 1, 0, 0), EINVAL);
		CHECK_ERRNO(syscall(100000), ENOSYS);
		CHECK_ERRNO(poll(bad, 1, 0), EFAULT);
		if (k == 0) {
			hogs_start(2);
			sleep_ns(MS);
		}
	}
	hogs_stop();
}
