#!/usr/bin/env python3
"""trace.py PREEMPT LIBRARY PROGS CASE: PREEMPT_TRACE and `preempt trace`."""

import re
import shutil
import struct

from tool import *

KINDS = """none proc_start proc_stop go_create go_thread go_name go_start go_credit go_block go_unblock go_preempt go_sched syscall_begin
    syscall_block syscall_end syscall_blocked go_end retake handoff ask signal refuse spin""".split()
ENDS = {"go_block", "go_preempt", "go_sched", "syscall_block", "retake"}

# $1 threads, $2 rounds: each round they meet at a barrier, take a lock, and compute.
ROUNDS = """
    #define _GNU_SOURCE
    #include <pthread.h>
    #include <stdlib.h>
    #include <unistd.h>
    pthread_mutex_t the_lock = PTHREAD_MUTEX_INITIALIZER;
    static pthread_barrier_t barrier;
    static int rounds;
    void *round_worker(void *arg)
    {
        pthread_setname_np(pthread_self(), "rounder");
        for (int i = 0; i < rounds; i++) {
            pthread_barrier_wait(&barrier);
            pthread_mutex_lock(&the_lock);
            if (i == 0)
                usleep(5000); // so that somebody has to wait, on any machine
            for (volatile int k = 0; k < 20000; k++)
                ;
            pthread_mutex_unlock(&the_lock);
        }
        return arg;
    }
    int main(int argc, char **argv)
    {
        int n = atoi(argv[1]);
        pthread_t t[64];
        rounds = atoi(argv[2]);
        pthread_barrier_init(&barrier, NULL, n);
        for (int i = 0; i < n; i++)
            pthread_create(&t[i], NULL, round_worker, NULL);
        for (int i = 0; i < n; i++)
            pthread_join(t[i], NULL);
        return argc > 3 ? atoi(argv[3]) : 0;
    }
"""

# Everything that a thread can do to its P, for $1 ms.
MIX = """
    #include <pthread.h>
    #include <sched.h>
    #include <semaphore.h>
    #include <stdlib.h>
    #include <time.h>
    #include <unistd.h>
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    static pthread_spinlock_t spin;
    static int fds[2];
    static volatile int stop;
    static void *work(void *arg)
    {
        struct timespec t = {0, 50000};
        volatile int x = 0;
        for (unsigned i = (unsigned)(size_t)arg; !stop; i++) {
            char c = 0;
            switch (i % 8) {
            case 0: for (int k = 0; k < 300000; k++) x += k; break;
            case 1: pthread_mutex_lock(&lock); for (int k = 0; k < 3000; k++) x += k; pthread_mutex_unlock(&lock); break;
            case 2: nanosleep(&t, 0); break;
            case 3: (void)!write(fds[1], &c, 1); (void)!read(fds[0], &c, 1); break;
            case 4: sched_yield(); break;
            case 5: { struct timespec until; clock_gettime(CLOCK_REALTIME, &until); until.tv_nsec += 100000;
                if (until.tv_nsec > 999999999) until.tv_nsec = 999999999;
                pthread_mutex_lock(&lock); pthread_cond_timedwait(&cond, &lock, &until); pthread_mutex_unlock(&lock); break; }
            case 6: pthread_cond_signal(&cond); break;
            case 7: pthread_spin_lock(&spin); for (int k = 0; k < 1000; k++) x += k; pthread_spin_unlock(&spin); break;
            }
        }
        return arg;
    }
    static void *brief(void *arg) { return arg; }
    int main(int argc, char **argv)
    {
        pthread_t t[12], b;
        pthread_spin_init(&spin, 0);
        (void)!pipe(fds);
        for (size_t i = 0; i < 12; i++)
            pthread_create(&t[i], 0, work, (void *)i);
        for (int i = 0; i < atoi(argv[1]) / 10; i++) {
            usleep(10000);
            pthread_create(&b, 0, brief, 0);
            pthread_join(b, 0);
        }
        stop = 1;
        for (int i = 0; i < 12; i++)
            pthread_join(t[i], 0);
        return argc > 9;
    }
"""


