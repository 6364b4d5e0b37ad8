#!/usr/bin/env python3
"""The program notices nothing of what goes wrong around it: surroundings.py LIB FAULTS VICTIM MODULE COMMAND TRACER CASE

LIB is the library, FAULTS the one that asks fault.c ("none": not built). Each case runs parts of victim, which check what
they do and print OK, under the library, and says in its own words what it does to them. Exit code 77: not possible here.
(A helper that is killed, hangs or lies: `settings helper_*`. libfaketime: `companions preload_faketime`. Damaged ELF files: `damage`.)
"""
import os
import random
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time

LIB, FAULTS, VICTIM, MODULE, COMMAND, TRACER = (a if a == "none" else os.path.abspath(a) for a in sys.argv[1:7])
CASE = sys.argv[7]
CASES = {}
SCRATCH = tempfile.mkdtemp()
QUICK = {"PREEMPT_PROCS": "2", "PREEMPT_QUANTUM": "200us", "PREEMPT_FORCE_AFTER": "2ms"}


def case(fn):
    CASES[fn.__name__] = fn
    return fn


def want(cond, what):
    if not cond:
        raise AssertionError(what)


def skip(why):
    print(f"skipped: {why}")
    shutil.rmtree(SCRATCH, ignore_errors=True)
    sys.exit(77)


def environment(lib, more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_") and k != "LD_PRELOAD"}
    env["PREEMPT_CACHE_DIR"] = cache()
    if lib:
        env["LD_PRELOAD"] = lib
    env.update(QUICK)
    env.update(more)
    return env


def cache():
    """Tables of all that victim needs, made once for all tests."""
    d = os.path.dirname(VICTIM) + "/cache"
    if not getattr(cache, "made", False):
        os.makedirs(d, 0o700, exist_ok=True)
        subprocess.run([COMMAND, "tables", "build", "--needed", VICTIM, MODULE, LIB], check=True,
                       env=dict(os.environ, PREEMPT_CACHE_DIR=d), stdout=subprocess.DEVNULL)
        cache.made = True
    return d


def start(part, arg="", lib=LIB, wrap=(), pre=None, **more):
    return subprocess.Popen([*wrap, VICTIM, part, str(arg or MODULE)], env=environment(lib, more), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=pre)


def end(p, seconds=100):
    """Exit code, output, the lines of the library; None: it hung."""
    try:
        out, err = p.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = p.communicate()
        return None, out, err
    return p.returncode, out, err


def fine(p, lines=0, what=""):
    code, out, err = end(p)
    if code == 77:
        skip(err.strip())
    want((code, out) == (0, "OK\n"), f"{what} exit code {code}, {out!r}, {err!r}")
    want(len(err.splitlines()) <= lines, f"{what} lines: {err!r}")
    want(all(line.startswith("libpreempt: ") for line in err.splitlines()), f"{what} lines: {err!r}")
    return err


# --- memory and disk -------------------------------------------------------------------------------------------


def limit_memory(mb):
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (mb << 20, mb << 20))


@case
def memory():
    """Address space for the program alone and 32 MB more is enough; with less the library may stand aside, and a call of the program's
    may fail for lack of memory, but nobody crashes or hangs."""
    for part in ["threads", "locks"]:
        least = next(mb for mb in range(4, 400, 2)
                     if end(start(part, lib="", pre=limit_memory(mb)))[:2] == (0, "OK\n"))
        for more in range(0, 32, 2):
            code, out, err = end(start(part, pre=limit_memory(least + more)))
            want(code in (0, 1, 127), f"{part}, {least} + {more} MB: {code}, {out!r}, {err!r}")
            want(len(err.splitlines()) <= 3, f"{part}, {least} + {more} MB: {err!r}")
        for more in range(32, 100, 8):
            fine(start(part, pre=limit_memory(least + more)), 1, f"{part}, {least} + {more} MB:")


# What is written where there is no room. The helper's results too.
def figures(d):
    return {"PREEMPT_STATS": f"{d}/stats", "PREEMPT_STATS_PAGE": f"{d}/page.%p", "PREEMPT_CACHE_DIR": f"{d}/cache"}


