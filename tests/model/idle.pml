/* idle.pml: who queues a G against who lets a P idle, and against sysmon that falls asleep: ready, wakep, sysmon_kick and pidleput, schedule in
 * proc.c, sleep_deep in sysmon.c.
 *
 * Checked: when all have done their steps, no P idles while a G is queued, and sysmon does not sleep while there is demand.
 *
 * Memory is TSO: each thread's stores that are no locked instructions wait in its buffer until its next locked one, or any time. RING: the put is a store
 * (runqput), else it is made under sched.lock.
 */

bool queued, idle, asleep;
byte demand;
bool put_buffered, idle_buffered, asleep_buffered, demand_buffered;
byte done;

#define drain_readier()                                                                            \
	queued = queued || put_buffered;                                                           \
	put_buffered = false;                                                                      \
	demand = (demand_buffered -> 1 : demand);                                                  \
	demand_buffered = false

/* ready, wakep, sysmon_kick */
proctype readier()
{
	bool saw;

#ifdef MUT_ready_looks_first
	saw = idle;
#endif
#ifdef RING
	put_buffered = true;
#else
	queued = true; /* and the lock is released: a locked instruction */
#endif
#ifdef MUT_ready_demand_not_locked
	demand_buffered = true;
#else
	atomic {
		drain_readier();
		demand = 1
	}
#endif
#ifndef MUT_ready_looks_first
	saw = idle; /* npidle */
#endif
	if
	:: saw ->
		atomic { /* pidleget, schedule */
			drain_readier();
			if
			:: idle && queued ->
				idle = false;
				queued = false;
				demand = 0
			:: else
			fi
		}
	:: else
	fi;
	if
	:: asleep -> atomic { drain_readier(); asleep = false } /* sysmon_kick: an xchg */
	:: else
	fi;
	done++
}

/* schedule: nothing is queued; pidleput; look again */
proctype releaser()
{
	bool saw;

#ifdef MUT_idle_looks_first
	saw = queued;
#endif
#ifdef MUT_idle_not_locked
	idle_buffered = true;
#else
	idle = true;
#endif
#ifndef MUT_idle_looks_first
	saw = queued;
#endif
	if
	:: saw ->
		atomic {
			idle = idle || idle_buffered;
			idle_buffered = false;
			if
			:: idle && queued ->
				idle = false;
				queued = false;
				demand = 0;
				demand_buffered = false
			:: else
			fi
		}
	:: else
	fi;
	done++
}

/* sleep_deep. asleep: it stays so until somebody kicks. */
proctype sysmon()
{
	bool saw;

#ifdef MUT_sleep_looks_first
	saw = demand > 0;
#endif
#ifdef MUT_sleep_not_locked
	asleep_buffered = true;
#else
	asleep = true;
#endif
#ifndef MUT_sleep_looks_first
	saw = demand > 0;
#endif
	if
	:: saw -> atomic { asleep_buffered = false; asleep = false }
	:: else
	fi;
	done++
}

proctype drainer()
{
end:	do
	:: atomic { put_buffered || demand_buffered -> drain_readier() }
	:: atomic { idle_buffered -> idle = true; idle_buffered = false }
	:: atomic { asleep_buffered -> asleep = true; asleep_buffered = false }
	od
}

init
{
	atomic {
		run readier();
		run releaser();
		run sysmon();
		run drainer()
	}
	(done == 3 && !put_buffered && !demand_buffered && !idle_buffered && !asleep_buffered);
	assert(!(idle && queued));
	assert(!(asleep && demand > 0))
}
