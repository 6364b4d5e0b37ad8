/*
 * cond.c - condition variables: no wake-up lost, timeouts exact, and the mutex always held again.
 */
#include "prog.h"

struct pair {
	pthread_mutex_t m;
	pthread_cond_t c[2];
	int turn, rounds;
};

struct side {
	struct pair *p;
	int me;
};

static void pair_init(struct pair *p, int rounds)
{
	memset(p, 0, sizeof(*p));
	CHECK_EQ(pthread_mutex_init(&p->m, NULL), 0);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_cond_init(&p->c[i], NULL), 0);
	p->rounds = rounds;
}

static void *ping(void *arg)
{
	struct side *s = arg;
	struct pair *p = s->p;

	for (int i = 0; i < p->rounds; i++) {
		CHECK_EQ(pthread_mutex_lock(&p->m), 0);
		while (p->turn != s->me)
			CHECK_EQ(pthread_cond_wait(&p->c[s->me], &p->m), 0);
		p->turn = !s->me;
		CHECK_EQ(pthread_cond_signal(&p->c[!s->me]), 0);
		CHECK_EQ(pthread_mutex_unlock(&p->m), 0);
	}
	return NULL;
}

static void ping_pong(int n, int rounds)
{
	struct pair p[16];
	struct side s[32];
	pthread_t t[32];

	for (int i = 0; i < n; i++)
		pair_init(&p[i], rounds);
	for (int i = 0; i < 2 * n; i++) {
		s[i] = (struct side){&p[i / 2], i & 1};
		t[i] = spawn(ping, &s[i]);
	}
	for (int i = 0; i < 2 * n; i++)
		join(t[i]);
	for (int i = 0; i < n; i++) {
		CHECK_EQ(p[i].turn, 0);
		CHECK_EQ(pthread_cond_destroy(&p[i].c[0]), 0);
		CHECK_EQ(pthread_cond_destroy(&p[i].c[1]), 0);
		CHECK_EQ(pthread_mutex_destroy(&p[i].m), 0);
	}
}

/* Two threads take turns 2000 times. */
CASE_STRESS(cond_ping_pong)
{
	ping_pong(1, 2000);
}

/* Sixteen such pairs at once. */
CASE_STRESS(cond_ping_pong_16)
{
	ping_pong(16, 200);
}

/* A broadcast wakes all 64, every time. */
static pthread_mutex_t bc_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t bc_go = PTHREAD_COND_INITIALIZER, bc_in = PTHREAD_COND_INITIALIZER;
static int bc_gen, bc_waiting;

static void *bc_main(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_mutex_lock(&bc_lock), 0);
	for (int i = 0; i < 20; i++) {
		int gen = bc_gen;

		if (++bc_waiting == 64)
			CHECK_EQ(pthread_cond_signal(&bc_in), 0);
		while (bc_gen == gen)
			CHECK_EQ(pthread_cond_wait(&bc_go, &bc_lock), 0);
	}
	CHECK_EQ(pthread_mutex_unlock(&bc_lock), 0);
	return NULL;
}

CASE_STRESS(cond_broadcast_64)
{
	pthread_t t[64];

	for (int i = 0; i < 64; i++)
		t[i] = spawn(bc_main, NULL);
	CHECK_EQ(pthread_mutex_lock(&bc_lock), 0);
	for (int i = 0; i < 20; i++) {
		while (bc_waiting < 64)
			CHECK_EQ(pthread_cond_wait(&bc_in, &bc_lock), 0);
		bc_waiting = 0;
		bc_gen++;
		CHECK_EQ(pthread_cond_broadcast(&bc_go), 0);
	}
	CHECK_EQ(pthread_mutex_unlock(&bc_lock), 0);
	for (int i = 0; i < 64; i++)
		join(t[i]);
}

/* Exactly one waiter per signal is enough: 16 wait, 16 signals, all come back. */
static int one_tickets;
static atomic_int one_back;

static void *one_main(void *arg)
{
	struct pair *p = arg;

	CHECK_EQ(pthread_mutex_lock(&p->m), 0);
	p->turn++;
	while (!one_tickets)
		CHECK_EQ(pthread_cond_wait(&p->c[0], &p->m), 0);
	one_tickets--;
	CHECK_EQ(pthread_mutex_unlock(&p->m), 0);
	atomic_fetch_add(&one_back, 1);
	return NULL;
}

