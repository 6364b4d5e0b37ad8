/* lot.pml: the parking lot: lot_acquire, lot_wait, lot_signal and their wakers in park.c, over a mutex and a condition variable that are glibc's.
 *
 * Ps are left out: a G that is readied runs. What is kept of proc.c is the hand-shake on gp->park and the wait for a grant.
 *
 * Checked: nobody waits for ever while what it waits for is there (a deadlock here, for the looks that lot_acquire takes by itself
 * are left out, but with FOREIGN: then a mutex is unlocked by code that is not interposed); nobody is readied twice or waits in two
 * queues; who takes the mutex has it alone; counts of waiters are those of the queues; a G that leaves has left nothing behind.
 *
 * Steps under the lock of a bucket are one step. Memory is TSO where a releaser's store is no locked instruction (mutation only).
 */

#ifndef NG
#define NG 2
#endif
#define NONE 255
#define PARK_NONE 0
#define PARK_PARKED 1
#define PARK_TOKEN 2

/* Two addresses, in buckets of their own: 0 the mutex, 1 the condition variable. */
byte owner = NONE;	  /* of the mutex; by glibc's trylock and unlock */
byte count[2];		  /* bucket->waiters */
byte waits[NG] = NONE;	  /* gp->waitaddr */
bool moved[NG];		  /* gp->waitmoved */
byte park[NG];
bool granted[NG];
bool ready;		  /* the predicate of the condition */
byte ended, inside;


inline queue(g, addr)
{
	assert(waits[g] == NONE);
	waits[g] = addr;
	count[addr]++
}

inline removeg(g)
{
	count[waits[g]]--;
	waits[g] = NONE
}

/* One waiter of addr, or NONE: any, as FIFO is of no concern to what is checked. */
inline take(addr, ret)
{
	if
	:: waits[0] == addr -> ret = 0
	:: waits[1] == addr -> ret = 1
#if NG > 2
	:: waits[2] == addr -> ret = 2
#endif
	:: else -> ret = NONE
	fi;
	if
	:: ret != NONE -> removeg(ret)
	:: else
	fi
}

/* By who took g out of a queue. */
inline goready(g)
{
#ifdef MUT_goready_not_an_xchg
	old = park[g];
	park[g] = PARK_TOKEN;
#else
	atomic {
		old = park[g];
		park[g] = PARK_TOKEN
	}
#endif
	assert(old != PARK_TOKEN); /* readied twice */
	if
	:: old == PARK_PARKED ->
		park[g] = PARK_NONE;
		granted[g] = true
	:: else
	fi;
	old = 0
}

