#!/usr/bin/env python3
"""Every system call of the library fails in turn: faults.py LIB VICTIM MODULE COMMAND PART [all]

LIB is libpreempt_faults.so. PART of victim runs once as it is, which tells how often each system call is made; then again for
each of them with one call failing, the first ones, the last and some between, and with all failing from some point on.
Proves that the program notices nothing: it prints what it prints without the library, with the same exit code, in time,
and the library says at most a few lines. In the ordinary tests this ends after some seconds, wide before deep; with
"all" (or FAULTS=all) it goes to the end. CALL,FROM,COUNT,ERROR instead of "all" does one run and shows it.
"""
import errno as E
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

LIB, VICTIM, MODULE, COMMAND = map(os.path.abspath, sys.argv[1:5])
PART = sys.argv[5]
HOW = sys.argv[6] if len(sys.argv) > 6 else os.environ.get("FAULTS", "")

SECONDS = 4
LINES = 20 if PART == "forks" else 4  # that the library may say; each process for itself
FOREVER = 2 ** 31
CALLS = 600  # as in fault.c
HEAD = struct.Struct("IIIiI")

# What the kernel, or a sandbox, may answer to them. Numbers are those of x86-64, but the last (fault.c).
ERRORS = {
    0: ("read", [E.EIO, E.EINTR]),
    1: ("write", [E.EIO, E.ENOSPC, E.EPIPE]),
    2: ("open", [E.EMFILE, E.EACCES, E.ENOENT]),
    3: ("close", [E.EIO]),
    4: ("stat", [E.ENOENT]),
    5: ("fstat", [E.EIO]),
    7: ("poll", [E.EINTR, E.ENOMEM]),
    8: ("lseek", [E.ESPIPE]),
    9: ("mmap", [E.ENOMEM]),
    10: ("mprotect", [E.ENOMEM, E.EACCES]),
    11: ("munmap", [E.ENOMEM]),
    13: ("rt_sigaction", [E.EPERM]),
    17: ("pread64", [E.EIO]),
    18: ("pwrite64", [E.ENOSPC]),
    21: ("access", [E.EACCES]),
    24: ("sched_yield", [E.ENOSYS]),
    25: ("mremap", [E.ENOMEM]),
    28: ("madvise", [E.EINVAL]),
    32: ("dup", [E.EMFILE]),
    56: ("clone", [E.EAGAIN, E.ENOMEM, E.EPERM]),
    59: ("execve", [E.ENOENT, E.ENOMEM]),
    61: ("wait4", [E.ECHILD]),
    62: ("kill", [E.ESRCH]),
    72: ("fcntl", [E.EINVAL]),
    73: ("flock", [E.ENOLCK]),
    80: ("chdir", [E.EACCES]),
    83: ("mkdir", [E.EROFS]),
    87: ("unlink", [E.EROFS]),
    89: ("readlink", [E.EACCES]),
    109: ("setpgid", [E.EPERM]),
    118: ("getresuid", [E.EFAULT]),
    120: ("getresgid", [E.EFAULT]),
    128: ("rt_sigtimedwait", [E.EAGAIN, E.EINTR]),
    129: ("rt_sigqueueinfo", [E.EAGAIN]),
    131: ("sigaltstack", [E.ENOMEM, E.EPERM]),
    140: ("getpriority", [E.EACCES]),
    141: ("setpriority", [E.EACCES]),
    145: ("sched_getscheduler", [E.EPERM]),
    149: ("mlock", [E.ENOMEM]),
    157: ("prctl", [E.EINVAL, E.EPERM]),
    202: ("futex wait", [E.EINTR, E.EAGAIN]),
    204: ("sched_getaffinity", [E.EPERM]),
    217: ("getdents64", [E.ENOENT]),
    228: ("clock_gettime", [E.EINVAL]),
    234: ("tgkill", [E.EAGAIN, E.EPERM]),
    247: ("waitid", [E.EINTR]),
    257: ("openat", [E.EMFILE, E.EACCES]),
    262: ("newfstatat", [E.EACCES]),
    263: ("unlinkat", [E.EROFS]),
    264: ("renameat", [E.EROFS]),
    285: ("fallocate", [E.ENOSPC, E.EOPNOTSUPP]),
    297: ("rt_tgsigqueueinfo", [E.EAGAIN, E.EPERM]),
    302: ("prlimit64", [E.EPERM]),
    309: ("getcpu", [E.ENOSYS]),
    310: ("process_vm_readv", [E.EPERM]),
    311: ("process_vm_writev", [E.EPERM]),
    314: ("sched_setattr", [E.EPERM]),
    324: ("membarrier", [E.ENOSYS, E.EPERM]),
    332: ("statx", [E.ENOSYS]),
    436: ("close_range", [E.ENOSYS]),
    590: ("futex requeue", [E.EFAULT, E.EPERM]),
}
# They do not fail: a mask in memory of our own, who we are, our own end, a wake-up of a word that is there, which stack is
# set.
NEVER = {14, 39, 60, 102, 107, 110, 127, 186, 231, 591, 592}
# Each answer means that the call is made again: to fail for ever is to hang, in any program.
REPEATED = {(202, E.EINTR), (202, E.EAGAIN), (0, E.EINTR), (7, E.EINTR), (247, E.EINTR), (128, E.EINTR), (128, E.EAGAIN)}