CASE_STRESS(cond_signal_each)
{
	struct pair p;
	pthread_t t[16];
	int in;

	pair_init(&p, 0);
	for (int i = 0; i < 16; i++)
		t[i] = spawn(one_main, &p);
	do {
		sleep_ns(MS);
		CHECK_EQ(pthread_mutex_lock(&p.m), 0);
		in = p.turn;
		CHECK_EQ(pthread_mutex_unlock(&p.m), 0);
	} while (in < 16);
	for (int i = 1; i <= 16; i++) {
		CHECK_EQ(pthread_mutex_lock(&p.m), 0);
		one_tickets++;
		CHECK_EQ(pthread_cond_signal(&p.c[0]), 0);
		CHECK_EQ(pthread_mutex_unlock(&p.m), 0);
		AWAIT(&one_back, i);
	}
	for (int i = 0; i < 16; i++)
		join(t[i]);
}

/* Signals sent without the mutex held wake as well. */
CASE_STRESS(cond_signal_unlocked)
{
	struct pair p;
	pthread_t t[16];

	pair_init(&p, 0);
	for (int i = 0; i < 16; i++)
		t[i] = spawn(one_main, &p);
	for (int i = 0; i < 16; i++) {
		CHECK_EQ(pthread_mutex_lock(&p.m), 0);
		one_tickets++;
		CHECK_EQ(pthread_mutex_unlock(&p.m), 0);
		CHECK_EQ(pthread_cond_signal(&p.c[0]), 0);
	}
	for (int i = 0; i < 16; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&one_back), 16);
}

/* timedwait on each clock of the attribute, clockwait on both: exact, mutex held afterwards. */
static int timed_wait(int how, pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *ts)
{
	switch (how) {
	case 0:
	case 1:
		return pthread_cond_timedwait(c, m, ts);
	case 2:
		return pthread_cond_clockwait(c, m, CLOCK_REALTIME, ts);
	default:
		return pthread_cond_clockwait(c, m, CLOCK_MONOTONIC, ts);
	}
}

static void *cond_timed_main(void *arg)
{
	(void)arg;
	for (int how = 0; how < 4; how++) {
		clockid_t clock = how & 1 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
		struct timespec ts, bad = {.tv_sec = 1, .tv_nsec = 1000000000};
		long long late = LLONG_MAX;
		pthread_mutexattr_t ma;
		pthread_condattr_t a;
		pthread_mutex_t m;
		pthread_cond_t c;

		CHECK_EQ(pthread_mutexattr_init(&ma), 0);
		CHECK_EQ(pthread_mutexattr_settype(&ma, PTHREAD_MUTEX_ERRORCHECK), 0);
		CHECK_EQ(pthread_mutex_init(&m, &ma), 0);
		CHECK_EQ(pthread_condattr_init(&a), 0);
		if (how == 1)
			CHECK_EQ(pthread_condattr_setclock(&a, CLOCK_MONOTONIC), 0);
		CHECK_EQ(pthread_cond_init(&c, &a), 0);
		CHECK_EQ(pthread_mutex_lock(&m), 0);
		for (int i = 0; i < 10 && late >= 50 * MS; i++) {
			int r;

			ts = after(clock, 10 * MS);
			do
				r = timed_wait(how, &c, &m, &ts);
			while (r == 0);
			CHECK_EQ(r, ETIMEDOUT);
			CHECK_EQ(pthread_mutex_lock(&m), EDEADLK);
			long long d = now(clock) - (ts.tv_sec * SEC + ts.tv_nsec);

			CHECK(d >= 0);
			late = d < late ? d : late;
		}
		CHECK(late < 50 * MS);
		CHECK_EQ(timed_wait(how, &c, &m, &bad), EINVAL);
		bad.tv_nsec = -1;
		CHECK_EQ(timed_wait(how, &c, &m, &bad), EINVAL);
		ts = (struct timespec){0, 0};
		CHECK_EQ(timed_wait(how, &c, &m, &ts), ETIMEDOUT);
		CHECK_EQ(pthread_mutex_unlock(&m), 0);
		CHECK_EQ(pthread_cond_destroy(&c), 0);
	}
	return NULL;
}

CASE(cond_timed)
{
	cond_timed_main(NULL); /* with one thread */
	join(spawn(cond_timed_main, NULL));
}

/* cond_wait and cond_timedwait of an error-checking mutex that is not held say EPERM, if
 * anything: the program goes on. */
