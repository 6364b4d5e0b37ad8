#!/usr/bin/env python3
"""tables.py PREEMPT LIBRARY CASE: the command `preempt tables`, and what `preempt run` does with tables.

Every case works in a cache directory of its own. Exit status 0, or 1 with an AssertionError that says what
was expected.
"""

import fcntl
import glob
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

PREEMPT, LIBRARY, CASE = sys.argv[1:]
TRUE = os.path.realpath("/bin/true")
OTHER = os.path.realpath("/bin/sleep")

tmp = tempfile.TemporaryDirectory()
cache = os.path.join(tmp.name, "cache")
env = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_")}
env.pop("LD_PRELOAD", None)
env["PREEMPT_CACHE_DIR"] = cache


def start(*args, **kw):
    return subprocess.Popen([PREEMPT, *args], env=kw.pop("env", env), stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)


def end(process):
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def preempt(*args, **kw):
    return end(start(*args, **kw))


def tables(*args, want=0, **kw):
    rc, out, err = preempt("tables", *args, **kw)
    assert rc == want, f"tables {args}: exit code {rc}, expected {want}\n{out}{err}"
    return out, err


def states(out):
    return {f["path"]: f["state"] for f in json.loads(out)["files"]}


def files():
    return sorted(os.listdir(cache)) if os.path.isdir(cache) else []


def path_of(file):
    """Where the table of file is expected, from the line of check."""
    out, _ = preempt("tables", "check", file)[1:]
    return re.search(r"(/[^ ()]*\.tab)", out).group(1)


def locked(file):
    """Hold the lock of the builders for file."""
    table = path_of(file)
    temp = os.path.join(os.path.dirname(table), "." + os.path.basename(table) + ".tmp")
    os.makedirs(cache, 0o700, exist_ok=True)
    f = open(temp, "w")
    fcntl.flock(f, fcntl.LOCK_EX)
    return f


def worker_of(process):
    """A worker of process that waits for a lock, or None when the process ends first."""
    while process.poll() is None:
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as f:
            for pid in f.read().split():
                try:
                    with open(f"/proc/{pid}/wchan") as w, open(f"/proc/{pid}/syscall") as s:
                        if "lock" in w.read() or s.read().startswith("73 "):
                            return int(pid)
                except OSError:
                    pass
        time.sleep(0.01)
    return None


def kill_workers(process, sig):
    """All that wait for a lock: after the first one dies there is another."""
    while (pid := worker_of(process)) is not None:
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            pass


def case_build():
    """Tables are private, found by check, kept until --force, and nothing else is left behind."""
    assert not os.path.exists(cache)
    out, _ = tables("check", TRUE, want=1)
    assert "no table" in out and not os.path.exists(cache), out
    out, err = tables("build", TRUE)
    assert "built" in out and TRUE in out and err == "", (out, err)
    assert os.stat(cache).st_mode & 0o777 == 0o700
    assert len(files()) == 1 and files()[0].endswith(".tab"), files()
    first = os.stat(path_of(TRUE))
    assert first.st_mode & 0o777 == 0o600
    out, _ = tables("check", TRUE)
    assert out == f"{TRUE}: {path_of(TRUE)}\n", out
    out, _ = tables("build", "--json", TRUE)
    assert states(out) == {TRUE: "cached"}
    assert os.stat(path_of(TRUE)).st_ino == first.st_ino
    out, _ = tables("build", "--json", "--force", TRUE)
    assert states(out) == {TRUE: "built"}
    assert os.stat(path_of(TRUE)).st_ino != first.st_ino
    assert len(files()) == 1, files()


