// test_invariants.c: that the checks of shim/invariants.c bite.
//
// Each case makes a state that is right and takes a step, which must pass and say nothing; then the same once more with one thing
// broken, each time in a process of its own, which must abort and name the condition that does not hold.

#include <fcntl.h>
#include <sys/wait.h>

#include "lot.h"
#include "unit.h"

static struct g *a, *b; // alive
static struct p *p0, *p1;
static int64_t now;

static void world(const struct policy *policy)
{
	unit_config();
	config.policy = policy;
	tls.critical = 0;
	ck_assert_int_eq(sched_init(2), 0);
	store_relaxed(&sched.active, PHASE_ACTIVE);
	a = g_alloc();
	b = g_alloc();
	a->tid = 1;
	b->tid = 2;
	p0 = &sched.allp[0];
	p1 = &sched.allp[1];
	now = 1000000000;
	// The last Ps that are there are at hand: nobody finds an idle one.
	critical_enter();
	ck_assert_ptr_eq(pidleget(), p1);
	ck_assert_ptr_eq(pidleget(), p0);
	critical_leave();
}

// gp holds pp.
static void runs(struct g *gp, struct p *pp)
{
	gp->status = G_RUNNING;
	gp->p = pp;
	gp->pseq = P_SEQ(pp->word);
	pp->g = gp;
	pp->word = gp->pseq | P_RUNNING;
}

static void idles(struct p *pp)
{
	critical_enter();
	lock_acquire(&sched.lock);
	pidleput(pp);
	lock_release(&sched.lock);
	critical_leave();
}

// As gopark_begin leaves it.
static void parked(struct g *gp)
{
	gp->status = G_WAITING;
	gp->park = PARK_PARKED;
}

// gp waits for a P, in a queue.
static void queued(struct g *gp)
{
	parked(gp);
	goready(gp);
	ck_assert_int_eq(gp->status, G_RUNNABLE);
}

// sysmon looks again and again, for two minutes.
static void looks(void)
{
	for (int i = 0; i < 120; i++)
		invariants_look(now += 1000000000);
}

// --- cases: broken is the only difference ---------------------------------------------------------------------

static void edge(bool broken)
{
	a->status = broken ? G_RUNNABLE : G_RUNNING;
	set_status(a, G_WAITING);
}

static void two_grants(bool broken)
{
	idles(p0);
	parked(a);
	a->note = broken ? NOTE_GRANTED : NOTE_NONE;
	goready(a);
}

static void two_ps(bool broken)
{
	idles(p0);
	runs(a, p1);
	parked(a);
	if (!broken)
		p1->word = P_SEQ(p1->word) | P_SCHED;
	goready(a);
}

static void granted_in_lot(bool broken)
{
	idles(p0);
	parked(a);
	a->waitaddr = broken ? &now : NULL;
	goready(a);
}

static void idle_count(bool broken)
{
	idles(p0);
	idles(p1);
	sched.npidle += broken;
	critical_enter();
	(void)pidleget();
}

static void idle_held(bool broken)
{
	idles(p0);
	idles(p1);
	if (broken)
		p0->word = P_SEQ(p0->word) | P_RUNNING;
	critical_enter();
	(void)pidleget();
}

static void idle_twice(bool broken)
{
	idles(p0);
	if (broken)
		p0->word = P_SEQ(p0->word) | P_SCHED;
	idles(broken ? p0 : p1); // the list has no end then
}

static void idle_unpinned(bool broken)
{
	if (broken)
		runs(a, p0);
	idles(p0);
}

static void queue_size(bool broken)
{
	queued(a);
	sched.runq.size += broken;
	queued(b);
}

static void queue_tail(bool broken)
{
	queued(a);
	queued(b);
	if (broken)
		sched.runq.tail = a;
	critical_enter();
	(void)globrunqtake(a);
	critical_leave();
}

static void queued_twice(bool broken)
{
	queued(a);
	queued(b);
	if (broken) {
		parked(b);
		goready(b);
	}
}

static void ring(bool broken)
{
	if (broken)
		p0->runqhead = 1;
	runqput(p0, a, false);
}

static void heap(bool broken)
{
	struct heap h = {0};

	ck_assert(heap_reserve(&h, 16));
	critical_enter();
	lock_acquire(&sched.lock);
	a->checks.queued = b->checks.queued = 1;
	heap_push(&h, 1, a);
	heap_push(&h, 2, b);
	if (broken)
		h.at[0].key = 3;
	invariant_heap(&h);
	lock_release(&sched.lock);
	critical_leave();
}