CASE(cond_not_owner)
{
	pthread_mutexattr_t ma;
	pthread_mutex_t m;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;
	struct timespec ts = after(CLOCK_REALTIME, MS);

	CHECK_EQ(pthread_mutexattr_init(&ma), 0);
	CHECK_EQ(pthread_mutexattr_settype(&ma, PTHREAD_MUTEX_ERRORCHECK), 0);
	CHECK_EQ(pthread_mutex_init(&m, &ma), 0);
	join(spawn_small(cond_timed_main, NULL));
	CHECK_EQ(pthread_cond_timedwait(&c, &m, &ts), EPERM);
	CHECK_EQ(pthread_cond_wait(&c, &m), EPERM);
}

/* Waiting with a recursive mutex held once releases it. */
static void *recursive_main(void *arg)
{
	struct pair *p = arg;

	CHECK_EQ(pthread_mutex_lock(&p->m), 0);
	p->turn = 1;
	CHECK_EQ(pthread_cond_signal(&p->c[0]), 0);
	CHECK_EQ(pthread_mutex_unlock(&p->m), 0);
	return NULL;
}

CASE_STRESS(cond_recursive_mutex)
{
	pthread_mutexattr_t ma;
	struct pair p;
	pthread_t t;

	pair_init(&p, 0);
	CHECK_EQ(pthread_mutexattr_init(&ma), 0);
	CHECK_EQ(pthread_mutexattr_settype(&ma, PTHREAD_MUTEX_RECURSIVE), 0);
	CHECK_EQ(pthread_mutex_init(&p.m, &ma), 0);
	CHECK_EQ(pthread_mutex_lock(&p.m), 0);
	t = spawn(recursive_main, &p);
	while (!p.turn)
		CHECK_EQ(pthread_cond_wait(&p.c[0], &p.m), 0);
	CHECK_EQ(pthread_mutex_unlock(&p.m), 0);
	CHECK_EQ(pthread_mutex_unlock(&p.m), EPERM);
	join(t);
}

/* Waiting with a priority-inheritance mutex and with a process-shared pair. */
static void wait_with(int protocol, int mutex_shared, int cond_shared)
{
	pthread_mutexattr_t ma;
	pthread_condattr_t ca;
	struct side s[2];
	struct pair p;
	pthread_t t[2];

	pair_init(&p, 100);
	CHECK_EQ(pthread_mutexattr_init(&ma), 0);
	CHECK_EQ(pthread_mutexattr_setprotocol(&ma, protocol), 0);
	CHECK_EQ(pthread_mutexattr_setpshared(&ma, mutex_shared), 0);
	CHECK_EQ(pthread_mutex_init(&p.m, &ma), 0);
	CHECK_EQ(pthread_condattr_init(&ca), 0);
	CHECK_EQ(pthread_condattr_setpshared(&ca, cond_shared), 0);
	CHECK_EQ(pthread_cond_init(&p.c[0], &ca), 0);
	CHECK_EQ(pthread_cond_init(&p.c[1], &ca), 0);
	for (int i = 0; i < 2; i++) {
		s[i] = (struct side){&p, i};
		t[i] = spawn(ping, &s[i]);
	}
	join(t[0]);
	join(t[1]);
}

CASE_STRESS(cond_mutex_kinds)
{
	wait_with(PTHREAD_PRIO_INHERIT, 0, 0);
	wait_with(PTHREAD_PRIO_NONE, 1, 1);
	wait_with(PTHREAD_PRIO_NONE, 1, 0);
	wait_with(PTHREAD_PRIO_NONE, 0, 1);
}

/* Signal handlers that post a semaphore run on threads that wait, and the wait goes on. */
static sem_t handler_sem;
static atomic_int handled;

static void post_handler(int sig)
{
	int saved = errno;

	(void)sig;
	atomic_fetch_add(&handled, 1);
	CHECK_EQ(sem_post(&handler_sem), 0);
	errno = saved;
}

static void *sig_wait_main(void *arg)
{
	struct pair *p = arg;

	CHECK_EQ(pthread_mutex_lock(&p->m), 0);
	p->turn++;
	while (!one_tickets)
		CHECK_EQ(pthread_cond_wait(&p->c[0], &p->m), 0);
	one_tickets--;
	CHECK_EQ(pthread_mutex_unlock(&p->m), 0);
	return NULL;
}