@case
def full_disk():
    """No room in the file system, for figures or tables."""
    d = f"{SCRATCH}/full"
    os.mkdir(d)
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", d], stderr=subprocess.DEVNULL, check=False).returncode:
        skip("no file system can be mounted here")
    for part in ["busy", "forks", "modules"]:
        # dd fills what is left; the victim's own environment begins after that.
        script = (f"mount -t tmpfs -o size=32k none {d} && mkdir -m 700 {d}/cache && dd if=/dev/zero of={d}/fill bs=4k 2>/dev/null;"
                  'exec "$@"')
        fine(start(part, wrap=("unshare", "-rm", "env", "-u", "LD_PRELOAD", "sh", "-c", script, "sh", "env",
                               f"LD_PRELOAD={LIB}"), **figures(d)), 8, part)


@case
def file_size_limit():
    """A file that may not grow: neither the kernel's SIGXFSZ nor an error reaches the program."""
    for part in ["threads", "forks"]:
        d = tempfile.mkdtemp(dir=SCRATCH)
        os.mkdir(f"{d}/cache", 0o700)
        for size in [0, 4096]:
            fine(start(part, pre=lambda n=size: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)), **figures(d)), 8, part)


@case
def dev_full():
    """Figures go to /dev/full, and standard error is /dev/full: nothing comes of it. (A device in the place of the page was
    removed once, and who named one file for both figures was ended by SIGBUS.)"""
    fine(start("threads", PREEMPT_STATS="/dev/full"), 1)
    os.mkfifo(f"{SCRATCH}/page")
    want("cannot make" in fine(start("threads", PREEMPT_STATS_PAGE=f"{SCRATCH}/page"), 1), "no line")
    want(stat.S_ISFIFO(os.lstat(f"{SCRATCH}/page").st_mode), "what is no file was removed")
    fine(start("threads", PREEMPT_STATS=f"{SCRATCH}/both", PREEMPT_STATS_PAGE=f"{SCRATCH}/both"), 1)
    with open("/dev/full", "w", encoding="utf-8") as full:
        with subprocess.Popen([VICTIM, "threads"], stdout=subprocess.PIPE, stderr=full, text=True,
                              env=environment(LIB, {"PREEMPT_STATS": "1", "PREEMPT_NOSUCH": "1"})) as p:
            want(end(p)[:2] == (0, "OK\n"), "standard error is full")


@case
def nobody_reads():
    """Standard error is a pipe that nobody reads any more: a line of the library's is no SIGPIPE for the program."""
    for more in [{"PREEMPT_NOSUCH": "1"}, {"PREEMPT_STATS": "1"}, {"PREEMPT_SCHEDTRACE": "1"}]:
        r, w = os.pipe()
        os.close(r)
        with subprocess.Popen([VICTIM, "busy"], stdout=subprocess.PIPE, stderr=w, text=True,
                              env=environment(LIB, more), restore_signals=True) as p:
            os.close(w)
            code, out, _ = end(p)
        want((code, out) == (0, "OK\n"), f"{more}: exit code {code}, {out!r}")


# --- the cache of tables ---------------------------------------------------------------------------------------


@case
def read_only_cache():
    """The directory of tables cannot be written to: no tables, no harm, nothing said."""
    d = f"{SCRATCH}/cache"
    os.mkdir(d, 0o500)
    os.chmod(SCRATCH, 0o755)
    user = None
    if os.geteuid() == 0:
        os.chown(d, 65534, 65534)
        user = lambda: (os.setgid(65534), os.setuid(65534))
        if subprocess.run([VICTIM, "locks"], preexec_fn=user, stdout=subprocess.DEVNULL, check=False).returncode:
            skip("another user cannot run the program where it is")
    for part in ["busy", "modules"]:
        fine(start(part, pre=user, PREEMPT_CACHE_DIR=d), 0, part)
    fine(start("load", 600, pre=user, PREEMPT_CACHE_DIR=d), 0, "load")
    want(os.listdir(d) == [], f"{os.listdir(d)}")


@case
def damaged_tables():
    """Tables with bytes changed, cut, emptied, or that are something else."""
    d = f"{SCRATCH}/cache"
    rng = random.Random(1)
    for _ in range(16):
        shutil.rmtree(d, ignore_errors=True)
        os.mkdir(d, 0o700)
        for name in os.listdir(cache()):
            if not name.endswith(".tab"):
                continue
            with open(f"{cache()}/{name}", "rb") as f:
                data = bytearray(f.read())
            how = rng.randrange(5)
            if how == 0:
                del data[rng.randrange(len(data)):]
            elif how == 1:
                data[rng.randrange(240)] ^= 1 << rng.randrange(8)
            elif how == 2:
                for _ in range(100):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            elif how == 3:  # as if whole: the checksum is right
                for _ in range(100):
                    data[rng.randrange(240, len(data))] = rng.randrange(256)
                struct.pack_into("<Q", data, 24, checksum(data[32:]))
            else:
                data = bytearray(rng.randbytes(rng.choice([0, 1, 239, 5000])))
            with open(f"{d}/{name}", "wb") as f:
                f.write(data)
            os.chmod(f"{d}/{name}", 0o600)
        fine(start(rng.choice(["busy", "modules", "spins"]), PREEMPT_CACHE_DIR=d))