def case_needed():
    """--needed adds the libraries; without it there is only the file; copies and links share a table."""
    out, _ = tables("build", "--json", "--needed", TRUE)
    names = [os.path.basename(p) for p in states(out)]
    assert names[0] == os.path.basename(TRUE) and "libc.so.6" in names, names
    assert any(n.startswith("ld-linux") for n in names), names
    # Others may be in the system's directory already.
    assert len(files()) == list(states(out).values()).count("built") > 0, (out, files())
    tables("check", "--needed", TRUE)
    d = os.path.join(tmp.name, "copies")
    os.makedirs(os.path.join(d, "sub"))
    for i in range(3):
        with open(TRUE, "rb") as f, open(os.path.join(d, "sub", f"c{i}"), "wb") as g:
            g.write(f.read())
    os.symlink(OTHER, os.path.join(d, "link"))  # not followed: it is no file of this directory
    with open(os.path.join(d, "text"), "w") as f:
        f.write("x" * 1000)
    out, err = tables("check", "--json", d)
    assert list(states(out).values()) == ["cached"] and err == "", (out, err)
    named = [os.path.join(d, "sub", f"c{i}") for i in range(3)]
    os.unlink(path_of(TRUE))
    out, err = tables("build", "--json", "-j3", *named)  # each that is named is answered
    assert sorted(states(out).values()) == ["built", "cached", "cached"], out


