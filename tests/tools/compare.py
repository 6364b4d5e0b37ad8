#!/usr/bin/env python3
"""compare.py PREEMPT LIBRARY PROGS CASE: `preempt compare`.

The programs here are scripts that print what the test wants, so no verdict hangs on the machine.
"""

from tool import *

WITH = 'case "$LD_PRELOAD" in *libpreempt*) with=1 ;; *) with=0 ;; esac\n'


def compare(*args, **kw):
    return with_library("compare", *args, **kw)


def report(*args, **kw):
    return json.loads(good(compare("--json", *args, **kw))[0])


def rates(name, plain, shim):
    """A program that prints plain or shim as its rate; these are shell expressions in $n, the number of the run."""
    log = os.path.join(tmp, name + ".log")
    return script(name, WITH + f"""
        echo x >>{log}
        n=$(wc -l <{log})
        if [ $with = 1 ]; then rate={shim}; else rate={plain}; fi
        echo "at first: 1 op/s"
        echo "rate: $rate op/s"
    """)


METRIC = ("--metric", "rate: ([0-9.]+)")


def case_better():
    """Twice the figure in every pair is said to be so, in the right direction."""
    prog = rates("twice", "100", "$((200 + n % 3))")
    out, err = good(compare(*METRIC, "--", prog))
    assert "2.0x better, 5 of 5 pairs" in out, out
    r = report(*METRIC, "--", prog)
    assert r["verdict"] == "better" and r["pairs"] == 5 and r["ratio"]["pairs_better"] == 5
    assert 1.95 <= r["ratio"]["low"] <= r["ratio"]["geometric_mean"] <= r["ratio"]["high"] <= 2.05, r["ratio"]
    assert r["plain"]["values"] == [100.0] * 5 and r["better"] == "higher"
    out, err = good(compare(*METRIC, "--lower-is-better", "--", prog))
    assert "2.0x worse, 5 of 5 pairs" in out and "does not help" in out, out
    assert report(*METRIC, "--lower-is-better", "-n", "3", "--", prog)["ratio"]["pairs_better"] == 0


def case_no_difference():
    """What lies within the spread of the pairs is no difference, and so is what nobody would notice."""
    prog = rates("noise", "$((100 + n * 37 % 11))", "$((100 + n * 53 % 13))")
    out, _ = good(compare(*METRIC, "-n", "8", "--", prog))
    assert "no difference that can be measured" in out, out
    prog = rates("tiny", "1000", "1002")
    assert report(*METRIC, "--", prog)["verdict"] == "none"
    prog = rates("wild", "$((n * n))", "$((1000 / n))")
    out, _ = good(compare(*METRIC, "--", prog))
    assert "no difference" in out and "more pairs" in out, out


def case_small_difference():
    """A few per cent in every pair are a difference, in per cent."""
    prog = rates("some", "1000", "1050")
    assert "5 % better, 5 of 5 pairs" in good(compare(*METRIC, "--", prog))[0]


def case_one_pair():
    """One pair has no spread: no verdict, but how to get one."""
    r = report(*METRIC, "-n", "1", "--", rates("one", "100", "200"))
    assert r["verdict"] == "unknown" and "-n 5" in r["text"], r


def case_time():
    """Without a metric it is the time. The difference is so large that a slow run here and there hides nothing."""
    prog = script("slow", WITH + "if [ $with = 1 ]; then sleep 0.25; else sleep 0.8; fi\n")
    r = report("-w", "0", "--", prog)
    assert r["verdict"] == "faster" and "x faster, " in r["text"], r
    assert r["metric"] == "wall_ns" and min(r["plain"]["values"]) > 7e8 and r["better"] == "lower", r


def case_order():
    """Runs alternate, in the other order every second pair; the first run does not count. Plain runs have what LD_PRELOAD
    had before, but not the library."""
    log = os.path.join(tmp, "order")
    prog = script("order.sh", WITH + f'echo "$with:$LD_PRELOAD" >>{log}\necho rate: $((100 + with))\n')
    good(compare("-n", "4", "--", prog, env={"LD_PRELOAD": f"libm.so.6:{LIBRARY}"}))
    lines = read(log).split()
    assert [line[0] for line in lines] == list("0" "01" "10" "01" "10"), lines
    assert {line[2:] for line in lines} == {"libm.so.6", f"{LIBRARY}:libm.so.6"}, lines
    os.unlink(log)
    good(compare("-n", "1", "--warmup", "0", "--", prog))
    assert [line[0] for line in read(log).split()] == list("01")


