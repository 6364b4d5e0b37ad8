#!/usr/bin/env python3
"""memory.py PREEMPT LIBRARY PROGS CASE: each subcommand under valgrind: nothing read that was not written, nothing lost.

The command alone, not the programs that it starts.
"""

import glob
import shutil

from tool import *

TOOL = [*"valgrind -q --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite".split(),
        "--error-exitcode=99", "--num-callers=20"]

# Two threads, one of which waits for the other's lock until it is told to end.
PROGRAM = """
    #include <pthread.h>
    #include <stdio.h>
    #include <unistd.h>
    static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    static void *waiter(void *arg)
    {
        pthread_mutex_lock(&m);
        pthread_mutex_unlock(&m);
        return arg;
    }
    int main(int argc, char **argv)
    {
        pthread_t t;
        pthread_mutex_lock(&m);
        pthread_create(&t, NULL, waiter, NULL);
        usleep(10000);
        if (argc > 1) {
            puts("ready");
            fflush(stdout);
            getchar();
        }
        pthread_mutex_unlock(&m);
        return pthread_join(t, NULL);
    }"""


def checked(*args, rc=0, **kw):
    """The command under valgrind: it says what it says without, and valgrind nothing."""
    if not shutil.which("valgrind"):
        raise Skip("no valgrind")
    log = os.path.join(tmp, "valgrind")
    full = {**env, **kw.pop("env", {})}
    p = subprocess.run([*TOOL, f"--log-file={log}.%p", PREEMPT, *args], env=full, text=True, cwd=tmp, check=False,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=500)
    said = ""
    for path in glob.glob(log + ".*"):
        said += read(path)
        os.unlink(path)
    if "unhandled instruction" in said or "not available" in said:
        raise Skip(said.strip().splitlines()[0])
    assert not said, said[:4000]
    assert p.returncode == rc, (args, p.returncode, p.stdout, p.stderr)
    return p.stdout


def program():
    return compiled("program", PROGRAM, "-g", "-pthread")


def running(**extra):
    """The program under the library, in its wait."""
    p = subprocess.Popen([program(), "wait"], env={**env, "LD_PRELOAD": LIBRARY, **extra}, text=True, cwd=tmp,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert p.stdout.readline() == "ready\n"
    return p


def case_run():
    checked("run", "--library", LIBRARY, "-p", "2", "--", program())
    checked("run", "--library", LIBRARY, "--", "/nonexistent", rc=127)


def case_stat():
    out = checked("stat", "--library", LIBRARY, "--json", "-r", "2", "--", program())
    assert json.loads(out)["runs"]
    checked("stat", "--library", LIBRARY, "--no-tables", "--", program())


def case_compare():
    checked("compare", "--library", LIBRARY, "--no-tables", "-n", "2", "--", program())
    checked("compare", "--library", LIBRARY, "--no-tables", "-n", "2", "--json", "--metric", "x ([0-9]+)", "--", "echo",
            "x 3")


def case_doctor():
    checked("doctor", "--library", LIBRARY, "--", program())
    checked("doctor", "--library", LIBRARY, "--json", "--", program())


def case_tables():
    checked("tables", "build", program())
    checked("tables", "check", "-v", program())
    assert "safe" in checked("tables", "dump", program())
    checked("tables", "dump", write("text", "no ELF file\n"), rc=1)


def case_top():
    with running() as p:
        out = checked("top", "-b", "-n", "2", "-d", "0.05", str(p.pid))
        assert "mutex" in out, out
        assert json.loads(checked("top", "--json", "-n", "1", str(p.pid)).splitlines()[0])
        p.communicate("\n")


def case_dump():
    with running() as p:
        assert "pthread_mutex_lock" in checked("dump", str(p.pid))
        p.communicate("\n")


def case_trace():
    checked("trace", "record", "--library", LIBRARY, "--no-tables", "-o", "job.trace", "--", program())
    json.loads(read(os.path.join(tmp, checked_output("export", "job.trace", "-o", "job.json"))))
    assert "<html" in read(os.path.join(tmp, checked_output("report", "job.trace", "-o", "job.html")))


def checked_output(verb, *args):
    checked("trace", verb, *args)
    return args[-1]


def case_help():
    for what in [[], ["run"], ["stat"], ["compare"], ["doctor"], ["tables"], ["top"], ["trace"], ["dump"], ["env"]]:
        checked("help", *what)
    checked("run", "--nonsense", "x", rc=125)


if __name__ == "__main__":
    main(globals())
