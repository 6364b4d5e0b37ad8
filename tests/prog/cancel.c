/*
 * cancel.c - cancellation of threads that wait, clean-up in order, and ends of processes and libraries while threads
 * run.
 */
#include "prog.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum point {
	AT_READ,
	AT_READV,
	AT_WRITE,
	AT_RECV,
	AT_RECVFROM,
	AT_RECVMSG,
	AT_SEND,
	AT_ACCEPT,
	AT_POLL,
	AT_PPOLL,
	AT_SELECT,
	AT_PSELECT,
	AT_EPOLL_WAIT,
	AT_EPOLL_PWAIT,
	AT_SLEEP,
	AT_USLEEP,
	AT_NANOSLEEP,
	AT_CLOCK_NANOSLEEP,
	AT_PAUSE,
	AT_SIGSUSPEND,
	AT_SIGWAIT,
	AT_SIGWAITINFO,
	AT_SIGTIMEDWAIT,
	AT_MSGRCV,
	AT_MSGSND,
	AT_JOIN,
	AT_SEM_WAIT,
	AT_SEM_TIMEDWAIT,
	AT_SEM_CLOCKWAIT,
	AT_COND_WAIT,
	AT_COND_TIMEDWAIT,
	AT_COND_CLOCKWAIT,
	AT_WAITPID,
	AT_WAITID,
	AT_OPEN_FIFO,
	AT_LOCK,
	POINTS
};

/* Nothing here becomes ready. */
static struct {
	int quiet[2], full[2], listener, ep, msgs, msgs_full, locked;
	sem_t sem;
	pthread_t sleeper;
	pid_t child;
	char dir[32], fifo[64], file[64];
} never;

struct msg {
	long type;
	char text[1024];
};

static atomic_int in[POINTS], sleeper_end;

static void *sleeper_main(void *arg)
{
	while (!atomic_load(&sleeper_end))
		sleep_ns(500000);
	return arg;
}

static void never_init(void)
{
	char block[4096] = {0};
	struct msg msg = {.type = 2};
	struct flock lock = {.l_type = F_WRLCK};

	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, never.quiet), 0);
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, never.full), 0);
	while (send(never.full[1], block, sizeof(block), MSG_DONTWAIT) > 0)
		;
	never.listener = socket(AF_INET, SOCK_STREAM, 0);
	CHECK_EQ(listen(never.listener, 1), 0);
	never.ep = epoll_create1(0);
	never.msgs = msgget(IPC_PRIVATE, 0600);
	never.msgs_full = msgget(IPC_PRIVATE, 0600);
	CHECK(never.msgs >= 0 && never.msgs_full >= 0);
	while (msgsnd(never.msgs_full, &msg, sizeof(msg.text), IPC_NOWAIT) == 0)
		;
	CHECK_EQ(sem_init(&never.sem, 0, 0), 0);
	strcpy(never.dir, "/tmp/progs.XXXXXX");
	CHECK(mkdtemp(never.dir));
	snprintf(never.fifo, sizeof(never.fifo), "%s/fifo", never.dir);
	snprintf(never.file, sizeof(never.file), "%s/file", never.dir);
	CHECK_EQ(mknod(never.fifo, S_IFIFO | 0600, 0), 0);
	never.locked = open(never.file, O_RDWR | O_CREAT, 0600);
	CHECK(never.locked >= 0);
	never.child = fork();
	CHECK(never.child >= 0);
	if (!never.child) {
		watchdog();
		CHECK_EQ(fcntl(never.locked, F_SETLK, &lock), 0);
		CHECK_EQ(write(never.quiet[0], "x", 1), 1);
		for (;;)
			pause();
	}
	CHECK_EQ(read(never.quiet[1], block, 1), 1);
	never.sleeper = spawn(sleeper_main, NULL);
}

static void never_end(void)
{
	atomic_store(&sleeper_end, 1);
	join(never.sleeper);
	CHECK_EQ(kill(never.child, SIGKILL), 0);
	CHECK_EQ(wait_child(never.child), SIGKILL);
	CHECK_EQ(msgctl(never.msgs, IPC_RMID, NULL), 0);
	CHECK_EQ(msgctl(never.msgs_full, IPC_RMID, NULL), 0);
	CHECK_EQ(unlink(never.fifo), 0);
	CHECK_EQ(unlink(never.file), 0);
	CHECK_EQ(rmdir(never.dir), 0);
}

