/* sched.pml: Ps and Gs: proc.c, and the parts of sysmon.c and sleepers.c that take Ps.
 *
 * Each inline and label is named after the function that it mirrors, and each step is one access to what threads share; accesses under
 * sched.lock are one step. Threads: NG Gs with OPS calls each, chosen from ALLOW; sysmon; a thread that is no G and readies whoever is parked (waker).
 *
 * What is checked:
 *  - nobody waits for ever: such a state is a deadlock here, for all loops are guarded by there being something to do.
 *    (That is a lost wake-up or a lost P.)
 *  - no P has two owners: pinned[] is who took a word to P_SCHED.
 *  - who is retaken is who was looked at.
 *  - when all Gs have ended, all Ps idle, nothing is queued and demand is 0.
 *
 * Memory is TSO where it matters (-DTSO): a put into a ring (runqput) waits in a buffer of its thread until
 * its next locked instruction, or any time (drainer). All other stores are followed by a locked instruction of the same
 * thread before it reads what somebody else may have written.
 *
 * Left out: order in queues (any queued G may be picked), time (whatever time decides, is chosen), signals (gp->preempt is seen at the next call),
 * stopping the world (stw.pml), what becomes of a waiter in the lot (lot.pml), the signal itself (signal.pml).
 */

#ifndef NG
#define NG 2
#endif
#ifndef NP
#define NP 1
#endif
#ifndef OPS
#define OPS 2
#endif

/* what ALLOW is made of */
#define OP_PARK 1     /* until readied */
#define OP_TIMED 2    /* with a deadline */
#define OP_SYSCALL 4  /* G 0 */
#define OP_BLOCK 8    /* entersyscallblock */
#define OP_YIELD 16
#define OP_READY 32   /* ready another one */
#define OP_LAST 64    /* G 0: a system call that lasts until all others have ended */
#define OP_UNSEEN 128 /* G 0: the same, where no interposer sees it */
#define OP_JUMP 256   /* G 0: until readied, or until a handler on top of it leaves by longjmp */
#ifndef ALLOW
#define ALLOW OP_PARK
#endif
#define MAY(op) ((ALLOW & (op)) != 0)

#define NONE 255
#define WAKER NG
#define SYSMON (NG + 1)
#define RESIZER (NG + 2)
#define THREADS (NG + 3)

/* enum g_status, enum p_state, PARK_*, NOTE_* */
#define G_IDLE 0
#define G_RUNNABLE 1
#define G_RUNNING 2
#define G_SYSCALL 3
#define G_WAITING 4
#define G_DEAD 6
#define P_IDLE 0
#define P_RUNNING 1
#define P_DEAD 4
#define P_SCHED 5
#define PARK_NONE 0
#define PARK_PARKED 1
#define PARK_TOKEN 2
#define SLEEPING 1
#define GRANTED 2

byte word[NP], seq[NP], holder[NP] = NONE; /* pp->word as state and generation, pp->g */
bool idle[NP];				    /* sched.pidle */
byte npidle, nprocs = NP;
short demand;

byte remembered[THREADS]; /* a generation that a thread has read, and will compare; else 0 */
byte gp_p[NG] = NONE, gp_seq[NG], note[NG], park[NG], status[NG];
bool preempt[NG], queued[NG], lot[NG], futex[NG]; /* futex: asleep in the kernel */
bool unseen[NG]; /* asleep where no interposer sees it */

bool asleep; /* of sysmon.c */
byte ended;  /* Gs */
bool pinned[NP];

/* --- store buffers ------------------------------------------------------------------------------ */

#ifdef TSO
byte put_buffer[THREADS] = NONE;
#endif

/* Part of each locked instruction of thread t. */
inline drain(t)
{
#ifdef TSO
	if
	:: put_buffer[t] != NONE ->
		queued[put_buffer[t]] = true;
		put_buffer[t] = NONE
	:: else
	fi;
#endif
	skip
}

