#!/usr/bin/env python3
"""top.py PREEMPT LIBRARY PROGS CASE: `preempt top`."""

import contextlib
import re
import shutil
import threading

from tool import *

# Threads that compute, one that holds a mutex in a system call, one that waits for it, and main, who joins that.
THREADS = """
    #define _GNU_SOURCE
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    static volatile int held;
    static void *busy(void *arg)
    {
        pthread_setname_np(pthread_self(), "busy");
        for (volatile long i = 0;; i++)
            ;
        return arg;
    }
    static void *holder(void *arg)
    {
        pthread_setname_np(pthread_self(), "ho\\033[1mlder");
        pthread_mutex_lock(&m);
        held = 1;
        pause();
        return arg;
    }
    static void *waiter(void *arg)
    {
        pthread_setname_np(pthread_self(), "waiter");
        pthread_mutex_lock(&m);
        return arg;
    }
    int main(int argc, char **argv)
    {
        pthread_t t;
        int n = argc > 1 ? atoi(argv[1]) : 0;
        for (int i = 0; i < n; i++)
            pthread_create(&t, NULL, busy, NULL);
        if (n >= 0) {
            pthread_create(&t, NULL, holder, NULL);
            while (!held)
                usleep(1000);
            pthread_create(&t, NULL, waiter, NULL);
        }
        puts("ready");
        fflush(stdout);
        if (argc > 2 && strcmp(argv[2], "fork") == 0 && fork() == 0) {
            printf("%d\\n", (int)getpid());
            fflush(stdout);
            pause();
        }
        if (argc > 2 && strcmp(argv[2], "exec") == 0) {
            getchar();
            execl("/proc/nonexistent", "x", NULL);
            puts("failed");
            fflush(stdout);
            getchar();
            execl("/bin/sleep", "sleep", "1000", NULL);
        }
        if (argc > 2 && strcmp(argv[2], "exit") == 0) {
            getchar();
            return 0;
        }
        if (n < 0)
            pause();
        pthread_join(t, NULL);
        return 1;
    }"""

run_dir = os.path.join(tmp, "run")
os.mkdir(run_dir, 0o700)
env["XDG_RUNTIME_DIR"] = run_dir


class Busy:
    """The program, when all its threads are where they stay."""

    def __init__(self, *args, lib=LIBRARY, **more):
        full = {**env, "PREEMPT_PROCS": "2", **more}
        if lib:
            full["LD_PRELOAD"] = lib
        self.program = compiled("busy", THREADS, "-pthread")
        self.p = subprocess.Popen([self.program, *args], env=full, text=True, cwd=tmp, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        assert self.p.stdout.readline() == "ready\n"
        self.pid = str(self.p.pid)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.p.pid, signal.SIGKILL)  # and its children, which hold the pipes
        self.p.communicate()

    def tell(self):
        self.p.stdin.write("\n")
        self.p.stdin.flush()


def files():
    path = os.path.join(run_dir, "preempt")
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def eventually(what, seconds=20):
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.05)


def looks(*args):
    return [json.loads(line) for line in good(preempt("top", "--json", *args))[0].splitlines()]


def settled(pid):
    """A look at a time when the waiter waits."""
    limit = time.monotonic() + 20
    while True:
        rc, out, err = preempt("top", "--json", pid)
        if rc == 0 and any(t["wait_reason"] == "pthread_mutex_lock" for t in json.loads(out)["threads"]):
            return json.loads(out)
        assert rc == 0 or "not scheduled (yet)" in err, (rc, err)  # sysmon may not have run so far
        assert time.monotonic() < limit, (out, err)


def case_json():
    """States, owners and counts are those of the program; names and thread numbers those of /proc."""
    with Busy("3") as b:
        look = settled(b.pid)
        assert look["pid"] == b.p.pid and look["name"] == "busy" and look["procs"] == 2, look
        tasks = {}
        for tid in os.listdir(f"/proc/{b.pid}/task"):
            tasks[int(tid)] = read(f"/proc/{b.pid}/task/{tid}/comm")[:-1]
        ours = [tid for tid, name in tasks.items() if name == "sysmon"]
        assert len(ours) == 1 and {t["tid"]: t["name"] for t in look["threads"]} == \
            {tid: name for tid, name in tasks.items() if tid not in ours}, (look, tasks)
        assert look["threads_live"] == look["threads_created"] == len(look["threads"]) == 6
        by_name = {t["name"]: t for t in look["threads"]}
        waiter, holder = by_name["waiter"], by_name["ho\033[1mlder"]
        assert waiter["state"] == "waiting" and waiter["owner"] == holder["tid"], waiter
        assert holder["state"] == "syscall" and holder["locks"] == 1, holder
        main = next(t for t in look["threads"] if t["tid"] == b.p.pid)
        assert main["wait_reason"] == "pthread_join" and main["owner"] == waiter["tid"], main
        assert len(look["ps"]) == 2