CASE_STRESS(cond_signals_during_wait)
{
	struct sigaction sa = {.sa_handler = post_handler};
	struct pair p;
	pthread_t t[8];

	CHECK_EQ(sem_init(&handler_sem, 0, 0), 0);
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	pair_init(&p, 0);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(sig_wait_main, &p);
	for (int k = 0; k < 20; k++) {
		for (int i = 0; i < 8; i++)
			CHECK_EQ(pthread_kill(t[i], SIGUSR1), 0);
		for (int i = 0; i < 8; i++)
			while (sem_wait(&handler_sem))
				CHECK_EQ(errno, EINTR);
	}
	CHECK_EQ(atomic_load(&handled), 160);
	CHECK_EQ(pthread_mutex_lock(&p.m), 0);
	one_tickets = 8;
	CHECK_EQ(pthread_cond_broadcast(&p.c[0]), 0);
	CHECK_EQ(pthread_mutex_unlock(&p.m), 0);
	for (int i = 0; i < 8; i++)
		join(t[i]);
}

/* A bounded queue with two condition variables and one mutex: every item arrives once. */
static pthread_mutex_t q_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t q_items = PTHREAD_COND_INITIALIZER, q_room = PTHREAD_COND_INITIALIZER;
static int q[8], q_len, q_head;
static atomic_long q_sum;

static void *q_put(void *arg)
{
	for (int i = 0; i < 500; i++) {
		CHECK_EQ(pthread_mutex_lock(&q_lock), 0);
		while (q_len == 8)
			CHECK_EQ(pthread_cond_wait(&q_room, &q_lock), 0);
		q[(q_head + q_len++) & 7] = (int)(intptr_t)arg * 500 + i;
		CHECK_EQ(pthread_cond_signal(&q_items), 0);
		CHECK_EQ(pthread_mutex_unlock(&q_lock), 0);
	}
	return NULL;
}

static void *q_get(void *arg)
{
	(void)arg;
	for (int i = 0; i < 500; i++) {
		CHECK_EQ(pthread_mutex_lock(&q_lock), 0);
		while (q_len == 0)
			CHECK_EQ(pthread_cond_wait(&q_items, &q_lock), 0);
		atomic_fetch_add(&q_sum, q[q_head]);
		q_head = (q_head + 1) & 7;
		q_len--;
		CHECK_EQ(pthread_cond_signal(&q_room), 0);
		CHECK_EQ(pthread_mutex_unlock(&q_lock), 0);
	}
	return NULL;
}

CASE_STRESS(cond_queue)
{
	pthread_t t[16];

	for (intptr_t i = 0; i < 16; i++)
		t[i] = spawn(i & 1 ? q_put : q_get, (void *)(i / 2));
	for (int i = 0; i < 16; i++)
		join(t[i]);
	CHECK_EQ(q_len, 0);
	CHECK_EQ(atomic_load(&q_sum), 4000L * 3999 / 2);
}

/* The lost wake-up hunter: a token round a ring of eight threads, one cond each, many laps. */
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ring_cond[8];
static int ring_at;

static void *ring_main(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 0; i < 300; i++) {
		CHECK_EQ(pthread_mutex_lock(&ring_lock), 0);
		while (ring_at != me)
			CHECK_EQ(pthread_cond_wait(&ring_cond[me], &ring_lock), 0);
		ring_at = (me + 1) & 7;
		CHECK_EQ(pthread_mutex_unlock(&ring_lock), 0);
		CHECK_EQ(pthread_cond_signal(&ring_cond[(me + 1) & 7]), 0);
	}
	return NULL;
}

CASE_STRESS(cond_ring)
{
	pthread_t t[8];

	for (int i = 0; i < 8; i++)
		CHECK_EQ(pthread_cond_init(&ring_cond[i], NULL), 0);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(ring_main, (void *)(intptr_t)i);
	for (int i = 0; i < 8; i++)
		join(t[i]);
}

/* The same with waits that time out now and then: a timed-out waiter takes no signal away from
 * the others for good, and the count of tickets comes out even. */
static pthread_mutex_t tick_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t tick_cond = PTHREAD_COND_INITIALIZER;
static int tickets, taken;

static void *ticket_main(void *arg)
{
	int n = 0;

	CHECK_EQ(pthread_mutex_lock(&tick_lock), 0);
	while (taken + tickets < 800 || tickets) {
		struct timespec ts = after(CLOCK_REALTIME, arg ? 200000 : 20 * SEC);

		if (tickets) {
			tickets--;
			taken++;
			n++;
			continue;
		}
		int r = pthread_cond_timedwait(&tick_cond, &tick_lock, &ts);

		CHECK(r == 0 || (r == ETIMEDOUT && arg));
	}
	CHECK_EQ(pthread_mutex_unlock(&tick_lock), 0);
	return NULL;
}

