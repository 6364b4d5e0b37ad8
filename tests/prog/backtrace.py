#!/usr/bin/env python3
"""Backtraces of threads that wait in an injected call: backtrace.py LIB BACKTRACE COMMAND gdb|UNWINDER

BACKTRACE runs with LIB and the tables that COMMAND builds. gdb, or the program UNWINDER, looks at it from outside. Each
thread that it finds in async_preempt2 must have the interrupted function and all its callers above that. Exit 77 if there
is no gdb, if COMMAND cannot build tables, or if the system does not allow to trace a process.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

LIB, PROGRAM, COMMAND, TOOL = (p if p == "gdb" else os.path.abspath(p) for p in sys.argv[1:5])
CALLERS = ["innermost", "middle", "outermost", "busy_thread"]
# gdb shows the frame of async_preempt by what its frame description says it is.
INJECTED = ("async_preempt", "<signal handler called>")
LOOKS = 20


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def look(pid):
    """The output of the tool about the process."""
    if TOOL == "gdb":
        argv = ["gdb", "-nx", "-batch", "-ex", "thread apply all backtrace", "-p", str(pid)]
    else:
        argv = [TOOL, str(pid)]
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=60,
                       env=os.environ | {"DEBUGINFOD_URLS": "", "LC_ALL": "C"})
    if p.returncode == 77 or "Operation not permitted" in p.stdout:
        skip("not allowed to trace a process")
    return p.stdout


def stacks(text):
    """One list of function names for each thread."""
    found = []
    for line in text.splitlines():
        if line.lower().startswith("thread "):
            found.append([])
        frame = re.match(r"#\d+ +(?:0x[0-9a-f]+ in )?(<.*?>|[^ (]+)", line)
        if frame and found:
            found[-1].append(frame[1])
    return found


def wrong(stack):
    """What is wrong with the stack of a thread in an injected call."""
    above = stack[stack.index("async_preempt2") + 1:]
    if not above or above[0] not in INJECTED:
        return f"async_preempt2 was not called by async_preempt: {stack}"
    if above[1:1 + len(CALLERS)] != CALLERS:
        return f"not {CALLERS} above async_preempt: {stack}"
    return None


def main():
    if TOOL == "gdb" and not shutil.which("gdb"):
        skip("no gdb")
    with tempfile.TemporaryDirectory() as cache:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_")}
        env |= {"PREEMPT_CACHE_DIR": cache}
        built = subprocess.run([COMMAND, "tables", "build", "--needed", PROGRAM], env=env,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if built.returncode or not os.listdir(cache):
            skip("no tables: " + built.stdout)
        env |= {"LD_PRELOAD": LIB, "PREEMPT_PROCS": "1", "PREEMPT_QUANTUM": "1ms",
                "PREEMPT_FORCE_AFTER": "0"}
        with subprocess.Popen([PROGRAM], env=env, stdin=subprocess.DEVNULL) as child:
            try:
                for _ in range(LOOKS):
                    time.sleep(0.3)  # loading tables, and some slices
                    text = look(child.pid)
                    injected = [s for s in stacks(text) if "async_preempt2" in s]
                    bad = [w for w in map(wrong, injected) if w]
                    if bad:
                        print(text + "\n".join(["FAIL"] + bad))
                        return 1
                    if injected:
                        print(f"{len(injected)} threads in injected calls: " + " ".join(injected[0]))
                        return 0
                print(text + f"FAIL: in {LOOKS} looks no thread was in async_preempt2")
                return 1
            finally:
                child.kill()


if __name__ == "__main__":
    sys.exit(main())
