#!/usr/bin/env python3
"""stats.py PREEMPT LIBRARY PROGS CASE: `preempt stat`."""

import re

from tool import *

KEYS = """version pid procs policy quantum_ns elapsed_ns threads_created threads_peak switches preempt refused signals_sent retakes
    handoffs spin lock_holder eintr_hidden credit_runs run_delay_ns overshoot_ns fairness threads""".split()

# Four threads that all get their share, and as many processes as $1 says.
THREADS = """
    #include <pthread.h>
    #include <stdlib.h>
    #include <sys/wait.h>
    #include <unistd.h>
    static void *work(void *arg)
    {
        for (volatile int i = 0; i < 2000000; i++)
            ;
        return arg;
    }
    int main(int argc, char **argv)
    {
        pthread_t t[4];
        int n = argc > 1 ? atoi(argv[1]) : 1;
        for (int i = 1; i < n; i++) {
            if (fork() == 0)
                break;
            while (wait(NULL) > 0)
                ;
        }
        for (int i = 0; i < 4; i++)
            pthread_create(&t[i], NULL, work, NULL);
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
        while (wait(NULL) > 0)
            ;
        return 0;
    }"""


def stat(*args, **kw):
    return with_library("stat", *args, **kw)


def report(*args, **kw):
    out, err = good(stat("--json", *args, **kw))
    return json.loads(out)


def left_over():
    return [f for f in os.listdir(tmp) if f.startswith("preempt-stat")]


def case_json():
    """All figures of each process, added up; the library's own keys; the command's own times."""
    prog = compiled("threads", THREADS, "-pthread")
    r = report("--", prog, env={"TMPDIR": tmp})
    assert r["command"] == [prog] and len(r["runs"]) == 1
    run = r["runs"][0]
    assert run["exit_code"] == 0 and run["elapsed_ns"] > 0 and len(run["processes"]) == 1
    process = run["processes"][0]
    assert set(KEYS) <= set(process), set(KEYS) - set(process)
    assert process["threads_created"] == run["total"]["threads_created"] == 5, run["total"]
    assert run["total"]["preempt"] == process["preempt"]
    assert r["summary"]["wall_ns"]["mean"] == run["elapsed_ns"]
    assert left_over() == []


def case_processes():
    """Three processes with threads, and the shell without: counts add up, maxima do not."""
    prog = compiled("threads", THREADS, "-pthread")
    run = report("--", "sh", "-c", f"{prog} 2; {prog}; exit 0")["runs"][0]
    with_threads = [p for p in run["processes"] if p["threads_created"]]
    assert len(with_threads) == 3 and len(run["processes"]) >= 3, run["processes"]
    assert len({p["pid"] for p in run["processes"]}) == len(run["processes"])
    total = run["total"]
    assert total["threads_created"] == 15
    assert total["threads_peak"] == max(p["threads_peak"] for p in with_threads)
    assert total["switches"] == sum(p["switches"] for p in with_threads)
    assert total["run_delay_ns"]["max"] == max(p["run_delay_ns"]["max"] for p in with_threads)
    most = max(with_threads, key=lambda p: p["run_delay_ns"]["count"])
    counts = [p["run_delay_ns"]["count"] for p in with_threads]
    if counts.count(max(counts)) == 1:
        assert total["run_delay_ns"]["p99"] == most["run_delay_ns"]["p99"]
    out, err = good(stat("--", "sh", "-c", f"{prog} 2; {prog}; exit 0"))
    assert "3 processes with threads" in err, err
    assert len(re.findall(r"^ +\d+  threads +5 ", err, re.M)) == 3, err


