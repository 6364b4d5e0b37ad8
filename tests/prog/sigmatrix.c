/*
 * sigmatrix.c - signals in all the ways that programs use them, beside busy threads: nothing of the
 * preemption signal shows, and nothing of the program's own is lost.
 */
#include "prog.h"
#include "sig.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static atomic_int hits, hit_tid, hit_code, hit_fd, hit_pid;
static atomic_intptr_t hit_value;

static void note(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	atomic_store(&hit_tid, (int)syscall(SYS_gettid));
	atomic_store(&hit_code, info->si_code);
	atomic_store(&hit_pid, info->si_pid);
	atomic_store(&hit_value, (intptr_t)info->si_value.sival_ptr);
	atomic_fetch_add(&hits, 1);
}

static void note_fd(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	atomic_store(&hit_tid, (int)syscall(SYS_gettid));
	atomic_store(&hit_code, info->si_code);
	atomic_store(&hit_fd, info->si_fd);
	atomic_fetch_add(&hits, 1);
}

static void tcp_pair(int fds[2])
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(listener >= 0);
	CHECK_EQ(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	CHECK_EQ(listen(listener, 1), 0);
	CHECK_EQ(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(fds[0] >= 0);
	CHECK_EQ(connect(fds[0], (struct sockaddr *)&addr, sizeof(addr)), 0);
	fds[1] = accept(listener, NULL, NULL);
	CHECK(fds[1] >= 0);
	CHECK_EQ(close(listener), 0);
}

/* Out-of-band data raises SIGURG at the socket's owner: each byte once, and nothing else raises it. */
CASE_STRESS(sigurg_out_of_band)
{
	int fds[2], want = 0;

	tcp_pair(fds);
	hogs_start(4);
	set_action(SIGURG, note, SA_RESTART);
	for (int thread = 0; thread < 2; thread++) {
		struct f_owner_ex owner = {F_OWNER_TID, (int)syscall(SYS_gettid)};

		if (thread)
			CHECK_EQ(fcntl(fds[1], F_SETOWN_EX, &owner), 0);
		else
			CHECK_EQ(fcntl(fds[1], F_SETOWN, getpid()), 0);
		for (int i = 0; i < 10; i++) {
			char c = (char)('a' + i), got = 0;

			CHECK_EQ(send(fds[0], &c, 1, MSG_OOB), 1);
			AWAIT(&hits, ++want);
			if (thread)
				CHECK_EQ(atomic_load(&hit_tid), owner.pid);
			CHECK_EQ(recv(fds[1], &got, 1, MSG_OOB), 1);
			CHECK_EQ(got, c);
		}
	}
	hogs_stop();
	CHECK_EQ(atomic_load(&hits), want);
}

/* F_SETSIG: a queued signal that names the descriptor, also the lowest and highest real-time ones. */
CASE_STRESS(sigio_real_time)
{
	const int sigs[] = {SIGRTMIN, SIGRTMAX, SIGRTMAX - 1, SIGRTMAX - 2, SIGRTMAX - 3, SIGURG};
	int fds[2], want = 0;
	char c = 'x';

	tcp_pair(fds);
	hogs_start(4);
	CHECK_EQ(fcntl(fds[1], F_SETOWN, getpid()), 0);
	CHECK_EQ(fcntl(fds[1], F_SETFL, O_ASYNC | O_NONBLOCK), 0);
	for (size_t k = 0; k < ARRAY_SIZE(sigs); k++) {
		set_action(sigs[k], note_fd, SA_RESTART);
		CHECK_EQ(fcntl(fds[1], F_SETSIG, sigs[k]), 0);
		CHECK_EQ(fcntl(fds[1], F_GETSIG), sigs[k]);
		for (int i = 0; i < 3; i++) {
			CHECK_EQ(send(fds[0], &c, 1, 0), 1);
			want++;
			for (int n = 0; n < 100000 && atomic_load(&hits) < want; n++)
				sleep_ns(100000);
			/* The kernel may report one byte twice. */
			CHECK(atomic_load(&hits) >= want);
			want = atomic_load(&hits);
			CHECK_EQ(atomic_load(&hit_fd), fds[1]);
			CHECK(atomic_load(&hit_code) == POLL_IN);
			CHECK_EQ(read(fds[1], &c, 1), 1);
		}
	}
	hogs_stop();
}

/* Every signal that can be blocked: while it is, it is pending at once and nothing else is; then each of the four ways to take it
 * gives exactly what was sent. */
static void take_each(void)
{
	struct timespec zero = {0}, ten = {.tv_sec = 10};
	sigset_t set = full(), none;
	siginfo_t si;
	int fd, got;

	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	sigemptyset(&none);
	for (int sig = 1; sig <= SIGRTMAX; sig++) {
		union sigval value = {.sival_int = 1000 + sig};
		struct signalfd_siginfo ssi;

		if (sigismember(&set, sig) != 1 || sig == SIGCONT || sig == SIGTSTP ||
		    sig == SIGTTIN || sig == SIGTTOU)
			continue;
		set = set_of(sig);
		CHECK_ERRNO(sigtimedwait(&set, &si, &zero), EAGAIN);
		for (int way = 0; way < 5; way++) {
			if (way & 1)
				CHECK_EQ(pthread_sigqueue(pthread_self(), sig, value), 0);
			else
				CHECK_EQ(sigqueue(getpid(), sig, value), 0);
			memset(&si, 0, sizeof(si));
			for (int i = 1; i <= 64; i++)
				if (pending(i) != (i == sig))
					fail(__FILE__, __LINE__, "signal %d sent, %d %spending",
					     sig, i, i == sig ? "not " : "");
			switch (way) {
			case 0:
				CHECK_EQ(sigwaitinfo(&set, &si), sig);
				break;
			case 1:
				CHECK_EQ(sigtimedwait(&set, &si, &ten), sig);
				break;
			case 2:
				CHECK_EQ(sigwait(&set, &got), 0);
				CHECK_EQ(got, sig);
				continue;
			case 3:
				fd = signalfd(-1, &set, SFD_CLOEXEC);
				CHECK(fd >= 0);
				CHECK_EQ(read(fd, &ssi, sizeof(ssi)), sizeof(ssi));
				CHECK_EQ(ssi.ssi_signo, sig);
				CHECK_EQ(ssi.ssi_code, SI_QUEUE);
				CHECK_EQ(ssi.ssi_int, value.sival_int);
				CHECK_EQ(close(fd), 0);
				continue;
			default:
				CHECK_EQ(sigtimedwait(&set, &si, &zero), sig);
			}
			CHECK_EQ(si.si_signo, sig);
			CHECK_EQ(si.si_code, SI_QUEUE);
			CHECK_EQ(si.si_pid, getpid());
			CHECK_EQ(si.si_value.sival_int, value.sival_int);
		}
		CHECK(!pending(sig));
		set = full();
	}
	mask_is(&set);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &none, NULL), 0);
}