def checksum(data):
    h = 0xcbf29ce484222325
    for (word,) in struct.iter_unpack("<Q", data[:len(data) & ~7]):
        h = (h ^ word) * 0x100000001b3 & (1 << 64) - 1
    return h


@case
def stampede():
    """100 processes start at once on an empty directory of tables: all do what they do, and whole tables are left."""
    d = f"{SCRATCH}/cache"
    os.mkdir(d, 0o700)
    ps = [start(["busy", "threads", "modules"][i % 3], PREEMPT_CACHE_DIR=d) for i in range(100)]
    for p in ps:
        fine(p)
    # What builders leave that were ended with their programs is taken over by the next.
    fine(start("load", 3000, PREEMPT_CACHE_DIR=d))
    names = os.listdir(d)
    want(any(n.endswith(".tab") for n in names), f"no table: {names}")
    for name in names:
        if name.endswith(".tab"):
            with open(f"{d}/{name}", "rb") as f:
                data = f.read()
            want(struct.unpack_from("<Q", data, 24)[0] == checksum(data[32:]), f"{name} is not whole")


# --- time ------------------------------------------------------------------------------------------------------


@case
def clocks():
    """The monotonic clock began just now, or 95 years ago."""
    with open("/proc/uptime", encoding="utf-8") as f:
        up = int(float(f.read().split()[0]))
    for offset in [2 - up, 3000000000]:
        wrap = ("unshare", "-T", "--monotonic", str(offset))
        if subprocess.run([*wrap, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
            skip("no time namespace can be made here")
        for part in ["locks", "cond", "calls", "busy"]:
            fine(start(part, wrap=(*wrap, "env", f"LD_PRELOAD={LIB}"), lib=""), 0, f"{part}, {offset} s:")


@case
def clock_jumps():
    """The clock of the day jumps to and fro by hours. It is the machine's: only where FAULTS_SET_CLOCK=1 allows it."""
    if os.environ.get("FAULTS_SET_CLOCK") != "1":
        skip("FAULTS_SET_CLOCK=1 is not set")
    t0, m0 = time.time(), time.monotonic()
    p = start("load", 2000)
    try:
        while p.poll() is None:
            for jump in [3600, -3600, 0.5, -0.5]:
                time.clock_settime(time.CLOCK_REALTIME, t0 + time.monotonic() - m0 + jump)
                time.sleep(0.05)
    except PermissionError:
        p.kill()
        skip("the clock cannot be set here")
    finally:
        try:
            time.clock_settime(time.CLOCK_REALTIME, t0 + time.monotonic() - m0)
        except PermissionError:
            pass
    fine(p)


# --- stopped, frozen, moved, traced --------------------------------------------------------------------------------


@case
def stop_and_continue():
    """SIGSTOP and SIGCONT all the time."""
    rng = random.Random(1)
    p = start("load", 2500)
    while p.poll() is None:
        p.send_signal(signal.SIGSTOP)
        time.sleep(rng.choice([0, 0.001, 0.02, 0.06]))
        p.send_signal(signal.SIGCONT)
        time.sleep(rng.choice([0, 0.001, 0.01, 0.03]))
    fine(p)


@case
def freezer():
    """Frozen and thawed by its cgroup."""
    path = None
    for base, file in [("/sys/fs/cgroup", "cgroup.freeze"), ("/sys/fs/cgroup/freezer", "freezer.state")]:
        try:
            path = f"{base}/preempt-test-{os.getpid()}"
            os.mkdir(path)
            with open(f"{path}/{file}", encoding="utf-8"):
                break
        except OSError:
            path = None
    if not path:
        skip("no cgroup with a freezer can be made here")
    on, off = (b"1", b"0") if file == "cgroup.freeze" else (b"FROZEN", b"THAWED")
    try:
        p = start("load", 2000)
        with open(f"{path}/cgroup.procs", "w", encoding="utf-8") as f:
            f.write(str(p.pid))
        while p.poll() is None:
            for state in (on, off):
                with open(f"{path}/{file}", "wb") as f:
                    f.write(state)
                time.sleep(0.02)
        fine(p)
    finally:
        time.sleep(0.1)
        os.rmdir(path)


def threads_of(pid):
    try:
        return [int(t) for t in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def move(pid, cpus):
    for t in threads_of(pid):
        try:
            os.sched_setaffinity(t, cpus)
        except OSError:
            pass


@case
def cpus_come_and_go():
    """CPUs are taken away and given back, as by hot-plugging: quickly; then for long enough that the number of Ps follows."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        skip("one CPU only")
    p = start("load", 1500)
    while p.poll() is None:
        for some in [cpus[:1], cpus[1:2], cpus]:
            move(p.pid, some)
            time.sleep(0.004)
    fine(p)
    with open(f"{SCRATCH}/trace", "w+", encoding="utf-8") as trace:
        env = environment(LIB, {"PREEMPT_PROCS": "auto", "PREEMPT_SCHEDTRACE": "100"})
        with subprocess.Popen([VICTIM, "load", "5800"], env=env, text=True, stdout=subprocess.PIPE, stderr=trace) as p:
            for some in [cpus, cpus[:1], cpus]:
                move(p.pid, some)
                time.sleep(1.7)
            code, out, _ = end(p)
        want((code, out) == (0, "OK\n"), f"exit code {code}, {out!r}")
        trace.seek(0)
        seen = [w.split("=")[1] for w in trace.read().split() if w.startswith("gomaxprocs=")]
    short = [n for i, n in enumerate(seen) if i == 0 or seen[i - 1] != n]
    want("1" in short[1:] and short[-1] != "1", f"numbers of Ps: {short}")


def write_faults(storm=0, late=0):
    """struct faults of fault.c, without any."""
    with open(f"{SCRATCH}/faults", "wb") as f:
        f.write(struct.pack("IIIiI", 600, 0, 0, 0, 0) + bytes(2400) + struct.pack("III", storm, 0, late))


@case
def late_wakes():
    """The kernel runs others between the step that gives somebody a P, or a lock, and the call that wakes him. A thread that is
    still to be woken does not stand still, when the world is said to."""
    if FAULTS == "none":
        skip("built without -Dfaults")
    for late in [50, 300]:
        write_faults(late=late)
        for part in ["still", "locks", "cond", "world", "spins", "signals"]:
            fine(start(part, lib=FAULTS, LIBPREEMPT_FAULT=f"{SCRATCH}/faults"), 0, part)


@case
def resize_storm():
    """The number of Ps changes a thousand times a second (fault.c)."""
    if FAULTS == "none":
        skip("built without -Dfaults")
    write_faults(storm=1)
    for part in ["locks", "cond", "calls", "busy", "forks", "spins", "world", "signals"]:
        fine(start(part, lib=FAULTS, LIBPREEMPT_FAULT=f"{SCRATCH}/faults"), 0, part)
    fine(start("load", 1000, lib=FAULTS, LIBPREEMPT_FAULT=f"{SCRATCH}/faults"))
    with open(f"{SCRATCH}/faults", "rb") as f:
        resized = struct.unpack("III", f.read()[-12:])[1]
    want(resized > 200, f"resized {resized} times only")


@case
def tracers():
    """A tracer attaches to all threads and lets go of them, all the time."""
    for lib in ["", LIB]:  # plain first: is it the library's fault?
        times = 0
        for _ in range(20):  # a busy machine has time for few
            p = start("load", 2000, lib=lib)
            t = subprocess.run([TRACER, str(p.pid), "1800"], text=True, stdout=subprocess.PIPE, timeout=60, check=False)
            if t.returncode == 77:
                p.kill()
                skip("no process can be traced here")
            fine(p)
            times += int(t.stdout)
            if times > 100:
                break
        want(times > 100, f"attached {times} times only")


# --- many ------------------------------------------------------------------------------------------------------------


@case
def ten_thousand_threads():
    """10,000 threads at once, which all wait for one condition, then all go on."""
    n = 10000
    if end(start("crowd", n, lib=""))[0] == 77:
        skip(f"{n} threads cannot be made here")
    fine(start("crowd", n))


def main():
    try:
        CASES[CASE]()
    except (AssertionError, OSError, ValueError, StopIteration, subprocess.SubprocessError) as e:
        print(f"FAIL {CASE}: {type(e).__name__}: {e}")
        return 1
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