/* gopark_begin: r = 1 parked, 0 a token was there. */
inline gopark_begin()
{
#ifdef MUT_gopark_not_a_cas
	r = park[me];
	atomic {
		if
		:: r == PARK_NONE ->
#else
	atomic {
		if
		:: park[me] == PARK_NONE ->
#endif
			park[me] = PARK_PARKED;
			r = 1
		:: else ->
			park[me] = PARK_NONE;
			r = 0
		fi
	}
}

/* r = 0 granted, 1 the deadline has passed or a cancellation came. */
inline park_wait(timed)
{
	if
	:: atomic {
			granted[me] ->
			granted[me] = false;
			r = 0
		}
	:: timed -> r = 1
	fi
}

/* r = 1: was queued still. */
inline lot_leave()
{
	atomic {
		if
		:: waits[me] != NONE ->
			removeg(me);
			r = 1
		:: else -> r = 0
		fi
	}
}

inline lot_wake(addr)
{
	atomic { take(addr, other) }
	if
	:: other != NONE -> goready(other)
	:: else
	fi;
	other = NONE
}

/* pthread_mutex_unlock: the real unlock, then lot_has_waiters. */
inline unlock()
{
	assert(owner == me);
#ifdef MUT_unlock_not_locked_instruction
	/* the store is in the buffer while the count is read: others see it later */
	seen = count[0] != 0;
	owner = NONE;
#else
	owner = NONE; /* a locked instruction of glibc's */
	seen = count[0] != 0;
#endif
	if
	:: seen -> lot_wake(0)
	:: else
	fi;
	seen = false
}

/* leave_and_pass_on: a waiter that needs no wake-up any more. was: it has parked. */
inline leave_and_pass_on(was)
{
	lot_leave();
	if
	:: r == 1 && was -> park[me] = PARK_NONE /* gounpark */
	:: r == 1 && !was
	:: else ->
		if
		:: was
		:: !was -> /* lot_absorb */
			gopark_begin();
			if
			:: r == 0 -> goto_absorbed = true
			:: else
			fi
		fi;
		if
		:: goto_absorbed -> goto_absorbed = false
		:: else -> park_wait(false)
		fi;
#ifndef MUT_wake_up_not_passed_on
		lot_wake(0)
#endif
	fi
}

/* got: the mutex is taken, else the deadline has passed. */
inline lot_acquire(timed)
{
	got = false;
	do
	::
#ifdef MUT_try_before_count
		atomic {
			if
			:: owner == NONE ->
				owner = me;
				got = true
			:: else
			fi
		}
		if
		:: got -> break
		:: else
		fi;
		atomic { queue(me, 0) }
#else
		atomic { queue(me, 0) } /* lot_enqueue: the count is raised by a locked instruction */
		atomic { /* try */
			if
			:: owner == NONE ->
				owner = me;
				got = true
			:: else
			fi
		}
		if
		:: got ->
			leave_and_pass_on(false);
			break
		:: timed ->
			leave_and_pass_on(false);
			break
		:: !got
		fi;
#endif
		gopark_begin();
		if
		:: r == 1 ->
#ifdef FOREIGN
			park_wait(true);
#else
			park_wait(timed);
#endif
			if
			:: r == 1 ->
				/* without a P: was it released behind our back? */
				atomic {
					if
					:: owner == NONE ->
						owner = me;
						got = true
					:: else
					fi
				}
				leave_and_pass_on(true);
				if
				:: got || timed -> break
				:: else -> skip /* again from the start; the code waits on, which is the same */
				fi
			:: else
			fi
		:: else
		fi;
		atomic {
			if
			:: owner == NONE && !got ->
				owner = me;
				got = true
			:: else
			fi
		}
		if
		:: got -> break
		:: else
		fi
	od
}

inline lock(timed)
{
	atomic {
		got = owner == NONE;
		if
		:: got -> owner = me
		:: else
		fi
	}
	if
	:: !got -> lot_acquire(timed)
	:: else
	fi
}

inline section()
{
	atomic {
		assert(inside == 0);
		inside++
	}
	inside--
}

/* lot_signal, with the mutex held (held) or not. */
inline signal(held)
{
	if
	:: count[1] == 0
	:: else ->
		atomic { take(1, other) }
		if
		:: other != NONE && held -> /* move_to_mutex: readied by the unlock */
			atomic {
				moved[other] = true;
				queue(other, 0)
			}
		:: other != NONE && !held -> goready(other)
		:: else
		fi;
		other = NONE
	fi
}

#define LOCALS                                                                                     \
	byte r, old, other = NONE;                                                                 \
	bool got, seen, goto_absorbed

/* Takes the mutex and lets go of it; with TIMED it may give up. */
proctype locker(byte me)
{
	LOCALS;

#ifdef TIMED
	lock(true);
#else
	lock(false);
#endif
	if
	:: got ->
		section();
#ifdef FOREIGN
		if
		:: unlock()
		:: owner = NONE /* not by us */
		fi
#else
		unlock()
#endif
	:: else
	fi;
	assert(waits[me] == NONE && park[me] == PARK_NONE && !granted[me]);
	ended++
}

/* pthread_cond_wait and its signaller. */
proctype waiter(byte me)
{
	LOCALS;

	lock(false);
	do
	:: !ready ->
		/* wait_in_lot */
#ifdef MUT_unlock_before_queue
		unlock();
		atomic { moved[me] = false; queue(me, 1) }
#else
		atomic { moved[me] = false; queue(me, 1) }
		unlock();
#endif
		gopark_begin();
		if
		:: r == 1 ->
#ifdef TIMED
			park_wait(true);
#else
			park_wait(false);
#endif
			if
			:: r == 1 ->
#ifdef MUT_timeout_does_not_ask_the_lot
				atomic {
					if
					:: waits[me] != NONE -> removeg(me)
					:: else
					fi;
					r = 1
				}
#else
				lot_leave(); /* lot_leave_parked */
#endif
				if
				:: r == 1 -> park[me] = PARK_NONE
				:: else -> park_wait(false) /* a waker has us */
				fi
			:: else
			fi
		:: else
		fi;
		lock(false)
	:: else -> break
	od;
	section();
	unlock();
	assert(waits[me] == NONE && park[me] == PARK_NONE && !granted[me]);
	ended++
}

proctype signaller(byte me)
{
	LOCALS;

	lock(false);
	ready = true;
#ifdef HELD
	signal(true);
	unlock();
#else
	unlock();
	signal(false);
#endif
	ended++
}

proctype at_the_end()
{
	(ended == NG);
	assert(count[0] == 0 && count[1] == 0 && owner == NONE)
}

init
{
	atomic {
#ifdef COND
		run waiter(0);
		run signaller(1);
#if NG > 2
		run locker(2);
#endif
#else
		run locker(0);
		run locker(1);
#if NG > 2
		run locker(2);
#endif
#endif
		run at_the_end()
	}
}