/* All threads have all blocked, from before there was a second one. */
CASE_STRESS(take_every_signal)
{
	sigset_t set = full();

	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	hogs_start(4);
	take_each();
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	hogs_stop();
}

/* The same for real-time signals that are queued: all values, in the order in which they were sent, the lowest
 * signal first. */
CASE_STRESS(real_time_order)
{
	sigset_t set = full();
	siginfo_t si;

	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	hogs_start(4);
	CHECK_EQ(sigemptyset(&set), 0);
	for (int i = 0; i < 3; i++)
		for (int sig = SIGRTMAX; sig >= SIGRTMIN; sig--) {
			union sigval value = {.sival_int = sig * 10 + i};

			CHECK_EQ(sigaddset(&set, sig), 0);
			CHECK_EQ(sigqueue(getpid(), sig, value), 0);
		}
	for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		CHECK(pending(sig));
	for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		for (int i = 0; i < 3; i++) {
			CHECK_EQ(sigwaitinfo(&set, &si), sig);
			CHECK_EQ(si.si_value.sival_int, sig * 10 + i);
		}
	hogs_stop();
}

/* A signal that comes while it is blocked is delivered when it is not any more: every real-time one, with its value. */
CASE_STRESS(blocked_then_handled)
{
	hogs_start(4);
	for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++) {
		union sigval value = {.sival_int = 7 * sig};
		sigset_t set = set_of(sig);

		set_action(sig, note, SA_RESTART);
		atomic_store(&hits, 0);
		CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
		for (int i = 0; i < 3; i++)
			CHECK_EQ(pthread_sigqueue(pthread_self(), sig, value), 0);
		CHECK(pending(sig));
		CHECK_EQ(atomic_load(&hits), 0);
		CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
		CHECK_EQ(atomic_load(&hits), 3);
		CHECK_EQ(atomic_load(&hit_value) & 0xffffffff, value.sival_int);
		CHECK_EQ(atomic_load(&hit_code), SI_QUEUE);
		CHECK(!pending(sig));
	}
	hogs_stop();
}