static void wait_at(enum point what, pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	struct timespec ts = {.tv_sec = 100}, abs = after(CLOCK_REALTIME, 100 * SEC);
	struct timespec mono = after(CLOCK_MONOTONIC, 100 * SEC);
	struct pollfd pfd = {.fd = never.quiet[0], .events = POLLIN};
	struct flock lock = {.l_type = F_WRLCK};
	struct msg msg = {.type = 2};
	struct iovec iov = {&msg, 1};
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
	struct epoll_event ev;
	sigset_t set, none;
	siginfo_t si;
	fd_set fds;
	int sig;

	sigemptyset(&none);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	FD_ZERO(&fds);
	FD_SET(never.quiet[0], &fds);
	long r = 0;

	switch (what) {
	case AT_READ:
		r = read(never.quiet[0], &msg, 1);
		break;
	case AT_READV:
		r = readv(never.quiet[0], &iov, 1);
		break;
	case AT_WRITE:
		r = write(never.full[1], &msg, 1);
		break;
	case AT_RECV:
		r = recv(never.quiet[0], &msg, 1, 0);
		break;
	case AT_RECVFROM:
		r = recvfrom(never.quiet[0], &msg, 1, 0, NULL, NULL);
		break;
	case AT_RECVMSG:
		r = recvmsg(never.quiet[0], &hdr, 0);
		break;
	case AT_SEND:
		r = send(never.full[1], &msg, 1, 0);
		break;
	case AT_ACCEPT:
		r = accept(never.listener, NULL, NULL);
		break;
	case AT_POLL:
		r = poll(&pfd, 1, -1);
		break;
	case AT_PPOLL:
		r = ppoll(&pfd, 1, NULL, &none);
		break;
	case AT_SELECT:
		r = select(never.quiet[0] + 1, &fds, NULL, NULL, NULL);
		break;
	case AT_PSELECT:
		r = pselect(never.quiet[0] + 1, &fds, NULL, NULL, NULL, &none);
		break;
	case AT_EPOLL_WAIT:
		r = epoll_wait(never.ep, &ev, 1, -1);
		break;
	case AT_EPOLL_PWAIT:
		r = epoll_pwait(never.ep, &ev, 1, -1, &none);
		break;
	case AT_SLEEP:
		r = sleep(100);
		break;
	case AT_USLEEP:
		r = usleep(100000000);
		break;
	case AT_NANOSLEEP:
		r = nanosleep(&ts, NULL);
		break;
	case AT_CLOCK_NANOSLEEP:
		r = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &abs, NULL);
		break;
	case AT_PAUSE:
		r = pause();
		break;
	case AT_SIGSUSPEND:
		r = sigsuspend(&none);
		break;
	case AT_SIGWAIT:
		r = sigwait(&set, &sig);
		break;
	case AT_SIGWAITINFO:
		r = sigwaitinfo(&set, &si);
		break;
	case AT_SIGTIMEDWAIT:
		r = sigtimedwait(&set, &si, &ts);
		break;
	case AT_MSGRCV:
		r = msgrcv(never.msgs, &msg, sizeof(msg.text), 1, 0);
		break;
	case AT_MSGSND:
		r = msgsnd(never.msgs_full, &msg, sizeof(msg.text), 0);
		break;
	case AT_JOIN:
		r = pthread_join(never.sleeper, NULL);
		break;
	case AT_SEM_WAIT:
		r = sem_wait(&never.sem);
		break;
	case AT_SEM_TIMEDWAIT:
		r = sem_timedwait(&never.sem, &abs);
		break;
	case AT_SEM_CLOCKWAIT:
		r = sem_clockwait(&never.sem, CLOCK_MONOTONIC, &mono);
		break;
	case AT_COND_WAIT:
		r = pthread_cond_wait(cond, mutex);
		break;
	case AT_COND_TIMEDWAIT:
		r = pthread_cond_timedwait(cond, mutex, &abs);
		break;
	case AT_COND_CLOCKWAIT:
		r = pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &mono);
		break;
	case AT_WAITPID:
		r = waitpid(never.child, NULL, 0);
		break;
	case AT_WAITID:
		r = waitid(P_PID, (id_t)never.child, &si, WEXITED);
		break;
	case AT_OPEN_FIFO:
		r = open(never.fifo, O_RDONLY);
		break;
	case AT_LOCK:
		r = fcntl(never.locked, F_SETLKW, &lock);
		break;
	case POINTS:
	default:
		break;
	}
	fail(__FILE__, __LINE__, "point %d came back with %ld, errno %d", (int)what, r, errno);
}

