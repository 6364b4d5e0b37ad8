// Threads that send messages and threads that work on them. Two senders have a group of workers each. A worker waits until
// its sender wakes it, works for WORK_US, tells the sender that it is ready, and waits again. A sender wakes all who are ready and waits
// for more. So all workers want a CPU all the time, and each message is a wake-up: how long it takes from the message to the worker.
//
// usage: messages [WORKERS] [SECONDS]
#include "bench.h"

#include <errno.h>
#include <stdlib.h>

enum { SENDERS = 2, WORK_US = 5000, MAX_SAMPLES = 1 << 18 };

struct worker_state {
	_Alignas(64) pthread_cond_t wake;
	uint64_t sent; // 0: no message
	bool is_ready;
	double *late;
	size_t n;
};

struct group {
	_Alignas(64) pthread_mutex_t lock;
	pthread_cond_t news; // for the sender
	unsigned ready;
	bool end;
};

static struct group groups[SENDERS];
static struct worker_state *state;
static unsigned workers;
static uint64_t per_us;

static void send_all(struct worker *w, struct group *g)
{
	pthread_mutex_lock(&g->lock);
	for (;;) {
		while (!g->ready && !g->end)
			pthread_cond_wait(&g->news, &g->lock);
		if (g->end)
			break;
		for (unsigned i = w->id; i < workers; i += SENDERS) {
			struct worker_state *s = &state[i];

			if (!s->is_ready)
				continue;
			s->is_ready = false;
			g->ready--;
			s->sent = now_ns();
			pthread_cond_signal(&s->wake);
		}
	}
	pthread_mutex_unlock(&g->lock);
}

static void work_on(struct worker *w, struct worker_state *s, struct group *g)
{
	pthread_mutex_lock(&g->lock);
	for (;;) {
		uint64_t sent;

		s->sent = 0;
		s->is_ready = true;
		g->ready++;
		pthread_cond_signal(&g->news);
		while (!s->sent && !g->end)
			pthread_cond_wait(&s->wake, &g->lock);
		if (g->end)
			break;
		sent = s->sent;
		pthread_mutex_unlock(&g->lock);
		if (s->n < MAX_SAMPLES)
			s->late[s->n++] = (double)(now_ns() - sent) / 1e3;
		churn(sent, WORK_US * per_us);
		w->ops++;
		pthread_mutex_lock(&g->lock);
	}
	pthread_mutex_unlock(&g->lock);
}

static void work(struct worker *w)
{
	if (w->id < SENDERS)
		send_all(w, &groups[w->id]);
	else
		work_on(w, &state[w->id - SENDERS], &groups[w->id % SENDERS]);
}

int main(int argc, char **argv)
{
	struct team team;
	double seconds = arg_seconds(argc, argv, 2, 2), elapsed, *all;
	uint64_t start;
	size_t n = 0;

	workers = arg_count(argc, argv, 1, 8);
	per_us = churn_per_us();
	state = aligned_alloc(64, workers * sizeof(*state));
	if (!state)
		die("workers", ENOMEM);
	for (unsigned i = 0; i < workers; i++) {
		state[i] = (struct worker_state){.late = malloc(MAX_SAMPLES * sizeof(double))};
		pthread_cond_init(&state[i].wake, NULL);
		if (!state[i].late)
			die("samples", ENOMEM);
	}
	for (int i = 0; i < SENDERS; i++) {
		pthread_mutex_init(&groups[i].lock, NULL);
		pthread_cond_init(&groups[i].news, NULL);
	}
	team_init(&team, SENDERS + workers, work, NULL);
	start = team_start(&team);
	sleep_for(seconds);
	elapsed = (double)(team_stop(&team) - start) / 1e9;
	for (int i = 0; i < SENDERS; i++) {
		pthread_mutex_lock(&groups[i].lock);
		groups[i].end = true;
		pthread_cond_signal(&groups[i].news);
		for (unsigned k = (unsigned)i; k < workers; k += SENDERS)
			pthread_cond_signal(&state[k].wake);
		pthread_mutex_unlock(&groups[i].lock);
	}
	team_join(&team);
	for (unsigned i = 0; i < workers; i++)
		n += state[i].n;
	all = malloc((n + 1) * sizeof(*all));
	if (!all)
		die("samples", ENOMEM);
	n = 0;
	for (unsigned i = 0; i < workers; i++)
		for (size_t k = 0; k < state[i].n; k++)
			all[n++] = state[i].late[k];
	metric("wake_p50", percentile(all, n, 50), "us", "lower");
	metric("wake_p99", percentile(all, n, 99), "us", "lower");
	metric("rate", (double)team_ops(&team) / elapsed, "ops/s", "higher");
	team_fini(&team);
	return 0;
}