def case_table():
    """The table goes to stderr and leaves the program's output alone; no colours but on a terminal."""
    prog = compiled("threads", THREADS, "-pthread")
    out, err = good(stat("-t", "--", "sh", "-c", f"echo out; echo err >&2; {prog}"))
    assert out == "out\n" and "err\n" in err, (out, err)
    assert re.search(r"^ +5   threads ", err, re.M), err
    assert re.search(r"^ +[0-9.]+ s   elapsed", err, re.M), err
    assert "\033" not in err
    assert len(re.findall(r"^ +\d+  threads +", err, re.M)) == 5, err  # and the main thread
    path = os.path.join(tmp, "table")
    out, err = good(stat("-o", path, "--", prog))
    assert (out, err) == ("", "") and "at most at once" in read(path)
    out, err = good(stat("--json", "-o", path, "--", prog))
    assert (out, err) == ("", "") and json.loads(read(path))["runs"]
    t = Terminal("stat", "--library", LIBRARY, "--no-tables", "--", prog)
    assert t.end() == 0 and "\033[1m" in t.text, t.text
    for quiet in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        t = Terminal("stat", "--library", LIBRARY, "--no-tables", "--", prog, **quiet)
        assert t.end() == 0 and "at most at once" in t.text and "\033" not in t.text, t.text


def case_nothing():
    """Where there are no figures, it says why."""
    assert "no process of it made a second thread" in good(stat("--", "true"))[1]
    rc, out, err = stat("--", "sh", "-c", "kill -9 $$")
    assert rc == -9 and "killed by signal 9" in err, (rc, err)
    static = compiled("static", "int main(void) { return 0; }", "-static")
    err = good(stat("--", static))[1]
    assert "not loaded" in err and "preempt doctor" in err, err
    r = report("--", "true")
    assert r["runs"][0]["total"] == {}, r


# With no argument: waits to be killed. With one: a forked child does the same as its parent, and both end by _exit.
ENDS = """
    #include <pthread.h>
    #include <stdio.h>
    #include <sys/wait.h>
    #include <unistd.h>
    static void *work(void *arg)
    {
        return arg;
    }
    static void four(void)
    {
        pthread_t t[4];
        for (int i = 0; i < 4; i++)
            pthread_create(&t[i], NULL, work, NULL);
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
    }
    int main(int argc, char **argv)
    {
        (void)argv;
        four();
        if (argc > 1) {
            if (fork() == 0) {
                four();
                four();
                _exit(0);
            }
            wait(NULL);
            _exit(0);
        }
        puts("ready");
        fflush(stdout);
        for (;;)
            pause();
    }"""


def case_killed():
    """A process that is killed, and one that ends by _exit, has its counters all the same; each has its own."""
    prog = compiled("ends", ENDS, "-pthread")
    for sig in (signal.SIGTERM, signal.SIGKILL):
        out = os.path.join(tmp, "out")
        p = start("stat", "--library", LIBRARY, "--no-tables", "--json", "-o", out, "--", "sh", "-c",
                  f"echo $$; exec {prog}", env={"TMPDIR": tmp})
        pid = int(p.stdout.readline())
        assert p.stdout.readline() == "ready\n"
        os.kill(pid, sig)
        assert end(p)[0] == -sig
        run = json.loads(read(out))["runs"][0]
        assert run["signal"] == sig and run["partial"] == 1 and run["total"]["threads_created"] == 5, run
        process = next(p for p in run["processes"] if p["threads_created"])
        assert process["pid"] == pid and process["run_delay_ns"]["count"] >= 4, process
        assert left_over() == []
    run = report("--", prog, "x")["runs"][0]
    assert run["partial"] == 2 and [p["threads_created"] for p in run["processes"]] in ([5, 9], [9, 5]), run
    assert "only its counters" in good(stat("--", prog, "x"))[1]
    assert report("--", compiled("threads", THREADS, "-pthread"))["runs"][0]["partial"] == 0