class Trace:
    """A reader of its own, from the description of the format."""

    def __init__(self, path):
        with open(path, "rb") as f:
            d = f.read()
        magic, version, _, rings, slots, size, at, end = struct.unpack_from("<8sIIIIQQQ", d)
        assert magic == b"preempt\3" and version == 1 and end <= len(d)
        self.rings, self.lost, covered = [[] for _ in range(rings)], 0, [0] * rings
        while at < end:
            kind, length, ring, count, first, _ = struct.unpack_from("<IIIIQQ", d, at)
            if kind == 1:
                assert length == 32 + 32 * count and first >= covered[ring]
                self.rings[ring] += struct.iter_unpack("<qIBBHIIQ", d[at + 32:at + length])
                covered[ring] = first + count
            at += length
        assert at == end
        for i in range(rings):
            base = 4096 + i * size
            head, lost = (struct.unpack_from("<Q", d, base + o)[0] for o in (0, 128))
            self.lost += lost
            for n in range(covered[i], head):
                e = struct.unpack_from("<qIBBHIIQ", d, base + 4096 + 32 * (n % slots))
                if e[1] == (n + 1) & 0xffffffff:
                    self.rings[i].append(e)
                else:
                    self.lost += 1
        self.counts = {k: 0 for k in KINDS}
        for ring in self.rings:
            for e in ring:
                self.counts[KINDS[e[2]]] += 1
        self.granted = sum(KINDS[e[2]] == "go_start" and e[3] & 1 for r in self.rings for e in r)

    def check_ps(self):
        """A P that is given to a thread is taken from that thread once before it is given again."""
        assert self.lost == 0
        holder, starts = {}, 0
        for ring in self.rings:
            for _, _, kind, _, p, g, _, _ in ring:
                kind = KINDS[kind]
                if p == 0xffff:
                    continue
                if kind == "go_start":
                    assert not holder.get(p), f"P {p} goes to {g}, but {holder[p]} has it"
                    holder[p] = g
                    starts += 1
                elif kind in ENDS:
                    assert holder.get(p) == g, f"P {p}: {kind} of {g}, but {holder.get(p)} has it"
                    holder[p] = None
        return starts


def run_record(*args, **kw):
    return preempt("trace", "record", "--library", LIBRARY, "--no-tables", *args, **kw)


def record(*command, env={}):
    return good(run_record("-o", "t", "--", *command, env=env), command)[1]


def path(name="t"):
    return os.path.join(tmp, name)


def case_record():
    """`trace record` writes the file that it is told to, says how much, and ends as the program does."""
    prog = compiled("rounds", ROUNDS, "-pthread")
    rc, out, err = run_record("-o", "t", "--", prog, "3", "10", "7")
    assert rc == 7 and out == "" and re.fullmatch(r"preempt: \d+ events of .* in /.*/t, none lost\n", err), (rc, err)
    assert Trace(path()).counts["go_create"] == 4
    err = record("true")
    assert "no trace: no process of it made a second thread" in err, err
    assert not os.path.exists(path())
    rc, out, err = run_record("-o", "%p.t", "-Q", "--", "sh", "-c", f"{prog} 2 2; {prog} 3 3")
    assert rc == 0 and err == "", err
    files = [f for f in os.listdir(tmp) if f.endswith(".t")]
    assert sorted(Trace(path(f)).counts["go_create"] for f in files) == [3, 4]


