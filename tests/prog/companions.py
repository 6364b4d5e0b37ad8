#!/usr/bin/env python3
"""Other libraries, runtimes and tools in or around a program: companions.py LIB PROGS [CHECK...]

Each check runs programs with LIB preloaded beside something else that has its own idea of threads, memory, time or
processes, and wants what they do without it. What is not installed is skipped (exit 77 if that was all). The programs in
companions/ are built beside PROGS once. -l lists the checks.
"""
import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

LIB = PROGS = ""
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = os.path.join(HERE, "companions")
MATRIX = [(p, q) for p in ("1", "2", "4") for q in ("100us", "10ms")]
CHECKS = {}


class Skip(Exception):
    pass


def check(fn):
    CHECKS[fn.__name__] = fn
    return fn


def want(cond, what):
    if not cond:
        raise AssertionError(what)


def tool(name):
    path = shutil.which(name)
    if not path:
        raise Skip(f"{name} is not installed")
    return path


def built(source, name, *command, env=None):
    """The program (or library) name, made from source by command, in which {src} and {out} stand for the files."""
    directory = os.path.join(os.path.dirname(PROGS), "companions-built")
    os.makedirs(directory, exist_ok=True)
    src, out = os.path.join(SOURCES, source), os.path.join(directory, name)
    if os.path.exists(out) and os.path.getmtime(out) > os.path.getmtime(src):
        return out
    tool(command[0])
    new = f"{out}.{os.getpid()}"
    p = subprocess.run([w.format(src=src, out=new) for w in command], text=True, cwd=directory,
                       env={**os.environ, **(env or {})},
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if p.returncode:
        raise Skip(f"{source} cannot be built: {p.stdout.strip().splitlines()[-1:]}")
    os.rename(new, out)
    return out


def environment(preload=None, **settings):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_")}
    env["PREEMPT_CACHE_DIR"] = os.path.join(os.path.dirname(PROGS), "cache")
    os.makedirs(env["PREEMPT_CACHE_DIR"], 0o700, exist_ok=True)
    env.update(settings)
    env["LD_PRELOAD"] = preload or LIB
    return env


def run(*argv, env=None, timeout=60):
    p = subprocess.run(argv, env=env or environment(), timeout=timeout, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return p.returncode, p.stdout, p.stderr


def good(*argv, preload=None, err=None, matrix=MATRIX, **settings):
    """It prints OK, and nothing (or err) on stderr, under each entry of the matrix."""
    for procs, quantum in matrix:
        got = run(*argv, env=environment(preload, PREEMPT_PROCS=procs, PREEMPT_QUANTUM=quantum, **settings))
        want((got[0], got[1]) == (0, "OK\n") and (got[2] == "" if err is None else re.fullmatch(err, got[2])),
             f"{argv} {preload or ''} PREEMPT_PROCS={procs} PREEMPT_QUANTUM={quantum}: {got}")


def library(*patterns):
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            return path
    raise Skip(f"{patterns[0]} is not installed")


# --- preloaded libraries, in either order ---------------------------------------------------------------

LIBRARIES = {
    "jemalloc": "libjemalloc.so.2", "mimalloc": "libmimalloc.so.2*", "tcmalloc": "libtcmalloc_minimal.so.4",
    "eatmydata": "libeatmydata.so", "faketime": "faketime/libfaketimeMT.so.1",
}


def preload_with(name):
    other = library(*(d + LIBRARIES[name] for d in ("/usr/lib/x86_64-linux-gnu/", "/usr/lib64/", "/usr/lib/")))
    extra = {"FAKETIME": "-1d"} if name == "faketime" else {}
    objects = built("objects.c", "objects", "gcc", "-O1", "{src}", "-o", "{out}", "-pthread")
    timed = built("timed.c", "timed", "gcc", "-O1", "{src}", "-o", "{out}", "-pthread")
    for preload in (f"{LIB} {other}", f"{other} {LIB}"):
        good(objects, preload=preload, **extra)
        good(timed, preload=preload, matrix=MATRIX[2:4], **extra)
        for case in ("fork_many", "spawn_system_popen"):
            if name != "faketime":  # the cases measure time themselves
                good(PROGS, case, preload=preload, matrix=MATRIX[2:3], **extra)


for NAME in LIBRARIES:
    CHECKS["preload_" + NAME] = lambda name=NAME: preload_with(name)


@check
def preload_interposer():
    """A lock profiler before us and after us: it sees each lock let go of."""
    objects = built("objects.c", "objects", "gcc", "-O1", "{src}", "-o", "{out}", "-pthread")
    wrapper = built("wrapper.c", "wrapper.so", "gcc", "-O1", "-shared", "-fPIC", "{src}", "-o", "{out}")
    for preload in (f"{LIB} {wrapper}", f"{wrapper} {LIB}"):
        good(objects, preload=preload, err="balanced\n")
    # Mutexes are taken without a call, but where that call would go to somebody else.
    for preload, called in ((f"{LIB}", False), (f"{LIB} {wrapper}", True), (f"{wrapper} {LIB}", False)):
        got = run(objects, env=environment(preload, PREEMPT_LOG="info"))
        want(got[0] == 0 and ("mutexes are taken by calls of libc's" in got[2]) == called, f"{preload}: {got}")


# --- sanitizers -----------------------------------------------------------------------------------------

def sanitized(compiler, kind, *more):
    return built("objects.c", f"objects-{compiler}-{kind}{len(more)}", compiler, "-g", "-O1", f"-fsanitize={kind}", *more,
                 "{src}", "-o", "{out}", "-pthread")


def without_aslr(*argv):
    # Shadow memory of older sanitizers does not fit every layout.
    return (tool("setarch"), "-R", *argv)


@check
def asan_shared():
    good(*without_aslr(sanitized("gcc", "address")))


@check
def asan_linked():
    good(*without_aslr(sanitized("clang", "address")))


@check
def tsan_linked():
    good(*without_aslr(sanitized("clang", "thread")), matrix=MATRIX[1:4])


@check
def tsan_shared():
    """Loaded after us it cannot work; it is left alone with one line, and finds nothing. Before us all is well."""
    program = sanitized("gcc", "thread")
    good(*without_aslr(program), err="libpreempt: ThreadSanitizer [^\n]*without the scheduler\n", matrix=MATRIX[:2])
    runtime = subprocess.run(["gcc", "-print-file-name=libtsan.so"], stdout=subprocess.PIPE, text=True).stdout.strip()
    # The command that sets the layout has no room for its shadow: preloaded by a shell.
    good(*without_aslr("sh", "-c", f'LD_PRELOAD="{runtime} {LIB}" exec "{program}"'), preload=" ", matrix=MATRIX[1:3])


# --- runtimes -------------------------------------------------------------------------------------------

def go_env():
    directory = os.path.join(os.path.dirname(os.path.abspath(PROGS)), "companions-built", "go")
    return {"GOCACHE": directory, "GO111MODULE": "off", "GOFLAGS": ""}


@check
def go_library():
    shared = built("shared.go", "shared.so", "go", "build", "-buildmode=c-shared", "-o", "{out}", "{src}", env=go_env())
    user = built("go_user.c", "go_user", "gcc", "-O1", "{src}", "-o", "{out}", "-pthread", "-ldl")
    good(user, shared)


@check
def go_program():
    good(built("main.go", "main", "go", "build", "-o", "{out}", "{src}", env=go_env()))


@check
def rust():
    good(built("threads.rs", "threads", "rustc", "-O", "{src}", "-o", "{out}"))


@check
def node():
    good(tool("node"), os.path.join(SOURCES, "workers.js"), matrix=MATRIX[0:1] + MATRIX[3:4])


@check
def fibres():
    good(built("fibres.cc", "fibres", "g++", "-O1", "{src}", "-o", "{out}", "-lboost_context", "-pthread"))


@check
def tbb():
    good(built("tbb.cc", "tbb", "g++", "-O1", "{src}", "-o", "{out}", "-ltbb"))


@check
def libgomp():
    good(built("openmp.c", "openmp-gcc", "gcc", "-O1", "-fopenmp", "{src}", "-o", "{out}"))


@check
def libomp():
    good(built("openmp.c", "openmp-clang", "clang", "-O1", "-fopenmp", "{src}", "-o", "{out}"))


# --- tracers --------------------------------------------------------------------------------------------

CASES = ("mutex_contend_64", "exit_from_thread", "vfork_exec")


@check
def strace():
    """Under strace -f the cases end as without; all system calls of a class are stopped at."""
    tool("strace")
    for case in CASES:
        env = environment(PREEMPT_PROCS="2", PREEMPT_QUANTUM="10ms", PROGS_TIMEOUT="60")
        keep = [w for k in ("LD_PRELOAD",) for w in ("-E", f"{k}={env.pop(k)}")]
        got = run("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=process,exit_group", *keep, PROGS, case,
                  env=env, timeout=90)
        want(got[:2] == (0, "OK\n"), f"{case}: {got}")


@check
def gdb_attach():
    """gdb attaches to a busy program, looks at it, lets it go, twice; it ends with its own output and status."""
    tool("gdb")
    busy = built("busy.c", "busy", "gcc", "-O1", "{src}", "-o", "{out}", "-pthread")
    p = subprocess.Popen([busy], env=environment(PREEMPT_PROCS="2", PREEMPT_QUANTUM="1ms"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(2):
        time.sleep(0.3)
        g = subprocess.run(["gdb", "-p", str(p.pid), "-batch", "-ex", "info threads", "-ex", "detach"], text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        if re.search(r"^(Could not attach|ptrace: Operation not permitted)", g.stdout, re.M):
            p.kill()
            raise Skip("no right to attach")
        want('"busy"' in g.stdout and "detached" in g.stdout, g.stdout)
    p.terminate()
    out = p.communicate(timeout=60)[0]
    want((p.returncode, out) == (7, "OK\n"), f"{p.returncode}, {out}")


@check
def gdb_run():
    """Started by gdb, which stops at no signal of ours if told so, it ends as alone."""
    tool("gdb")
    env = environment(PREEMPT_PROCS="2", PREEMPT_QUANTUM="1ms", PROGS_TIMEOUT="60")
    preload = env.pop("LD_PRELOAD")
    got = run("gdb", "-batch", "-ex", "handle SIGURG nostop noprint pass", "-ex", f"set environment LD_PRELOAD {preload}",
              "-ex", "run", "--args", PROGS, "mutex_contend_64", env=env, timeout=90)
    # gdb's own lines may begin in the middle of it.
    want("OK" in got[1] and "exited normally" in got[1], got)


# --- nginx: a new binary takes the listening socket over --------------------------------------------------

NGINX = """
daemon on; master_process on; worker_processes 2; error_log {dir}/error.log; pid {dir}/pid;
env LD_PRELOAD; env PREEMPT_PROCS; env PREEMPT_QUANTUM; env PREEMPT_CACHE_DIR;
thread_pool default threads=4; worker_rlimit_nofile 512;
events {{ worker_connections 128; }}
http {{
    access_log off; aio threads; root {dir}/root;
    client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
    uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
    server {{ listen 127.0.0.1:{port}; }}
}}
"""


def fetch(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        s.sendall(b"GET /file HTTP/1.0\r\n\r\n")
        data = b""
        while chunk := s.recv(65536):
            data += chunk
    return data


def until(fn, what, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        try:
            if result := fn():
                return result
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(what)


def read_pid(path):
    with open(path) as f:
        return int(f.read() or 0)  # it may be about to be written


@check
def nginx_upgrade():
    """USR2 starts a new master with the same socket, WINCH drains the old workers, QUIT ends the old master. No request
    is lost meanwhile."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if not binary:
        raise Skip("nginx is not installed")
    for procs, quantum in MATRIX[0:1] + MATRIX[3:4]:
        with tempfile.TemporaryDirectory() as directory, socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
            s.close()
            os.chmod(directory, 0o755)
            os.mkdir(directory + "/root")
            content = os.urandom(300000)
            with open(directory + "/root/file", "wb") as f:
                f.write(content)
            with open(directory + "/conf", "w") as f:
                f.write(NGINX.format(dir=directory, port=port))
            env = environment(PREEMPT_PROCS=procs, PREEMPT_QUANTUM=quantum)
            got = run(binary, "-e", directory + "/error.log", "-c", directory + "/conf", env=env)
            want(got == (0, "", ""), f"nginx: {got}")
            old = until(lambda: read_pid(directory + "/pid"), "no pid file")
            pids = [old]
            try:
                until(lambda: fetch(port), "nginx does not answer")

                def fine(times):
                    for _ in range(times):
                        want(fetch(port).endswith(content), "a request was lost")

                fine(5)
                os.kill(old, signal.SIGUSR2)
                until(lambda: read_pid(directory + "/pid.oldbin") == old, "no new binary")
                new = until(lambda: read_pid(directory + "/pid") != old and read_pid(directory + "/pid"),
                            "no new master")
                pids.append(new)
                fine(5)
                with open(f"/proc/{new}/maps") as f:
                    want(os.path.basename(LIB) in f.read(), "the new binary runs without the library")
                os.kill(old, signal.SIGWINCH)
                fine(10)
                os.kill(old, signal.SIGQUIT)
                fine(10)
                until(lambda: not os.path.exists(f"/proc/{old}/exe"), "the old master stays")
                pids.remove(old)
                fine(5)
                os.kill(new, signal.SIGQUIT)
                until(lambda: not os.path.exists(directory + "/pid"), "the new master stays")
                pids.clear()
                with open(directory + "/error.log") as f:
                    bad = [line for line in f if re.search(r"\[(alert|emerg|crit|error)\]", line)]
                want(not bad, bad)
            except AssertionError as e:
                with open(directory + "/error.log") as f:
                    raise AssertionError(f"{e}\n{f.read()[-2000:]}") from e
            finally:
                for pid in pids:
                    try:
                        os.kill(pid, signal.SIGTERM)
                    except OSError:
                        pass


def main():
    global LIB, PROGS
    args = sys.argv[1:]
    if args == ["-l"]:
        print("\n".join(CHECKS))
        return 0
    if len(args) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    LIB, PROGS = os.path.abspath(args[0]), os.path.abspath(args[1])
    for s in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(s, signal.SIG_DFL)
    result = 0
    for name in args[2:] or CHECKS:
        begin = time.time()
        try:
            CHECKS[name]()
            print(f"{name}: ok, {time.time() - begin:.1f} s")
        except Skip as e:
            print(f"{name}: skipped: {e}")
            result = result or 77
        except (AssertionError, subprocess.TimeoutExpired) as e:
            print(f"{name}: FAILED: {e}")
            result = 1
    return result


sys.exit(main())
