#!/usr/bin/env python3
"""confined.py PREEMPT LIBRARY PROGS CASE: under seccomp filters that were there at the start, and under later ones."""

import re
import resource
import threading

from tool import *
from top import THREADS, eventually

FILTER = compiled("filter", read(os.path.join(os.path.dirname(os.path.realpath(__file__)), "filter.c")))
if subprocess.run([FILTER, "docker", "/bin/true"], check=False).returncode == 77:
    print("no seccomp")
    sys.exit(77)

# Looks while its threads begin: no child, no SIGCHLD. Its other threads compute.
WATCHES = """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <sys/wait.h>
    #include <time.h>
    #include <unistd.h>
    static volatile int signals, stop;
    static void on_child(int sig)
    {
        signals++;
    }
    static void *work(void *arg)
    {
        while (!stop)
            ;
        return arg;
    }
    static double now(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec + t.tv_nsec / 1e9;
    }
    int main(int argc, char **argv)
    {
        double until = now() + atof(argv[1]);
        pthread_t t[3];
        signal(SIGCHLD, on_child);
        for (int i = 0; i < 3; i++)
            pthread_create(&t[i], NULL, work, NULL);
        while (now() < until) {
            if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD)
                printf("a child\\n"), exit(1);
        }
        stop = 1;
        for (int i = 0; i < 3; i++)
            pthread_join(t[i], NULL);
        if (signals)
            printf("SIGCHLD\\n"), exit(1);
        printf("all well\\n");
        return 0;
    }"""

# A filter of its own on top, which kills for what is in argv[1], when it is told so.
LATER = """
    #define main filter_main
    #include "%s"
    #undef main
    #include <pthread.h>
    static volatile int stop;
    static void *work(void *arg)
    {
        while (!stop)
            ;
        return arg;
    }
    int main(int argc, char **argv)
    {
        struct sock_fprog prog = {.filter = code};
        pthread_t t[2];
        for (int i = 0; i < 2; i++)
            pthread_create(&t[i], NULL, work, NULL);
        puts("ready");
        fflush(stdout);
        getchar();
        calls(argv[1], SECCOMP_RET_KILL_PROCESS);
        add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
        prog.len = n;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            return 77;
        long r = SYS_seccomp;
        __asm__ volatile("syscall" : "+a"(r) : "D"(SECCOMP_SET_MODE_FILTER), "S"(SECCOMP_FILTER_FLAG_TSYNC), "d"(&prog) : "rcx", "r11", "memory");
        if (r)
            return 77;
        puts("confined");
        fflush(stdout);
        getchar();
        stop = 1;
        for (int i = 0; i < 2; i++)
            pthread_join(t[i], NULL);
        puts("all well");
        return 0;
    }""" % os.path.join(os.path.dirname(os.path.realpath(__file__)), "filter.c")

# Puts itself under a filter that kills for what is in argv[1], by the door argv[2], before or after (argv[3]) its first thread.
# Threads compete for the CPU for a while, and then nobody does, again and again.
TIGHTENS = """
    #define main filter_main
    #include "%s"
    #undef main
    #include <pthread.h>
    #include <time.h>
    static void *work(void *arg)
    {
        clock_t until = clock() + CLOCKS_PER_SEC / 10;
        while (clock() < until)
            ;
        return arg;
    }
    static void threads(int rounds)
    {
        pthread_t t[3];
        for (int k = 0; k < rounds; k++) {
            for (int i = 0; i < 3; i++)
                if (pthread_create(&t[i], NULL, work, NULL))
                    _exit(1);
            for (int i = 0; i < 3; i++)
                pthread_join(t[i], NULL);
            usleep(100000);
        }
    }
    int main(int argc, char **argv)
    {
        struct sock_fprog prog = {.filter = code};
        int early = argv[3][0] == 'b';
        if (!early)
            threads(2);
        calls(argv[1], SECCOMP_RET_KILL_PROCESS);
        add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
        prog.len = n;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            return 77;
        /* Questions, not filters. */
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, NULL) == 0 || errno != EFAULT)
            return 77;
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) == 0 || errno != EFAULT)
            return 77;
        if (prctl(PR_SET_SECCOMP, 0, NULL) == 0 || errno != EINVAL)
            return 77;
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL) == 0 || errno != EINVAL)
            return 77;
        if (argv[2][0] == 'p' ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)
            : argv[2][0] == 'c' ? (int)syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0L, 0L)
                              : (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog))
            return 77;
        if (!vfork()) { /* its own filter kills it only */
            static struct sock_filter kills = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
            static struct sock_fprog own = {1, &kills};
            prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &own);
            _exit(0);
        }
        threads(4);
        puts("all well");
        return 0;
    }""" % os.path.join(os.path.dirname(os.path.realpath(__file__)), "filter.c")