/* SIGURG without a handler and blocked by nobody is ignored, whoever sends it and however. */
CASE_STRESS(sigurg_ignored)
{
	union sigval value = {.sival_ptr = &hits};
	int fds[2];
	char c = 'x';

	tcp_pair(fds);
	CHECK_EQ(fcntl(fds[1], F_SETOWN, getpid()), 0);
	hogs_start(4);
	for (int i = 0; i < 50; i++) {
		CHECK_EQ(kill(getpid(), SIGURG), 0);
		CHECK_EQ(sigqueue(getpid(), SIGURG, value), 0);
		CHECK_EQ(pthread_kill(pthread_self(), SIGURG), 0);
		CHECK_EQ(raise(SIGURG), 0);
		CHECK_EQ(send(fds[0], &c, 1, MSG_OOB), 1);
		CHECK(!pending(SIGURG));
	}
	hogs_stop();
}

/* A real-time signal without a handler ends the program, with that signal as its status; ignored, it does not. */
static void die_by(void *arg)
{
	int sig = (int)(intptr_t)arg;

	hogs_start(2);
	sleep_ns(MS);
	CHECK(signal(sig, SIG_IGN) == SIG_DFL);
	CHECK_EQ(pthread_kill(pthread_self(), sig), 0);
	CHECK_EQ(kill(getpid(), sig), 0);
	CHECK(signal(sig, SIG_DFL) == SIG_IGN);
	CHECK_EQ(kill(getpid(), sig), 0);
	sleep(20);
}

CASE_STRESS(real_time_default)
{
	const int sigs[] = {SIGRTMIN, SIGRTMAX, SIGRTMAX - 2, SIGRTMAX - 3, SIGUSR2};

	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		CHECK_EQ(in_child(die_by, (void *)(intptr_t)sigs[i]), sigs[i]);
}

/*
 * Who sent what: si_code, si_value and si_pid are the sender's for each way to send, at the thread it was for. A
 * parked thread, a busy one, and one in a system call.
 */
static atomic_int target_tid[3], target_end;
static sem_t target_sem;
static int target_pipe[2];

static void *target_main(void *arg)
{
	intptr_t what = (intptr_t)arg;
	char c;
	int r;

	atomic_store(&target_tid[what], (int)syscall(SYS_gettid));
	switch (what) {
	case 0:
		while ((r = sem_wait(&target_sem)) < 0)
			CHECK_EQ(errno, EINTR);
		break;
	case 1:
		while (!atomic_load_explicit(&target_end, memory_order_relaxed))
			;
		break;
	default:
		while ((r = (int)read(target_pipe[0], &c, 1)) < 0)
			CHECK_EQ(errno, EINTR);
	}
	return NULL;
}

