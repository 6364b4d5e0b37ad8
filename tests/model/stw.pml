/* stw.pml: the look of stop-the-world: stw.c's rounds against Gs that come back from calls, time out, are readied, are on credit, or run a
 * handler.
 *

 * Checked: from the moment at which sysmon says that the world has stopped until it goes on, no G is in the program's code; and when
 * it goes on, everybody gets a P again (a deadlock otherwise). What happens inside the scheduler is sched.pml's; here a grant is one step.
 *
 * Memory is TSO for what is stored without a locked instruction: a G's status and park wait in buffers of its thread, in this order, until its
 * next locked instruction, a membarrier, or any time.
 *
 * CALLS, PARKS (a mask of Gs), HANDLERS: what Gs do; WOKEN: who is woken may go on without a P; STRAYS: G 1 begins without one, and who
 * comes back from a call that it made without may go on so. Two Gs, one P. G 0 holds a lock (gp->locks), G 1 may have a handler on top of its wait.
 */

#define NG 2
#define G_RUNNABLE 1
#define G_RUNNING 2
#define G_SYSCALL 3
#define G_WAITING 4
#define G_DEAD 6
#define PARK_NONE 0
#define PARK_PARKED 1
#define PARK_TOKEN 2
#define NONE 255
#define GOES 0
#define STOPPING 1
#define STOPPED 2
#ifndef ROUNDS
#define ROUNDS 3
#endif
#ifndef OPS
#define OPS 1
#endif

/* The one P: in the idle list, pinned, or held by a G under its word. */
bool idle, pinned;
bool has[NG];	    /* the word is what the G remembers, in P_RUNNING */
bool remembers[NG]; /* gp->p is not NULL; true although has is false: a stray that does not know */
byte status[NG], park[NG], status_buffer[NG] = NONE, park_buffer[NG] = NONE;
bool preempt[NG], queued[NG], in_lot[NG], locks[NG], grace_over[NG];
byte handlers[NG];
bool held[NG]; /* asleep in stw_hold */
bool user[NG]; /* in the program's code */
bool stopping; /* sched.stopping */
byte world, ended;
bool credit_, goes_; /* of waker */
#if defined(MUT_stw_woken_sleeps_unseen) || defined(MUT_stw_granted_sleeps)
bool waits[NG]; /* gp->waiting */
#define store_waiting(v) waits[me] = v
#else
#define store_waiting(v) skip
#endif
bool noted[NG]; /* gp->note, of who is woken without a P */

inline drain(g)
{
	if
	:: park_buffer[g] != NONE ->
		park[g] = park_buffer[g];
		park_buffer[g] = NONE
	:: else
	fi;
	if
	:: status_buffer[g] != NONE ->
		status[g] = status_buffer[g];
		status_buffer[g] = NONE
	:: else
	fi
}

inline store_status(v)
{
	atomic {
		if
		:: status_buffer[me] != NONE -> status[me] = status_buffer[me]
		:: else
		fi;
		if
		:: park_buffer[me] != NONE -> drain(me)
		:: else
		fi;
		status_buffer[me] = v
	}
}

inline grant(g)
{
	queued[g] = false;
	status[g] = G_RUNNING;
	preempt[g] = false;
	grace_over[g] = false;
	remembers[g] = true;
	has[g] = true
}

/* The P is pinned by the caller: to the next, or it idles. */
inline schedule()
{
	look = stopping; /* before the queue is looked at: the world may begin to stop between */
	atomic {
		pinned = false;
		if
		:: !look && queued[0] -> grant(0)
		:: !look && queued[1] -> grant(1)
		:: else -> idle = true
		fi
	}
	wakep() /* the queues are looked at again */
}

/* pidleget and schedule. */
inline wakep()
{
	atomic {
		if
		:: idle && !stopping && queued[0] -> idle = false; grant(0)
		:: idle && !stopping && queued[1] -> idle = false; grant(1)
		:: else
		fi
	}
}

inline program()
{
	atomic {
		assert(!(world == STOPPED && stopping)); /* let_go begins with stopping */
		user[me] = true
	}
	user[me] = false
}

#define granted(g) ((has[g] && status[g] == G_RUNNING && !queued[g]) || noted[g])

/* Asleep until granted. A handler of the program may run on top: enter_handler, stw_hold. */
inline park_wait(timed)
{
	atomic { timeout_ = false; store_waiting(true) }
	if
	:: granted(me) -> atomic { noted[me] = false; store_waiting(false) }
	:: timed -> atomic { timeout_ = true; store_waiting(false) }
	#ifdef HANDLERS
	:: me == 1 && !handled && !has[me] ->
		handled = true;
#ifdef MUT_handler_not_counted_first
		look = world != GOES;
		handlers[me] = 1;
		if
		:: look ->
#else
		atomic {
			drain(me);
			handlers[me] = 1
		}
		if
		:: world != GOES ->
#endif
			held[me] = true;
			(world == GOES);
			held[me] = false
		:: else
		fi;
		program();
		handlers[me] = 0;
		atomic { granted(me); noted[me] = false; store_waiting(false) }
#endif
	fi
}