def case_policy():
    """The policy that the process has."""
    for policy, env in ("go", {"PREEMPT_POLICY": "go"}), ("fair", {"PREEMPT_POLICY": "fair"}), ("chaos", {"PREEMPT_CHAOS": "7"}):
        with Busy("0", **env) as b:
            assert settled(b.pid)["policy"] == policy


def case_rates():
    """Between two looks three busy threads share two Ps, times grow, and what waits does nothing."""
    with Busy("3") as b:
        settled(b.pid)
        for _ in range(10):
            first, second = looks("-n", "2", "-d", "1", b.pid)
            old = {t["tid"]: t for t in first["threads"]}
            spent, grow = 0, True
            for t in second["threads"]:
                was = old[t["tid"]]
                assert t["cpu_ns"] >= was["cpu_ns"] and t["wait_ns"] >= was["wait_ns"], (t, was)
                grow = grow and t["run_ns"] >= was["run_ns"]
                if t["name"] == "busy" and t["tid"] != b.p.pid:
                    spent += t["run_ns"] - was["run_ns"]
                    assert 0 <= t["run_share"] <= 1, t
                    grow = grow and t["run_ns"] + t["wait_ns"] > was["run_ns"] + was["wait_ns"]
                if t["name"] == "waiter":
                    assert t["run_share"] == 0 and t["in_state_ns"] > was["in_state_ns"] + 5e8
            seconds, change = second["interval"]["seconds"], second["interval"]["run_delays"]
            assert seconds > 0.9 and spent / 1e9 / seconds < 3.1, (spent, seconds)
            assert change == second["run_delay_ns"]["count"] - first["run_delay_ns"]["count"] >= 0
            # Two Ps, both in use all the time. On a machine that does not run us for a while a thread may lose its P, as if it slept, and
            # runs beside the two others then.
            if grow and change > 0 and 1.5 < spent / 1e9 / seconds < 2.1 and \
                    second["preempt"]["requested"] > first["preempt"]["requested"]:
                break
        else:
            raise AssertionError(f"never two Ps: {spent} ns in {seconds} s")
        assert second["run_delay_ns"]["p50"] > 0


def case_stats():
    """At the end PREEMPT_STATS has at least what the last look had."""
    path = os.path.join(tmp, "stats.json")
    with Busy("3", "exit", PREEMPT_STATS=path) as b:
        look = settled(b.pid)
        b.tell()
        assert b.p.wait(30) == 0
        final = json.loads(read(path))
        for key in ("threads_created", "threads_peak", "policy", "quantum_ns", "procs"):
            assert final[key] == look[key], key
        for key in ("switches", "signals_sent", "elapsed_ns"):
            assert final[key] >= look[key] > 0, key
        assert set(final) - {"fairness"} <= set(look)


def case_batch():
    """Lines for people: head, columns, a line for each thread; names cannot command the terminal."""
    with Busy("2") as b:
        settled(b.pid)
        out, err = good(preempt("top", "-b", "-n", "2", "-d", "0.1", "-s", "name", b.pid))
        assert "\033" not in out and not err
        one, two = out.split("\n\n")
        for part in (one, two):
            lines = part.strip().splitlines()
            assert lines[0].startswith(f"preempt top: busy ({b.pid}), up "), lines[0]
            assert lines[1].startswith("Threads: 5: "), lines[1]
            at = next(i for i, line in enumerate(lines) if line.split()[:3] == ["TID", "STATE", "FOR"])
            names = [line.split()[-1] for line in lines[at + 1:]]
            assert names == sorted(names) and len(names) == 5 and "waiter" in names, names
        assert re.search(r"\bmutex\b.* waiter$", one, re.M), one