# Has threads that wait and compute, and then allows only what it calls itself from here on, everything else is death. What each thread does comes to its end.
# argv[1] has m: four threads put up the filter at once; l: there is nothing but that, no new threads, no handlers; else new threads begin and end, a timer's
# handler interrupts threads that take locks, and there is a fork; d: a dump is asked for just before.
STRICT = """
    #define main filter_main
    #include "%s"
    #undef main
    #include <pthread.h>
    #include <signal.h>
    #include <sys/time.h>
    #include <sys/wait.h>
    static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
    static pthread_barrier_t all;
    static volatile int stop, caught, alarms;
    static int turns, told, begun;
    static struct sock_fprog prog = {.filter = code};
    static void *busy(void *arg)
    {
        __atomic_fetch_add(&begun, 1, __ATOMIC_RELAXED);
        while (!stop)
            ;
        return arg;
    }
    static void *waits(void *arg)
    {
        __atomic_fetch_add(&begun, 1, __ATOMIC_RELAXED);
        pthread_mutex_lock(&m);
        while (!told)
            pthread_cond_wait(&c, &m);
        turns++;
        pthread_mutex_unlock(&m);
        return arg;
    }
    static void *locks(void *arg)
    {
        __atomic_fetch_add(&begun, 1, __ATOMIC_RELAXED);
        for (int i = 0; i < 20000; i++) {
            pthread_mutex_lock(&m);
            turns++;
            pthread_mutex_unlock(&m);
        }
        return arg;
    }
    static void *confines(void *arg)
    {
        pthread_barrier_wait(&all);
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, arg ? 0 : SECCOMP_FILTER_FLAG_TSYNC, &prog) > 0) /* a thread in our way: it has one of its own */
            return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) ? (void *)1 : NULL;
        return NULL;
    }
    static void on_signal(int sig)
    {
        sig == SIGUSR1 ? caught++ : alarms++;
    }
    int main(int argc, char **argv)
    {
        static const short least[] = {
            SYS_futex, SYS_write, SYS_exit, SYS_exit_group, SYS_munmap, SYS_madvise, SYS_clock_nanosleep, SYS_brk, SYS_newfstatat, SYS_fstat, SYS_seccomp, SYS_mprotect, SYS_rt_sigprocmask,
        };
        static const short more[] = {
            SYS_read, SYS_clone, SYS_clone3, SYS_rseq, SYS_set_robust_list, SYS_mmap, SYS_rt_sigreturn, SYS_tgkill,
            SYS_gettid, SYS_getpid, SYS_wait4, SYS_setitimer, SYS_restart_syscall,
        };
        int lean = strchr(argv[1], 'l') != NULL, many = strchr(argv[1], 'm') != NULL;
        pthread_t t[6], f[4];
        void *(*const work[6])(void *) = {busy, busy, waits, waits, locks, locks};
        struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
        void *failed;
        pthread_barrier_init(&all, NULL, 4);
        for (int i = 0; i < 6; i++)
            if (pthread_create(&t[i], NULL, work[i], NULL))
                return 1;
        signal(SIGUSR1, on_signal);
        signal(SIGALRM, on_signal);
        while (__atomic_load_n(&begun, __ATOMIC_RELAXED) < 6)
            usleep(10000);
        add(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
        for (unsigned i = 0; i < sizeof least / sizeof *least; i++) {
            add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, (unsigned)least[i]);
            add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
        }
        for (unsigned i = 0; !lean && i < sizeof more / sizeof *more; i++) {
            add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, (unsigned)more[i]);
            add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
        }
        add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS);
        prog.len = n;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            return 77;
        if (strchr(argv[1], 'd'))
            kill(getpid(), SIGUSR2);
        if (many) {
            for (int i = 0; i < 4; i++)
                if (pthread_create(&f[i], NULL, confines, i ? &f[i] : NULL))
                    return 1;
            for (int i = 0; i < 4; i++)
                if (pthread_join(f[i], &failed) || failed)
                    return 1;
        } else if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog)) {
            return 77;
        }
        pthread_mutex_lock(&m);
        told = 1;
        pthread_cond_broadcast(&c);
        pthread_mutex_unlock(&m);
        if (!lean) {
            setitimer(ITIMER_REAL, &often, NULL);
            while (alarms < 20)
                usleep(1000);
            pthread_kill(t[0], SIGUSR1);
            while (!caught)
                usleep(1000);
        }
        usleep(50000);
        stop = 1;
        for (int round = 0; round < 20 && !lean; round++) {
            for (int i = 0; i < 6; i++)
                pthread_join(t[i], NULL);
            for (int i = 0; i < 6; i++)
                if (pthread_create(&t[i], NULL, work[i], NULL))
                    return 1;
        }
        for (int i = 0; i < 6; i++)
            pthread_join(t[i], NULL);
        if (!lean) {
            int status = 1;
            setitimer(ITIMER_REAL, &never, NULL);
            if (fork() == 0) {
                if (pthread_create(&t[0], NULL, locks, NULL) || pthread_join(t[0], NULL))
                    _exit(2);
                _exit(0);
            }
            if (wait(&status) < 0 || status)
                return 2;
        }
        puts(turns == (lean ? 1 : 21) * (2 + 2 * 20000) ? "all well" : "turns are missing");
        fflush(stdout);
        if (lean)
            _exit(0);
        return 0;
    }""" % os.path.join(os.path.dirname(os.path.realpath(__file__)), "filter.c")