def case_bad_page():
    """A page is believed only if it is one of this version, whole."""
    prog = compiled("ends", ENDS, "-pthread")
    page = os.path.join(tmp, "page")
    subprocess.run([prog, "x"], env={**env, "LD_PRELOAD": LIBRARY, "PREEMPT_STATS_PAGE": page}, check=True)
    with open(page, "rb") as f:
        data = f.read()
    assert os.stat(page).st_mode & 0o777 == 0o600 and len(data) == 16384
    head = 12288

    def result(data):
        with open(page, "wb") as f:
            f.write(data)
        run = report("--", "sh", "-c", f'cp {page} "$(dirname "$PREEMPT_STATS")/7.page"')["runs"][0]
        return run["damaged"], run["total"].get("threads_created")

    assert result(data)[0] == 0 and result(data)[1] in (5, 9)
    for wrong in (data[:-4096], data[:100], b"", data[:head] + b"X" + data[head + 1:],
                  data[:head + 8] + b"9.9.9" + data[head + 13:], data[:head + 40] + b"\xff" + data[head + 41:],
                  data[:head + 48] + b"\xff" * 4 + data[head + 52:],
                  data[:head + 52] + b"\xff" * 4 + data[head + 56:]):
        assert result(wrong) == (1, None), result(wrong)
    assert result(b"\xff" * head + data[head:]) == (1, None)  # figures that cannot be are none


def case_policy():
    """Of a process that left its counters only, too, the policy is told that it had."""
    prog = compiled("ends", ENDS, "-pthread")
    for policy, args in ("go", ["--policy", "go"]), ("fair", ["--policy", "fair"]), ("chaos", ["--chaos", "7"]):
        run = report(*args, "--", prog, "x")["runs"][0]
        assert run["partial"] == 2 and {p["policy"] for p in run["processes"]} == {policy}, run


def case_exit_codes():
    """The program's own exit code or signal; 126 and 127 as env; nothing is left behind."""
    where = {"TMPDIR": tmp}
    rc, _, err = stat("--", "sh", "-c", "exit 3", env=where)
    assert rc == 3 and "exit code 3" in err, (rc, err)
    for sig in (signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL):
        assert stat("--", "sh", "-c", f"kill -{int(sig)} $$", env=where)[0] == -sig
    for name, want in (("no-such-program", 127), ("/etc/passwd", 126)):
        rc, out, err = stat("--", name, env=where)
        assert rc == want and out == "" and err.startswith(f"preempt: {name}: "), (rc, err)
        assert err.count("\n") == 1, err
    assert left_over() == []


def case_repeat():
    """-r N runs it N times and gives means with their spread; a run that fails gives its exit code."""
    prog = compiled("threads", THREADS, "-pthread")
    r = report("-r", "3", "--", prog)
    assert len(r["runs"]) == 3
    walls = [run["elapsed_ns"] for run in r["runs"]]
    assert abs(r["summary"]["wall_ns"]["mean"] - sum(walls) / 3) < 1
    assert r["summary"]["wall_ns"]["min"] == min(walls)
    assert r["summary"]["threads_created"] == {"mean": 5, "stddev": 0, "min": 5, "max": 5}
    err = good(stat("-r", "3", "--", prog))[1]
    assert "means of 3 runs" in err and "+-" in err, err
    once = script("once", 'echo x >>log; [ "$(wc -l <log)" != 2 ]\n')
    assert stat("-r", "3", "--", once)[0] == 1
    assert read(os.path.join(tmp, "log")) == "x\nx\nx\n"


def case_input():
    """Standard input is the program's."""
    out, err = good(stat("--", "cat", text="hello\n"))
    assert out == "hello\n"
    t = Terminal("stat", "--library", LIBRARY, "--no-tables", "--", "sh", "-c",
                 'read a; read b; [ -t 0 ] && echo "got $b$a"')
    t.write("one\n")
    t.write("two\n")
    t.wait_for("got twoone")
    assert t.end() == 0


COUNTS = """
    n=0
    trap 'n=$((n + 1)); echo signal' {signals}
    trap 'echo "end $n"; exit 7' USR1
    echo ready
    while :; do sleep 0.05; done
"""