/* --- Ps ------------------------------------------------------------------------------------------- */

#if NG == 2
#define EMPTY (!queued[0] && !queued[1])
#define LOT (lot[0] || lot[1])
#else
#define EMPTY (!queued[0] && !queued[1] && !queued[2])
#define LOT (lot[0] || lot[1] || lot[2])
#endif

inline take_pin(pp)
{
	assert(!pinned[pp]);
	pinned[pp] = true;
	word[pp] = P_SCHED
}

inline first_idle(ret)
{
	if
	:: idle[0] -> ret = 0
#if NP > 1
	:: !idle[0] && idle[1] -> ret = 1
#endif
	:: else -> ret = NONE
	fi
}

/* The look at npidle without the lock and what follows under it are one step: each answer is one that the lock alone could give. */
inline pidleget(t, ret)
{
#ifdef MUT_pidleget_unlocked
	first_idle(ret);
	if
	:: ret != NONE ->
		atomic {
			idle[ret] = false;
			npidle--;
			take_pin(ret)
		}
	:: else
	fi
#else
	atomic {
		drain(t);
		first_idle(ret);
		if
		:: ret != NONE ->
			idle[ret] = false;
			npidle--;
			take_pin(ret)
		:: else
		fi
	}
#endif
}

/* Of the calling G. */
inline pin(ret)
{
	if
	:: gp_p[me] == NONE -> ret = NONE
	:: else ->
#ifdef MUT_pin_not_a_cas
		looked = word[gp_p[me]] == P_RUNNING && seq[gp_p[me]] == gp_seq[me];
#define fits looked
#else
#define fits (word[gp_p[me]] == P_RUNNING && seq[gp_p[me]] == gp_seq[me])
#endif
		atomic {
			drain(me);
			if
			:: fits ->
				ret = gp_p[me];
				take_pin(ret);
				assert(holder[ret] == me)
			:: else ->
				gp_p[me] = NONE;
				gp_seq[me] = 0;
				ret = NONE
			fi
		}
	fi
}

inline unpin(pp)
{
	atomic {
		assert(pinned[pp]);
		pinned[pp] = false;
		word[pp] = P_RUNNING
	}
}

/* A generation that nobody remembers is as good as the next one, and there are few of them. */
#define KNOWN(i, pp) (i < NG && gp_p[i % NG] == pp && gp_seq[i % NG] == fresh)
inline next_generation(pp)
{
	fresh = 1;
	do
	:: fresh == seq[pp] || KNOWN(0, pp) || KNOWN(1, pp) || KNOWN(2, pp) || fresh == remembered[0] ||
		fresh == remembered[1] || fresh == remembered[2] || fresh == remembered[3] ||
		fresh == remembered[THREADS - 1] -> fresh++
	:: else -> break
	od
}

inline publish_word(pp, g)
{
	atomic {
		assert(pinned[pp]);
		pinned[pp] = false;
#ifdef MUT_wirep_word_before_g
		next_generation(pp);
		seq[pp] = fresh;
#elif !defined(MUT_wirep_same_generation)
		seq[pp] = gp_seq[g];
#endif
		word[pp] = P_RUNNING
	}
}

inline wirep(t, pp, g)
{
#ifdef MUT_wirep_word_before_g
	publish_word(pp, g);
#endif
	atomic { /* sysmon believes none of this before the word says so */
		holder[pp] = g;
#if defined(MUT_wirep_same_generation) || defined(MUT_wirep_word_before_g)
		gp_seq[g] = seq[pp];
#else
		next_generation(pp);
		gp_seq[g] = fresh;
#endif
		gp_p[g] = pp;
		preempt[g] = false;
		status[g] = G_RUNNING
	}
#ifndef MUT_wirep_word_before_g
	publish_word(pp, g)
#endif
}