def case_counts():
    """The trace and the counters agree, and both with what the program did."""
    prog = compiled("rounds", ROUNDS, "-pthread")
    for procs in "1", "2", "4":
        env = {"PREEMPT_STATS": path("stats"), "PREEMPT_PROCS": procs, "PREEMPT_QUANTUM": "1ms"}
        record(prog, "6", "200", env=env)
        t, stats = Trace(path()), json.loads(read(path("stats")))
        c = t.counts
        assert t.lost == 0
        assert c["go_create"] == stats["threads_created"] == 7 and c["go_end"] == 6, c
        assert t.granted == stats["switches"], (t.granted, stats["switches"])
        assert c["retake"] == sum(stats["retakes"].values())
        assert c["handoff"] == stats["handoffs"] and c["go_credit"] == stats["credit_runs"]
        assert c["signal"] == stats["signals_sent"] and c["spin"] == stats["spin"]["yields"]
        assert c["go_preempt"] <= sum(stats["preempt"][k] for k in ("cooperative", "async", "forced"))
        waits = {}
        for ring in t.rings:
            for e in ring:
                if KINDS[e[2]] == "go_block":
                    waits[e[3]] = waits.get(e[3], 0) + 1
        # At each meeting all but the last wait; a wake-up that comes before one has let go of its P saves it that.
        assert 0.5 * 5 * 200 <= waits[6] <= 5 * 200, waits
        r = json.loads(good(preempt("trace", "report", "--json", "t"))[0])
        assert r["switches"] == t.granted and r["lost_events"] == 0 and r["events"] == sum(c.values())
        assert r["times_ns"]["run_delay"]["count"] == stats["run_delay_ns"]["count"] == t.granted
        locks = {(x["name"], x["kind"]): x for x in r["locks"]}
        assert sum(x["waits"] for x in r["locks"]) == c["go_block"]
        assert locks["the_lock", "mutex"]["waits"] == waits[1] > 0, locks


def case_consistent():
    """Whatever threads do, with slices of 100 us: each grant of a P ends once before the next."""
    prog, seen = compiled("mix", MIX, "-pthread"), dict.fromkeys(KINDS, 0)
    for procs in "1", "2", "4":
        for policy in "go", "fair":
            record(prog, "300", env={"PREEMPT_PROCS": procs, "PREEMPT_QUANTUM": "100us", "PREEMPT_POLICY": policy,
                                     "PREEMPT_FORCE_AFTER": "10ms"})
            t = Trace(path())
            if t.lost:  # a machine that is very busy
                continue
            assert t.check_ps() > 20
            for kind, n in t.counts.items():
                seen[kind] += n
    for kind in "go_block", "go_preempt", "go_sched", "syscall_begin", "syscall_block", "signal", "go_end":
        assert seen[kind] > 0, (kind, seen)


def tracks(events):
    found = {}
    for e in events:
        if e["ph"] == "X":
            found.setdefault((e["pid"], e["tid"]), []).append((round(e["ts"] * 1000), round(e["dur"] * 1000), e))
    return found


def case_export():
    """JSON that parses: slices nest, a P and a thread do one thing at a time, arrows have two ends."""
    prog = compiled("mix", MIX, "-pthread")
    record(prog, "300", env={"PREEMPT_PROCS": "2", "PREEMPT_QUANTUM": "1ms"})
    good(preempt("trace", "export", "--format=chrome", "t", "-o", "t.json"))
    d = json.loads(read(path("t.json")))
    assert d == json.loads(good(preempt("trace", "export", "t"))[0])
    t = Trace(path())
    assert d["otherData"]["lost_events"] == t.lost and d["otherData"]["events"] == sum(t.counts.values())
    for (pid, tid), slices in tracks(d["traceEvents"]).items():
        slices.sort(key=lambda s: (s[0], s[1] > 0, -s[1]))  # what takes no time comes before what begins then
        open_ends, runs = [], 0
        for start, length, e in slices:
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or start + length <= open_ends[-1], (pid, tid, e)
            if pid == 2 or e["cat"] == "run":  # one thread on a P, one state of a thread
                assert not open_ends, (pid, tid, e)
                runs += 1
            open_ends.append(start + length)
        assert runs
    flows = {}
    for e in d["traceEvents"]:
        if e["ph"] in "sf":
            flows.setdefault(e["id"], {})[e["ph"]] = e
    assert len(flows) > 20 and all(set(f) == {"s", "f"} for f in flows.values())
    assert all(f["s"]["ts"] <= f["f"]["ts"] for f in flows.values())
    assert {f["s"]["name"] for f in flows.values()} == {"wake-up", "hand-off"}
    names = {e["args"]["name"] for e in d["traceEvents"] if e["ph"] == "M"}
    assert {"P 0", "P 1"} <= names and sum(" work " in n for n in names) == 12, names
    assert any(e.get("cat") == "call" and "nanosleep" in e["name"] for e in d["traceEvents"])