proctype G(byte me)
{
	byte left = OPS;
	bool look, handled, timeout_, credit, from_call;

	if
	:: status[me] == G_RUNNING -> skip
	:: else -> park_wait(false)
	fi;
next:
	program();
	if
	:: preempt[me] -> from_call = false; goto preempt_check_slow
	:: else
	fi;
choose:
	if
	:: goto exit
#ifdef CALLS
	:: left > 0 -> /* entersyscall */
		left--;
		store_status(G_SYSCALL);
		goto exitsyscall
#endif
#ifdef PARKS
	:: left > 0 && PARKS & (1 << me) -> /* lot_wait, with a deadline */
		left--;
		goto gopark
#endif
	fi;

exitsyscall:
#ifdef STRAYS
	if
	:: !remembers[me] -> /* goes_on */
#ifdef MUT_goes_on_looks_first
		look = !stopping;
		atomic { drain(me); status[me] = G_RUNNING }
#else
		atomic { drain(me); status[me] = G_RUNNING }
		look = !stopping;
#endif
		from_call = true;
		if
		:: look -> goto preempt_check
		:: true /* or not: its credit is used up */
		fi
	:: else
	fi;
#endif
	look = remembers[me] && has[me];
	store_status(G_RUNNING);
	from_call = true;
	if
	:: look -> goto preempt_check
	:: else -> credit = true
	fi;
	goto run_again;

gopark:
	atomic { /* lot_enqueue; pin */
		drain(me);
		in_lot[me] = true;
		look = has[me];
		if
		:: look ->
			has[me] = false;
			pinned = true
		:: else
		fi;
		remembers[me] = false;
		status_buffer[me] = G_WAITING
	}
	timeout_ = look;
	atomic { /* cas of gp->park */
		drain(me);
		if
		:: park[me] == PARK_NONE ->
			park[me] = PARK_PARKED;
			credit = true
		:: else -> credit = false
		fi
	}
	if
	:: !credit -> /* a token: it runs on, with the P if it had one */
		atomic { park_buffer[me] = PARK_NONE; status_buffer[me] = G_RUNNING }
		atomic {
			if
			:: timeout_ ->
				pinned = false;
				has[me] = true;
				remembers[me] = true
			:: else
			fi
		}
		goto next
	:: else
	fi;
	if
	:: timeout_ -> schedule()
	:: else
	fi;
	park_wait(true);
	if
	:: !timeout_ -> goto next
	:: else
	fi;
	atomic { /* lot_leave_parked */
		drain(me);
		if
		:: in_lot[me] -> in_lot[me] = false
		:: else -> timeout_ = false
		fi
	}
	if
	:: !timeout_ -> /* a waker has us */
		park_wait(false);
		goto next
	:: else
	fi;
	park_buffer[me] = PARK_NONE; /* gounpark */
	credit = true;
	from_call = false;

run_again:
	atomic { /* pidleget: under sched.lock only where there is an idle P */
		if
#ifdef MUT_pidleget_ignores_stopping
		:: idle ->
#else
		:: idle && !stopping ->
#endif
			drain(me);
			idle = false;
			grant(me);
			look = true
		:: else -> look = false
		fi
	}
	if
	:: look -> goto back
	:: else
	fi;
	remembers[me] = false;
	if
#ifdef MUT_credit_while_stopping
	:: credit ->
#else
	:: credit && !stopping ->
#endif
		preempt[me] = false;
		grace_over[me] = false;
		store_status(G_RUNNING);
		goto back
	:: true
	fi;
	store_status(G_RUNNABLE);
	atomic { /* ready */
		drain(me);
		queued[me] = true
	}
	wakep();
	park_wait(false);
back:
	credit = false;
	if
	:: from_call -> goto preempt_check
	:: else -> goto next
	fi;

preempt_check:
	if
	:: preempt[me] -> goto preempt_check_slow
	:: else -> goto next
	fi;
preempt_check_slow:
	if
#ifdef MUT_spared_ignores_stopping
	:: locks[me] && !grace_over[me] ->
#else
	:: locks[me] && !grace_over[me] && (!stopping || (remembers[me] && has[me])) ->
#endif
		if
		:: from_call -> goto next
		:: else -> goto choose
		fi
	:: else
	fi;
	/* gosched */
	atomic {
		drain(me);
		look = has[me];
		if
		:: look ->
			has[me] = false;
			pinned = true
		:: else
		fi;
		remembers[me] = false;
		preempt[me] = false
	}
	credit = false;
	if
	:: !look -> goto run_again
	:: else
	fi;
	store_status(G_RUNNABLE);
	atomic {
		drain(me);
		queued[me] = true
	}
	schedule();
	park_wait(false);
	if
	:: from_call -> goto next
	:: else -> goto choose
	fi;

exit:	/* goexit: entersyscallblock */
	atomic {
		drain(me);
		look = has[me];
		if
		:: look ->
			has[me] = false;
			pinned = true
		:: else
		fi;
		remembers[me] = false;
		status_buffer[me] = G_SYSCALL
	}
	if
	:: look -> schedule()
	:: else
	fi;
	atomic {
		drain(me);
		status[me] = G_DEAD;
		ended++
	}
}