def case_bad_files():
    """Each file that cannot be used costs one line and exit code 1, and the others are built."""
    def bad(name, data):
        path = os.path.join(tmp.name, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    with open(TRUE, "rb") as f:
        elf = f.read()
    fifo = os.path.join(tmp.name, "fifo")
    os.mkfifo(fifo)
    wrong = [
        bad("empty", b""), bad("text", b"#!/bin/sh\n"), bad("short", elf[:40]), bad("cut", elf[:200]),
        bad("class", elf[:4] + b"\1" + elf[5:]), bad("machine", elf[:18] + b"\3\0" + elf[20:]),
        bad("object", elf[:16] + b"\1\0" + elf[18:]), fifo, os.path.join(tmp.name, "missing"),
    ]
    out, err = tables("build", "--json", *wrong, TRUE, want=1)
    lines = err.splitlines()
    assert len(lines) == len(wrong), err
    for path, line in zip(wrong, lines):
        assert line.startswith(f"preempt: {path}: "), line
    assert states(out)[TRUE] == "built"
    assert all(states(out)[path] == "failed" for path in wrong)
    tables("check", TRUE)


def case_corrupt_elf():
    """Files that begin right and end in rubbish fail in the worker, if at all, and never with it."""
    with open(TRUE, "rb") as f:
        elf = f.read()
    paths = []
    for i, n in enumerate((4096, len(elf) // 2, len(elf) - 100)):
        path = os.path.join(tmp.name, f"cut{i}")
        with open(path, "wb") as f:
            f.write(elf[:n])
        paths.append(path)
    for i in range(8):
        path = os.path.join(tmp.name, f"rubbish{i}")
        data = bytearray(elf)
        for at in range(1000 + i, len(data), 97 + i):
            data[at] = (data[at] * 7 + at) & 255
        with open(path, "wb") as f:
            f.write(data)
        paths.append(path)
    rc, _, err = preempt("tables", "build", "--json", *paths, OTHER)
    assert rc in (0, 1), (rc, err)
    assert "died" not in err and "given up" not in err, err
    tables("check", OTHER)


def case_worker_dies():
    """A file of which two workers die costs that file only, and the next build repairs that."""
    lock = locked(TRUE)
    process = start("tables", "build", "--json", "-j2", TRUE, OTHER)
    kill_workers(process, signal.SIGSEGV)
    rc, out, err = end(process)
    assert rc == 1, rc
    assert states(out) == {TRUE: "failed", OTHER: "built"}, out
    assert err == f"preempt: {TRUE}: the compiler died of it (Segmentation fault)\n", err
    lock.close()
    tables("build", TRUE, OTHER)
    assert all(f.endswith(".tab") and not f.startswith(".") for f in files()), files()


def case_bad_debug_info():
    """Damaged debug information of which libdwarf crashes costs no more than what it would have said."""
    source, program = os.path.join(tmp.name, "bad.c"), os.path.join(tmp.name, "bad")
    with open(source, "w") as f:
        f.write("""
            static int n;
            static inline __attribute__((always_inline)) void my_lock(int *p)
            {
                while (__sync_lock_test_and_set(p, 1))
                    ;
            }
            int f(int a)
            {
                struct { int x, y; } s = {a, a};
                my_lock(&n);
                n += s.x;
                return n;
            }
            int main(int c, char **v)
            {
                for (int i = 0; i < c; i++) {
                    int k = f(i);
                    n += k;
                }
                return n;
            }""")
    subprocess.run([*os.environ.get("CC", "cc").split(), "-g", "-gdwarf-5", "-O2", "-o", program, source],
                   check=True)
    sections = subprocess.run(["readelf", "-SW", program], stdout=subprocess.PIPE, text=True,
                              check=True).stdout
    offset = int(re.search(r"\.debug_rnglists +PROGBITS +\S+ +(\S+)", sections).group(1), 16)
    with open(program, "r+b") as f:
        f.seek(offset + 1)
        f.write(b"\xb7")  # the length, now beyond the section
    out, _ = tables("build", "--json", program)
    report = json.loads(out)["files"][0]
    assert report["state"] == "built" and "eh_frame" in report["source"], report
    assert report["safe"] > 0.1, report
    tables("check", program)


def case_mapped():
    """A table that readers may have mapped is never cut or written to, even if the builders' lock is that very file, as can
    be where locks do not work."""
    tables("build", TRUE)
    table = path_of(TRUE)
    with open(table, "rb") as reader:
        before = os.fstat(reader.fileno()).st_mtime_ns
        os.link(table, os.path.join(cache, "." + os.path.basename(table) + ".tmp"))
        with open(os.path.join(cache, "." + os.path.basename(table) + ".new"), "w") as f:
            f.write("left behind by a builder that died")
        tables("build", "--force", TRUE)
        assert os.fstat(reader.fileno()).st_mtime_ns == before, "the file was written to"
    tables("check", TRUE)
    assert files() == [os.path.basename(table)], files()


def case_concurrent():
    """Builders of the same table wait for each other: one builds, the others find it."""
    lock = locked(TRUE)
    processes = [start("tables", "build", "--json", TRUE) for _ in range(4)]
    for p in processes:
        assert worker_of(p), "did not wait for the lock"
    lock.close()
    results = [end(p) for p in processes]
    assert all(rc == 0 and err == "" for rc, _, err in results), results
    got = sorted(states(out)[TRUE] for _, out, _ in results)
    assert got == ["built", "cached", "cached", "cached"], got
    assert len(files()) == 1, files()

    processes = [start("tables", "build", "--force", "--needed", TRUE) for _ in range(6)]
    assert all(end(p)[0] == 0 for p in processes)
    tables("check", "--needed", TRUE)
    assert not any(f.startswith(".") for f in files()), files()


def case_stale():
    """A damaged, cut or misnamed table is said to be one, and built anew."""
    tables("build", TRUE, OTHER)
    path = path_of(TRUE)
    with open(path, "rb") as f:
        good = f.read()
    with open(path_of(OTHER), "rb") as f:
        other = f.read()
    for data in (good[:-8], good[:-1] + bytes([good[-1] ^ 1]), b"", other, good + b"\0" * 8):
        with open(path, "wb") as f:
            f.write(data)
        out, _ = tables("check", TRUE, want=1)
        assert "stale or damaged" in out, out
        out, _ = tables("build", "--json", TRUE)
        assert states(out) == {TRUE: "built"}, out
        with open(path, "rb") as f:
            assert f.read() == good, "not the same table again"
    os.chmod(path, 0o666)
    out, _ = tables("check", TRUE, want=1)
    assert "not used" in out, out
    tables("build", TRUE)
    tables("check", TRUE)


def case_directory_refused():
    """Nothing is read from or put into a directory that others may write to, or reach by a link."""
    tables("build", TRUE)
    os.chmod(cache, 0o777)
    out, err = tables("check", TRUE, want=1)
    assert "not used" in out, out
    _, err = tables("build", OTHER, want=125)
    assert err.count("\n") == 1 and cache in err, err
    os.chmod(cache, 0o700)
    os.rename(cache, cache + "2")
    os.symlink(cache + "2", cache)
    tables("build", OTHER, want=125)
    os.unlink(cache)
    tables("build", OTHER, want=0)  # made again
    home = dict(env, HOME=os.path.join(tmp.name, "nohome"), PREEMPT_CACHE_DIR="", XDG_CACHE_HOME="")
    tables("build", OTHER, want=125, env=home)
    assert not os.path.exists(home["HOME"])
    os.mkdir(home["HOME"])
    tables("build", OTHER, env=home)
    assert len(glob.glob(os.path.join(home["HOME"], ".cache/preempt/*.tab"))) == 1


def case_globs():
    """Each PREEMPT_CRITICAL has tables of its own."""
    other = dict(env, PREEMPT_CRITICAL="my_*")
    tables("build", TRUE)
    tables("check", TRUE, want=1, env=other)
    tables("build", TRUE, env=other)
    tables("check", TRUE, env=other)
    tables("check", TRUE)
    assert len(files()) == 2, files()


def case_helper():
    """--helper says nothing, is at a low priority, and does what it can."""
    lock = locked(TRUE)
    process = start("tables", "build", "--helper", "/proc/nonexistent", "/etc/passwd", TRUE, OTHER)
    pid = worker_of(process)
    with open(f"/proc/{pid}/stat") as f:
        assert f.read().rsplit(")", 1)[1].split()[16] == str(max(5, os.nice(0)))
    with open(f"/proc/{pid}/oom_score_adj") as f:
        assert f.read().strip() == "1000"
    lock.close()
    assert end(process) == (0, "", "")
    tables("check", TRUE, OTHER)


def case_dump():
    """Every byte once, in order, in the documented form; the same from module, table and anew."""
    out, _ = tables("dump", TRUE)
    assert files() == [], "dump stores nothing"
    tables("build", TRUE)
    assert tables("dump", TRUE)[0] == out
    assert tables("dump", path_of(TRUE))[0] == out
    assert tables("dump", "--fresh", TRUE)[0] == out
    rows = json.loads(tables("dump", "--json", TRUE)[0])
    assert rows["file"] == TRUE
    assert out == "".join(f"{r['lo']:x} {r['hi']:x} {r['cfa'] or '-'} {r['ra'] or '-'} {','.join(r['flags'])}\n" for r in rows["rows"])
    last = None
    form = re.compile(r"([0-9a-f]+) ([0-9a-f]+) (-|r[sb]p[+-]\d+) (-|c-8) "
                      r"((safe|unsafe:[a-z-]+|critical|spin|syscall:(\d+|\?))(,|$))+")
    assert out
    for line in out.splitlines():
        m = form.fullmatch(line)
        assert m, line
        lo, hi = int(m[1], 16), int(m[2], 16)
        assert lo < hi and (last is None or lo >= last), line
        last = hi
    bad = os.path.join(tmp.name, "bad.tab")
    with open(path_of(TRUE), "rb") as f, open(bad, "wb") as g:
        g.write(f.read()[:-8])
    _, err = tables("dump", bad, want=1)
    assert "not a valid table" in err, err
    tables("dump", "/etc/passwd", want=1)
    tables("dump", "/proc/nonexistent", want=1)


def case_json():
    """The figures add up."""
    out, _ = tables("build", "--json", "--needed", TRUE)
    report = json.loads(out)
    for f in [*report["files"], report["total"]]:
        b = f["bytes"]
        assert f["code_bytes"] == f["text_bytes"] - b["padding"]
        whole = sum(v for k, v in b.items() if k not in ("critical", "spin"))
        assert whole <= f["text_bytes"], f
        assert whole + b["critical"] >= f["text_bytes"], f
        assert 0 <= f["safe"] <= 1 and 0 <= f["unsafe"] <= 1 and 0 <= f["critical"] <= 1, f
    total = sum(f["text_bytes"] for f in report["files"])
    assert total == report["total"]["text_bytes"]
    assert json.loads(tables("check", "--json", "--needed", TRUE)[0])["total"] == report["total"]


def case_run():
    """`preempt run` builds what is missing, quietly, and only then."""
    run = ["run", "--library", LIBRARY]
    assert preempt(*run, "--no-tables", "--", "sh", "-c", "exit 3") == (3, "", "")
    assert files() == []
    off = dict(env, PREEMPT_OFF="1")
    assert preempt(*run, "--", "sh", "-c", "exit 3", env=off) == (3, "", "")
    assert files() == []
    assert preempt(*run, "--", "sh", "-c", "exit 3") == (3, "", "")
    tables("check", "--needed", "/bin/sh", LIBRARY)
    before = files()
    assert preempt(*run, "--", "sh", "-c", "exit 3") == (3, "", "")
    assert files() == before

    script = os.path.join(tmp.name, "script")
    for line in (f"#! {OTHER} 0", "#!/usr/bin/env sleep", "#!/usr/bin/env -S A=1 sleep"):
        with open(script, "w") as f:
            f.write(line + "\n")
        os.chmod(script, 0o755)
        if os.path.exists(path_of(OTHER)):
            os.unlink(path_of(OTHER))
        preempt(*run, "--", script)
        tables("check", OTHER)


def case_run_never_fails():
    """Whatever is wrong with tables, the program runs, and there is one line of warning."""
    run = ["run", "--library", LIBRARY, "--", "sh", "-c", "exit 3"]
    shared = os.path.join(tmp.name, "shared")
    os.mkdir(shared)
    os.chmod(shared, 0o777)
    for bad in ("/proc/nothing", "/dev/null", shared):
        rc, out, err = preempt(*run, env=dict(env, PREEMPT_CACHE_DIR=bad))
        assert (rc, out) == (3, ""), (rc, out)
        assert len([e for e in err.splitlines() if e.startswith("preempt:")]) == 1, err
    rc, out, err = preempt("run", "--library", LIBRARY, "--", "/proc/nonexistent")
    assert rc == 127 and err.count("\n") == 1, err
    lock = locked("/bin/sh")
    process = start(*run)
    kill_workers(process, signal.SIGKILL)
    rc, out, err = end(process)
    assert rc == 3 and err.count("\n") == 1 and "no table" in err, (rc, err)
    lock.close()


def case_run_is_quick():
    """With all tables there, looking for them costs less than 10 ms."""
    def best(*args):
        times = []
        for _ in range(20):
            t = time.monotonic()
            assert preempt("run", "--library", LIBRARY, *args, "--", "true")[0] == 0
            times.append(time.monotonic() - t)
        return min(times)

    preempt("run", "--library", LIBRARY, "--", "true")
    cost = best() - best("--no-tables")
    assert cost < 0.010, f"{cost * 1000:.1f} ms"


def case_usage():
    """Wrong usage is exit code 125 and says what is right."""
    for args in ([], ["build"], ["nothing"], ["build", "--nothing", TRUE], ["build", "-j0", TRUE],
                 ["build", "-jx", TRUE], ["check"], ["dump"]):
        _, err = tables(*args, want=125)
        assert err.startswith("preempt"), err
    for args in (["--help"], ["build", "--help"]):
        out, _ = tables(*args)
        assert "--needed" in out
    rc, out, _ = preempt("help", "tables")
    assert rc == 0 and "--needed" in out
    with open("/dev/full", "w") as full:
        assert subprocess.run([PREEMPT, "tables", "build", TRUE], env=env, stdout=full,
                              stderr=subprocess.DEVNULL).returncode == 125


globals()["case_" + CASE]()