/* Per thread: which of its clean-up handlers ran, in this order: 1, 2, then the destructor of its key. */
struct waiter {
	enum point what;
	bool async, early;
	int cleaned, destroyed;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static pthread_key_t key;

static void destroy(void *arg)
{
	struct waiter *w = arg;

	CHECK_EQ(w->cleaned, 2);
	CHECK_EQ(pthread_mutex_trylock(&w->lock), 0); /* given back by the clean-up */
	w->destroyed++;
}

static void cleanup_first(void *arg)
{
	struct waiter *w = arg;
	int old;

	CHECK_EQ(w->cleaned++, 0);
	/* Error-checking: this thread must have it again, whatever it waited for. */
	CHECK_EQ(pthread_mutex_unlock(&w->lock), 0);
	/* A clean-up may block; it is not cancelled again. */
	sched_yield();
	sleep_ns(100000);
	CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old), 0);
}

static void cleanup_second(void *arg)
{
	struct waiter *w = arg;

	CHECK_EQ(w->cleaned++, 1);
}

static void *waiter_main(void *arg)
{
	struct waiter *w = arg;
	int old;

	CHECK_EQ(pthread_setspecific(key, w), 0);
	pthread_cleanup_push(cleanup_second, w);
	pthread_cleanup_push(cleanup_first, w);
	CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old), 0);
	CHECK_EQ(pthread_mutex_lock(&w->lock), 0);
	CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old), 0);
	atomic_store(&in[w->what], 1);
	if (w->async)
		CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old), 0);
	wait_at(w->what, &w->cond, &w->lock);
	pthread_cleanup_pop(0);
	pthread_cleanup_pop(0);
	return NULL;
}

static void cancel_all(bool async, long long pause_ns)
{
	static struct waiter w[POINTS];
	pthread_mutexattr_t attr;
	pthread_t t[POINTS];

	CHECK_EQ(pthread_key_create(&key, destroy), 0);
	CHECK_EQ(pthread_mutexattr_init(&attr), 0);
	CHECK_EQ(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK), 0);
	never_init();
	hogs_start(2);
	for (int i = 0; i < POINTS; i++) {
		/* The conditions' waits and file locks are not safe to cancel asynchronously. */
		w[i] = (struct waiter){.what = (enum point)i,
				       .async = async && i != AT_COND_WAIT &&
						i != AT_COND_TIMEDWAIT && i != AT_COND_CLOCKWAIT &&
						i != AT_JOIN};
		CHECK_EQ(pthread_mutex_init(&w[i].lock, &attr), 0);
		CHECK_EQ(pthread_cond_init(&w[i].cond, NULL), 0);
		t[i] = spawn(waiter_main, &w[i]);
	}
	for (int i = 0; i < POINTS; i++)
		AWAIT(&in[i], 1);
	sleep_ns(pause_ns);
	for (int i = 0; i < POINTS; i++)
		CHECK_EQ(pthread_cancel(t[i]), 0);
	for (int i = 0; i < POINTS; i++) {
		CHECK(join(t[i]) == PTHREAD_CANCELED);
		if (w[i].cleaned != 2 || w[i].destroyed != 1)
			fail(__FILE__, __LINE__, "point %d: %d cleaned, %d destroyed", i,
			     w[i].cleaned, w[i].destroyed);
	}
	hogs_stop();
	never_end();
}

/* Each cancellation point, the thread asleep in it. */
CASE_STRESS(cancel_points)
{
	cancel_all(false, 10 * MS);
}

/* The thread on its way into it. */
CASE_STRESS(cancel_points_early)
{
	cancel_all(false, 1000);
}

/* The same with the asynchronous type. */
CASE_STRESS(cancel_points_async)
{
	cancel_all(true, 10 * MS);
}

/* Cancelled wherever it is, in calls as well: nobody but the thread itself and what is its own is affected. */
struct victim {
	sem_t sem;
	pthread_mutex_t lock;
	pthread_spinlock_t spin;
	sem_t other;
	bool posts; /* nothing else */
	atomic_int begun, end;
};

/* Waits for what the other one does: that is in the library when it is cancelled, then. */
static void *is_woken(void *arg)
{
	struct victim *v = arg;
	struct timespec until;

	while (!atomic_load(&v->end)) {
		until = after(CLOCK_REALTIME, 2 * MS);
		sem_timedwait(&v->other, &until);
	}
	return arg;
}

