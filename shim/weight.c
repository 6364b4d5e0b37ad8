// weight.c: how large a G's share is: PREEMPT_WEIGHTS, and what the program itself asked the kernel for.
//
// A weight is in 1/1024 of the unit of PREEMPT_WEIGHTS, where 100 is ordinary. The name's weight is multiplied by 1.25 for each
// nice level, as the kernel shares its CPUs between threads of different nice values; a thread of SCHED_IDLE gets
// the kernel's 3/1024, and one of a real-time class the most there is. The kernel keeps a nice value for each thread, so setpriority
// and nice act on one thread. (pthread priorities mean something in the real-time classes only.)
//
// Problem: names and priorities change at any time, by calls from anywhere, also from other processes. Approach: a G reads its own when
// it has run: a new thread a millisecond after it was made, all again after 10 ms and then more and more seldom, up to once a second. That costs under a microsecond each time, and
// nobody has to walk over all Gs. Under a seccomp filter sysmon reads them for it. Rejected: an interposer for each of the ten calls, which would miss the raw ones.

#include <sched.h>
#include <sys/syscall.h>

#include "shim.h"

enum { UNIT = 1024, LEAST = 1 * UNIT, MOST = 10000 * UNIT, NAME = 16 };

// * and ? as in the shell. Backtracks to the last star only, which is enough.
static bool glob(const char *p, const char *end, const char *s)
{
	const char *star = NULL, *back = NULL;

	while (*s) {
		if (p < end && *p == '*') {
			star = p++;
			back = s;
		} else if (p < end && (*p == '?' || *p == *s)) {
			p++;
			s++;
		} else if (star) {
			p = star + 1;
			s = ++back;
		} else {
			return false;
		}
	}
	while (p < end && *p == '*')
		p++;
	return p == end;
}

// list: GLOB:WEIGHT,... as env.c has checked it. The first glob that matches; 100 if none does.
uint32_t weight_of_name(const char *list, const char *name)
{
	while (*list) {
		const char *start = list, *colon = NULL;
		uint32_t weight = 0;

		for (; *list && *list != ','; list++)
			if (*list == ':')
				colon = list;
		if (colon && glob(start, colon, name)) {
			for (const char *d = colon + 1; d < list; d++)
				weight = weight * 10 + (uint32_t)(*d - '0');
			return weight;
		}
		if (*list)
			list++;
	}
	return 100;
}

uint32_t weight_from(uint32_t named, int class, int nice)
{
	uint64_t w = (uint64_t)named * UNIT;

	if (class == SCHED_FIFO || class == SCHED_RR || class == 6 /* SCHED_DEADLINE */)
		return MOST;
	if (class == SCHED_IDLE)
		w = w * 3 / 1024;
	for (; class != SCHED_IDLE && nice > 0; nice--)
		w = w * 4 / 5;
	for (; class != SCHED_IDLE && nice < 0; nice++)
		w = w * 5 / 4;
	return w < LEAST ? LEAST : w > MOST ? MOST : (uint32_t)w;
}

// --- under a seccomp filter --------------------------------------------------------------------------------

// There what a G would call may be deadly, and in a handler it cannot find out. So it asks sysmon, which reads /proc, and takes the
// answer when it is weighed for the next time: only its own thread writes its weight.
enum { SLOTS = 64, UNTAKEN = 3000 }; // ms until an answer is no longer waited for

enum { FREE, FILLING, ASKED, ANSWERED };

static struct slot {
	uint32_t state;
	int tid;
	uint32_t own, weight;
	const struct g *gp;
	int64_t at;
} slots[SLOTS];
static uint32_t asked;

// Signal-safe.
static void ask(struct g *gp)
{
	struct slot *s = &slots[gp->goid % SLOTS];
	int64_t now = os_nanotime();

	if (load_acquire(&s->state) == ANSWERED && // pairs with weigh_poll
	    (s->gp == gp || now - s->at > UNTAKEN * (int64_t)1000000) &&
	    cas(&s->state, ANSWERED, FILLING)) { // as above
		if (s->gp == gp)
			store_relaxed(&gp->weight, s->weight);
	} else if (!cas(&s->state, FREE, FILLING)) { // pairs with weigh_poll
		return;
	}
	s->gp = gp;
	s->tid = gp->tid;
	s->own = tls.weight;
	store_release(&s->state, ASKED); // pairs with weigh_poll
	store_relaxed(&asked, 1);
}

// Fields 19 and 41, nice value and class, and the name, of which nothing is known but that the last parenthesis ends it.
static bool read_stat(int tid, char name[NAME + 1], int *ret_nice, int *ret_class)
{
	char path[64], buf[1024];
	struct text t = {path, 0, sizeof path};
	int n, end, at = 0, len = 0;

	text_printf(&t, "/proc/self/task/%d/stat", tid);
	n = os_read_file(path, buf, sizeof buf);
	for (end = n - 1; end > 0 && buf[end] != ')'; end--)
		;
	while (at < end && buf[at] != '(')
		at++;
	if (end <= 0 || at >= end)
		return false;
	for (at++; at < end && len < NAME; at++)
		name[len++] = buf[at];
	name[len] = 0;
	at = end + 1;
	for (int field = 3; field <= 41; field++) {
		bool minus;
		int v = 0;

		while (at < n && buf[at] == ' ')
			at++;
		if (at >= n)
			return false;
		minus = buf[at] == '-';
		for (at += minus; at < n && buf[at] != ' '; at++)
			v = buf[at] >= '0' && buf[at] <= '9' && v < 1000000 ? v * 10 + buf[at] - '0'
									    : v;
		if (field == 19)
			*ret_nice = minus ? -v : v;
		*ret_class = v;
	}
	return true;
}

// Executed by sysmon.
void weigh_poll(int64_t now)
{
	bool may;

	if (likely(!load_relaxed(&asked)))
		return;
	store_relaxed(&asked, 0); // one that comes now may wait for the next
	may = !confined(CONFINE_FILES);
	for (struct slot *s = slots; s < slots + SLOTS; s++) {
		char name[NAME + 1];
		int nice, class;

		if (load_acquire(&s->state) != ASKED) // pairs with ask
			continue;
		if (!may || !read_stat(s->tid, name, &nice, &class)) {
			store_release(&s->state, FREE); // pairs with ask
			continue;
		}
		s->weight = weight_from(s->own ? s->own : weight_of_name(config.weights, name),
					class, nice);
		s->at = now;
		store_release(&s->state, ANSWERED); // pairs with ask
	}
}

void weigh_reset_in_child(void)
{
	for (struct slot *s = slots; s < slots + SLOTS; s++)
		s->state = FREE;
	asked = 0;
}

// --- without one ------------------------------------------------------------------------------------------

// Executed by gp's thread. Signal-safe.
void weigh(struct g *gp)
{
	char name[NAME + 1] = "";
	uint32_t named = 100;
	int class, nice;

	if (confined_somehow()) {
		ask(gp);
		return;
	}
	if (config.weights[0]) {
		os_thread_name(name);
		named = weight_of_name(config.weights, name);
	}
	if (tls.weight)
		named = tls.weight;
	class = (int)sys1(SYS_sched_getscheduler, 0) & ~SCHED_RESET_ON_FORK;
	nice = 20 - (int)sys2(SYS_getpriority, 0 /* PRIO_PROCESS */, 0); // it returns 20 - nice
	if (nice < -20 || nice > 19)
		nice = 0;
	store_relaxed(&gp->weight, weight_from(named, class, nice));
}