def case_policy():
    """Each trace says under which policy it was made."""
    prog = compiled("rounds", ROUNDS, "-pthread")
    for policy, env in ("go", {"PREEMPT_POLICY": "go"}), ("fair", {"PREEMPT_POLICY": "fair"}), ("chaos", {"PREEMPT_CHAOS": "7"}):
        record(prog, "2", "5", env=env)
        assert json.loads(good(preempt("trace", "export", "t"))[0])["otherData"]["policy"] == policy
        assert f"policy {policy}," in good(preempt("trace", "report", "-o", "-", "t"))[0]
    with open(path(), "rb") as f:
        whole = f.read()
    with open(path("other"), "wb") as f:
        f.write(whole[:56] + b"\xff" + whole[57:])  # one that there is not yet
    assert "policy unknown," in good(preempt("trace", "report", "-o", "-", "other"))[0]


def case_report():
    """The page: all figures in plain tables, nothing from elsewhere, names of threads and locks."""
    prog = compiled("rounds", ROUNDS, "-pthread", "-g")
    record(prog, "8", "50", env={"PREEMPT_PROCS": "2", "PREEMPT_QUANTUM": "1ms"})
    err = good(preempt("trace", "report", "t"))[1]
    assert err == "preempt: wrote t.html\n", err
    page = read(path("t.html"))
    assert page == good(preempt("trace", "report", "-o", "-", "t"))[0]
    for forbidden in "http:", "https:", " src=", "@import", "url(":
        assert forbidden not in page, forbidden
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    for needed in "<table>", "Runnable to running", "rounder round_worker", "the_lock", "barrier", "<svg", "none lost":
        assert needed in text, needed
    hostile = "<b>&\"'\\\u20ac</scr"
    prog = compiled("named", ROUNDS.replace('"rounder"', json.dumps(hostile[:12])), "-pthread")
    record(prog, "2", "2")
    good(preempt("trace", "report", "t"))
    assert "<b>&" not in read(path("t.html"))
    good(preempt("trace", "export", "t", "-o", "t.json"))
    assert hostile[:11] in "".join(e["args"]["name"] for e in json.loads(read(path("t.json")))["traceEvents"]
                                   if e["ph"] == "M")


def case_browser():
    """A browser draws the timeline: the script runs to its end, and there are colours where the timeline is."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        raise Skip("there is no chromium")
    prog = compiled("mix", MIX, "-pthread")
    record(prog, "300", env={"PREEMPT_PROCS": "2"})
    good(preempt("trace", "report", "t"))
    options = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + path("profile"),
               "--window-size=1000,800"]
    try:
        dom = subprocess.run([*options, "--dump-dom", "file://" + path("t.html")], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, timeout=60, env={**env, "HOME": tmp})
        shot = subprocess.run([*options, "--screenshot=" + path("t.png"), "file://" + path("t.html")],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, env={**env, "HOME": tmp})
    except subprocess.TimeoutExpired:
        raise Skip("chromium does not end here")
    if dom.returncode or shot.returncode or not dom.stdout:
        raise Skip("chromium does not run here")
    drawn = re.search(rb'data-drawn="(\d+)"', dom.stdout)
    assert drawn and int(drawn[1]) >= 2 + 12, dom.stdout[:300]
    png = open(path("t.png"), "rb").read()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 20000, len(png)
    if os.environ.get("TRACE_SHOT"):
        shutil.copy(path("t.png"), os.environ["TRACE_SHOT"])


SPINS = """
    #include <pthread.h>
    #include <stdlib.h>
    static int here, round_, n;
    __attribute__((noinline)) void spin_here(void)
    {
        int r = __atomic_load_n(&round_, __ATOMIC_ACQUIRE);
        if (__atomic_add_fetch(&here, 1, __ATOMIC_ACQ_REL) == n) {
            here = 0;
            __atomic_store_n(&round_, r + 1, __ATOMIC_RELEASE);
            return;
        }
        while (__atomic_load_n(&round_, __ATOMIC_ACQUIRE) == r)
            __builtin_ia32_pause();
    }
    static void *work(void *arg)
    {
        for (int i = 0; i < *(int *)arg; i++) {
            spin_here();
            for (volatile int k = 0; k < 2000; k++)
                ;
        }
        return arg;
    }
    int main(int argc, char **argv)
    {
        int rounds = atoi(argv[argc - 1]);
        pthread_t t[6];
        n = 6;
        for (int i = 0; i < n; i++)
            pthread_create(&t[i], 0, work, &rounds);
        for (int i = 0; i < n; i++)
            pthread_join(t[i], 0);
        return 0;
    }