class Victim:
    """One run."""

    def __init__(self, nr=CALLS, first=0, count=0, error=0):
        self.what = (nr, first, count, error)
        with tempfile.TemporaryDirectory() as d:
            with open(f"{d}/faults", "wb") as f:
                f.write(HEAD.pack(nr, first, count, error, 0) + bytes(4 * CALLS))
            env = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_") and k != "LD_PRELOAD"}
            env.update(LD_PRELOAD=LIB, LIBPREEMPT_FAULT=f"{d}/faults", PREEMPT_PROCS="2", PREEMPT_QUANTUM="200us",
                       PREEMPT_FORCE_AFTER="2ms", PREEMPT_STATS_PAGE=f"{d}/page.%p", PREEMPT_CACHE_DIR=CACHE,
                       PREEMPT_STATS=f"{d}/stats.%p", PREEMPT_DUMP_SIGNAL="SIGPROF")
            if PART == "cold":
                os.mkdir(f"{d}/cache", 0o700)
                env["PREEMPT_CACHE_DIR"] = f"{d}/cache"
            self.begin = time.monotonic()
            with subprocess.Popen([VICTIM, PART if PART != "cold" else "busy", MODULE], env=env, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
                for seconds in (60, 10):  # twice: somebody may have stopped us all for a while
                    try:
                        self.out, self.err = p.communicate(timeout=seconds)
                        self.code = p.returncode
                        break
                    except subprocess.TimeoutExpired:
                        self.code = None
                if self.code is None:
                    where = backtraces(p.pid)
                    p.kill()
                    self.out, self.err = p.communicate()
                    self.err += where
            self.took = time.monotonic() - self.begin
            with open(f"{d}/faults", "rb") as f:
                data = f.read()
        self.met = HEAD.unpack_from(data)[4]
        self.made = struct.unpack_from(f"{CALLS}I", data, HEAD.size)

    def verdict(self):
        if self.code is None:
            return "it hangs"
        if (self.code, self.out) != (0, "OK\n"):
            return f"exit code {self.code}"
        lines = self.err.splitlines()
        if len(lines) > LINES:
            return f"{len(lines)} lines"
        if any(not line.startswith("libpreempt: ") for line in lines):
            return "somebody's line"
        return ""

    def report(self):
        nr, first, count, error = self.what
        name = ERRORS[nr][0] if nr in ERRORS else "nothing"
        print(f"FAIL {PART}: {self.verdict()}: {name} from call {first}, {count} times, {E.errorcode.get(error, 0)}; "
              f"again by: {nr},{first},{count},{error}")
        for line in (self.out + self.err).splitlines()[:60 if self.code is None else 12]:
            print("    " + line)
        sys.stdout.flush()


def backtraces(pid):
    if not shutil.which("gdb"):
        return ""
    r = subprocess.run(["gdb", "-p", str(pid), "-batch", "-nx", "-ex", "thread apply all bt 6"], text=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=100,
                       env=dict(os.environ, DEBUGINFOD_URLS=""), check=False)
    return "\n".join(x for x in r.stdout.splitlines() if x.startswith(("#", "Thread")))


def plan(made):
    """(call, from, count, error), wide before deep."""
    steps = [[] for _ in range(8)]
    for nr, (_, errors) in ERRORS.items():
        n = made[nr]
        if not n:
            continue
        for k, error in enumerate(errors):
            ever = 40 if (nr, error) in REPEATED else FOREVER
            steps[1 if k == 0 else 2].append((nr, 0, ever, error))
            later = min(k, 1)
            for i, first in enumerate(sorted({0, 1, 2, n // 2, n - 1} & set(range(n)))):
                steps[(0 if i == 0 else 3) + 2 * later].append((nr, first, 1, error))
            if n > 3:
                steps[4].append((nr, n // 2, ever, error))
    if HOW == "all":
        for nr, (_, errors) in ERRORS.items():
            n = made[nr]
            every = range(n) if n <= 40 else [*range(20), *(n * i // 20 for i in range(1, 20))]
            steps[7] += [(nr, first, 1, error) for error in errors for first in every]
    seen = []
    for step in steps:
        for x in step:
            if x not in seen:
                seen.append(x)
    return seen


def main():
    if "," in HOW:
        v = Victim(*map(int, HOW.split(",")))
        print(f"{v.verdict() or 'ok'}, met {v.met}, {v.took:.2f} s\n{v.out}{v.err}", end="")
        return v.verdict() != ""
    first = Victim()
    if first.verdict():
        first.report()
        return 1
    strange = [nr for nr, n in enumerate(first.made) if n and nr not in ERRORS and nr not in NEVER]
    if strange:
        print(f"FAIL {PART}: system calls that faults.py does not know: {strange}")
        return 1
    todo = plan(first.made)
    end = time.monotonic() + SECONDS
    done = met = failed = 0
    for x in todo:
        if HOW != "all" and time.monotonic() > end:
            break
        v = Victim(*x)
        done += 1
        met += v.met > 0
        if v.verdict():
            failed += 1
            v.report()
            if failed >= 10 and HOW != "all":
                break
    print(f"{PART}: {done} of {len(todo)} runs, {met} met their fault, {failed} failed; "
          f"{sum(1 for n in first.made if n)} kinds of calls")
    return failed > 0 or met == 0


CACHE = os.path.dirname(VICTIM) + "/cache"
os.makedirs(CACHE, 0o700, exist_ok=True)
r = subprocess.run([COMMAND, "tables", "build", "--needed", VICTIM, MODULE, LIB], text=True, check=False,
                   env=dict(os.environ, PREEMPT_CACHE_DIR=CACHE), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
if r.returncode:
    print(f"no tables: {r.stdout}")
    sys.exit(1)
sys.exit(main())