inline grant(t, pp, g)
{
#ifdef MUT_grant_note_before_wirep
	note[g] = note[g] | GRANTED;
	wirep(t, pp, g);
	futex[g] = false;
#else
	wirep(t, pp, g);
	atomic {
		drain(t);
#ifdef MUT_grant_sees_no_sleeper
		futex[g] = false; /* the wake-up comes before the store */
	}
	atomic {
		note[g] = note[g] | GRANTED
#else
		if
		:: note[g] & SLEEPING -> futex[g] = false
		:: else
		fi;
		note[g] = note[g] | GRANTED
#endif
	}
#endif
}

/* policy->pick, any of the queue. */
inline pick(ret)
{
	if
	:: queued[0] -> ret = 0
	:: queued[1] -> ret = 1
#if NG > 2
	:: queued[2] -> ret = 2
#endif
	:: else -> ret = NONE
	fi;
	if
	:: ret != NONE -> queued[ret] = false
	:: else
	fi
}

/* sched.lock is held. */
inline let_idle(pp)
{
	pinned[pp] = false;
	holder[pp] = NONE;
	if
	:: pp < nprocs ->
		word[pp] = P_IDLE;
		idle[pp] = true;
		npidle++
	:: else -> word[pp] = P_DEAD
	fi
}

inline schedule(t, pp)
{
	do
	:: sg = NONE;
#ifdef MUT_pick_not_atomic
		sg = (queued[0] -> 0 : (queued[1] -> 1 : (NG > 2 && queued[NG - 1] -> NG - 1 : NONE)));
		if
		:: sg != NONE ->
			queued[sg] = false;
			demand--
		:: else
		fi;
#else
		atomic {
			drain(t);
			if
			:: pp < nprocs -> pick(sg)
			:: else
			fi;
			if
			:: sg != NONE -> demand--
			:: else
			fi
		}
#endif
		if
		:: sg != NONE ->
			grant(t, pp, sg);
			break
		:: else
		fi;
#ifdef MUT_schedule_looks_before_it_idles
		looked = EMPTY;
#endif
		atomic {
			drain(t);
			assert(pinned[pp]);
			let_idle(pp)
		}
#ifdef MUT_schedule_looks_before_it_idles
		if
		:: looked -> break
		:: else
		fi;
#elif defined(MUT_schedule_does_not_look_again)
		break;
#else
		if
		:: EMPTY -> break
		:: else
		fi;
#endif
		pidleget(t, pp);
		if
		:: pp == NONE -> break
		:: else
		fi
	od
}

/* A P of a G in a long system call, pinned by the caller. */
inline p_of_sleeper(t, ret)
{
	ret = NONE;
#ifdef SLEEPERS
	if
	:: true /* it has not been there for long */
	:: true ->
#if NP > 1
		if
		:: ret = 0
		:: ret = 1
		fi;
#else
		ret = 0;
#endif
		atomic {
			remembered[t] = seq[ret];
			look_word = word[ret]
		}
		look_g = holder[ret];
		if
		:: look_word == P_RUNNING && look_g != NONE && status[look_g % NG] == G_SYSCALL ->
			retakep(t, ret, look_g);
			if
			:: ret != NONE -> preempt[look_g] = true
			:: else
			fi
		:: else -> ret = NONE
		fi;
		remembered[t] = 0
	fi
#endif
}

/* The word was read before its fields; ret becomes NONE if it has moved on. */
inline retakep(t, ret, g)
{
	atomic {
		drain(t);
		if
#ifdef MUT_retakep_ignores_generation
		:: word[ret] == P_RUNNING ->
#else
		:: word[ret] == P_RUNNING && seq[ret] == remembered[t] ->
#endif
			assert(holder[ret] == g);
			take_pin(ret)
		:: else -> ret = NONE
		fi;
		remembered[t] = 0
	}
}