def case_signals_passed():
    """A signal sent to the command reaches the program, once, and the command lives on to report."""
    for name in ("TERM", "HUP", "INT", "QUIT", "USR2", "ALRM", "WINCH"):
        p = start("stat", "--library", LIBRARY, "--no-tables", "--", "bash", "-c",
                  COUNTS.format(signals=name))
        assert p.stdout.readline() == "ready\n"
        p.send_signal(getattr(signal, "SIG" + name))
        assert p.stdout.readline() == "signal\n", name
        p.send_signal(signal.SIGUSR1)
        rc, out, err = end(p)
        assert rc == 7 and out == "end 1\n" and "elapsed" in err, (name, rc, out, err)


def case_keyboard():
    """^C at the terminal reaches the program once, not twice, and the report still comes."""
    t = Terminal("stat", "--library", LIBRARY, "--no-tables", "--", "bash", "-c", COUNTS.format(signals="INT"))
    t.wait_for("ready")
    t.write("\x03")
    t.wait_for("signal")
    time.sleep(0.3)  # a second one would come now
    os.kill(t.pid, signal.SIGUSR1)
    t.wait_for("end 1")
    assert t.end() == 7 and "elapsed" in t.text, t.text
    t = Terminal("stat", "--library", LIBRARY, "--no-tables", "-r", "5", "--", "sh", "-c", "echo ready; exec sleep 30")
    t.wait_for("ready")
    t.write("\x03")
    assert t.end() == -signal.SIGINT and "killed by signal 2" in t.text, t.text  # and no second run


def stopped(pid):
    return re.search(r"^State:\t(\w)", read(f"/proc/{pid}/status"), re.M)[1] == "T"


def wait_until(what, seconds=30):
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.02)


def case_job_control():
    """A program that stops itself stops the command as well, so that the shell notices; and goes on with it."""
    p = start("stat", "--library", LIBRARY, "--no-tables", "--", "bash", "-c",
              "echo $$; kill -STOP $$; echo on; exit 5")
    child = int(p.stdout.readline())
    wait_until(lambda: stopped(p.pid) and stopped(child))
    time.sleep(0.2)
    assert stopped(p.pid) and stopped(child)
    p.send_signal(signal.SIGCONT)
    rc, out, err = end(p)
    assert rc == 5 and out == "on\n", (rc, out, err)
    t = Terminal("stat", "--library", LIBRARY, "--no-tables", "--", "sh", "-c", "echo $$-; sleep 1; exit 6")
    t.wait_for("-")
    child = int(t.text.split("-")[0].split()[-1])
    t.write("\x1a")
    # A session's only process group has no shell to continue it, and such ones are not stopped by the terminal.
    assert t.end() == 6, t.text


def case_damaged():
    """What is no JSON is counted, not believed; a bad TMPDIR is passed over."""
    prog = compiled("threads", THREADS, "-pthread")
    run = report("--", "sh", "-c", f'echo "{{" >"$(dirname "$PREEMPT_STATS")/x"; '
                 f'echo "[1]" >"$(dirname "$PREEMPT_STATS")/y"; {prog}')["runs"][0]
    assert run["damaged"] == 2 and run["total"]["threads_created"] == 5, run
    for bad in ("/proc/nonexistent", "relative", tmp + "/per%pcent"):
        os.makedirs(tmp + "/per%pcent", exist_ok=True)
        assert report("--", prog, env={"TMPDIR": bad})["runs"][0]["total"]["threads_created"] == 5


def case_usage():
    """Wrong usage is exit code 125 and a reason; the command is not run."""
    mark = os.path.join(tmp, "mark")
    for args, say in ((["-r", "0", "touch", mark], "--repeat 0"), (["-r", "x", "touch", mark], "--repeat x"),
                      ([], "no command"), (["--stats=x", "touch", mark], "--stats"),
                      (["--policy=x", "touch", mark], "--policy"),
                      (["-o", "/proc/nonexistent/x", "--no-tables", "touch", mark], "/proc/nonexistent/x")):
        bad_usage("stat", *args, say=say)
    assert not os.path.exists(mark)
    with open("/dev/full", "w") as full:
        assert with_library("stat", "--json", "--", "true", stdout=full)[0] == 125


if __name__ == "__main__":
    main(globals())
