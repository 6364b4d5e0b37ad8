// Loads a memcached server: so many connections, each with one request under way; nine of ten are gets. One
// thread, which the library is never loaded into. tests/bench/servers uses it; libmemcached's own loader
// gives no latencies.
//
// usage: memcload PORT [CONNECTIONS [SECONDS]]
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { KEYS = 10000, VALUE = 100, ANSWER = 512, EVENTS = 64, SAMPLES = 1 << 23 };

struct connection {
	int fd;
	bool set;
	size_t got;
	uint64_t sent_at;
	char answer[ANSWER];
};

static double *samples; // ms
static size_t nsamples;
static uint64_t seed = 1;

static uint64_t draw(uint64_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (seed >> 33) % below;
}

static void request(struct connection *c, bool set, uint64_t key)
{
	static const char value[VALUE + 1] = {[0 ... VALUE - 1] = 'v'};
	char line[VALUE + 64];
	int n = set ? snprintf(line, sizeof line, "set k%lu 0 0 %d\r\n%s\r\n", (unsigned long)key,
			       VALUE, value)
		    : snprintf(line, sizeof line, "get k%lu\r\n", (unsigned long)key);

	c->set = set;
	c->got = 0;
	c->sent_at = now_ns();
	if (write(c->fd, line, (size_t)n) != n)
		die("write", errno);
}

// Reads what is there. True: the answer is complete, and right.
static bool answered(struct connection *c)
{
	const char *end = c->set ? "STORED\r\n" : "END\r\n";
	size_t len = strlen(end);
	ssize_t n = read(c->fd, c->answer + c->got, ANSWER - c->got);

	if (n <= 0)
		die("read", n ? errno : ECONNRESET);
	c->got += (size_t)n;
	if (c->got < len || memcmp(c->answer + c->got - len, end, len) != 0) {
		if (c->got == ANSWER)
			die("answer", EPROTO);
		return false;
	}
	if (!c->set && (c->got < VALUE || strncmp(c->answer, "VALUE ", 6) != 0))
		die("a key is missing", EPROTO);
	return true;
}

static int connect_to(uint16_t port)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
		die("connect", errno);
	return fd;
}

int main(int argc, char **argv)
{
	unsigned port = arg_count(argc, argv, 1, 11211), n = arg_count(argc, argv, 2, 50);
	double seconds = arg_seconds(argc, argv, 3, 1);
	struct connection *all = calloc(n, sizeof *all);
	int ep = epoll_create1(0);
	uint64_t begin, end, now;

	samples = malloc(SAMPLES * sizeof *samples);
	if (!all || !samples || ep < 0)
		die("memcload", errno);
	for (unsigned i = 0; i < n; i++) {
		struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &all[i]};

		all[i].fd = connect_to((uint16_t)port);
		if (epoll_ctl(ep, EPOLL_CTL_ADD, all[i].fd, &ev))
			die("epoll_ctl", errno);
	}
	for (uint64_t key = 0; key < KEYS; key++) {
		request(&all[0], true, key);
		while (!answered(&all[0]))
			;
	}

	begin = now = now_ns();
	end = begin + (uint64_t)(seconds * 1e9);
	for (unsigned i = 0; i < n; i++)
		request(&all[i], false, draw(KEYS));
	while (now < end && nsamples < SAMPLES) {
		struct epoll_event ev[EVENTS];
		int m = epoll_wait(ep, ev, EVENTS, 10000);

		if (m < 0 && errno == EINTR) // was stopped and goes on
			continue;
		if (m <= 0)
			die("no answer", m ? errno : ETIMEDOUT);
		for (int i = 0; i < m && nsamples < SAMPLES; i++) {
			struct connection *c = ev[i].data.ptr;

			if (!answered(c))
				continue;
			now = now_ns();
			samples[nsamples++] = (double)(now - c->sent_at) / 1e6;
			request(c, draw(10) == 0, draw(KEYS));
		}
	}
	metric("rate", (double)nsamples * 1e9 / (double)(now - begin), "1/s", "higher");
	metric("p50", percentile(samples, nsamples, 50), "ms", "lower");
	metric("p99", percentile(samples, nsamples, 99), "ms", "lower");
	return 0;
}
