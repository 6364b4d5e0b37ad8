#!/usr/bin/env python3
"""Preemption with and without tables of safe points: tables.py LIB PROGS COMMAND CHECK

COMMAND builds the tables of PROGS and its libraries into a directory of the test's own; cases of PROGS then run with
it, and the counters of PREEMPT_STATS tell how threads were stopped. Exit 77 if COMMAND cannot build tables.

The check injected goes on until so many calls were injected as the environment variable INJECTIONS says (200).
"""
import json
import os
import subprocess
import sys
import tempfile

LIB, PROGS, COMMAND = (os.path.abspath(p) for p in sys.argv[1:4])
CHECKS = {}


def check(fn):
    CHECKS[fn.__name__] = fn
    return fn


def want(cond, what):
    if not cond:
        raise AssertionError(what)


def environment(cache, **env):
    full = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_")}
    full.update(env, PREEMPT_CACHE_DIR=cache)
    return full


def build(cache):
    p = subprocess.run([COMMAND, "tables", "build", "--needed", PROGS], text=True,
                       env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if p.returncode or not os.listdir(cache):
        print(f"no tables: {p.stdout}")
        sys.exit(77)


def run(case, cache, timeout=30, **env):
    """How it ended (None: it did not), and its statistics."""
    with tempfile.TemporaryDirectory() as d:
        env = environment(cache, PREEMPT_STATS=f"{d}/stats", LD_PRELOAD=LIB, **env)
        try:
            p = subprocess.run([PROGS, case], env=env, timeout=timeout, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except subprocess.TimeoutExpired:
            return None, None
        want((p.returncode, p.stdout) == (0, "OK\n"), f"{case}: {p.returncode}, {p.stdout!r}")
        if not os.path.exists(f"{d}/stats"):
            return p.returncode, None  # ended by _exit
        with open(f"{d}/stats", encoding="utf-8") as f:
            return p.returncode, json.load(f)


@check
def injected(cache):
    """With tables, threads in compute loops are stopped by injected calls, hundreds of times, never otherwise; and
    keep all their registers (the case says so)."""
    build(cache)
    goal = int(os.environ.get("INJECTIONS", "200"))
    storm = {"timeout": 90, "PROGS_STORM": "20", "PROGS_TIMEOUT": "80"} if goal > 200 else {}
    calls = last = fruitless = 0
    while calls < goal and fruitless < 50:  # on a loaded machine one run sees few
        _, s = run("async_registers", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="100us",
                   PREEMPT_FORCE_AFTER="0", **storm)
        print(s["preempt"], s["refused"], s["overshoot_ns"])
        want(s["preempt"]["forced"] == 0, "forced parks although they are switched off")
        last = s["preempt"]["async"]
        fruitless = fruitless + 1 if last < 10 else 0
        calls += last
        print(f"{calls} injected calls, no difference", flush=True)
    want(calls >= goal, f"{calls} injected calls")


@check
def injected_suffices(cache):
    """A busy thread lets main on by an injected call alone."""
    build(cache)
    for _ in range(5):
        code, _ = run("seed_go114", cache, PREEMPT_PROCS="1", PREEMPT_FORCE_AFTER="0",
                      PREEMPT_CREDIT="0")
        want(code == 0, "main was not let on")


@check
def handlers_and_coroutines(cache):
    """In handlers and on coroutines' stacks nothing is injected: refused there, and stopped elsewhere or by force."""
    build(cache)
    _, s = run("async_in_handlers", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="1ms",
               PREEMPT_FORCE_AFTER="5ms")
    print(s["preempt"], s["refused"])
    want(s["refused"]["stack"] + s["refused"]["critical"] > 0, "nothing was refused")
    want(s["preempt"]["forced"] > 0, "nothing was forced")
    _, s = run("async_coroutines", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="1ms",
               PREEMPT_FORCE_AFTER="5ms")
    print(s["preempt"], s["refused"])
    want(s["refused"]["stack"] > 0, "nothing was refused on a coroutine's stack")


@check
def first_thread_gone(cache):
    """The tables are found also when the first thread of the process has ended by pthread_exit: /proc/self shows no
    memory then."""
    build(cache)
    _, s = run("main_gone_busy", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="1ms", PREEMPT_FORCE_AFTER="0")
    want(s["preempt"]["async"] >= 20, f"{s['preempt']} {s['refused']}")


@check
def spin_waits(cache):
    """Threads that spin for another one give up their slices, far sooner than those end; with PREEMPT_SPIN=off they do not;
    and threads in loops that look like waits are left alone."""
    build(cache)
    _, s = run("spin_waits", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="20ms", PREEMPT_SPIN="sample")
    print(s["spin"])
    want(s["spin"]["yields"] >= 60, "spinners were not found")
    held = sum(t["run_ns"] for t in s["threads"])
    want(held <= s["spin"]["yields"] * 15e6, "they were found late")
    top = s["spin"]["top"][0]
    want(top["module"].endswith("/progs") and top["function"] == "spin_wait_thread", f"{top}")
    want(0 < s["spin"]["saved_ns"] <= s["elapsed_ns"], "more was saved than there was")
    _, s = run("spin_waits", cache, timeout=60, PREEMPT_PROCS="1", PREEMPT_QUANTUM="2ms", PREEMPT_SPIN="off")
    want(s["spin"]["yields"] == 0, "found although that is off")
    _, s = run("no_spin_waits", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="20ms", PREEMPT_SPIN="sample")
    print(s["spin"])
    want(s["spin"]["yields"] == 0, "taken for spinners")


@check
def disabled(cache):
    """While a thread has preemption disabled nobody else runs on its P, and as soon as it is enabled others do."""
    build(cache)
    code, _ = run("world_disabled", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="1ms", PREEMPT_FORCE_AFTER="0",
                  PREEMPT_CREDIT="0")
    want(code == 0, "it does not end")


@check
def no_table_forced(cache):
    """Without a table a thread is stopped by force after PREEMPT_FORCE_AFTER; and never if that is 0."""
    os.chmod(cache, 0o777)  # such a directory is not believed, and nobody builds into it
    _, s = run("async_registers", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="1ms",
               PREEMPT_FORCE_AFTER="10ms", PREEMPT_LOG="off")
    print(s["preempt"], s["refused"])
    want(s["preempt"]["async"] == 0, "an injected call without a table")
    want(s["preempt"]["forced"] > 0 and s["refused"]["no_table"] > 0, "not forced")
    code, _ = run("seed_started", cache, timeout=2, PREEMPT_PROCS="1", PREEMPT_FORCE_AFTER="0",
                      PREEMPT_CREDIT="0")
    want(code is None, "stopped without a safe point")
    run("async_deep_handlers", cache, PREEMPT_PROCS="1", PREEMPT_QUANTUM="100us",
        PREEMPT_FORCE_AFTER="10ms", PREEMPT_LOG="off")


SITES = ("sites_barrier", "sites_futex", "sites_calls", "sites_cancel", "sites_fork", "sites_raw_fork")


@check
def sites_rewritten(cache):
    """Waiting instructions are rewritten while threads execute them, and give the P up; nothing else changes."""
    build(cache)
    for case in SITES:
        for procs, quantum in (("1", "10ms"), ("2", "100us"), ("4", "10ms")):
            # On a loaded machine it may take longer than the case until the tables are there.
            for ms in ("400", "2000", "8000"):
                code, s = run(case, cache, PREEMPT_PROCS=procs, PREEMPT_QUANTUM=quantum, PROGS_SITES=ms,
                              PREEMPT_FORCE_AFTER="10ms")
                want(code == 0, f"{case}: {code}")
                print(case, procs, quantum, s["spin"], s["retakes"], flush=True)
                if s["spin"]["sites"] and (case != "sites_barrier" or s["spin"]["site_yields"] > 100):
                    break
            else:
                want(False, f"{case}: {s['spin']}")


@check
def sites_off(cache):
    """PREEMPT_SPIN=sample and off: the program's instructions stay as they are."""
    build(cache)
    for mode in ("sample", "off"):
        for case in ("sites_barrier", "sites_futex"):
            _, s = run(case, cache, PREEMPT_PROCS="2", PREEMPT_QUANTUM="1ms", PREEMPT_SPIN=mode)
            print(mode, case, s["spin"])
            want(s["spin"]["sites"] == 0 and s["spin"]["site_yields"] == 0, f"{mode}: {s['spin']}")


@check
def spin_reactions(cache):
    """Who waits for a lock gives its P to the holder that has none; repeated tries and sched_yield are waits. With one P
    the holder never runs beside who waits for it."""
    def one(case, **env):
        code, s = run(case, cache, timeout=60, PREEMPT_PROCS="1", PREEMPT_QUANTUM="10ms", **env)
        want(code == 0, f"{case}: {code}")
        print(case, s["spin"], s["lock_holder"], flush=True)
        return s
    for policy in ("go", "fair"):
        for case in ("spin_owner_waits", "spin_writer_waits", "spin_holder_waits"):
            s = one(case, PREEMPT_POLICY=policy)
            want(s["lock_holder"]["handed"] > 0, f"{case}, {policy}: nothing was handed")
            want(s["lock_holder"]["top"][0]["owner_waits"] > 0, f"{case}, {policy}: the report has no owner")
        for _ in range(5):  # threads that happen to queue in the order of their turns never yield in vain
            s = one("spin_yields", PREEMPT_POLICY=policy)
            if s["spin"]["yields"] > 0:
                break
        want(s["spin"]["yields"] > 0 and s["spin"]["top"], "sched_yield")
        s = one("spin_made_code", PREEMPT_POLICY=policy, PREEMPT_FORCE_AFTER="10s")
        want(s["spin"]["yields"] > 10, "a PAUSE in code without a table")
        s = one("spin_tries", PREEMPT_POLICY=policy)
        # Preempted while they hold the mutex they are spared, so few tries fail at all.
        want(s["switches"] < 10000, "those who tried were switched to and fro")


@check
def spin_in_locks(cache):
    """A wait inside of a function that takes a lock is one, rewritten or sampled."""
    build(cache)
    for mode in ("on", "sample"):
        for ms in ("400", "2000", "8000"):
            code, s = run("spin_named_lock", cache, timeout=60, PREEMPT_PROCS="1", PREEMPT_QUANTUM="10ms",
                          PREEMPT_SPIN=mode, PROGS_SITES=ms)
            want(code == 0, f"{code}")
            print(mode, ms, s["spin"], flush=True)
            if s["spin"]["yields"] > 20:
                break
        want(s["spin"]["yields"] > 20, f"{mode}: {s['spin']}")
        want(s["spin"]["top"][0]["function"] == "takes_tickets", f"{s['spin']['top'][0]}")
        want((s["spin"]["site_yields"] > 0) == (mode == "on"), f"{mode}: {s['spin']}")


@check
def spin_convoys(cache):
    """Where locks are had in turn, lines do not stay longer than there are Ps: most threads keep their CPU in line."""
    build(cache)
    sections = os.path.join(cache, "sections")
    for ms in ("400", "2000", "8000"):
        code, s = run("spin_in_line", cache, timeout=120, PREEMPT_PROCS="2", PREEMPT_QUANTUM="10ms", PROGS_SITES=ms,
                      PROGS_SECTIONS=sections)
        want(code == 0, f"{code}")
        with open(sections) as f:
            n = int(f.read())
        print(ms, n, s["spin"], flush=True)
        if s["spin"]["convoy_yields"] and s["spin"]["yields"] * 4 < n:
            return
    want(False, f"{n} sections, {s['spin']}")


def main():
    with tempfile.TemporaryDirectory() as cache:
        try:
            CHECKS[sys.argv[4]](cache)
        except (AssertionError, KeyError, ValueError, OSError) as e:
            print(f"FAIL {sys.argv[4]}: {type(e).__name__}: {e}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
