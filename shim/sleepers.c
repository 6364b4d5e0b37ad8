// sleepers.c: a P whose holder has been in one system call for long is as good as an idle one.
//
// Problem. A call that may block keeps its P, and sysmon takes that away only when somebody waits for one. In a program of many
// threads that mostly wait (a server with a thread per connection) all Ps are soon held by sleepers, for nobody has to queue:
// those who come back run on credit. Then one has to: a thread that yields, or one that is woken. It waits until sysmon
// is awake and has looked twice: some 400 us, while no P does anything. Measured: MariaDB with 32 connections
// at 0.94 of plain, because each yield of a spinner cost that.
//
// Approach. Who needs a P and finds none idle looks by itself, as sysmon does: a P in the same call as at a look 20 us ago is taken.
// It shares its notes with sysmon; they are hints, and the CAS on the P's word decides. The holder notices when it comes back.
//
// Rejected. Taking Ps from all who are in a call: threads with many short calls would never have one for long. A
// time stamp in entersyscall: it costs more than the rest of it. Waking sysmon from its short sleep: 15 us of a CPU, each time.

#include "shim.h"
#include "probes.h"

enum { LOOKS = 4 }; // Ps looked at each time

// pp is held, under word, by a G in a system call. Since when, as far as has been seen: now, if nobody has looked before.
int64_t in_syscall_since(struct p *pp, uint64_t word, int64_t now)
{
	uint32_t tick = load_relaxed(&pp->syscalltick);

	if (load_relaxed(&pp->seen.tick) != tick || load_relaxed(&pp->seen.word) != word) {
		store_relaxed(&pp->seen.when, now);
		store_relaxed(&pp->seen.tick, tick);
		store_relaxed(&pp->seen.word, word);
	}
	return load_relaxed(&pp->seen.when);
}

// Take the P of one that sleeps, pinned, or NULL. Executed with critical > 0.
struct p *p_of_sleeper(int64_t now)
{
	static uint32_t turn; // a hint
	uint32_t n = load_relaxed(&sched.nprocs), at = load_relaxed(&turn);

	// sysmon takes them all, each once; or it alone judges who sleeps
	if (unlikely(load_relaxed(&sched.stopping)) || chaos_repeats())
		return NULL;
	store_relaxed(&turn, at + LOOKS);
	for (uint32_t i = 0; i < LOOKS && i < n; i++) {
		struct p *pp = &sched.allp[(at + i) % n];
		uint64_t word = load_acquire(&pp->word); // pairs with wirep: pp->g is its holder
		struct g *gp = load_relaxed(&pp->g);
		int64_t since;

		if (P_STATE(word) != P_RUNNING || !gp || load_relaxed(&gp->status) != G_SYSCALL)
			continue;
		since = in_syscall_since(pp, word, now);
		if (now - since < RETAKE_AFTER)
			continue;
		store_relaxed(&gp->retaken_at, since);
		if (!retakep(pp, word))
			continue;
		store_relaxed(&gp->preempt, true);
		store_relaxed(&pp->syscalltick, pp->syscalltick + 1);
		STAT(retakes_syscall);
		PROBE3(retake, gp->goid, pp->id, 0);
		return pp;
	}
	return NULL;
}