inline wakep(t)
{
#ifdef MUT_wakep_missing
	skip;
#else
	do
	:: npidle > 0 && !EMPTY ->
		pidleget(t, wp);
		if
		:: wp == NONE -> break
		:: else
		fi;
		schedule(t, wp)
	:: else -> break
	od;
#endif
#ifdef SLEEPERS
	if
	:: EMPTY
	:: else ->
		p_of_sleeper(t, wp);
		if
		:: wp != NONE -> schedule(t, wp)
		:: else
		fi
	fi
#endif
}

inline sysmon_kick(t)
{
	if
	:: asleep -> asleep = false
	:: else
	fi
}

/* ready with a P: the put is a store into the ring; without: under sched.lock. fetch_add of demand follows. */
inline ready(t, pp, g)
{
#ifdef TSO
	if
	:: pp == NONE ->
		atomic {
			drain(t);
			queued[g] = true
		}
	:: else -> put_buffer[t] = g
	fi;
#else
	queued[g] = true;
#endif
	atomic {
		drain(t);
		demand++
	}
}

/* --- parking ---------------------------------------------------------------------------------------- */

/* Ends with r = 0, granted, or 1: the deadline has passed. */
inline park_wait(timed)
{
	r = 0;
	do
	::
#ifdef MUT_park_wait_sleeping_not_a_cas
		n = note[me];
		if
		:: n & GRANTED || r == 1 -> break
		:: else
		fi;
		note[me] = n | SLEEPING;
#else
		atomic { /* load_acquire and cas: repeated when it fails */
			drain(me);
			n = note[me];
			if
			:: n & GRANTED || r == 1
			:: else -> note[me] = n | SLEEPING
			fi
		}
		if
		:: n & GRANTED || r == 1 -> break
		:: else
		fi;
#endif
		atomic { /* the kernel compares, and sleeps, in one step */
#ifdef MUT_futex_does_not_compare
			futex[me] = true
#else
			if
			:: note[me] == (n | SLEEPING) -> futex[me] = true
			:: else
			fi
#endif
		}
		if
		:: !futex[me]
		:: timed ->
			atomic {
				futex[me] = false;
				r = 1
			}
		fi
	od;
	atomic {
		drain(me);
		if
		:: n & GRANTED ->
			r = 0;
			note[me] = note[me] & (255 - SLEEPING - GRANTED)
#ifdef MUT_park_wait_timeout_clears_grant
		:: else -> note[me] = 0
#else
		:: else -> note[me] = note[me] & (255 - SLEEPING)
#endif
		fi
	}
}

/* True: parked. */
inline gopark_begin(parked)
{
	pin(pp);
	atomic {
#ifndef MUT_gopark_p_cleared_late
		gp_p[me] = NONE;
#endif
		status[me] = G_WAITING
	}
#ifdef MUT_gopark_not_a_cas
	look_word = park[me];
#define taken (look_word != PARK_NONE)
#else
#define taken (park[me] != PARK_NONE)
#endif
	atomic {
		drain(me);
		if
		:: taken -> parked = false
		:: else ->
			parked = true;
			park[me] = PARK_PARKED
		fi
	}
	if
	:: !parked ->
#ifndef MUT_gopark_token_stays
		park[me] = PARK_NONE;
#endif
		status[me] = G_RUNNING;
#ifndef MUT_gopark_forgets_p
		gp_p[me] = pp;
#endif
		if
		:: pp != NONE -> unpin(pp)
		:: else
		fi
	:: else ->
#ifdef MUT_gopark_p_cleared_late
		gp_p[me] = NONE;
#endif
		if
		:: pp != NONE -> schedule(me, pp)
		:: else
		fi
	fi
}

/* The part of goready for one that needs no P. */
inline woken_without(t, g)
{
#ifdef MUT_woken_note_first
	woken_note(t, g);
	woken_status(t, g);
	park[g] = PARK_NONE
#elif defined(MUT_woken_park_first)
	park[g] = PARK_NONE;
	woken_status(t, g);
	woken_note(t, g)
#elif defined(MUT_woken_park_last)
	woken_status(t, g);
	woken_note(t, g);
	park[g] = PARK_NONE
#else
	woken_status(t, g);
	park[g] = PARK_NONE;
	woken_note(t, g)
#endif
}