static void fair_size(bool broken)
{
	queued(a);
	if (broken)
		a->checks.queued = 0;
	queued(b);
}

static void demand_count(bool broken)
{
	queued(a);
	sched.demand += broken;
	invariants_look(now);
}

static void queues_count(bool broken)
{
	queued(a);
	p0->runqtail += broken;
	invariants_look(now);
}

static void holder_forgot(bool broken)
{
	runs(a, p0);
	if (broken)
		a->pseq += P_SEQ_ONE;
	invariants_look(now);
}

static void two_holders(bool broken)
{
	runs(a, p0);
	b->status = G_RUNNING;
	b->p = p0;
	b->pseq = broken ? a->pseq : a->pseq - P_SEQ_ONE;
	invariants_look(now);
}

static void stopped(bool broken)
{
	sched.stopping = true;
	idles(p0);
	if (broken)
		runs(a, p1);
	else
		idles(p1);
	invariants_stopped();
}

static void pinned_for_long(bool broken)
{
	runs(a, p0);
	if (!broken)
		idles(p1); // was pinned until now
	looks();
}

static void lost_runnable(bool broken)
{
	runs(b, p0);
	runs(a, p1);
	if (broken) {
		a->p = NULL;
		p1->word = P_SEQ(p1->word) | P_SCHED;
		p1->g = NULL;
		a->status = G_RUNNABLE;
		idles(p1);
	}
	looks();
}

static void lost_waiter(bool broken)
{
	runs(b, p0);
	idles(p1);
	parked(a);
	a->switches = 1;
	a->waitaddr = broken ? NULL : &now;
	looks();
}

static void idle_and_work(bool broken)
{
	runs(b, p0);
	queued(a);
	if (broken)
		idles(p1);
	else
		runs(b, p1), b->p = p0, b->pseq = P_SEQ(p0->word),
			     p1->word = P_SEQ(p1->word) | P_DEAD;
	looks();
}

static void in_two_queues(bool broken)
{
	lot_enqueue(a, &now, LOT_ANY);
	lot_enqueue(broken ? a : b, &p0, LOT_ANY);
}

static void lot_counts(bool broken)
{
	lot_enqueue(a, &now, LOT_ANY);
	bucket_of(&now)->waiters += broken;
	lot_enqueue(b, &now, LOT_ANY);
}

static void lot_links(bool broken)
{
	lot_enqueue(a, &now, LOT_ANY);
	lot_enqueue(b, &now, LOT_ANY);
	if (broken)
		bucket_of(&now)->tail = a;
	ck_assert(lot_leave(b));
}

static void lot_kind(bool broken)
{
	lot_enqueue(a, &now, LOT_BARRED);
	if (broken)
		a->waitkind = LOT_ANY;
	ck_assert(lot_leave(a));
}

static void locks_below(bool broken)
{
	a->locks = broken ? -2 : -1;
	lock_counted(a);
}

static void locks_released(bool broken)
{
	a->locks = broken ? -2 : 0;
	lock_released(a);
}

static void critical_twice(bool broken)
{
	critical_enter();
	critical_leave();
	if (broken)
		critical_leave();
}

static void not_critical(bool broken)
{
	if (!broken)
		critical_enter();
	lock_acquire(&sched.lock);
}

static void lock_order(bool broken)
{
	struct bucket *first = bucket_of(&now);

	critical_enter();
	lock_acquire(broken ? &sched.lock : &first->lock);
	lock_acquire(broken ? &first->lock : &sched.lock);
}

static void two_buckets(bool broken)
{
	critical_enter();
	lock_acquire(&lot[0].lock);
	if (!broken)
		lock_release(&lot[0].lock);
	lock_acquire(&lot[1].lock);
}

static void not_held(bool broken)
{
	critical_enter();
	if (!broken)
		lock_acquire(&sched.lock);
	pidleput(p0);
}

static void released_by_other(bool broken)
{
	critical_enter();
	lock_acquire(&sched.lock);
	if (broken)
		tls.checks.nheld = 0; // as in any other thread
	lock_release(&sched.lock);
}

static void waits_with_lock(bool broken)
{
	a->note = NOTE_GRANTED;
	critical_enter();
	if (broken)
		lock_acquire(&lot[0].lock);
	park_wait(a, NULL, 0);
}

static void call_with_lock(bool broken)
{
	runs(a, p0);
	critical_enter();
	if (broken)
		lock_acquire(&sched.lock);
	entersyscall(a);
}

static void freed_queued(bool broken)
{
	a->status = G_DEAD;
	a->waitaddr = broken ? &now : NULL;
	g_free(a);
}