"""


def case_spin():
    """Where threads spin is named, at rewritten instructions and when it is found by samples."""
    prog = compiled("spins", SPINS, "-pthread")
    for mode, rounds in ("on", 3000), ("sample", 300):
        good(preempt("trace", "record", "--library", LIBRARY, "-o", "t", "--", prog, str(rounds),
                     env={"PREEMPT_PROCS": "2", "PREEMPT_SPIN": mode}))
        sites = json.loads(good(preempt("trace", "report", "--json", "t"))[0])["spin_sites"]
        assert sites and sites[0]["name"].startswith("spin_here+0x"), (mode, sites)
        assert sum(s["yields"] for s in sites) == Trace(path()).counts["spin"]
        good(preempt("trace", "report", "t"))
        assert "spin_here+0x" in read(path("t.html"))


WAYS = """
    #include <pthread.h>
    #include <sched.h>
    #include <unistd.h>
    pthread_mutex_t a_mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_spinlock_t a_spin_lock;
    static volatile int held;
    static void *hold(void *way)
    {
        pthread_mutex_lock(&a_mutex);
        pthread_spin_lock(&a_spin_lock);
        held = 1;
        usleep(100000);
        held = 2;
        pthread_spin_unlock(&a_spin_lock);
        pthread_mutex_unlock(&a_mutex);
        return way;
    }
    static void *spin(void *way)
    {
        while (!held)
            usleep(1000);
        switch (*(char *)way) {
        case 'm': while (pthread_mutex_trylock(&a_mutex)); pthread_mutex_unlock(&a_mutex); break;
        case 't': while (pthread_spin_trylock(&a_spin_lock)); pthread_spin_unlock(&a_spin_lock); break;
        case 's': pthread_spin_lock(&a_spin_lock); pthread_spin_unlock(&a_spin_lock); break;
        case 'y': while (held < 2) sched_yield(); break;
        }
        return way;
    }
    int main(int argc, char **argv)
    {
        pthread_t t[4];
        pthread_spin_init(&a_spin_lock, 0);
        for (int i = 0; i < 4; i++)
            pthread_create(&t[i], 0, i ? spin : hold, argv[1]);
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], 0);
        return argc > 9;
    }
"""


def case_spin_calls():
    """Each call that a thread can spin with is in the trace as often as in the counters, and with the lock, where there is one."""
    prog = compiled("ways", WAYS, "-pthread")
    for way, lock in ("mutex", "a_mutex"), ("trylock", "a_spin_lock"), ("spin", "a_spin_lock"), ("yield", ""):
        record(prog, way, env={"PREEMPT_STATS": path("stats"), "PREEMPT_PROCS": "1"})
        t, stats = Trace(path()), json.loads(read(path("stats")))
        if t.lost:  # a machine that is very busy
            continue
        t.check_ps()
        assert t.counts["spin"] == stats["spin"]["yields"] > 0, (way, t.counts, stats["spin"])
        sites = json.loads(good(preempt("trace", "report", "--json", "t"))[0])["spin_sites"]
        assert not lock or lock in [s["name"] for s in sites], (way, sites)


FORKS = """
    #include <pthread.h>
    #include <stdlib.h>
    #include <sys/wait.h>
    #include <unistd.h>
    static void *brief(void *arg) { usleep(1000); return arg; }
    static void threads(int n)
    {
        pthread_t t;
        while (n--) {
            pthread_create(&t, 0, brief, 0);
            pthread_join(t, 0);
        }
    }
    int main(int argc, char **argv)
    {
        threads(2);
        if (fork() == 0) {
            threads(5);
            return 0;
        }
        wait(NULL);
        threads(1);
        if (argc > 1)
            execv(argv[1], argv + 1);
        return 0;
    }