inline woken_status(t, g) /* runs_without */
{
	atomic {
		drain(t);
		gp_p[g] = NONE;
		preempt[g] = false;
		status[g] = G_RUNNING
	}
}

inline woken_note(t, g) /* wake */
{
	atomic {
		drain(t);
		if
		:: note[g] & SLEEPING -> futex[g] = false
		:: else
		fi;
		note[g] = note[g] | GRANTED
	}
}

inline goready(t, g, own)
{
#ifdef MUT_goready_not_an_xchg
	look_word = park[g];
	park[g] = PARK_TOKEN;
#else
	atomic {
		drain(t);
		look_word = park[g];
		park[g] = PARK_TOKEN
	}
#endif
	looked = false;
#ifdef WOKEN
	if
	:: look_word == PARK_PARKED && npidle == 0 -> looked = true
	:: true /* credit_woken: credits are not common, the world is to stop, policy->credit */
	fi;
#endif
	if
	:: look_word != PARK_PARKED /* the token is left */
	:: look_word == PARK_PARKED && looked -> woken_without(t, g)
	:: else ->
		status[g] = G_RUNNABLE;
		park[g] = PARK_NONE;
		pidleget(t, rp);
		if
		:: rp != NONE -> grant(t, rp, g)
		:: else ->
			if
			:: own -> pin(rp)
			:: else
			fi;
			ready(t, rp, g);
			if
			:: rp != NONE -> unpin(rp)
			:: else
			fi;
			wakep(t);
#ifndef MUT_goready_no_kick
			sysmon_kick(t)
#endif
		fi
	fi
}

/* Take one out of the lot: who does so readies it, exactly once. */
inline take_from_lot(ret, but)
{
	if
	:: lot[0] && but != 0 -> ret = 0
	:: lot[1] && but != 1 -> ret = 1
#if NG > 2
	:: lot[2] && but != 2 -> ret = 2
#endif
	:: else -> ret = NONE
	fi;
	if
	:: ret != NONE -> lot[ret] = false
	:: else
	fi
}

/* Values that nobody will read again make states differ that are the same. */
#define forget()                                                                                   \
	wp = NONE;                                                                                 \
	sg = NONE;                                                                                 \
	rp = NONE;                                                                                 \
	look_word = 0;                                                                             \
	look_g = 0;                                                                                \
	fresh = 0;                                                                                 \
	looked = false

#define LOCALS                                                                                     \
	byte wp = NONE, sg = NONE, rp = NONE, look_word, look_g, other = NONE;           \
	byte fresh;                                                                                \
	bool looked

/* --- a G ---------------------------------------------------------------------------------------------- */