CASE_STRESS(cond_timed_hunter)
{
	pthread_t t[8];

	for (int i = 0; i < 8; i++)
		t[i] = spawn(ticket_main, i & 1 ? &tickets : NULL);
	for (int i = 0; i < 800; i++) {
		CHECK_EQ(pthread_mutex_lock(&tick_lock), 0);
		tickets++;
		CHECK_EQ(pthread_cond_signal(&tick_cond), 0);
		CHECK_EQ(pthread_mutex_unlock(&tick_lock), 0);
		if (i % 50 == 0)
			sleep_ns(100000);
	}
	CHECK_EQ(pthread_mutex_lock(&tick_lock), 0);
	CHECK_EQ(pthread_cond_broadcast(&tick_cond), 0);
	CHECK_EQ(pthread_mutex_unlock(&tick_lock), 0);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	CHECK_EQ(taken, 800);
}

/* A condition variable may be destroyed as soon as all waiters have been woken by broadcast. */
static void *destroy_waiter(void *arg)
{
	struct pair *p = arg;

	CHECK_EQ(pthread_mutex_lock(&p->m), 0);
	p->turn++;
	while (p->turn < 100)
		CHECK_EQ(pthread_cond_wait(&p->c[0], &p->m), 0);
	CHECK_EQ(pthread_mutex_unlock(&p->m), 0);
	return NULL;
}

CASE_STRESS(cond_destroy_after_broadcast)
{
	for (int k = 0; k < 50; k++) {
		struct pair p;
		pthread_t t[4];
		int n = 0;

		pair_init(&p, 0);
		for (int i = 0; i < 4; i++)
			t[i] = spawn(destroy_waiter, &p);
		while (n < 4) {
			CHECK_EQ(pthread_mutex_lock(&p.m), 0);
			n = p.turn;
			CHECK_EQ(pthread_mutex_unlock(&p.m), 0);
			sched_yield();
		}
		CHECK_EQ(pthread_mutex_lock(&p.m), 0);
		p.turn = 100;
		CHECK_EQ(pthread_cond_broadcast(&p.c[0]), 0);
		CHECK_EQ(pthread_cond_destroy(&p.c[0]), 0);
		memset(&p.c[0], 0xa5, sizeof(p.c[0]));
		CHECK_EQ(pthread_mutex_unlock(&p.m), 0);
		for (int i = 0; i < 4; i++)
			join(t[i]);
	}
}

/* Waiters that were signalled by the holder of their mutex, which then waits with it for a process-shared condition:
 * that wait lets go of the mutex inside libc, and they must get it. */
static pthread_mutex_t mix_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t mix_cond = PTHREAD_COND_INITIALIZER, mix_shared;
static int mix_waiting, mix_go, mix_back;

static void *mix_main(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(&mix_lock), 0);
	mix_waiting++;
	while (!mix_go)
		CHECK_EQ(pthread_cond_wait(&mix_cond, &mix_lock), 0);
	mix_back++;
	CHECK_EQ(pthread_cond_signal(&mix_shared), 0);
	CHECK_EQ(pthread_mutex_unlock(&mix_lock), 0);
	return arg;
}

CASE_STRESS(cond_moved_and_shared)
{
	pthread_condattr_t a;
	pthread_t t[4];

	CHECK_EQ(pthread_condattr_init(&a), 0);
	CHECK_EQ(pthread_condattr_setpshared(&a, PTHREAD_PROCESS_SHARED), 0);
	CHECK_EQ(pthread_cond_init(&mix_shared, &a), 0);
	for (int round = 0; round < 6; round++) {
		int n = round & 1 ? 4 : 1;

		mix_waiting = mix_go = mix_back = 0;
		for (int i = 0; i < n; i++)
			t[i] = spawn(mix_main, NULL);
		CHECK_EQ(pthread_mutex_lock(&mix_lock), 0);
		while (mix_waiting < n) {
			CHECK_EQ(pthread_mutex_unlock(&mix_lock), 0);
			sleep_ns(100000);
			CHECK_EQ(pthread_mutex_lock(&mix_lock), 0);
		}
		mix_go = 1;
		CHECK_EQ(n == 1 ? pthread_cond_signal(&mix_cond)
				: pthread_cond_broadcast(&mix_cond),
			 0);
		while (mix_back < n)
			CHECK_EQ(pthread_cond_wait(&mix_shared, &mix_lock), 0);
		CHECK_EQ(pthread_mutex_unlock(&mix_lock), 0);
		for (int i = 0; i < n; i++)
			join(t[i]);
	}
}