"""


def with_trace(*command, path="t", **more):
    p = subprocess.run(command, cwd=tmp, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
                       env={**env, "LD_PRELOAD": LIBRARY, "PREEMPT_TRACE": path, **more})
    return p.returncode, p.stdout, p.stderr


def case_fork():
    """The child of a fork has a file of its own with %p, else none, and says so in one line; the parent's goes on."""
    prog = compiled("forks", FORKS, "-pthread")
    rc, out, err = with_trace(prog)
    assert rc == 0 and err.count("\n") == 1 and "the trace of the process that forked this one" in err, err
    t = Trace(path())
    assert t.lost == 0 and t.counts["go_create"] == 1 + 2 + 1, t.counts
    rc, out, err = with_trace(prog, path="f.%p")
    assert rc == 0 and err == "", err
    counts = sorted(Trace(path(f)).counts["go_create"] for f in os.listdir(tmp) if f.startswith("f."))
    assert counts == [4, 6], counts


def case_exec():
    """What is executed by a traced process does not take its file: it gets one with a number, and both can be read."""
    prog, rounds = compiled("forks", FORKS, "-pthread"), compiled("rounds", ROUNDS, "-pthread")
    rc, out, err = with_trace(prog, rounds, "3", "3")
    assert rc == 0 and err.count("\n") == 1, err
    assert Trace(path()).counts["go_create"] == 4 and Trace(path("t.2")).counts["go_create"] == 4


def named_so_far():
    """The numbers of the threads with a name; cheaper than to read a file that grows. An event may be there twice: in its
    ring, and in the chunk that it has just been written to."""
    try:
        with open(path(), "rb") as f:
            d = f.read()
    except OSError:
        return set()
    return {d[m.start() - 8:m.start() - 4] for m in re.finditer(b"rounder\0", d)}


def case_killed():
    """A process that is killed, or ends by _exit, leaves all it did."""
    prog = compiled("rounds", ROUNDS, "-pthread")
    p = subprocess.Popen([prog, "4", "100000000"], cwd=tmp, env={**env, "LD_PRELOAD": LIBRARY, "PREEMPT_TRACE": "t"})
    limit = time.monotonic() + 30
    while len(named_so_far()) < 4 and time.monotonic() < limit:
        time.sleep(0.1)
    live = preempt("trace", "export", "t", "-o", "live.json")  # while it runs
    p.kill()
    good(live)
    assert len(json.loads(read(path("live.json")))["traceEvents"]) > 100
    p.wait()
    assert len(named_so_far()) == 4
    t = Trace(path())
    assert t.counts["go_create"] == 5, t.counts
    assert t.counts["go_name"] >= 2 * 5 - 1, t.counts  # the second half of the last one may be missing
    if t.lost == 0:
        assert t.check_ps() > 100
    good(preempt("trace", "report", "t"))
    assert "had not come to its end" in read(path("t.html"))
    leaves = compiled("leaves", ROUNDS.replace("return argc > 3 ? atoi(argv[3]) : 0", "_exit(5)"), "-pthread")
    assert with_trace(leaves, "3", "3")[0] == 5
    t = Trace(path())
    assert t.counts["go_create"] == 4 and t.lost == 0


CALLS = """
    #include <fcntl.h>
    #include <pthread.h>
    #include <stdlib.h>
    #include <unistd.h>
    static int fd, n;
    static void *work(void *arg)
    {
        for (int i = 0; i < n; i++)
            (void)!write(fd, "x", 1);
        return arg;
    }
    int main(int argc, char **argv)
    {
        pthread_t t[2];
        fd = open("/dev/null", O_WRONLY);
        n = atoi(argv[argc - 1]);
        for (int i = 0; i < 2; i++)
            pthread_create(&t[i], 0, work, 0);
        for (int i = 0; i < 2; i++)
            pthread_join(t[i], 0);
        return 0;
    }
"""


