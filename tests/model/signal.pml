/* signal.pml: the hand-shake that keeps the preemption signal out of system calls: preempt_m, preempt_m_if_fenced and preempt_rests in preempt.c,
 * entersyscall in shim.h.
 *
 * Checked: no signal arrives at a thread that is in its call (it would end with EINTR).
 *
 * Memory is TSO: the thread's store of its status waits in its buffer until its next locked instruction, a membarrier, or any time. The wait
 * for a signal on its way (preempt_drain) is without a bound here.
 */

#ifndef CALLS
#define CALLS 2
#endif
#ifndef SIGNALS
#define SIGNALS 2
#endif
#define NONE 255
#define RUNNING 2
#define SYSCALL 3

byte status = RUNNING, status_buffer = NONE;
bool fenced, fence_holds;
bool pending; /* gp->signal_pending */
bool sent, in_call;

inline drain()
{
	if
	:: status_buffer != NONE ->
		status = status_buffer;
		status_buffer = NONE
	:: else
	fi
}

inline store_status(v)
{
	atomic {
		drain();
		status_buffer = v
	}
}

proctype thread()
{
	byte left = CALLS;
	bool seen;

	do
	:: left > 0 ->
		left--;
#ifdef MUT_enter_looks_first
		seen = pending;
		store_status(SYSCALL);
		if
		:: fenced -> atomic { drain() }
		:: else
		fi;
#else
		store_status(SYSCALL);
#ifndef MUT_enter_no_fence
		if
		:: fenced -> atomic { drain() } /* the xchg */
		:: else
		fi;
#endif
		seen = pending;
#endif
		if
		:: seen -> (!pending) /* entersyscall_slow */
		:: else
		fi;
		in_call = true;
		in_call = false;
		store_status(RUNNING) /* exitsyscall */
	:: else -> break
	od
}

/* The signal arrives, at any time; preempt_handler. */
proctype arrives()
{
end:	do
	:: atomic {
			sent ->
			assert(!in_call);
			sent = false;
			pending = false
		}
	od
}

inline preempt_m_if_fenced()
{
#ifdef MUT_status_before_pending
	seen = status;
#endif
#ifdef MUT_holds_before_pending
	holds = fence_holds;
#endif
	atomic {
		won = !pending;
		pending = true
	}
	if
	:: won ->
#ifndef MUT_holds_before_pending
#ifdef MUT_holds_not_looked_at
		holds = true;
#else
		holds = fence_holds;
#endif
#endif
#ifndef MUT_status_before_pending
		seen = status;
#endif
		if
		:: holds && seen == RUNNING -> sent = true
		:: else -> pending = false
		fi
	:: else
	fi;
	atomic { won = false; holds = false; seen = 0 }
}

proctype sysmon()
{
	byte left = SIGNALS, seen;
	bool won, holds;

	do
	:: left > 0 ->
		left--;
		if /* preempt_m */
		:: !fence_holds && !pending ->
#ifdef MUT_holds_before_membarrier
			fence_holds = true;
#endif
#ifdef MUT_membarrier_before_fenced
			atomic { drain() }
			fenced = true;
#else
			fenced = true; /* the system call that follows is a barrier of its own */
#ifndef MUT_no_membarrier
			atomic { drain() }
#endif
#endif
#ifndef MUT_holds_before_membarrier
			fence_holds = true
#endif
		:: else
		fi;
		preempt_m_if_fenced();
		if /* preempt_rests */
		:: true ->
#ifdef MUT_rests_fenced_first
			fenced = false;
			fence_holds = false
#else
			fence_holds = false;
			fenced = false
#endif
		:: true
		fi
	:: else -> break
	od
}

/* A waker (sysmon_ask). */
proctype other()
{
	byte left = SIGNALS, seen;
	bool won, holds;

	do
	:: left > 0 ->
		left--;
		preempt_m_if_fenced()
	:: else -> break
	od
}

proctype drainer()
{
end:	do
	:: atomic { status_buffer != NONE -> drain() }
	od
}

init
{
	atomic {
		run thread();
		run arrives();
		run sysmon();
		run other();
		run drainer()
	}
}