# Everything that the library does beyond what each program does, some of it with the arguments by which a filter would tell.
DEADLY = """openat/2&0x40 open/1&0x10000 mkdir renameat fallocate ftruncate unlinkat flock mmap/3&1
    process_vm_readv process_vm_writev clone/0&0x4000 close_range kill setpgid waitid mlock mremap
    sched_getscheduler chdir dup poll""".split()


class Program:
    """A program under the library and a filter, with pipes."""

    def __init__(self, wanted, *args, **more):
        full = {**env, "PREEMPT_PROCS": "2", "LD_PRELOAD": LIBRARY, **more}
        self.p = subprocess.Popen([FILTER, wanted, *args], env=full, text=True, cwd=tmp, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.pid = str(self.p.pid)

    def hear(self, line):
        got = self.p.stdout.readline()
        assert got == line + "\n", (got, self.p.poll(), self.p.stderr.read() if not got else "")

    def tell(self):
        self.p.stdin.write("\n")
        self.p.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.p.kill()
        self.p.communicate()


def busy(wanted, **more):
    b = Program(wanted, compiled("busy", THREADS, "-pthread"), "1", **more)
    b.hear("ready")
    return b


def begun(b):
    """On a busy machine the library's thread may take its time."""
    eventually(lambda: "not scheduled (yet)" not in preempt("dump", "--raw", b.pid)[2], 60)


def answers(b):
    """Both requests are answered."""
    begun(b)
    out, _ = good(preempt("dump", b.pid))
    assert "[pthread_mutex_lock" in out and "busy" in out, out
    out, _ = good(preempt("top", "-b", "--json", "-n", "2", "-d", "0.2", b.pid))
    assert [len(json.loads(line)["threads"]) for line in out.splitlines()] == [4, 4], out


def refused(b, *verbs):
    begun(b)
    for verb in verbs or ("dump", "top"):
        bad_usage(verb, *(["-b"] if verb == "top" else []), b.pid, say="is under a seccomp filter")
    assert b.p.poll() is None


def case_container():
    """Under the filter of containers `preempt top` and `preempt dump` work, also when the command itself is under it."""
    with busy("docker") as b:
        answers(b)
        p = subprocess.run([FILTER, "docker", PREEMPT, "dump", b.pid], env=env, text=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert p.returncode == 0 and "[pthread_mutex_lock" in p.stdout, p
        assert b.p.poll() is None


def case_two_filters():
    """One filter on top of the other at the start, as systemd has them, are no filter that came later."""
    with Program("docker", FILTER, "errno:mkdir/1&0x8000", compiled("busy", THREADS, "-pthread"), "1") as b:
        b.hear("ready")
        answers(b)


def case_container_figures():
    """A trace, figures of a process that is killed, a report at exit, tables and rewritten instructions."""
    progs = os.path.join(PROGS, "progs") if os.path.isdir(PROGS) else PROGS
    for ms in ("400", "2000", "8000"):  # until the tables are built
        p = subprocess.run([FILTER, "docker", PREEMPT, "trace", "record", "--library", LIBRARY, "-o", "t", "--", progs, "sites_futex"],
                           env={**env, "PROGS_SITES": ms, "PREEMPT_PROCS": "2", "PREEMPT_LOG": "info",
                                "PREEMPT_STATS": os.path.join(tmp, "figures.json"),
                                "PREEMPT_STATS_PAGE": os.path.join(tmp, "page")}, cwd=tmp, text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert p.returncode == 0, p
        figures = json.loads(read(os.path.join(tmp, "figures.json")))
        if figures["spin"]["sites"]:
            break
    assert figures["spin"]["sites"] > 0, p.stderr
    assert os.path.getsize(os.path.join(tmp, "page")) > 4096
    assert any(f.endswith(".tab") for f in os.listdir(env["PREEMPT_CACHE_DIR"]))
    assert "seccomp" not in p.stderr, p.stderr
    out, _ = good(preempt("trace", "report", "--json", "t"))
    assert json.loads(out), out


def case_stat():
    """`preempt stat` counts in a container."""
    prog = compiled("watches", WATCHES, "-pthread")
    p = subprocess.run([FILTER, "docker", PREEMPT, "stat", "--library", LIBRARY, "--json", "--", prog, "0.1"], env=env, cwd=tmp,
                       text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.returncode == 0, p
    assert json.loads(p.stdout[p.stdout.index("{"):])["runs"][0]["total"]["threads_created"] == 4, p.stdout


def left_by(pid):
    """Processes in which calls were tried, and which are still there."""
    left = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            name, parent = re.search(r"\((.*)\) . (\d+)", read(f"/proc/{number}/stat")).groups()
        except OSError:
            continue
        if parent == pid and name in ("trial", "proven", "shared"):
            left.append(number)
    return left


def case_unseen():
    """The program sees nothing of the process in which calls are tried: no child, no SIGCHLD, nothing left."""
    prog = compiled("watches", WATCHES, "-pthread")
    for wanted in ("docker", "errno:close_range", "kill:mkdir", "trap:mkdir"):
        for _ in range(3):
            with Program(wanted, prog, "0.2", PREEMPT_LOG="off") as p:
                p.hear("all well")
                assert p.p.wait() == 0
        with busy(wanted) as b:
            if "mkdir" in wanted:
                refused(b)
            else:
                answers(b)
            eventually(lambda: not left_by(b.pid))


def case_ends():
    """The process ends or executes another program while calls are tried: no wait, and nobody is told."""
    prog = compiled("ends", """
        #include <pthread.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static void *idle(void *arg)
        {
            pause();
            return arg;
        }
        int main(int argc, char **argv)
        {
            pthread_t t;
            pthread_create(&t, NULL, idle, NULL);
            usleep(atoi(argv[2]));
            if (strcmp(argv[1], "exec") == 0)
                execl("/bin/sh", "sh", "-c", "wait; exit 0", NULL);
            if (strcmp(argv[1], "fork") == 0 && fork() == 0) {
                pthread_create(&t, NULL, idle, NULL);
                usleep(1000);
                exit(0);
            }
            if (strcmp(argv[1], "_exit") == 0)
                _exit(0);
            return 0;
        }""", "-pthread")
    for how in ("exit", "_exit", "exec", "fork"):
        for us in range(0, 2000, 100):
            with Program("docker" if us % 200 else "kill:mkdir,waitid", prog, how, str(us)) as p:
                assert p.p.wait(60) == 0, (how, us, p.p.returncode)


def case_deadly():
    """A filter that kills for one of the calls that the library would make: the program runs as ever, and nothing dumps core."""
    prog = compiled("watches", WATCHES, "-pthread")
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
    more = {"PREEMPT_TRACE": os.path.join(tmp, "t"), "PREEMPT_STATS_PAGE": os.path.join(tmp, "page")}
    for action in ("kill", "trap", "killthread"):
        for call in DEADLY:
            with Program(f"{action}:{call}", prog, "0.1", PREEMPT_LOG="info", **more) as p:
                out, err = p.p.communicate(timeout=60)
                assert p.p.returncode == 0 and out == "all well\n", (action, call, p.p.returncode, out, err)
                assert "the filter may answer with death" in err, (action, call, err)
            assert not [f for f in os.listdir(tmp) if "core" in f], (action, call)


def case_partly():
    """What the filter allows is done all the same: dumps where only process_vm_writev is deadly, as in services."""
    with busy("kill:process_vm_writev,process_vm_readv") as b:
        assert "[pthread_mutex_lock" in good(preempt("dump", b.pid))[0]
        refused(b, "top")
    with busy("trap:mkdir") as b:
        refused(b)


def case_no_process():
    """Where no process can be made, or its making kills the thread that tries, all goes on without."""
    prog = compiled("watches", WATCHES, "-pthread")
    for wanted in ("errno:clone/0!0x10000", "killthread:clone/0!0x10000"):
        with Program(wanted, prog, "0.1") as p:
            p.hear("all well")
            assert p.p.wait() == 0, wanted
        with busy(wanted) as b:
            refused(b)


def case_later():
    """A filter that the process installs itself is respected, also on top of one that was there: the first request finds it,
    and is told so. By an inline call, so that the library has no word of it."""
    prog = compiled("later", LATER, "-pthread")
    for wanted in ("docker", "allow"):
        with Program(wanted, prog, "mkdir,renameat,process_vm_writev") as p:
            p.hear("ready")
            eventually(lambda: preempt("dump", p.pid)[0] == 0)
            p.tell()
            p.hear("confined")
            refused(p)
            refused(p)
            p.tell()
            p.hear("all well")
            assert p.p.wait() == 0


def case_tightened():
    """Who puts itself under a filter that kills even for the question whether there is one, and for membarrier, as the sandbox of a browser, lives on;
    with no scheduler at all if it had no threads until then. Nothing is changed by questions about filters, nor by a filter that harms nobody."""
    prog = compiled("tightens", TIGHTENS, "-pthread")
    asks = "membarrier,prctl/0&4"  # PR_GET_SECCOMP has that bit; what else has it is called before
    harmless = "futex/1!0xffffffff"  # never so
    for door in ("prctl", "call", "seccomp"):
        for wanted in ("docker", "allow"):
            for when, calls, begins in (("before", asks + ",rt_tgsigqueueinfo,rt_sigpending,rt_sigtimedwait,sched_setattr,setpriority", False),
                                        ("after", asks, True), ("before", harmless, True), ("after", harmless, True)):
                stats = os.path.join(tmp, "stats")
                with Program(wanted, prog, calls, door, when, PREEMPT_PROCS="1", PREEMPT_QUANTUM="1ms", PREEMPT_STATS=stats) as p:
                    p.hear("all well")
                    assert p.p.wait() == 0
                    assert os.path.exists(stats) == begins, (door, wanted, when)
                if begins:
                    found = json.loads(read(stats))
                    assert found["preempt"]["async"] > 0, (door, wanted, when)
                    assert found["threads_created"] == {"after" + asks: 7, "before" + harmless: 13, "after" + harmless: 19}[when + calls], found
                    os.unlink(stats)


def case_strict():
    """A process that has threads, and then allows only what it calls itself, on pain of death, lives on: the scheduler ends first, and says so; report and
    trace are written before that."""
    prog = compiled("strict", STRICT, "-pthread")
    stats = os.path.join(tmp, "stats")
    trace = os.path.join(tmp, "trace")
    for procs, quantum, outer in (("1", "100us", "allow"), ("2", "10ms", "docker"), ("4", "100us", "docker")):
        for way in ("-", "l", "m", "lm", "ld"):
            for more in ({}, {"PREEMPT_TRACE": trace, "PREEMPT_STATS": stats}):
                with Program(outer, prog, way, PREEMPT_PROCS=procs, PREEMPT_QUANTUM=quantum, PREEMPT_DUMP_SIGNAL="SIGUSR2", **more) as p:
                    out, err = p.p.communicate(timeout=60)
                    assert p.p.returncode == 0 and out == "all well\n", (p.p.returncode, procs, quantum, way, out, err)
                    assert err.count("running without the scheduler from here on\n") == 1, err
                if more:
                    assert json.loads(read(stats))["threads_created"] == (11 if "m" in way else 7)
                    os.unlink(stats)
                    assert os.path.getsize(trace) > 0
                    os.unlink(trace)


def case_forked():
    """The child of a fork knows what its parent has found out."""
    with busy("docker") as b:
        answers(b)
    prog = compiled("forked", THREADS.replace("pthread_t t;", "pthread_t t; if (argc > 2) { pthread_create(&t, NULL, busy, NULL); usleep(50000); "
                             "if (fork()) { pause(); } argc = 2; printf(\"%d\\n\", (int)getpid()); fflush(stdout); }", 1), "-pthread")
    with Program("docker", prog, "1", "child") as p:
        child = int(p.p.stdout.readline())
        try:
            p.hear("ready")
            p.pid = str(child)
            answers(p)
        finally:
            os.kill(child, signal.SIGKILL)


def case_doctor():
    """What the doctor says of a filter."""
    for wanted, level, say in (("docker", "ok", "allows what the library does"), ("kill:process_vm_writev", "note", "no `preempt top`,"),
                               ("kill:mremap", "note", ": no instructions are rewritten"), ("trap:renameat", "note", "`dump`")):
        p = subprocess.run([FILTER, wanted, PREEMPT, "doctor", "--library", LIBRARY, "--json", "true"], env=env, cwd=tmp, text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert p.returncode == 0, (wanted, p)
        found = [f for f in json.loads(p.stdout)["findings"] if f["id"] == "seccomp"]
        assert len(found) == 1 and found[0]["level"] == level and say in found[0]["text"], (wanted, found)


def case_command():
    """A command that may not send the signal says so in one line."""
    with busy("docker") as b:
        for verb in "top", "dump":
            p = subprocess.run([FILTER, "errno:rt_tgsigqueueinfo", PREEMPT, verb, b.pid, *(["-b"] if verb == "top" else [])],
                               env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert p.returncode == 125 and "this command is under a seccomp filter" in p.stderr and not p.stdout, p
            assert p.stderr.count("\n") == 1, p.stderr


def case_other_way():
    """What is said to be another way is one."""
    with busy("kill:mkdir", PREEMPT_DUMP_SIGNAL="SIGUSR2") as b:
        refused(b)
        b.p.send_signal(signal.SIGUSR2)
        watchdog = threading.Timer(60, b.p.kill)
        watchdog.start()
        text = ""
        while "[pthread_mutex_lock" not in text or '"ho?[1mlder"' not in text:
            line = b.p.stderr.readline()
            assert line, text
            text += line
        watchdog.cancel()


if __name__ == "__main__":
    main(globals())
