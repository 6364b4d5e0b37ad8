#!/usr/bin/env python3
"""What SECURITY.md says, where no other test shows it: security.py LIB COMMAND VICTIM LINKED IMPOSTOR CASE

LINKED is victim, linked with the library. Exit code 77: not possible here.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time

LIB, COMMAND, VICTIM, LINKED, IMPOSTOR = map(os.path.abspath, sys.argv[1:6])
CASE = sys.argv[6]
CASES = {}
NOBODY = 65534


def case(fn):
    CASES[fn.__name__] = fn
    return fn


def want(cond, what):
    if not cond:
        raise AssertionError(what)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def environment(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_") and k != "LD_PRELOAD"}
    env.update(more)
    return env


def run(*args, **more):
    return subprocess.run(args, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False, **more)


@case
def secure_execution():
    """In a program with other rights than its caller (AT_SECURE) no setting of the caller's counts: not where to write, not
    where tables are, nothing is said, no helper is started. Without those rights the same program obeys all of it."""
    if os.geteuid() != 0:
        skip("only root can make a set-user-id program of another user's")
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        os.mkdir(f"{d}/out", 0o777)
        os.chmod(f"{d}/out", 0o777)
        os.mkdir(f"{d}/home", 0o777)
        os.chmod(f"{d}/home", 0o777)
        shutil.copy(LINKED, f"{d}/program")
        env = environment(PREEMPT_STATS=f"{d}/out/stats", PREEMPT_STATS_PAGE=f"{d}/out/page", PREEMPT_NOSUCH="1",
                          PREEMPT_LOG="debug", PREEMPT_PROCS="1", PREEMPT_FORCE_AFTER="1ms", HOME=f"{d}/home",
                          PREEMPT_CACHE_DIR=f"{d}/out")
        r = run(f"{d}/program", "load", "300", env=env)
        want((r.returncode, r.stdout) == (0, "OK\n") and "PREEMPT_NOSUCH" in r.stderr, f"as itself: {r}")
        want({"stats", "page"} <= set(os.listdir(f"{d}/out")), f"as itself: {os.listdir(f'{d}/out')}")
        for name in os.listdir(f"{d}/out"):
            os.unlink(f"{d}/out/{name}")
        os.chown(f"{d}/program", NOBODY, NOBODY)
        os.chmod(f"{d}/program", 0o4755)
        secure = run(f"{d}/program", "threads", env=dict(env, LD_SHOW_AUXV="1")).returncode
        r = run(f"{d}/program", "load", "300", env=env)
        if secure == 127 or "cannot open shared object" in r.stderr:
            skip("another user cannot read the library where it is")
        want((r.returncode, r.stdout, r.stderr) == (0, "OK\n", ""), f"with other rights: {r}")
        want(not os.listdir(f"{d}/out") and not os.listdir(f"{d}/home"), "something was written")


@case
def dump_answers():
    """`preempt dump` takes an answer of the process's user only, from a directory and a file that nobody else may write to; it
    follows no link, waits for no FIFO, leaves such things alone, and prints no control characters."""
    for how in ["good", "others_file", "writable_file", "fifo", "link", "writable_directory", "others_directory"]:
        if how.startswith("others") and os.geteuid() != 0:
            continue
        d = f"/tmp/preempt-test{os.getpid()}"
        os.mkdir(d, 0o700)
        with tempfile.TemporaryDirectory() as lib:
            with open(f"{lib}/libpreempt.so", "wb") as f:
                f.write(bytes(4096))
            if how == "writable_directory":
                os.chmod(d, 0o777)
            if how == "others_directory":
                os.chown(d, NOBODY, NOBODY)
            with subprocess.Popen([IMPOSTOR, f"{lib}/libpreempt.so", how, d], stdout=subprocess.PIPE, text=True) as p:
                try:
                    want(p.stdout.readline() == "ready\n", "no impostor")
                    r = run(COMMAND, "dump", "--timeout=1", str(p.pid))
                    for _ in range(100):
                        if os.listdir(d) or how == "good":
                            break
                        time.sleep(0.01)
                    left = os.listdir(d)
                finally:
                    p.kill()
        shutil.rmtree(d)
        if how == "good":
            want((r.returncode, r.stdout) == (0, "libpreempt: the ?[31manswer\n"), f"{how}: {r}")
            want(not left, f"left: {left}")
        else:
            want(r.returncode == 125 and not r.stdout and "has not answered" in r.stderr, f"{how}: {r}")
            want(any(n.startswith("dump-") for n in left), f"{how}: removed; left: {left}")


@case
def dump_directory():
    """A process does not write its answer into a directory that is a link, another user's, or open to others."""
    link = f"/tmp/preempt-{os.geteuid()}"
    d = tempfile.mkdtemp()
    saved = None
    if os.path.lexists(link):
        saved = tempfile.mktemp(prefix="preempt-saved-", dir="/tmp")
        os.rename(link, saved)
    try:
        for how in ["link", "open", "others"]:
            if how == "others" and os.geteuid() != 0:
                continue
            if how == "link":
                os.symlink(d, link)
            else:
                os.mkdir(link, 0o700)
                if how == "open":
                    os.chmod(link, 0o777)
                else:
                    os.chown(link, NOBODY, NOBODY)
            with subprocess.Popen([VICTIM, "load", "2500"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  env=environment(LD_PRELOAD=LIB)) as p:
                time.sleep(0.5)
                r = run(COMMAND, "dump", "--timeout=1", str(p.pid))
                out, err = p.communicate(timeout=60)
            want((p.returncode, out, err) == (0, "OK\n", ""), f"{how}: {p.returncode}, {out!r}, {err!r}")
            want(r.returncode == 125, f"{how}: {r}")
            want(not os.listdir(d) and not os.listdir(link), f"{how}: something was written")
            if how == "link":
                os.unlink(link)
            else:
                os.rmdir(link)
    finally:
        shutil.rmtree(d, ignore_errors=True)
        if os.path.islink(link):
            os.unlink(link)
        elif os.path.isdir(link):
            shutil.rmtree(link)
        if saved:
            os.rename(saved, link)


def main():
    try:
        CASES[CASE]()
    except (AssertionError, OSError, ValueError, subprocess.SubprocessError) as e:
        print(f"FAIL {CASE}: {type(e).__name__}: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
