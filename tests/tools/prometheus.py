#!/usr/bin/env python3
"""prometheus.py PREEMPT LIBRARY PROGS CASE: PREEMPT_STATS=PATH.prom."""

import re
import shutil

from tool import *

THREADS = """
    #define _GNU_SOURCE
    #include <pthread.h>
    #include <stdlib.h>
    static void *work(void *arg)
    {
        pthread_setname_np(pthread_self(), "a\\"b\\\\c\\nd\\xff");
        for (volatile int i = 0; i < 30000000; i++)
            ;
        return arg;
    }
    int main(int argc, char **argv)
    {
        pthread_t t[4];
        int n = argc > 1 ? atoi(argv[1]) : 4;
        for (int i = 0; i < n; i++)
            pthread_create(&t[i], NULL, work, NULL);
        for (int i = 0; i < n; i++)
            pthread_join(t[i], NULL);
        return 0;
    }"""
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
SAMPLE = re.compile(rf"({NAME})\{{((?:{LABEL},?)*)\}} (-?[0-9]+(?:\.[0-9]+)?)")


def run(path, *args, **more):
    prog = compiled("threads", THREADS, "-pthread")
    full = {**env, "LD_PRELOAD": LIBRARY, "PREEMPT_STATS": path, "PREEMPT_PROCS": "1", "PREEMPT_QUANTUM": "1ms", **more}
    subprocess.run([prog, *args], env=full, cwd=tmp, check=True, stdin=subprocess.DEVNULL, timeout=60)


def parse(text):
    """Family: (type, [(name, labels, value)]); every rule of the text format is checked."""
    assert text.endswith("\n")
    families, now, seen = {}, None, set()
    for line in text[:-1].split("\n"):
        head = re.fullmatch(rf"# (HELP|TYPE) ({NAME}) (.+)", line)
        if head:
            if head[1] == "HELP":
                assert head[2] not in families, line  # all of a family are together
                now = head[2]
                families[now] = [None, []]
            else:
                assert head[2] == now and not families[now][1] and head[3] in ("counter", "gauge", "histogram"), line
                families[now][0] = head[3]
            continue
        m = SAMPLE.fullmatch(line)
        assert m, line
        labels = {k: v.replace(r"\n", "\n").replace(r"\"", '"').replace(r"\\", "\\") for k, v in re.findall(LABEL, m[2])}
        kind = families[now][0]
        suffix = m[1][len(now):]
        assert m[1].startswith(now) and suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",)), line
        assert (kind == "counter") == now.endswith("_total"), line
        key = (m[1], *sorted(labels.items()))
        assert key not in seen, line
        seen.add(key)
        families[now][1].append((m[1], labels, float(m[5])))
    return families


def value(families, name, **labels):
    found = [v for n, l, v in families[name][1] if n == name and labels.items() <= l.items()]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def case_format():
    """Valid names, types, labels; buckets that add up; figures that fit the program."""
    run(os.path.join(tmp, "x-%p.prom"))
    name, = (f for f in os.listdir(tmp) if f.startswith("x-"))
    f = parse(read(os.path.join(tmp, name)))
    assert value(f, "preempt_threads_created_total") == 5 and value(f, "preempt_procs") == 1
    assert value(f, "preempt_quantum_seconds") == 0.001 and value(f, "preempt_elapsed_seconds") > 0
    assert value(f, "preempt_info", version="0.1.0", policy="fair") == 1
    for _, (_, samples) in f.items():
        for _, labels, v in samples:
            assert f'x-{labels["pid"]}.prom' == name and labels["command"] == "threads" and v >= 0
    for h in ("preempt_run_delay_seconds", "preempt_overshoot_seconds"):
        buckets = [(float(l["le"]), v) for n, l, v in f[h][1] if n.endswith("_bucket")]
        assert buckets == sorted(buckets) and buckets[-1][0] == float("inf") and len(buckets) > 20
        assert all(a[1] <= b[1] for a, b in zip(buckets, buckets[1:]))
        by_name = {n: v for n, l, v in f[h][1] if "le" not in l}
        assert by_name[h + "_count"] == buckets[-1][1] and by_name[h + "_sum"] >= 0
    switches = value(f, "preempt_switches_total")
    assert switches == next(v for n, _, v in f["preempt_run_delay_seconds"][1] if n.endswith("_count")) > 0
    run_s = f["preempt_thread_run_seconds_total"][1]
    assert len(run_s) == 5 and sum(v for _, _, v in run_s) > 0
    assert sum(l["name"].startswith('a"b\\c') for _, l, _ in run_s) == 4, run_s
    if shutil.which("promtool"):
        with open(os.path.join(tmp, name)) as text:
            p = subprocess.run(["promtool", "check", "metrics"], stdin=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert p.returncode in (0, 3), p.stdout  # 3: it does not like a name
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        return
    theirs = list(text_string_to_metric_families(read(os.path.join(tmp, name))))
    assert len(theirs) == len(f)


def case_replaced():
    """The file is replaced as a whole, by a process with threads only, and nothing else is left."""
    path = os.path.join(tmp, "one.prom")
    run(path, "0")  # without threads: all zeros, if there is nothing yet
    assert value(parse(read(path)), "preempt_threads_created_total") == 0
    first = os.stat(path).st_ino
    run(path)
    assert value(parse(read(path)), "preempt_threads_created_total") == 5 and os.stat(path).st_ino != first
    run(path, "0")
    assert value(parse(read(path)), "preempt_threads_created_total") == 5
    assert [f for f in os.listdir(tmp) if "prom" in f] == ["one.prom"]


if __name__ == "__main__":
    main(globals())