static void *calls(void *arg)
{
	struct victim *v = arg;
	struct timespec moment = {0, 1000};
	int old;

	CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old), 0);
	CHECK_EQ(old, PTHREAD_CANCEL_DEFERRED);
	atomic_store(&v->begun, 1);
	while (v->posts) {
		sem_post(&v->other);
		spin(500);
	}
	for (int i = 0;; i++) {
		sched_yield();
		sem_post(&v->sem);
		sem_wait(&v->sem);
		sem_post(&v->other);
		pthread_mutex_lock(&v->lock);
		pthread_mutex_unlock(&v->lock);
		pthread_spin_lock(&v->spin);
		pthread_spin_unlock(&v->spin);
		if (i % 16 == 0)
			nanosleep(&moment, NULL);
	}
	return arg;
}

/* And back to the ordinary type: the thread runs on as if nothing had been. */
static void *comes_back(void *arg)
{
	int old;

	for (int i = 0; i < 2; i++) {
		CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old), 0);
		CHECK_EQ(old, PTHREAD_CANCEL_DEFERRED);
		CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old), 0);
		CHECK_EQ(old, PTHREAD_CANCEL_ASYNCHRONOUS);
		CHECK_EQ(pthread_setcanceltype(12345, NULL), EINVAL);
		sched_yield();
		CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &old), 0);
		CHECK_EQ(old, PTHREAD_CANCEL_ASYNCHRONOUS);
		sched_yield();
	}
	return arg;
}

CASE_STRESS(cancel_async_anywhere)
{
	for (int i = 0; i < 40; i++) {
		/* Posts wake somebody if nobody else computes. */
		struct victim v = {.posts = i & 1};
		pthread_t t, waiter, other = spawn(comes_back, NULL);

		if (!v.posts)
			hogs_start(1);
		CHECK_EQ(sem_init(&v.sem, 0, 0), 0);
		CHECK_EQ(pthread_mutex_init(&v.lock, NULL), 0);
		CHECK_EQ(pthread_spin_init(&v.spin, 0), 0);
		CHECK_EQ(sem_init(&v.other, 0, 0), 0);
		waiter = spawn(is_woken, &v);
		t = spawn(calls, &v);
		AWAIT(&v.begun, 1);
		spin(i * 1500);
		CHECK_EQ(pthread_cancel(t), 0);
		CHECK(join(t) == PTHREAD_CANCELED);
		atomic_store(&v.end, 1);
		join(waiter);
		join(other);
		if (!v.posts)
			hogs_stop();
	}
	lives();
}

/* exit, quick_exit and _exit while others run, wait, hold locks and stdio, are cancelled and are made: the status
 * is the one given, and each handler of its kind runs once. */
static pthread_mutex_t kept = PTHREAD_MUTEX_INITIALIZER;
static int told[2];

static void *keeper(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(&kept), 0);
	for (;;)
		pause();
	return arg;
}

static void *blocked(void *arg)
{
	pthread_mutex_lock(&kept);
	return arg;
}

static void *maker(void *arg)
{
	for (;;) {
		pthread_t t;

		/* The process may be on its way out. */
		if (pthread_create(&t, NULL, sleeper_main, NULL))
			continue;
		pthread_cancel(t);
		pthread_join(t, NULL);
	}
	return arg;
}

static void tell_exit(void)
{
	if (write(told[1], "e", 1) != 1)
		_exit(1);
}

static void tell_quick(void)
{
	if (write(told[1], "q", 1) != 1)
		_exit(1);
}

static void *ender(void *arg)
{
	switch ((intptr_t)arg / 2) {
	case 0:
		exit(3);
	case 1:
		quick_exit(4);
	default:
		_exit(5);
	}
}

static void end_while_busy(void *arg)
{
	CHECK_EQ(atexit(tell_exit), 0);
	CHECK_EQ(at_quick_exit(tell_quick), 0);
	spawn(keeper, NULL);
	for (int i = 0; i < 4; i++)
		spawn(blocked, NULL);
	spawn(maker, NULL);
	hogs_start(2);
	sleep_ns(3 * MS);
	if ((intptr_t)arg % 2)
		join(spawn(ender, arg));
	ender(arg);
}

CASE_STRESS(exits_while_busy)
{
	for (intptr_t i = 0; i < 6; i++) {
		char c[4] = {0};

		CHECK_EQ(pipe(told), 0);
		CHECK_EQ(in_child(end_while_busy, (void *)i), (3 + i / 2) << 8);
		CHECK_EQ(close(told[1]), 0);
		CHECK_EQ(read(told[0], c, sizeof(c)), i / 2 < 2);
		CHECK_EQ(c[0], i / 2 == 0 ? 'e' : i / 2 == 1 ? 'q' : 0);
		CHECK_EQ(close(told[0]), 0);
	}
}