def case_failures():
    """A failed run ends it with its exit code, and the message says which run, how, and the end of its output."""
    rc, out, err = compare("--", "sh", "-c", "echo one; echo two >&2; exit 3")
    assert rc == 3 and "without libpreempt failed: exit code 3" in err and "two" in err, (rc, err)
    only = script("only", WITH + "[ $with = 0 ] || kill -11 $$\n")
    rc, out, err = compare("--", only)
    assert rc == -11 and "with libpreempt failed: killed by signal 11" in err, (rc, err)
    assert compare("-i", "-n", "1", "--", "sh", "-c", "exit 3")[0] == 0
    for name, want in (("no-such-program", 127), ("/etc/passwd", 126)):
        rc, out, err = compare("--", name)
        assert rc == want and out == "" and err.startswith(f"preempt: {name}: "), (rc, out, err)


def case_metric():
    """The last match counts, in what the program prints on either stream; what is no figure above 0 is said."""
    assert report("-n", "2", "--metric", "^v=([0-9.e+-]+)$", "--", "sh", "-c",
                  "echo v=1; echo v=7 v=8; echo v=2.5e3 >&2; echo w=9")["plain"]["mean"] == 2500
    for output, say in (("nothing", "nothing that matches"), ("rate: 0", "above 0"), ("rate: 1.2.3", "not a number")):
        rc, out, err = compare(*METRIC, "--", "echo", output)
        assert rc == 125 and say in err.splitlines()[0], (output, rc, err)
    for regex, say in (("(", "--metric"), ("none", "needs one group"), ("(a)(b)", "more than one group"), ("([", "--metric")):
        bad_usage("compare", "--metric", regex, "true", say=say)
    # Much output, and a NUL in it.
    assert report("-n", "1", *METRIC, "--", "sh", "-c",
                  r"head -c 3000000 /dev/zero; printf '\nrate: 5\n\0'")["plain"]["mean"] == 5


def case_input():
    """Each run reads the input file from its beginning; without one there is no input."""
    path = write("input", "rate: 42\n")
    assert report("-n", "2", *METRIC, "--input", path, "--", "cat")["libpreempt"]["values"] == [42, 42]
    assert compare("-n", "1", "--", "sh", "-c", "! read x", text="something\n")[0] == 0
    bad_usage("compare", "--library", LIBRARY, "--no-tables", "--input", "/proc/nonexistent/x", "true", say="/proc/nonexistent/x")


def case_busy():
    """Another program that keeps CPUs busy meanwhile is noticed."""
    cpus = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(cpus // 8 + 1)]
    try:
        rc, out, err = compare("-n", "1", "-w", "0", "--", "sleep", "0.5")
    finally:
        for p in busy:
            p.kill()
            p.wait()
    assert rc == 0 and "machine was busy" in err, err


def case_interrupted():
    """A signal ends the run and the comparison."""
    p = start("compare", "--library", LIBRARY, "--no-tables", "--", "sh", "-c", f"echo >>{tmp}/runs; exec sleep 30")
    while not os.path.exists(os.path.join(tmp, "runs")):
        time.sleep(0.02)
    time.sleep(0.2)
    p.send_signal(signal.SIGTERM)
    rc, out, err = end(p)
    assert rc == -signal.SIGTERM and "interrupted" in err and len(read(os.path.join(tmp, "runs"))) == 1, (rc, err)


def case_terminal():
    """On a terminal it says what runs, and takes that back; the table is whole, with the verdict in colour."""
    t = Terminal("compare", "--library", LIBRARY, "--no-tables", "-n", "2", *METRIC, "--", rates("t", "100", "200"))
    assert t.end() == 0, t.text
    assert "warming up" in t.text and "pair 2 of 2, with libpreempt ..." in t.text, t.text
    lines = [line.split("\033[K")[-1] for line in t.text.split("\r\n")]
    assert any(line.split() == ["1", "100", "200", "2.00x"] for line in lines), lines
    assert any("\033[32m2.0x better" in line for line in lines), lines


def case_usage():
    """Wrong usage is exit code 125 and a reason."""
    for args, say in (([], "no command"), (["-n", "0", "true"], "--pairs 0"), (["-n", "2x", "true"], "--pairs 2x"),
                      (["-w", "-1", "true"], "--warmup -1"), (["--procs=x", "true"], "--procs"),
                      (["--lower-is-better", "true"], "--lower-is-better")):
        bad_usage("compare", *args, say=say)
    with open("/dev/full", "w") as full:
        assert compare("-n", "1", "--", "true", stdout=full)[0] == 125
        assert compare("-n", "1", "--json", "--", "true", stdout=full)[0] == 125


if __name__ == "__main__":
    main(globals())
