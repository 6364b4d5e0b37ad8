#!/usr/bin/env python3
"""doctor.py PREEMPT LIBRARY PROGS CASE: `preempt doctor`."""

import ctypes
import shutil
import struct

from tool import *

TRUE = os.path.realpath("/bin/true")


def report(*args, want=0, **kw):
    """The JSON, its findings by id, with the texts of all that have it."""
    rc, out, err = preempt("doctor", "--library", kw.pop("library", LIBRARY), "--json", *args, **kw)
    assert rc == want and err == "", (args, rc, out, err)
    r = json.loads(out)
    assert r["works"] == (want == 0)
    found = {}
    for f in r["findings"]:
        found.setdefault(f["id"], []).append(f)
    return r, found


def stops(*args, **kw):
    """The id of the only reason why the library steps aside."""
    r, _ = report(*args, want=1, **kw)
    assert r["verdict"].startswith("libpreempt will step aside"), r["verdict"]
    ids = [f["id"] for f in r["findings"] if f["level"] == "stop"]
    assert len(ids) == 1, ids
    assert next(f for f in r["findings"] if f["level"] == "stop")["text"] in r["verdict"]
    return ids[0]


def case_works():
    """A dynamic program works, as the trial and the facts say; nothing of it is started."""
    mark = os.path.join(tmp, "mark")
    r, found = report("touch", mark)
    assert not os.path.exists(mark)
    assert found["dynamic"][0]["level"] == "ok" and found["trial"][0]["level"] == "ok", found
    assert r["program"].endswith("/touch") and r["command"] == ["touch", mark]
    facts = r["facts"]
    assert facts["cpus"] == len(os.sched_getaffinity(0)) and facts["kernel"] == os.uname().release
    assert facts["glibc"] == os.confstr("CS_GNU_LIBC_VERSION").split()[1]
    assert facts["procs"] >= 1 and facts["features"]["proc"] is True
    rc, out, err = preempt("doctor", "--library", LIBRARY, "touch", mark)
    assert rc == 0 and out.endswith("libpreempt will schedule the threads of touch\n") and err == "", (out, err)
    assert "\033" not in out
    t = Terminal("doctor", "--library", LIBRARY, "true")
    assert t.end() == 0 and "\033[32m" in t.text


def case_machine():
    """Without a command it looks at the machine alone."""
    r, found = report()
    assert "program" not in r and "kernel" in found and "dynamic" not in found
    assert report(env={"PREEMPT_PROCS": "3"})[0]["facts"]["procs"] == 3
    out = subprocess.run(["taskset", "-c", str(min(os.sched_getaffinity(0))), PREEMPT, "doctor", "--json", "--library",
                          LIBRARY], env=env, stdout=subprocess.PIPE, check=True).stdout
    assert json.loads(out)["facts"]["cpus"] == 1


def case_static():
    """A static program does not load the library."""
    prog = compiled("static", "int main(void) { return 0; }", "-static")
    assert stops(prog) == "static"
    assert stops(compiled("pie", "int main(void) { return 0; }", "-static-pie")) == "static"


def case_privileged():
    """Nor does one that runs with other rights than its user's."""
    if os.geteuid() == 0:
        prog = shutil.copy(TRUE, os.path.join(tmp, "setuid"))
        os.chown(prog, 1, -1)
        os.chmod(prog, 0o4755)
    else:
        prog = shutil.which("passwd") or ""
        if not prog or not os.stat(prog).st_mode & 0o4000:
            raise Skip("no set-user-ID program here")
    if os.statvfs(prog).f_flag & os.ST_NOSUID:
        raise Skip("the file system ignores set-user-ID")
    with open("/proc/self/status") as f:
        if "NoNewPrivs:\t1" in f.read():
            raise Skip("no privileges can be gained here")
    assert stops(prog) == "privileged"
    if os.geteuid() == 0:
        os.chmod(prog, 0o6755)
        os.chown(prog, 0, 0)
        os.chmod(prog, 0o6755)
        report(prog)  # root's own, run by root


def case_other_machine():
    """A 32-bit program, one for another machine, and one for another C library."""
    with open(TRUE, "rb") as f:
        elf = bytearray(f.read())
    wrong = bytearray(elf)
    wrong[18:20] = struct.pack("<H", 183)
    write("arm", "", 0o755)
    with open(os.path.join(tmp, "arm"), "wb") as f:
        f.write(wrong)
    assert stops(os.path.join(tmp, "arm")) == "machine"
    musl = elf.replace(b"/lib64/ld-linux-x86-64.so.2\0", b"/lib/ld-musl-x86_64.so.1\0\0\0\0")
    write("musl", "", 0o755)
    with open(os.path.join(tmp, "musl"), "wb") as f:
        f.write(musl)
    r, found = report(os.path.join(tmp, "musl"), want=1)
    assert found["libc"][0]["level"] == "stop", found