proctype G(byte me)
{
	byte pp = NONE, n, r, left = OPS;
	short op;
	bool parked, credit, in_call, handled;
	LOCALS;

	/* gostart: made parked, and readied by its maker */
	if
	:: me != 0 -> park_wait(false)
	:: else
	fi;

next:	atomic { forget(); op = 0; n = 0; r = 0; pp = NONE; parked = false; credit = false }
	assert(status[me] == G_RUNNING);
	/* the begin of a call: the cooperative safe point, and what a signal would find */
	if
	:: preempt[me] && !in_call -> in_call = true; goto preempt_check_slow
	:: else
	fi;
choose:	in_call = false;
	atomic {
		if
		:: left == 0 -> op = 0
		:: left > 0 && MAY(OP_PARK) -> op = OP_PARK
		:: left > 0 && MAY(OP_TIMED) -> op = OP_TIMED
		:: left > 0 && MAY(OP_JUMP) && me == 0 -> op = OP_JUMP
		:: left > 0 && MAY(OP_SYSCALL) && me == 0 -> op = OP_SYSCALL
		:: left > 0 && MAY(OP_BLOCK) -> op = OP_BLOCK
		:: left > 0 && MAY(OP_YIELD) -> op = OP_YIELD
		:: left > 0 && MAY(OP_READY) -> op = OP_READY
		:: left > 0 && MAY(OP_LAST) && me == 0 -> op = OP_LAST
		:: left > 0 && MAY(OP_UNSEEN) && me == 0 -> op = OP_UNSEEN
#if !(ALLOW & (OP_PARK | OP_TIMED | OP_BLOCK | OP_YIELD | OP_READY))
		:: me != 0 -> op = 0
#endif
		fi;
		if
		:: op == OP_LAST || op == OP_UNSEEN -> left = 0
		:: op != 0 -> left--
		:: else
		fi
	}
	if
	:: op == 0 -> goto goexit
#if ALLOW & (OP_PARK | OP_TIMED | OP_JUMP)
	:: op == OP_PARK || op == OP_TIMED || op == OP_JUMP -> goto lot_wait
#endif
	:: op == OP_YIELD -> goto gosched
#if ALLOW & OP_READY
	:: op == OP_READY ->
		atomic { take_from_lot(other, me) }
		if
		:: other != NONE -> goready(me, other, true)
		:: else
		fi;
		other = NONE;
		goto next
#endif
	:: op == OP_SYSCALL || op == OP_LAST ->
		status[me] = G_SYSCALL; /* entersyscall */
		(op == OP_SYSCALL || ended == NG - 1);
		goto exitsyscall
	:: op == OP_BLOCK -> goto entersyscallblock
	:: op == OP_UNSEEN ->
		unseen[me] = true;
		(ended == NG - 1);
		unseen[me] = false;
		goto next
	:: else -> assert(false)
	fi;

#if ALLOW & (OP_PARK | OP_TIMED | OP_JUMP)
lot_wait:
	atomic { /* lot_enqueue, under the lock of the bucket */
		drain(me);
		lot[me] = true
	}
	gopark_begin(parked);
	if
	:: !parked -> goto next
	:: else
	fi;
	park_wait(op == OP_TIMED || op == OP_JUMP);
	if
	:: r == 0 -> goto next
	:: op == OP_JUMP && r != 0 -> goto settle
	:: else
	fi;
	/* lot_leave_parked */
	atomic {
		drain(me);
#ifdef MUT_timeout_does_not_ask_the_lot
		parked = lot[me];
		lot[me] = false;
		r = 0
#else
		if
		:: lot[me] ->
			lot[me] = false;
			r = 0
		:: else
		fi
#endif
	}
	if
	:: r == 0 ->
		park[me] = PARK_NONE;
		credit = true; /* gounpark */
		goto run_again
	:: else -> /* a waker has us */
		park_wait(false);
		goto next
	fi;
settle:
	if
	:: park[me] == PARK_PARKED ->
		atomic { /* lot_leave_parked */
			drain(me);
			if
			:: lot[me] ->
				lot[me] = false;
				r = 0
			:: else
			fi
		}
	:: else
	fi;
	if
	:: r == 0 ->
		park[me] = PARK_NONE;
		credit = true; /* gounpark */
		goto run_again
	:: else
	fi;
	looked = park[me] == PARK_NONE;
	if
	:: looked && status[me] == G_WAITING -> goto run_again /* interrupted between lot_leave_parked and run_again */
	:: else
	fi;
	park_wait(false);
	goto next;
#endif

entersyscallblock:
	pin(pp);
	gp_p[me] = NONE;
	status[me] = G_SYSCALL;
	if
	:: pp != NONE -> schedule(me, pp)
	:: else
	fi;
	if
	:: op == 0 -> goto dead
	:: else
	fi;

exitsyscall:
	if
	:: gp_p[me] != NONE && word[gp_p[me] % NP] == P_RUNNING && seq[gp_p[me] % NP] == gp_seq[me] ->
		status[me] = G_RUNNING;
		goto preempt_check
	:: else ->
		status[me] = G_RUNNING; /* exitsyscall_slow */
		credit = true
	fi;

run_again:
	pidleget(me, pp);
	if
	:: pp != NONE ->
		wirep(me, pp, me);
		goto back
	:: else
	fi;
	gp_p[me] = NONE;
#ifdef SLEEPERS
	if
	:: credit && demand <= 0 ->
		p_of_sleeper(me, pp);
		if
		:: pp != NONE ->
			wirep(me, pp, me);
			goto back
		:: else
		fi
	:: else
	fi;
#endif
	if
	:: credit -> /* or not: PREEMPT_CREDIT, policy->credit */
		preempt[me] = false;
		status[me] = G_RUNNING;
		if
		:: demand > 0 ->
			wakep(me);
			sysmon_kick(me)
		:: else
		fi;
		goto back
	:: true
	fi;
	status[me] = G_RUNNABLE; /* ready's locked instruction follows */
#ifdef MUT_run_again_status_after_ready
	ready(me, NONE, me);
	status[me] = G_RUNNABLE;
#else
	ready(me, NONE, me);
#endif
	wakep(me);
#ifndef MUT_run_again_no_kick
	sysmon_kick(me);
#endif
	park_wait(false);
back:
	credit = false;
	if
	:: in_call -> goto choose
	:: op == OP_SYSCALL || op == OP_BLOCK || op == OP_LAST -> goto preempt_check
	:: else -> goto next
	fi;

preempt_check:
	if
	:: !preempt[me] -> goto next
	:: else
	fi;
preempt_check_slow:

gosched:
	pin(pp);
	preempt[me] = false;
	if
	:: pp == NONE ->
		credit = false;
		op = OP_YIELD;
		goto run_again
	:: pp != NONE && EMPTY && pp < nprocs ->
		unpin(pp);
		goto out
	:: else
	fi;
	atomic {
		gp_p[me] = NONE;
		status[me] = G_RUNNABLE
	}
	ready(me, NONE, me);
	schedule(me, pp);
	sysmon_kick(me);
	park_wait(false);
out:	if
	:: in_call -> goto choose
	:: else ->
		op = OP_YIELD;
		goto next
	fi;

goexit:
	goto entersyscallblock;
dead:
	atomic {
		forget();
		n = 0;
		r = 0;
		pp = NONE;
		gp_seq[me] = 0;
		note[me] = 0;
		drain(me);
		assert(park[me] == PARK_NONE && !lot[me]);
		status[me] = G_DEAD;
		ended++
	}
}