CASE_STRESS(senders_exact)
{
	const int sigs[] = {SIGUSR1, SIGURG, SIGRTMIN + 1, SIGRTMAX - 2};
	pthread_t t[3];

	CHECK_EQ(sem_init(&target_sem, 0, 0), 0);
	CHECK_EQ(pipe(target_pipe), 0);
	for (size_t k = 0; k < ARRAY_SIZE(sigs); k++)
		set_action(sigs[k], note, 0);
	hogs_start(2);
	for (intptr_t i = 0; i < 3; i++)
		t[i] = spawn(target_main, (void *)i);
	for (int i = 0; i < 3; i++)
		while (!atomic_load(&target_tid[i]))
			sleep_ns(100000);
	for (int i = 0; i < 30; i++) {
		int sig = sigs[i % 4], tid = atomic_load(&target_tid[i % 3]);
		union sigval value = {.sival_ptr = (char *)&hits + i};

		atomic_store(&hits, 0);
		if (i % 2) {
			CHECK_EQ(pthread_kill(t[i % 3], sig), 0);
			AWAIT(&hits, 1);
			CHECK_EQ(atomic_load(&hit_code), SI_TKILL);
		} else {
			CHECK_EQ(pthread_sigqueue(t[i % 3], sig, value), 0);
			AWAIT(&hits, 1);
			CHECK_EQ(atomic_load(&hit_code), SI_QUEUE);
			CHECK_EQ(atomic_load(&hit_value), (intptr_t)value.sival_ptr);
		}
		CHECK_EQ(atomic_load(&hit_tid), tid);
		CHECK_EQ(atomic_load(&hit_pid), getpid());
		atomic_store(&hits, 0);
		CHECK_EQ(kill(getpid(), sig), 0);
		AWAIT(&hits, 1);
		CHECK_EQ(atomic_load(&hit_code), SI_USER);
		atomic_store(&hits, 0);
		CHECK_EQ(sigqueue(getpid(), sig, value), 0);
		AWAIT(&hits, 1);
		CHECK_EQ(atomic_load(&hit_code), SI_QUEUE);
		CHECK_EQ(atomic_load(&hit_value), (intptr_t)value.sival_ptr);
	}
	atomic_store(&target_end, 1);
	CHECK_EQ(sem_post(&target_sem), 0);
	CHECK_EQ(write(target_pipe[1], "x", 1), 1);
	for (int i = 0; i < 3; i++)
		join(t[i]);
	hogs_stop();
}

/* By timer, told apart by the value: a thread that is late may enter a handler for one that has been deleted since. */
static struct timer_hits {
	atomic_int n, tid, code;
} timer_hits[8];

static void note_timer(int sig, siginfo_t *info, void *context)
{
	struct timer_hits *t = info->si_value.sival_ptr;

	(void)sig;
	(void)context;
	if (t < timer_hits || t >= timer_hits + ARRAY_SIZE(timer_hits))
		return; /* not the value: the timer is waited for in vain */
	atomic_store(&t->tid, (int)syscall(SYS_gettid));
	atomic_store(&t->code, info->si_code);
	atomic_fetch_add(&t->n, 1);
}

/* Timers of each kind: the signal goes where it should, with SI_TIMER and the value; overruns are told. */
CASE_STRESS(timers_signal)
{
	struct itimerspec its = {{0, 2000000}, {0, 2000000}}, off = {{0, 0}, {0, 0}};
	const int sigs[] = {SIGRTMIN + 2, SIGURG, SIGALRM, SIGRTMAX - 2};
	pthread_t t;

	CHECK_EQ(sem_init(&target_sem, 0, 0), 0);
	hogs_start(2);
	t = spawn(target_main, (void *)0);
	while (!atomic_load(&target_tid[0]))
		sleep_ns(100000);
	for (int i = 0; i < 8; i++) {
		struct timer_hits *hit = &timer_hits[i];
		struct sigevent ev = {.sigev_notify = i < 4 ? SIGEV_SIGNAL : SIGEV_THREAD_ID,
				      .sigev_signo = sigs[i % 4],
				      .sigev_value.sival_ptr = hit};
		timer_t timer;

		if (i >= 4)
			ev.sigev_notify_thread_id = atomic_load(&target_tid[0]);
		set_action(sigs[i % 4], note_timer, SA_RESTART);
		CHECK_EQ(timer_create(i & 1 ? CLOCK_MONOTONIC : CLOCK_REALTIME, &ev, &timer), 0);
		CHECK_EQ(timer_settime(timer, 0, &its, NULL), 0);
		/* The handler may run on this thread: no whole sleeps here. */
		for (long long end = now(CLOCK_MONOTONIC) + 20 * SEC;
		     atomic_load(&hit->n) < 5 && now(CLOCK_MONOTONIC) < end;)
			poll(NULL, 0, 1);
		CHECK(atomic_load(&hit->n) >= 5);
		CHECK_EQ(timer_settime(timer, 0, &off, NULL), 0);
		CHECK_EQ(timer_delete(timer), 0);
		CHECK_EQ(atomic_load(&hit->code), SI_TIMER);
		if (i >= 4)
			CHECK_EQ(atomic_load(&hit->tid), atomic_load(&target_tid[0]));
	}
	CHECK_EQ(sem_post(&target_sem), 0);
	join(t);
	hogs_stop();
}