/* goready, by a thread that is no G. */
proctype waker()
{
	byte g;

end:	do
	:: atomic {
			in_lot[0] || in_lot[1] -> g = (in_lot[0] -> 0 : 1);
			in_lot[g] = false
		}
#ifdef MUT_woken_looks_first
		goes_ = !stopping;
#endif
		atomic {
			credit_ = park[g] == PARK_PARKED;
			park[g] = PARK_TOKEN
		}
#ifdef MUT_woken_while_stopping
		goes_ = true;
#elif defined(WOKEN) && !defined(MUT_woken_looks_first)
		goes_ = !stopping; /* credit_woken */
#endif
		if
#ifdef WOKEN
		:: credit_ && goes_ -> /* or not: policy->credit */
			atomic { preempt[g] = false; grace_over[g] = false }
			status[g] = G_RUNNING; /* runs_without */
			park[g] = PARK_NONE;
			noted[g] = true;
			goes_ = false
#endif
		:: credit_ ->
			status[g] = G_RUNNABLE;
			park[g] = PARK_NONE;
			queued[g] = true;
			wakep()
		:: else
		fi
	od
}

inline ask(g)
{
	atomic {
#ifdef MUT_stw_granted_sleeps
		if
		:: waits[g] /* its thread is still asleep */
		:: else -> running = true
		fi;
#else
		running = true;
#endif
		preempt[g] = true;
		if
		:: true /* its locks are respected, still */
		:: grace_over[g] = true
		fi
	}
}

/* stw_poll. */
proctype sysmon()
{
	byte i, s, rounds;
	bool running, look;

end:	do
	:: world == STOPPING ->
		running = false;
		/* look_at_p */
		if
		:: pinned -> running = true
		:: has[0] -> s = 0
		:: has[1] -> s = 1
		:: else -> s = NONE
		fi;
		if
		:: !running && s != NONE ->
			i = status[s];
			if
			:: i == G_SYSCALL -> /* take_and_hand_off */
				atomic {
					if
					:: has[s] ->
						has[s] = false;
						pinned = true;
						look = true
					:: else -> look = false
					fi
				}
				running = true; /* seen without in the next round; the model finds that it need not be */
				if
				:: look ->
					preempt[s] = true;
					schedule()
				:: else
				fi
			:: else -> ask(s)
			fi
		:: else
		fi;
#ifndef MUT_stw_no_membarrier
		atomic { drain(0); drain(1) }
#endif
		i = 0;
		do
		:: i < NG ->
			s = status[i];
			if
#ifdef MUT_stw_woken_sleeps_unseen
			:: s == G_RUNNING && !(remembers[i] && has[i]) && !waits[i] -> ask(i)
#else
			:: s == G_RUNNING && !(remembers[i] && has[i]) -> ask(i)
#endif
#ifndef MUT_stw_park_not_looked_at
			:: s == G_WAITING && park[i] != PARK_PARKED -> running = true
#endif
			:: else
			fi;
#ifndef MUT_stw_handlers_not_looked_at
			if
			:: s != G_RUNNING && s != G_DEAD && handlers[i] && !held[i] -> running = true
			:: else
			fi;
#endif
			i++
		:: else -> break
		od;
		rounds++;
		atomic {
			if
			:: !running ->
				world = STOPPED;
				assert(!user[0] && !user[1])
			:: running && rounds == ROUNDS -> world = GOES /* the owner's time is up */
			:: else
			fi
		}
		atomic { i = 0; s = 0; running = false; look = false }
	od
}

proctype owner()
{
	stopping = true;
	world = STOPPING;
	(world != STOPPING);
	stopping = false;
	world = GOES;
#ifndef MUT_stw_no_restart
	wakep()
#endif
}

proctype drainer()
{
end:	do
	:: atomic { park_buffer[0] != NONE || status_buffer[0] != NONE -> drain(0) }
	:: atomic { park_buffer[1] != NONE || status_buffer[1] != NONE -> drain(1) }
	od
}

init
{
	atomic {
		has[0] = true;
		remembers[0] = true;
		status[0] = G_RUNNING;
		locks[0] = true;
#ifdef STRAYS
		status[1] = G_RUNNING; /* and holds no P */
#else
		status[1] = G_RUNNABLE;
		queued[1] = true;
#endif
		run G(0);
		run G(1);
		run waker();
		run sysmon();
		run owner();
		run drainer()
	}
}