def case_errors():
    """What cannot be watched is said in a line, with exit code 125."""
    bad_usage("top", "-b", "x1", say="not a process id")
    bad_usage("top", "--json", "999999999", say="No such process")
    bad_usage("top", "-b", "-d", "0", "1", say="-d 0")
    bad_usage("top", "-n", "0", say="-n 0")
    bad_usage("top", "-s", "colour", say="-s colour")
    bad_usage("top", "-b", "1", "2", say="one process")
    bad_usage("top", str(os.getpid()), say="no terminal")
    bad_usage("top", "-b", str(os.getpid()), say="does not run with libpreempt")
    with Busy("-1") as b:  # has the library, but no threads
        bad_usage("top", "-b", b.pid, say="not scheduled (yet)")
        assert files() == []
    if os.geteuid() == 0 and shutil.which("setpriv"):
        with Busy("1") as b:
            p = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", PREEMPT, "top", "-b", b.pid], text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if "Permission denied" in p.stderr and p.returncode in (126, 127, 1):
                return  # the build tree is not open to others
            assert p.returncode == 125 and "Operation not permitted" in p.stderr and not p.stdout, p


def case_not_listening():
    """A scheduler's thread that takes no requests so far, as one that has just begun, is not blamed on a filter that is not there."""
    prog = compiled("quiet", """
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <pthread.h>
        #include <signal.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #include <unistd.h>
        static void *quiet(void *arg)
        {
            sigset_t all;
            sigfillset(&all);
            pthread_sigmask(SIG_SETMASK, &all, NULL);
            pthread_setname_np(pthread_self(), "sysmon");
            puts("ready");
            fflush(stdout);
            pause();
            return arg;
        }
        int main(int argc, char **argv)
        {
            pthread_t t;
            (void)argc;
            mmap(NULL, 1, PROT_READ, MAP_PRIVATE, open(argv[1], O_RDONLY), 0);
            pthread_create(&t, NULL, quiet, NULL);
            pthread_join(t, NULL);
        }""", "-pthread")
    p = subprocess.Popen([prog, LIBRARY], stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == "ready\n"
        bad_usage("top", "-b", str(p.pid), say="not scheduled (yet)")
        bad_usage("dump", str(p.pid), say="not scheduled (yet)")
    finally:
        p.kill()
        p.communicate()


def case_other_signal():
    """With a preemption signal of the user's choice processes are asked as ever, also the child of a fork; and what libc wants of
    its own signal still happens in all threads."""
    for name in "SIGURG", "SIGRTMIN+3":
        with Busy("1", "fork", PREEMPT_SIGNAL=name) as b:
            settled(b.pid)
            out, _ = good(preempt("dump", b.pid))
            assert "[pthread_mutex_lock" in out, out
            out, _ = good(preempt("top", "-b", "--json", b.pid))
            assert len(json.loads(out)["threads"]) == 4, out
            os.kill(int(b.p.stdout.readline()), signal.SIGKILL)
    prog = compiled("changes", """
        #define _GNU_SOURCE
        #include <pthread.h>
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static pthread_barrier_t changed;
        static void *look(void *arg)
        {
            pthread_barrier_wait(&changed); /* all run */
            pthread_barrier_wait(&changed);
            *(int *)arg = (int)syscall(SYS_getegid);
            return NULL;
        }
        static void all_change(void)
        {
            pthread_t t[3];
            int seen[3], own = getegid();
            pthread_barrier_init(&changed, NULL, 4);
            for (int i = 0; i < 3; i++)
                pthread_create(&t[i], NULL, look, &seen[i]);
            pthread_barrier_wait(&changed);
            if (setegid(getuid() == 0 ? own + 1 : own))
                puts("refused");
            pthread_barrier_wait(&changed);
            for (int i = 0; i < 3; i++) {
                pthread_join(t[i], NULL);
                if (seen[i] != (getuid() == 0 ? own + 1 : own))
                    puts("another group");
            }
        }
        int main(void)
        {
            all_change();
            fflush(stdout);
            if (fork() == 0) {
                all_change(); /* as a process that has had no threads */
                return 0;
            }
            wait(NULL);
            puts("end");
            return 0;
        }""", "-pthread")
    p = subprocess.run([prog], env={**env, "LD_PRELOAD": LIBRARY, "PREEMPT_SIGNAL": "SIGURG"}, text=True, stdout=subprocess.PIPE, timeout=60)
    assert p.stdout == "end\n", p.stdout


def case_without_pid():
    """Without a process id: the only one there is, or an error that lists them."""
    if os.geteuid() == 0 and not os.path.exists("/proc/self/ns/pid"):
        raise Skip("no namespaces")
    # Other processes of this user may run meanwhile: in a namespace of its own there are none.
    unshare = ["unshare", "--pid", "--mount-proc", "--fork"]
    if subprocess.run([*unshare, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        raise Skip("unshare --pid is not allowed")
    program = compiled("busy", THREADS, "-pthread")
    one = f"LD_PRELOAD={LIBRARY} {program} 1 >/dev/null & "
    wait = "for i in $(seq 100); do {0} top -b {1} >/dev/null 2>&1 && break; sleep 0.1; done; ".format(PREEMPT, "$!")
    for shell, rc, say in ((f"{PREEMPT} top -b", 125, "no process"), (one + wait + f"{PREEMPT} top -b", 0, "preempt top: busy"),
                           (one + wait + one + wait + f"{PREEMPT} top -b", 125, "which process?")):
        p = subprocess.run([*unshare, "sh", "-c", shell + "; r=$?; kill $(jobs -p) 2>/dev/null; exit $r"], env=env, cwd=tmp,
                           text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert p.returncode == rc and say in p.stdout + p.stderr, (shell, p)


def case_files():
    """The file is there while somebody watches: private, and gone some seconds later, at exit, and at exec."""
    with Busy("2", "exec") as b:
        assert files() == []
        settled(b.pid)
        assert files() == [b.pid]
        path = os.path.join(run_dir, "preempt", b.pid)
        assert os.stat(path).st_mode & 0o777 == 0o600 and os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
        fds = os.listdir(f"/proc/{b.pid}/fd")
        assert len(fds) == 3, fds  # none is kept
        eventually(lambda: files() == [])
        settled(b.pid)
        os.unlink(path)  # somebody tidies up: the next look makes a new one
        settled(b.pid)
        assert files() == [b.pid]
        os.truncate(path, 100)  # no SIGBUS
        preempt("top", "--json", b.pid)
        settled(b.pid)
        b.tell()
        assert b.p.stdout.readline() == "failed\n"  # an exec that failed
        settled(b.pid)
        b.tell()
        eventually(lambda: "sleep" in read(f"/proc/{b.pid}/comm"))
        assert files() == []
    with Busy("2", "exit") as b:
        settled(b.pid)
        b.tell()
        assert b.p.wait(30) == 0 and files() == []
    with Busy("2") as b:
        settled(b.pid)
        b.p.kill()
        b.p.wait()
        assert files() == [b.pid]  # nobody could remove it
        with Busy("1") as other:
            settled(other.pid)
            assert files() == [other.pid]


def case_fork():
    """A child without threads has none of its parent's file."""
    with Busy("1", "fork") as b:
        settled(b.pid)
        child = b.p.stdout.readline().strip()
        try:
            bad_usage("top", "-b", child, say="not scheduled (yet)")
        finally:
            os.kill(int(child), signal.SIGKILL)
        settled(b.pid)
        assert files() == [b.pid]


def case_directory():
    """A directory that others may write to, or a link, is not used; then there is /tmp, and a line at level info if that cannot be."""
    path = os.path.join(run_dir, "preempt")
    for make in (lambda: (os.mkdir(path), os.chmod(path, 0o777)), lambda: os.symlink("/tmp", path)):
        make()
        with Busy("1") as b:
            settled(b.pid)
            assert not os.path.exists(os.path.join(path, b.pid))
            assert os.path.exists(f"/tmp/preempt-{os.geteuid()}/{b.pid}")
        preempt("top", "-b")  # tidies up
        os.unlink(path) if os.path.islink(path) else os.rmdir(path)


def case_ends():
    """A process that ends while it is watched is no failure."""
    with Busy("1", "exit") as b:
        p = start("top", "--json", "-n", "1000", "-d", "0.1", b.pid)
        json.loads(p.stdout.readline())
        b.tell()
        rc, out, err = end(p)
        assert rc == 0 and "has ended" in err, (rc, err)
    with Busy("1") as b:
        settled(b.pid)
        os.kill(b.p.pid, signal.SIGSTOP)
        bad_usage("top", "-b", b.pid, say="has not answered")
        os.kill(b.p.pid, signal.SIGCONT)
        settled(b.pid)


class Tmux:
    """The command in a terminal."""
    servers = 0

    def __init__(self, cols, rows, *args, **more):
        if not shutil.which("tmux"):
            raise Skip("no tmux")
        Tmux.servers += 1
        self.socket = os.path.join(tmp, f"tmux-{Tmux.servers}")
        words = [f"{k}={v}" for k, v in more.items()]
        command = " ".join(["env", *words, PREEMPT, "top", *args]) + "; echo exit:$?; sleep 1000"
        self.run("-f", "/dev/null", "new-session", "-d", "-x", str(cols), "-y", str(rows), command)

    def run(self, *args):
        return subprocess.run(["tmux", "-S", self.socket, *args], env=env, text=True, check=True, stdout=subprocess.PIPE,
                              cwd=tmp).stdout

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.run("kill-server")

    def picture(self, *options):
        return self.run("capture-pane", "-p", *options)

    def until(self, what, seconds=30):
        limit = time.monotonic() + seconds
        while True:
            p = self.picture()
            if what(p):
                return p
            assert time.monotonic() < limit, p
            time.sleep(0.05)

    def key(self, *keys):
        self.run("send-keys", *keys)


def case_screen():
    """80 by 24: head, threads, keys; sorting, pause, a smaller window and one that is too small; colours unless NO_COLOR."""
    with Busy("3") as b:
        settled(b.pid)
        with Tmux(80, 24, "-d", "0.1", b.pid) as t:
            p = t.until(lambda p: "waiter" in p and "q quit" in p)
            lines = p.splitlines()
            assert lines[0].startswith(f"preempt top: busy ({b.pid}), up "), p
            assert lines[-1].startswith("q quit  s sort:run") and "1-6 of 6" in lines[-1], p
            assert "HELD-BY" in p and all(len(line) <= 80 for line in lines), p
            assert "\033[32m" in t.picture("-e")  # who runs is green
            t.key("s", "s", "s", "s", "s")
            p = t.until(lambda p: "sort:name" in p)
            at = next(i for i, line in enumerate(p.splitlines()) if "TID" in line)
            assert p.splitlines()[at + 1].endswith("busy") and p.splitlines()[at + 6].endswith("waiter"), p
            t.key("r")
            p = t.until(lambda p: "sort:name(r)" in p)
            assert p.splitlines()[at + 1].endswith("waiter"), p
            t.key("Space")
            before = t.until(lambda p: "PAUSED" in p)
            time.sleep(1)
            assert t.picture() == before
            t.key("Space")
            t.until(lambda p: "PAUSED" not in p and p.splitlines()[0] != before.splitlines()[0])
            t.run("resize-window", "-x", "40", "-y", "10")
            p = t.until(lambda p: len(p.splitlines()) == 10 and "NAME" in p)
            assert "HELD-BY" not in p and "STATE" in p and p.splitlines()[-1].startswith("q quit"), p
            t.key("End")
            t.until(lambda p: " 2-6 of 6" in p or "busy" in p)
            t.run("resize-window", "-x", "20", "-y", "4")
            t.until(lambda p: "terminal too small" in p and "TID" not in p)
            t.run("resize-window", "-x", "80", "-y", "24")
            t.until(lambda p: "waiter" in p and "q quit" in p)
            t.key("q")
            t.until(lambda p: "exit:0" in p)
        with Tmux(40, 10, b.pid, NO_COLOR="1") as t:
            t.until(lambda p: "q quit" in p and "NAME" in p)
            assert not re.search(r"\033\[3[0-7]", t.picture("-e")), t.picture("-e")
            b.p.kill()
            b.p.wait()
            p = t.until(lambda p: "exit:" in p)
            assert "exit:0" in p and "has ended" in p.replace("\n", ""), p


def case_choose():
    """Several processes: a list, arrows and Enter."""
    with Busy("1") as a, Busy("1") as b:
        for x in (a, b):
            settled(x.pid)
        with Tmux(80, 24) as t:
            p = t.until(lambda p: a.pid in p and b.pid in p)
            assert "Which process?" in p, p
            for _ in range(200):
                p = t.picture()
                line = next(line for line in p.splitlines() if line.startswith(">"))
                if line.split()[1] == b.pid:
                    break
                t.key("Down" if int(line.split()[1]) < int(b.pid) else "Up")
                time.sleep(0.05)
            t.key("Enter")
            t.until(lambda p: f"preempt top: busy ({b.pid})" in p)
            t.key("q")
            t.until(lambda p: "exit:0" in p)
    with Tmux(80, 24, b.pid, TERM="unheard-of") as t:
        t.until(lambda p: "exit:125" in p)


def case_notice():
    """An idle process answers each time: none of many questions is lost on sysmon's way to sleep."""
    with Busy("0") as b:
        settled(b.pid)
        # One that is lost is asked again after 0.3 s; on a quiet machine all take 16 s, on a busy one there are fewer.
        began, n = time.monotonic(), 0
        while n < 300 and time.monotonic() - began < 40:
            assert len(looks("-n", "25", "-d", "0.05", b.pid)) == 25
            n += 25
        print(n, time.monotonic() - began)


if __name__ == "__main__":
    main(globals())