/* setitimer on each of its clocks, and alarm, beside busy threads. */
CASE_STRESS(interval_timers)
{
	const int which[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
	const int sigs[] = {SIGALRM, SIGVTALRM, SIGPROF};

	hogs_start(2);
	for (int i = 0; i < 3; i++) {
		struct itimerval it = {{0, 2000}, {0, 2000}}, off = {0}, old;

		atomic_store(&hits, 0);
		set_action(sigs[i], note, SA_RESTART);
		CHECK_EQ(setitimer(which[i], &it, NULL), 0);
		for (long long end = now(CLOCK_MONOTONIC) + 20 * SEC;
		     atomic_load(&hits) < 5 && now(CLOCK_MONOTONIC) < end;)
			poll(NULL, 0, 1);
		CHECK(atomic_load(&hits) >= 5);
		CHECK_EQ(setitimer(which[i], &off, &old), 0);
		CHECK_EQ(old.it_interval.tv_usec, 2000);
		CHECK(atomic_load(&hit_code) == SI_KERNEL || atomic_load(&hit_code) == SI_TIMER);
	}
	hogs_stop();
}

/* siginterrupt, SA_RESTART and their opposites decide whether a read goes on; SA_NODEFER whether a handler nests;
 * SA_RESETHAND whether there is a second time. */
static atomic_int depth, deepest;

static void nest_handler(int sig, siginfo_t *info, void *context)
{
	int d = atomic_fetch_add(&depth, 1) + 1;

	(void)info;
	(void)context;
	if (d > atomic_load(&deepest))
		atomic_store(&deepest, d);
	if (d < 5)
		raise(sig);
	atomic_fetch_sub(&depth, 1);
	atomic_fetch_add(&hits, 1);
}

CASE_STRESS(nodefer_nests)
{
	const int sigs[] = {SIGUSR1, SIGURG, SIGRTMIN, SIGRTMAX - 2};

	hogs_start(2);
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++) {
		struct sigaction old;

		atomic_store(&hits, 0);
		atomic_store(&deepest, 0);
		set_action(sigs[i], nest_handler, SA_NODEFER);
		CHECK_EQ(raise(sigs[i]), 0);
		CHECK_EQ(atomic_load(&hits), 5);
		CHECK_EQ(atomic_load(&deepest), 5);
		/* Blocked in its own handler, it comes after it, for as long as the handler sends it. */
		atomic_store(&hits, 0);
		atomic_store(&deepest, 0);
		set_action(sigs[i], note, (int)SA_RESETHAND);
		CHECK_EQ(raise(sigs[i]), 0);
		CHECK_EQ(atomic_load(&hits), 1);
		CHECK_EQ(sigaction(sigs[i], NULL, &old), 0);
		CHECK(old.sa_handler == SIG_DFL);
	}
	hogs_stop();
}

/* SA_NOCLDWAIT and SIG_IGN of SIGCHLD: children leave nothing behind, wait says ECHILD when the last is gone. */
CASE_STRESS(children_leave_nothing)
{
	for (int way = 0; way < 3; way++) {
		struct sigaction sa = {.sa_handler = way == 1 ? SIG_IGN : SIG_DFL,
				       .sa_flags = way == 1 ? 0 : SA_NOCLDWAIT};

		hogs_start(2);
		CHECK_EQ(sigaction(SIGCHLD, &sa, NULL), 0);
		if (way == 2)
			set_action(SIGCHLD, note, SA_NOCLDWAIT | SA_RESTART);
		for (int i = 0; i < 3; i++) {
			pid_t pid = fork();

			CHECK(pid >= 0);
			if (!pid)
				_exit(3);
			CHECK_ERRNO(waitpid(pid, NULL, 0), ECHILD);
		}
		CHECK_ERRNO(wait(NULL), ECHILD);
		hogs_stop();
	}
}