def case_damaged():
    """Cut and scrambled files are looked at without harm."""
    with open(TRUE, "rb") as f:
        elf = f.read()
    for i, n in enumerate((4, 20, 64, 100, 1000, len(elf) // 2, len(elf) - 64)):
        path = write(f"cut{i}", "", 0o755)
        with open(path, "wb") as f:
            f.write(elf[:n])
        rc, out, err = preempt("doctor", "--library", LIBRARY, "--json", path)
        assert rc in (0, 1) and json.loads(out), (n, rc, err)
    for i in range(6):
        data = bytearray(elf)
        for at in range(16 + i, len(data), 61 + i):
            data[at] = (data[at] * 5 + at) & 255
        path = write(f"scrambled{i}", "", 0o755)
        with open(path, "wb") as f:
            f.write(data)
        rc, out, err = preempt("doctor", "--library", LIBRARY, "--json", path)
        assert rc in (0, 1) and json.loads(out), (i, rc, err)


def case_script():
    """Of a script the interpreter counts."""
    prog = script("s", "exit 0\n")
    r, found = report(prog)
    assert "script" in found and "sh" in r["program"], r
    static = compiled("static", "int main(void) { return 0; }", "-static")
    assert stops(write("t", f"#!{static}\n", 0o755)) == "static"


def case_not_found():
    """As env: 127 and 126, with the reason, also for what is no program."""
    for name, rc, say in (("no-such-program", 127, "not found in PATH"), ("/proc/nonexistent/x", 127, "No such file"),
                          ("/etc/passwd", 126, "not executable"), ("/tmp", 126, "not a program")):
        bad_usage("doctor", "--library", LIBRARY, name, rc=rc, say=say)
    bad_usage("doctor", "--nothing", say="--nothing")
    bad_usage("doctor", "--library", "/proc/nonexistent.so", say="/proc/nonexistent.so")
    bad_usage("doctor", "--quantum=1", say="--quantum")
    with open("/dev/full", "w") as full:
        assert preempt("doctor", "--library", LIBRARY, stdout=full)[0] == 125


def case_settings():
    """Settings in the environment that are bad, or keep the library from working."""
    assert stops("true", env={"PREEMPT_OFF": "1"}) == "off"
    r, found = report("true", env={"PREEMPT_QUANTUM": "5", "PREEMPT_WRONG": "1"})
    assert len(found["setting"]) == 2 and all(f["level"] == "warning" for f in found["setting"]), found
    assert "PREEMPT_WRONG" in found["setting"][1]["text"]
    r, found = report("true", want=1, env={"PREEMPT_QUANTUM": "5", "PREEMPT_STRICT": "1"})
    assert found["strict"][0]["level"] == "stop"
    assert "async" in report("true", env={"PREEMPT_ASYNCPREEMPTOFF": "1"})[1]
    many = str(len(os.sched_getaffinity(0)) + 1)
    assert report("--procs", many)[1]["cpus"][0]["level"] == "warning"


SIGNALS = """
    #include <signal.h>
    int main(void) { return sigaction(SIGURG, 0, 0); }"""


def case_signals():
    """A program with handlers shares a signal with the library only if the user chose one."""
    prog = compiled("signals", SIGNALS)
    assert report(prog)[1]["signal"][0]["level"] == "ok"
    for sig in ("SIGURG", "SIGRTMIN+1"):
        finding = report("--signal", sig, prog)[1]["signal"][0]
        assert finding["level"] == "warning" and sig in finding["text"] and "may" in finding["text"], finding
    assert "signal" not in report("--signal", "SIGURG", compiled("none", "int main(void) { return 0; }"))[1]


def case_threads():
    """Whether anything in it could create threads."""
    assert "threads" in report(compiled("none", "int main(void) { return 0; }"))[1]
    for source in ("#include <pthread.h>\nint main(void) { return pthread_create(0, 0, 0, 0); }",
                   "#include <dlfcn.h>\nint main(void) { return dlopen(0, 0) == 0; }"):
        assert "threads" not in report(compiled("some", source))[1]
    clone = "#include <sched.h>\nint main(void) { return clone(0, 0, 0, 0); }"
    assert "clone" in report(compiled("clone", clone))[1]
    coroutine = "#include <ucontext.h>\nint main(void) { return swapcontext(0, 0); }"
    assert "coroutine" in report(compiled("coroutine", coroutine))[1]["coroutines"][0]["text"]


def case_unwind():
    """Code without frame descriptions is named, in libraries as well, and by the tables once there are any."""
    lib = compiled("libbare.so", "int f(int x) { for (int i = 0; i < x; i++) x += i * x; return x; }", "-shared", "-fPIC",
                   "-nostdlib", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-Wl,--no-ld-generated-unwind-info")
    prog = compiled("uses", "int f(int); int main(int c, char **v) { (void)v; return f(c); }", lib)
    r, found = report(prog)
    assert len(found["unwind"]) == 1 and lib in found["unwind"][0]["text"], found.get("unwind")
    assert "unwind" not in report(TRUE)[1]
    os.unlink(lib)
    r, found = report(prog, want=1)
    assert "libbare.so" in found["libraries"][0]["text"], found


def case_runtimes():
    """Runtimes that make code are known by their names and libraries; ThreadSanitizer makes the library stand aside."""
    node = shutil.copy(TRUE, os.path.join(tmp, "node"))
    assert "V8" in report(node)[1]["jit"][0]["text"]
    assert "jit" not in report(TRUE)[1]
    for lib, id, rc in (("libluajit-5.1.so.2", "jit", 0), ("libtsan.so.2", "tsan", 1)):
        path = compiled(lib, "int f(void) { return 0; }", "-shared", "-fPIC", "-Wl,-soname," + lib)
        prog = compiled("with", "int f(void); int main(void) { return f(); }", path, "-Wl,-rpath," + tmp)
        assert id in report(prog, want=rc)[1], (lib, report(prog, want=rc)[1])


def case_tables():
    """Which modules have tables, of what size, and how to build the rest."""
    r, found = report(TRUE)
    assert found["tables"][0]["level"] == "note" and "preempt tables build" in found["tables"][0]["advice"], found
    good(preempt("tables", "build", "--needed", TRUE))
    r, found = report(TRUE)
    assert found["tables"][0]["level"] == "ok", found
    tables = {t["path"]: t for t in r["facts"]["tables"]}
    assert tables[TRUE]["state"] == "cached" and tables[TRUE]["safe"] > 0.3
    assert tables[TRUE]["table_bytes"] == os.path.getsize(tables[TRUE]["table"])


def case_cache():
    """A directory that cannot be used is named with the reason and what to do."""
    def cache(**env):
        finding = report("true", env=env)[1]["cache"][0]
        return finding["level"], finding["text"], finding["advice"]

    directory = os.path.join(tmp, "cache2")
    level, text, _ = cache(PREEMPT_CACHE_DIR=directory)
    assert level == "ok" and "does not exist yet" in text and not os.path.exists(directory)
    os.mkdir(directory, 0o700)
    assert cache(PREEMPT_CACHE_DIR=directory)[0] == "ok"
    os.chmod(directory, 0o777)
    level, text, advice = cache(PREEMPT_CACHE_DIR=directory)
    assert level == "warning" and "777" in text and "chmod" in advice, text
    file = write("file", "")
    assert "not a directory" in cache(PREEMPT_CACHE_DIR=file)[1]
    if os.geteuid() != 0:  # root has the system's directory
        level, text, _ = cache(PREEMPT_CACHE_DIR=None, XDG_CACHE_HOME=None, HOME=None)
        assert level == "warning" and "HOME" in text, text
    level, text, _ = cache(PREEMPT_CACHE_DIR=None, XDG_CACHE_HOME=tmp)
    assert os.path.join(tmp, "preempt") in text, text


def case_seccomp():
    """A filter on the calling process is seen. This one allows everything."""
    libc = ctypes.CDLL(None, use_errno=True)

    class Prog(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    allow = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7fff0000))
    prog = Prog(1, ctypes.cast(allow, ctypes.c_void_p).value)

    def confine():
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(prog)):
            os._exit(99)

    rc, out, err = preempt("doctor", "--library", LIBRARY, "--json", "true", preexec_fn=confine)
    if rc == 99 or "seccomp" in err:
        raise Skip("no seccomp here")
    r = json.loads(out)
    assert rc == 0 and r["facts"]["seccomp"] == 2 and "seccomp" in [f["id"] for f in r["findings"]], r


def case_trial():
    """A library that does not start is found by the trial, with its reason."""
    broken = compiled("libpreempt.so", "int f(void) { return 0; }", "-shared", "-fPIC")
    assert stops("true", library=broken) == "trial"
    text = write("text.so", "no library\n")
    assert stops("true", library=text) == "trial"
    dies = compiled("dies.so", "__attribute__((constructor)) static void f(void) { __builtin_trap(); }", "-shared", "-fPIC")
    r, found = report("true", library=dies, want=1)
    assert "killed by signal" in found["trial"][0]["text"], found


if __name__ == "__main__":
    main(globals())