def case_long():
    """Of far more events than the rings hold none is missing without being counted, in the file, the JSON and the page."""
    prog = compiled("calls", CALLS, "-pthread")
    record(prog, "400000", env={"PREEMPT_PROCS": "2"})
    t = Trace(path())
    begun = t.counts["syscall_begin"]
    assert begun + t.lost >= 800000 and begun <= 800000 + 10, (begun, t.lost)
    assert sum(t.counts.values()) > 1000000 or t.lost
    d = json.loads(good(preempt("trace", "report", "--json", "t"))[0])
    assert d["events"] == sum(t.counts.values()) and d["lost_events"] == t.lost
    good(preempt("trace", "report", "t"))
    assert ("none lost" if not t.lost else f"{t.lost} lost") in read(path("t.html"))
    assert os.path.getsize(path("t.html")) < 20 << 20  # a page that a browser opens, whatever the trace
    good(preempt("trace", "export", "t", "-o", "t.json"))
    tail = open(path("t.json"), "rb").read()[-2000:].decode()
    assert f'"lost_events":{t.lost},' in tail


def case_bad_path():
    """Where there can be no trace the program runs, after one line that says why."""
    prog = compiled("rounds", ROUNDS, "-pthread")
    write("taken", "something else")
    for bad in "/proc/nonexistent/t", "/dev/full", "/tmp", "taken":
        rc, out, err = with_trace(prog, "2", "2", path=bad)
        assert rc == 0 and err.count("\n") == 1 and "PREEMPT_TRACE" in err and bad in err, (bad, err)
    assert read(path("taken")) == "something else"


def case_damaged():
    """What is no trace, or not all of one, is refused in one line that names it."""
    prog = compiled("rounds", ROUNDS, "-pthread")
    record(prog, "2", "50")
    whole = open(path(), "rb").read()
    bad = {"empty": b"", "short": whole[:50], "half": whole[:len(whole) // 2], "cut": whole[:-8], "text": b"hello\n" * 1000,
           "version": whole[:8] + b"\x63" + whole[9:], "rings": whole[:16] + b"\xff\xff" + whole[18:],
           "chunk": whole[:40] + whole[40:]}
    off, = struct.unpack_from("<Q", whole, 32)
    bad["chunk"] = whole[:off + 4] + b"\xff\xff\xff\x7f" + whole[off + 8:]
    for name, data in bad.items():
        with open(path(name), "wb") as f:
            f.write(data)
        for verb in "export", "report":
            bad_usage("trace", verb, name, "-o", "out", say=name)
    bad_usage("trace", "export", "nothing", say="nothing")
    bad_usage("trace", "export", tmp, say="not a plain file")
    assert not os.path.exists(path("out"))


def case_usage():
    """Wrong usage is exit code 125 and a reason."""
    for args, say in (([], "''"), (["x"], "'x'"), (["export"], "no trace"), (["report"], "no trace"), (["record"], "no command"),
                      (["export", "a", "b"], "more than one"), (["export", "--format=x", "a"], "--format=x"),
                      (["record", "--policy=x", "true"], "--policy")):
        bad_usage("trace", *args, say=say)
    out = good(preempt("help", "trace"))[0]
    assert all(f"preempt trace {verb}" in out for verb in ("record", "export", "report"))
    assert good(preempt("trace", "--help"))[0] == out
    prog = compiled("rounds", ROUNDS, "-pthread")
    record(prog, "2", "2")
    with open("/dev/full", "w") as full:
        for verb in "export", "report":
            rc, _, err = preempt("trace", verb, "t", *(["--json"] if verb == "report" else []), stdout=full)
            assert rc == 125 and err.count("\n") == 1, (rc, err)


if __name__ == "__main__":
    main(globals())