static void freed_running(bool broken)
{
	a->status = broken ? G_RUNNING : G_DEAD;
	g_free(a);
}

// --- the machinery ------------------------------------------------------------------------------------------------

static const struct {
	const char *name;
	void (*step)(bool broken);
	const char *says;	     // part of the condition
	const struct policy *policy; // NULL: fair
} cases[] = {
	{"edge", edge, "edges(from) & TO(to)", NULL},
	{"two_grants", two_grants, "NOTE_GRANTED", NULL},
	{"two_ps", two_ps, "!is_held(gp)", NULL},
	{"granted_in_lot", granted_in_lot, "waitaddr", NULL},
	{"idle_count", idle_count, "n == count", NULL},
	{"idle_held", idle_held, "P_STATE(pp->word) == P_IDLE", NULL},
	{"idle_twice", idle_twice, "n == count", NULL},
	{"idle_unpinned", idle_unpinned, "P_STATE(pp->word) == P_SCHED", NULL},
	{"queue_size", queue_size, "n == q->size", &policy_go},
	{"queue_tail", queue_tail, "q->tail == last", &policy_go},
	{"queued_twice", queued_twice, "queued", NULL},
	{"ring", ring, "t - h <= RUNQ_SIZE", &policy_go},
	{"heap", heap, "q->key", NULL},
	{"fair_size", fair_size, "q->gp->checks.queued", NULL},
	{"demand_count", demand_count, "demand == queued", NULL},
	{"queues_count", queues_count, "queues == (uint32_t)queued", NULL},
	{"holder_forgot", holder_forgot, "disowned", NULL},
	{"two_holders", two_holders, "holder == gp", NULL},
	{"stopped", stopped, "sched.npidle", NULL},
	{"pinned_for_long", pinned_for_long, "\"pinned\"", NULL},
	{"lost_runnable", lost_runnable, "checks.odd", NULL},
	{"lost_waiter", lost_waiter, "checks.odd", NULL},
	{"idle_and_work", idle_and_work, "an idle P beside work", NULL},
	{"in_two_queues", in_two_queues, "!gp->waitaddr", NULL},
	{"lot_counts", lot_counts, "n == count", NULL},
	{"lot_links", lot_links, "b->tail", NULL},
	{"lot_kind", lot_kind, "count", NULL},
	{"locks_below", locks_below, "gp->locks >= 0", NULL},
	{"locks_released", locks_released, "gp->locks >= -1", NULL},
	{"critical_twice", critical_twice, "tls.critical > 0", NULL},
	{"not_critical", not_critical, "tls.critical > 0", NULL},
	{"lock_order", lock_order, "held != &sched.lock", NULL},
	{"two_buckets", two_buckets, "is_bucket", NULL},
	{"not_held", not_held, "invariant_holds(&sched.lock)", NULL},
	{"released_by_other", released_by_other, "invariant_holds(l)", NULL},
	{"waits_with_lock", waits_with_lock, "nheld", NULL},
	{"call_with_lock", call_with_lock, "nheld", NULL},
	{"freed_queued", freed_queued, "waitaddr", NULL},
	{"freed_running", freed_running, "edges(from) & TO(to)", NULL},
};
enum { CASES = sizeof cases / sizeof cases[0] };

// The step in a process of its own: how that ended, and what it said.
static int try(int i, bool broken, char *said, size_t size)
{
	int pipes[2], status = 0;
	size_t n = 0;
	ssize_t got;
	pid_t pid;

	ck_assert_int_eq(pipe(pipes), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		dup2(pipes[1], 2);
		world(cases[i].policy ? cases[i].policy : &policy_fair);
		cases[i].step(broken);
		_exit(0);
	}
	close(pipes[1]);
	while (n < size - 1 && (got = read(pipes[0], said + n, size - 1 - n)) > 0)
		n += (size_t)got;
	said[n] = 0;
	close(pipes[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

START_TEST(bites)
{
	char said[8192];
	const char *which;
	int status = try(_i, false, said, sizeof said);

	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0 && !said[0],
		      "%s as it should be: status %x: %s", cases[_i].name, status, said);
	status = try(_i, true, said, sizeof said);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT,
		      "%s broken: status %x: %s", cases[_i].name, status, said);
	which = strstr(said, "fatal: invariant broken: ");
	ck_assert_msg(which && strstr(which, cases[_i].says), "%s: %s", cases[_i].name, said);
	ck_assert_msg(strstr(said, "sched: Ps 2"), "%s: no state: %s", cases[_i].name, said);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, bites, 0, CASES);
}

int main(void)
{
	return unit_run("invariants", add);
}
