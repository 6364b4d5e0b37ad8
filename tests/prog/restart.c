/*
 * restart.c - a server that is restarted without losing a connection.
 *
 * The old server, on SIGTERM, starts the new one, which inherits the listening socket, and answers what it has accepted
 * before it ends. Each has a thread that accepts and a pool that answers; clients come all the time.
 */
#include "prog.h"

#include <arpa/inet.h>
#include <sys/prctl.h>
#include <sys/socket.h>

enum { POOL = 4, CLIENTS = 4, RESTARTS = 3 };

static int listen_fd = -1;
static int queue_fds[64], queue_len;
static bool draining;
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queue_some = PTHREAD_COND_INITIALIZER, queue_room = PTHREAD_COND_INITIALIZER;
static atomic_int term;

static void answer(int fd)
{
	char request[16] = "", reply[64];
	ssize_t n = read(fd, request, sizeof(request) - 1);

	if (n > 0) {
		spin(20000); /* the work */
		snprintf(reply, sizeof(reply), "%d %s", getpid(), request);
		CHECK_EQ(write(fd, reply, strlen(reply)), (ssize_t)strlen(reply));
	}
	close(fd);
}

static void *pool_main(void *arg)
{
	for (;;) {
		int fd;

		CHECK_EQ(pthread_mutex_lock(&queue_lock), 0);
		while (!queue_len && !draining)
			CHECK_EQ(pthread_cond_wait(&queue_some, &queue_lock), 0);
		if (!queue_len)
			break;
		fd = queue_fds[--queue_len];
		CHECK_EQ(pthread_cond_signal(&queue_room), 0);
		CHECK_EQ(pthread_mutex_unlock(&queue_lock), 0);
		answer(fd);
	}
	CHECK_EQ(pthread_mutex_unlock(&queue_lock), 0);
	return arg;
}

static void on_term(int sig)
{
	(void)sig;
	atomic_store(&term, 1);
}

/* The generation comes as an argument; RESTARTS - 1 is the last. Descriptor 3 listens, 4 tells the parent who serves. */
HELPER(serve)
{
	int generation = atoi(prog_argv[2]);
	struct sigaction sa = {.sa_handler = on_term};
	sigset_t set;
	pthread_t t[POOL];
	pid_t pid = getpid();

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	CHECK_EQ(sigaction(SIGTERM, &sa, NULL), 0);
	listen_fd = 3;
	CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL),
		 0); /* for the pool: it would lose a request by EINTR */
	for (int i = 0; i < POOL; i++)
		t[i] = spawn(pool_main, NULL);
	CHECK_EQ(sigprocmask(SIG_UNBLOCK, &set, NULL), 0);
	CHECK_EQ(write(4, &pid, sizeof(pid)), (ssize_t)sizeof(pid));
	while (!atomic_load(&term)) {
		int fd = accept(listen_fd, NULL, NULL);

		if (fd < 0) {
			CHECK(errno == EINTR || errno == EAGAIN);
			continue;
		}
		CHECK_EQ(pthread_mutex_lock(&queue_lock), 0);
		while (queue_len == (int)ARRAY_SIZE(queue_fds))
			CHECK_EQ(pthread_cond_wait(&queue_room, &queue_lock), 0);
		queue_fds[queue_len++] = fd;
		CHECK_EQ(pthread_cond_signal(&queue_some), 0);
		CHECK_EQ(pthread_mutex_unlock(&queue_lock), 0);
	}
	/* Another thread may be in accept's place: the new process. It may miss a SIGTERM before it is ready, so the
	 * signal is blocked across exec. */
	if (generation + 1 < RESTARTS) {
		pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			char next[16];

			CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
			snprintf(next, sizeof(next), "%d", generation + 1);
			exec_self("serve", next);
		}
	}
	close(listen_fd);
	CHECK_EQ(pthread_mutex_lock(&queue_lock), 0);
	draining = true;
	CHECK_EQ(pthread_cond_broadcast(&queue_some), 0);
	CHECK_EQ(pthread_mutex_unlock(&queue_lock), 0);
	for (int i = 0; i < POOL; i++)
		join(t[i]);
	_exit(0);
}