/* --- sysmon -------------------------------------------------------------------------------------------- */

/* Ready those who are parked. Not a G: it holds no P. */
proctype waker()
{
	byte me = WAKER;
	LOCALS;

end:	do
	:: atomic { LOT -> take_from_lot(other, NONE) }
		goready(WAKER, other, false);
		atomic {
			other = NONE;
			forget()
		}
	od
}

inline take_and_hand_off(pp, g, queue)
{
	retakep(SYSMON, pp, g);
	if
	:: pp != NONE ->
		preempt[g] = queue;
#ifndef MUT_retake_does_not_hand_on
		schedule(SYSMON, pp)
#endif
	:: else
	fi
}

/* May the holder of i be found in a call for long enough? The same word and number of calls were seen before. */
#define IN_CALL(i) (i < NP && word[i % NP] == P_RUNNING && holder[i % NP] != NONE && status[holder[i % NP] % NG] == G_SYSCALL)
#define BLOCKED(i)                                                                                 \
	(i < NP && word[i % NP] == P_RUNNING && holder[i % NP] != NONE && unseen[holder[i % NP] % NG] && \
	 gp_p[holder[i % NP] % NG] == i && gp_seq[holder[i % NP] % NG] == seq[i % NP])
#define ASKABLE(g) (g < NG && status[g % NG] == G_RUNNING && !preempt[g % NG] && !unseen[g % NG])

