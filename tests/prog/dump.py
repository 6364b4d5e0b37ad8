#!/usr/bin/env python3
"""Thread dumps and reports of deadlocks: dump.py LIB STUCK COMMAND CHECK [SECONDS]

COMMAND builds the tables of STUCK and its libraries into a directory of the test's own. Exit 77 if it cannot, or if a check
needs a tool that is missing. Times in here are bounds after which a hang is a failure, and for how long a false alarm is waited for.
"""
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

LIB, STUCK, COMMAND = (os.path.abspath(p) for p in sys.argv[1:4])
CHECKS = {}
CACHE = None


def check(fn):
    CHECKS[fn.__name__] = fn
    return fn


def want(cond, what):
    if not cond:
        raise AssertionError(what)


def environment(**env):
    full = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_")}
    full.update(env, PREEMPT_CACHE_DIR=CACHE)
    return full


class Stuck:
    """STUCK with some threads, when they are all where they stay."""

    def __init__(self, *what, seconds=1000, lib=LIB, **env):
        full = environment(**env)
        if lib:
            full["LD_PRELOAD"] = lib
        self.p = subprocess.Popen([STUCK, str(seconds), *what], env=full, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.err = b""
        want(self.p.stdout.readline() == b"ready\n", "it does not get ready")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.p.kill()
        self.p.wait()
        self.p.stdout.close()
        self.p.stderr.close()

    def read(self, seconds, enough=lambda err: False):
        """What it wrote to standard error until then, or until that is enough, or it ended."""
        end = time.monotonic() + seconds
        fd = self.p.stderr.fileno()
        while not enough(self.err.decode()) and time.monotonic() < end:
            if select.select([fd], [], [], 0.1)[0]:
                chunk = os.read(fd, 65536)
                if not chunk:
                    break
                self.err += chunk
        return self.err.decode()

    def dump(self, *options, early=False):
        r = subprocess.run([COMMAND, "dump", *options, str(self.p.pid)], text=True, timeout=60,
                           env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if early and r.returncode == 125 and "are not scheduled (yet)" in r.stderr:
            return ""
        want(r.returncode == 0 and not r.stderr, f"dump: {r.returncode}, {r.stderr!r}")
        return r.stdout


def named(text):
    r = subprocess.run([COMMAND, "dump", "--names"], input=text, text=True, timeout=60,
                       env=environment(), stdout=subprocess.PIPE, check=True)
    return r.stdout


class Thread:
    """One thread of a dump."""

    def __init__(self, text):
        head, *rest = text.splitlines()
        m = re.fullmatch(r'thread (\d+) \[([^,\]]+)(?:, ([^\]]+))?\], tid (\d+)(?:, "(.*)")?', head)
        want(m, f"not a thread: {head!r}")
        self.id, self.state, self.since, self.tid = int(m[1]), m[2], m[3], int(m[4])
        self.facts = [line for line in rest if not re.match(r"\t(at|by) ", line)]
        frames = [line for line in rest if re.match(r"\t(at|by) ", line)]
        self.functions = [re.sub(r"\+0x.*", "", line[4:]) for line in frames]
        self.text = text


def threads(text):
    return [Thread(part) for part in re.split(r"\n(?=thread )", text) if part.startswith("thread ")]


def has(functions, *names):
    """names are in functions, in this order, one behind the other."""
    return any(functions[i:i + len(names)] == list(names) for i in range(len(functions)))


# --- deadlocks ---------------------------------------------------------------------------------------------

REPORT = "libpreempt: deadlock: "


def told(text, n):
    """All n threads of the report are there."""
    return REPORT in text and len(threads(text)) >= n and len(threads(text)[-1].functions) >= 3


def report(*what, n, **env):
    """The threads of the report on STUCK with these threads; it comes once."""
    with Stuck(*what, **env) as s:
        text = s.read(40, lambda err: told(err, n))
        want(text.count(REPORT) == 1, f"{what}: {text!r}")
        text = s.read(4)
        want(text.count(REPORT) == 1, f"{what}: told twice: {text}")
        want(s.p.poll() is None, f"{what}: it has ended")
    found = threads(named(text))
    want(len(found) == n, f"{what}: {len(found)} threads, not {n}: {text}")
    return text, found


@check
def deadlock_cycle():
    """Two and five threads that lock in a ring are named, with the lines where they wait; others run meanwhile."""
    for size, others in ((2, []), (5, ["hog", "sleep"]), (2, ["sleep"])):
        text, found = report(f"ring{size}", *others, n=size)
        want(f"each of {size} threads waits for the next" in text, text)
        for i, t in enumerate(found):
            after = found[(i + 1) % size]
            want(t.state == "pthread_mutex_lock" and t.since, t.text)
            want(any(re.search(rf"waits for mutex 0x\w+, locked by thread {after.id}, tid {after.tid}$", f)
                     for f in t.facts), t.text)
            want(any("holds mutex" in f for f in t.facts), t.text)
            want(has(t.functions, "lock_next", "in_ring", "gothread"), t.text)


@check
def deadlock_itself():
    """A thread that locks a mutex twice."""
    text, found = report("relock", "sleep", n=1)
    want("waits for what it holds itself" in text and has(found[0].functions, "lock_next", "relocks"), text)


@check
def deadlock_join():
    """One joins a thread that waits for a mutex which it holds."""
    _, found = report("join", "sleep", n=2)
    want({t.state for t in found} == {"pthread_mutex_lock", "pthread_join"}, found[0].text)
    want(any("joins thread" in f for t in found for f in t.facts), found[0].text)


@check
def deadlock_rwlock():
    """A mutex and a rwlock, locked in different orders."""
    _, found = report("rwlock", "sleep", n=2)
    want({t.state for t in found} == {"pthread_mutex_lock", "pthread_rwlock_rdlock"}, found[0].text)


@check
def deadlock_all():
    """Nobody is left who could wake anybody: a lost wake-up, and main joins who waits for it."""
    for what, n in ((["lost"], 2), (["nopost", "nopost"], 3)):
        text, found = report(*what, n=n)
        want("all threads wait" in text, text)
        want(found[0].state == "pthread_join" and has(found[0].functions, "main"), text)


@check
def deadlock_settings():
    """PREEMPT_DEADLOCK=off says nothing, abort ends the program."""
    with Stuck("ring2", PREEMPT_DEADLOCK="off") as s:
        want(s.read(6) == "", s.err)
    with Stuck("ring2", PREEMPT_DEADLOCK="abort") as s:
        s.read(40)
        want(s.p.wait(20) == -signal.SIGABRT, f"ended with {s.p.returncode}")
        want(s.err.decode().count(REPORT) == 1 and "fatal: deadlock" in s.err.decode(), s.err)


@check
def no_deadlock():
    """What only looks like one: somebody sleeps, has a deadline, waits for a signal, a timer, another process, or a thread
    that the library does not know."""
    cases = [["woken"], ["lost", "sleep"], ["nopost", "deadline"], ["alarm"], ["timer"], ["pipe"], ["shared"], ["foreign"], ["jumped"],
             ["cancelled"],
             ["hog", "lost"]]
    running = []
    try:
        for what in cases:
            running.append((what, Stuck(*what, seconds=8)))
        end = time.monotonic() + 16
        for what, s in running:
            text = s.read(max(0.1, end - time.monotonic()))
            # When the others have ended, who waits for ever is alone, and rightly told of.
            if what in (["lost", "sleep"], ["nopost", "deadline"]):
                want("[syscall" not in text, f"{what}: {text}")
                if REPORT in text:
                    want(len(threads(text)) <= 2, f"{what}: {text}")
            else:
                want(text == "", f"{what}: {text}")
    finally:
        for _, s in running:
            s.__exit__()


# --- dumps -------------------------------------------------------------------------------------------------

def looks_right(text, pid):
    found = threads(text)
    want(re.search(rf"^libpreempt: {len(found)} threads of process {pid}, stopped in \S+ (us|ms|s)", text, re.M), text)
    by_state = {t.state: t for t in found}
    want({"pthread_join", "pthread_mutex_lock", "pthread_cond_wait", "sem_wait", "syscall",
          "running"} <= set(by_state), text)
    want(has(by_state["pthread_join"].functions, "main"), text)
    want(has(by_state["pthread_mutex_lock"].functions, "lock_next", "in_ring", "gothread"), text)
    want(has(by_state["pthread_cond_wait"].functions[1:], "lost_wake_up", "gothread"), text)
    want(has(by_state["sem_wait"].functions[1:], "no_post", "gothread"), text)
    want(has(by_state["syscall"].functions, "sleeps", "gothread"), text)
    want(by_state["running"].functions[:2] == ["hog", "gothread"], text)
    for t in found:
        want(any(f in ("start_thread", "_start") for f in t.functions), f"it ends early: {t.text}")


ALL = ("ring2", "lost", "nopost", "sleep", "hog")
STATES = ["pthread_cond_wait", "pthread_join", "pthread_mutex_lock", "pthread_mutex_lock", "running", "sem_wait", "syscall"]


def settled(s, enough):
    """The first dump that is enough: on a busy machine threads take their time until they are where they stay."""
    for _ in range(100):
        text = s.dump(early=True)
        if enough(threads(text)):
            return text
        time.sleep(0.1)
    want(False, f"they do not get there: {text}")


def settle(s):
    settled(s, lambda found: sorted(t.state for t in found) == STATES)


@check
def dump_command():
    """`preempt dump`: all states, all callers by name; as often as one likes, and the program goes on."""
    with Stuck(*ALL, PREEMPT_DEADLOCK="off") as s:
        settle(s)
        right, wrong = 0, []
        while right < 3 and len(wrong) < 10:
            text = s.dump()
            if "not all stopped" in text:  # the busy thread had no CPU for 3 s
                wrong.append("not all stopped")
                continue
            if sorted(t.state for t in threads(text)) != STATES:  # who waits looks up now and then
                wrong.append(text)
                continue
            looks_right(text, s.p.pid)
            right += 1
        want(right == 3, f"they are hardly ever where they stay: {wrong}")
        want("+0x" in s.dump("--raw") and "lock_next" not in s.dump("--raw"), "raw has names")
        want(s.p.poll() is None and s.read(0.2) == "", s.err)


@check
def dump_hard():
    """Callers of a thread in a call that the library does not see, and of one in a handler."""
    with Stuck("fgets", "handler", "hog") as s:
        text = settled(s, lambda found: {"reads_line", "handler_sleeps"} <= {f for t in found for f in t.functions})
    found = threads(text)
    want(any(has(t.functions, "reads_line", "gothread", "start_thread") for t in found), text)
    handler = [t.functions for t in found if "handler_sleeps" in t.functions]
    want(handler and has(handler[0], "raises", "gothread", "start_thread"), text)


@check
def dump_signal():
    """PREEMPT_DUMP_SIGNAL: the same on standard error; a program that handles it itself gets it too."""
    with Stuck(*ALL, PREEMPT_DEADLOCK="off", PREEMPT_DUMP_SIGNAL="SIGUSR2") as s:
        settle(s)
        for i in range(1, 3):
            s.p.send_signal(signal.SIGUSR2)
            text = s.read(40, lambda err, i=i: len(threads(err)) >= 7 * i and
                          len(threads(err)[-1].functions) >= 3)
            want(len(threads(text)) == 7 * i, text)
        last = text[text.rindex("libpreempt: 7 threads"):]
        if "not all stopped" not in last and sorted(t.state for t in threads(last)) == STATES:
            looks_right(named(last), s.p.pid)
    # Without threads there is no scheduler: a line, and nobody is ended by it.
    with Stuck(PREEMPT_DUMP_SIGNAL="SIGUSR2") as s:
        s.p.send_signal(signal.SIGUSR2)
        s.p.wait(20)
        want(s.p.returncode == 0, f"ended with {s.p.returncode}")


@check
def dump_refused():
    """Processes without the library, or without threads, are left alone, and the command says why."""
    for lib in (None, LIB):
        env = environment(**({"LD_PRELOAD": lib} if lib else {}))
        with subprocess.Popen(["sleep", "1000"], env=env) as p:
            try:
                time.sleep(0.2)
                r = subprocess.run([COMMAND, "dump", str(p.pid)], text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, timeout=60, check=False)
                want(r.returncode == 125 and r.stderr.startswith("preempt: ") and not r.stdout, f"{r}")
                want(p.poll() is None, "it was ended")
            finally:
                p.kill()
    for args in (["1x"], ["0"], [], ["1", "2"], [str(2 ** 22 + 1)]):
        r = subprocess.run([COMMAND, "dump", *args], text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, timeout=60, check=False)
        want(r.returncode == 125 and r.stderr, f"{args}: {r}")


@check
def dump_reader():
    """Nobody reads what is written: the program goes on all the same."""
    with Stuck("deep200", "hog", PREEMPT_DUMP_SIGNAL="SIGUSR2", PREEMPT_DEADLOCK="off") as s:
        s.p.send_signal(signal.SIGUSR2)
        time.sleep(1)
        busy = cpu_of(s.p.pid)
        end = time.monotonic() + 20
        while cpu_of(s.p.pid) < busy + 5:
            want(time.monotonic() < end, "the busy thread stands still")
            time.sleep(0.05)


def cpu_of(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return int(f.read().rsplit(")", 1)[1].split()[11])


def gdb_functions(pid):
    """tid -> names of functions, by gdb."""
    try:
        r = subprocess.run(["gdb", "-p", str(pid), "-batch", "-nx", "-ex", "set print frame-arguments none",
                            "-ex", "thread apply all backtrace"], text=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=240,
                           env=environment(DEBUGINFOD_URLS=""), check=False)
    except subprocess.TimeoutExpired:
        print("skipped: gdb takes too long")
        sys.exit(77)
    out = {}
    for part in re.split(r"\n(?=Thread \d+ \()", r.stdout):
        m = re.match(r"\n?Thread \d+ \(.*\(LWP (\d+)\)|\n?Thread \d+ \(LWP (\d+)\)", part)
        if m:
            out[int(m[1] or m[2])] = re.findall(r"^#\d+ +(?:0x\w+ in )?([\w.@]+) \(", part, re.M)
    return out


@check
def dump_gdb():
    """The callers of 50 of 1000 threads are those that gdb finds."""
    if not shutil.which("gdb"):
        print("skipped: gdb is not there")
        sys.exit(77)
    n = int(sys.argv[5]) if len(sys.argv) > 5 else 1000
    with Stuck(f"deep{n}", PREEMPT_DEADLOCK="off") as s:
        found = {t.tid: t.functions for t in threads(s.dump())}
        by_gdb = gdb_functions(s.p.pid)
    want(len(found) == n + 1, f"{len(found)} threads")
    if len(by_gdb) < n:
        print(f"skipped: gdb shows {len(by_gdb)} threads only")
        sys.exit(77)
    differ = compared = 0
    for tid in sorted(found)[::max(1, len(found) // 50)]:
        ours, gdbs = found[tid], by_gdb[tid]
        # gdb has what is inlined as frames of their own, and begins in the kernel's call.
        first = next((i for i, f in enumerate(ours) if f in ("deep", "framed", "main")), None)
        want(first is not None, f"{ours}")
        program = [f for f in gdbs if f in ("deep", "framed", "deep_main", "gothread", "start_thread", "main")]
        mine = [f for f in ours if f in ("deep", "framed", "deep_main", "gothread", "start_thread", "main")]
        compared += 1
        if program != mine:
            print(f"{tid}: {mine}\ngdb: {program}")
            differ += 1
    print(f"{compared} threads compared")
    want(compared >= 50 and differ == 0, f"{differ} of {compared} differ")


def main():
    global CACHE
    with tempfile.TemporaryDirectory() as cache:
        CACHE = cache
        p = subprocess.run([COMMAND, "tables", "build", "--needed", STUCK, LIB], text=True, env=environment(),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if p.returncode or not os.listdir(cache):
            print(f"no tables: {p.stdout}")
            return 77
        try:
            CHECKS[sys.argv[4]]()
        except (AssertionError, KeyError, ValueError, OSError, subprocess.SubprocessError) as e:
            print(f"FAIL {sys.argv[4]}: {type(e).__name__}: {e}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