static struct sockaddr_in server;
static atomic_int clients_end, answers, answered_by[RESTARTS];
static atomic_int servers[RESTARTS];

static void *client_main(void *arg)
{
	for (int i = 0; !atomic_load(&clients_end); i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), pid, seq;
		char text[64] = "";
		ssize_t n;

		CHECK(fd >= 0);
		CHECK_EQ(connect(fd, (struct sockaddr *)&server, sizeof(server)), 0);
		snprintf(text, sizeof(text), "%d", i);
		CHECK_EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text));
		n = read(fd, text, sizeof(text) - 1);
		CHECK(n > 0); /* a lost connection: 0, or ECONNRESET */
		text[n] = 0;
		CHECK_EQ(sscanf(text, "%d %d", &pid, &seq), 2);
		CHECK_EQ(seq, i);
		for (int s = 0; s < RESTARTS; s++)
			if (atomic_load(&servers[s]) == pid)
				atomic_fetch_add(&answered_by[s], 1);
		atomic_fetch_add(&answers, 1);
		close(fd);
	}
	return arg;
}

static void wait_for_answers(int s)
{
	long long end = now(CLOCK_MONOTONIC) + 20 * SEC;
	int before = atomic_load(&answered_by[s]);

	while (atomic_load(&answered_by[s]) < before + 20) {
		CHECK(now(CLOCK_MONOTONIC) < end);
		sleep_ns(MS);
	}
}

CASE_STRESS(restart_server)
{
	socklen_t len = sizeof(server);
	pthread_t t[CLIENTS];
	int fd, ready[2], status = -1;
	pid_t pid, got;

	prctl(PR_SET_CHILD_SUBREAPER, 1); /* the new servers are children of the old ones */
	server.sin_family = AF_INET;
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(fd >= 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&server, sizeof(server)), 0);
	CHECK_EQ(listen(fd, 128), 0);
	CHECK_EQ(getsockname(fd, (struct sockaddr *)&server, &len), 0);
	CHECK_EQ(pipe(ready), 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		int high = dup2(fd, 20), out = dup2(ready[1], 21);

		for (int i = 3; i < 20; i++)
			close(i);
		CHECK_EQ(dup2(high, 3), 3);
		CHECK_EQ(dup2(out, 4), 4);
		close(high);
		close(out);
		exec_self("serve", "0");
	}
	close(fd);
	close(ready[1]);
	for (int s = 0; s < RESTARTS; s++) {
		CHECK_EQ(read(ready[0], &pid, sizeof(pid)), (ssize_t)sizeof(pid));
		atomic_store(&servers[s], pid);
		if (s == 0)
			for (int i = 0; i < CLIENTS; i++)
				t[i] = spawn(client_main, NULL);
		else /* the old one ends by itself */
			CHECK_EQ(wait_child(atomic_load(&servers[s - 1])), 0);
		wait_for_answers(s);
		if (s + 1 < RESTARTS)
			CHECK_EQ(kill(pid, SIGTERM), 0);
	}
	atomic_store(&clients_end, 1);
	for (int i = 0; i < CLIENTS; i++)
		join(t[i]);
	/* No client wakes it any more if the signal comes just before it waits for one: again. */
	do {
		CHECK_EQ(kill(pid, SIGTERM), 0);
		sleep_ns(10 * MS);
		got = waitpid(pid, &status, WNOHANG);
	} while (got == 0);
	CHECK_EQ(got, pid);
	CHECK_EQ(status, 0);
	CHECK_ERRNO(waitpid(-1, NULL, 0), ECHILD);
	CHECK(atomic_load(&answers) >= 60);
}