inline look_at(i)
{
	lp = i;
#ifdef MUT_retake_reads_word_last
	look_g = holder[lp];
#endif
	atomic {
		remembered[SYSMON] = seq[lp];
		look_word = word[lp]
	}
#ifndef MUT_retake_reads_word_last
	look_g = holder[lp];
#endif
	if
	:: look_word == P_RUNNING && look_g != NONE && status[look_g % NG] == G_SYSCALL ->
		take_and_hand_off(lp, look_g, true)
	:: look_word == P_RUNNING && look_g != NONE && unseen[look_g % NG] ->
		take_and_hand_off(lp, look_g, false)
	:: else -> remembered[SYSMON] = 0
	fi;
	atomic {
		lp = 0;
		forget()
	}
}


proctype sysmon()
{
	byte lp;
	LOCALS;

	do
	:: true ->
end_awake:	do
		:: demand > 0 && (IN_CALL(0) || BLOCKED(0)) -> look_at(0)
#if NP > 1
		:: demand > 0 && (IN_CALL(1) || BLOCKED(1)) -> look_at(1)
#endif
#ifdef ASK
		:: demand > 0 && ASKABLE(0) -> preempt[0] = true
		:: demand > 0 && ASKABLE(1) -> preempt[1] = true
#endif
		:: demand <= 0 -> break
		od;
		/* sleep_deep */
#ifdef MUT_sysmon_looks_before_it_sleeps
		if
		:: demand <= 0 -> asleep = true
		:: else
		fi;
end_asleep:	(!asleep);
#else
		asleep = true;
		if
		:: demand > 0 -> asleep = false
		:: else ->
end_asleep:		(!asleep)
		fi;
#endif
	od
}


#ifdef RESIZE
/* procresize: to one P and back. */
proctype resizer()
{
	byte i = 1;
	LOCALS;

	atomic {
		nprocs = 1;
		if
		:: idle[1] ->
			idle[1] = false;
			npidle--;
			word[1] = P_DEAD
		:: else
		fi
	}
	wakep(RESIZER);
	atomic {
		nprocs = 2;
		if
		:: word[1] == P_DEAD ->
			word[1] = P_IDLE;
			idle[1] = true;
			npidle++
		:: else
		fi
	}
	wakep(RESIZER)
}
#endif

#ifdef TSO
/* Buffered stores reach memory at any time. */
proctype drainer()
{
	byte i;

end:	do
#ifdef TSO
	:: atomic { put_buffer[0] != NONE -> drain(0) }
	:: atomic { put_buffer[1] != NONE -> drain(1) }
#endif
	od
}
#endif

/* All have ended: nothing may be left. It waits for who is inside the scheduler still; demand is counted after the put. */
proctype at_the_end()
{
	atomic {
		(ended == NG && demand == 0 && !pinned[0] && !pinned[NP - 1]);
		assert(EMPTY && npidle == nprocs && word[0] == P_IDLE && (nprocs < NP || word[NP - 1] == P_IDLE))
	}
}

init
{
	byte i;

	atomic {
		word[0] = P_RUNNING;
		seq[0] = 1;
		holder[0] = 0;
		gp_p[0] = 0;
		gp_seq[0] = 1;
		status[0] = G_RUNNING;
#if NP > 1
		seq[1] = 1;
		idle[1] = true;
		npidle = 1;
#endif
		i = 1;
		do
		:: i < NG ->
			status[i] = G_WAITING;
			park[i] = PARK_PARKED;
			lot[i] = true;
			i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < NG ->
			run G(i);
			i++
		:: else -> break
		od;
		run waker();
#if defined(ASK) || ALLOW & (OP_SYSCALL | OP_LAST | OP_UNSEEN)
		run sysmon();
#endif
		run at_the_end();
#ifdef RESIZE
		run resizer();
#endif
#ifdef TSO
		run drainer()
#endif
	}
}
