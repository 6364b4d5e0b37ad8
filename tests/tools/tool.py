"""tool.py: what the tests of the command share. FILE.py PREEMPT LIBRARY PROGS CASE runs case_CASE of FILE.

Every case has a directory, and a cache of tables, of its own. A case passes if it returns; one that cannot be made here
raises Skip (exit status 77).
"""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time

PREEMPT, LIBRARY, PROGS = (os.path.realpath(a) for a in sys.argv[1:4])

_directory = tempfile.TemporaryDirectory()
tmp = os.path.realpath(_directory.name)
env = {k: v for k, v in os.environ.items() if not k.startswith("PREEMPT_")}
env.pop("LD_PRELOAD", None)
env.pop("NO_COLOR", None)
# No tables for the tests that are not about them: they take seconds.
env.update(PREEMPT_CACHE_DIR=os.path.join(tmp, "cache"), TERM="xterm", LC_ALL="C",
           # execvp says EACCES, not ENOENT, if it may not look into one of these.
           PATH=":".join(d for d in os.environ["PATH"].split(":") if os.access(d, os.X_OK)))

# A background job begins with these ignored, and so would all its children.
for number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


class Skip(Exception):
    pass


def start(*args, **kw):
    full = {**env, **kw.pop("env", {})}
    full = {k: v for k, v in full.items() if v is not None}
    return subprocess.Popen([PREEMPT, *args], env=full, text=True, cwd=kw.pop("cwd", tmp),
                            stdin=kw.pop("stdin", subprocess.DEVNULL),
                            stdout=kw.pop("stdout", subprocess.PIPE),
                            stderr=kw.pop("stderr", subprocess.PIPE), **kw)


def end(process, text=None):
    out, err = process.communicate(text, timeout=60)
    return process.returncode, out, err


def preempt(*args, text=None, **kw):
    if text is not None:
        kw["stdin"] = subprocess.PIPE
    return end(start(*args, **kw), text)


def with_library(verb, *args, **kw):
    return preempt(verb, "--library", LIBRARY, "--no-tables", *args, **kw)


def good(got, what=""):
    rc, out, err = got
    assert rc == 0, (what, rc, out, err)
    return out, err


def bad_usage(*args, say, rc=125, **kw):
    """Wrong usage: the exit code, one reason on stderr that names what is wrong, nothing on stdout."""
    got, out, err = preempt(*args, **kw)
    assert got == rc and out == "", (args, got, out, err)
    assert err.startswith("preempt") and say in err.splitlines()[0], (args, err)


def write(name, text, mode=0o644):
    path = os.path.join(tmp, name)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def read(path):
    with open(path) as f:
        return f.read()


def script(name, text):
    return write(name, "#!/bin/sh\n" + text, 0o755)


def compiled(name, source, *flags, link=True):
    """A program or library from C."""
    src, out = write(name + ".c", source), os.path.join(tmp, name)
    p = subprocess.run([*os.environ.get("CC", "cc").split(), "-O1", src, "-o", out, *flags], text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if p.returncode:
        raise Skip(f"{name} cannot be compiled: {p.stdout}")
    return out


class Terminal:
    """The command as the foreground job of a terminal of its own."""

    def __init__(self, *args, **extra):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            for sig in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
                signal.signal(sig, signal.SIG_DFL)
            os.chdir(tmp)
            os.execve(PREEMPT, [PREEMPT, *args], {**env, **extra})

    def read_some(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 4096)
            except OSError:  # the last one has closed it
                data = b""
            self.text += data.decode(errors="replace")
            return bool(data)
        return True

    def wait_for(self, text, seconds=30):
        limit = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < limit, f"no {text!r} in {self.text!r}"
            assert self.read_some(1) or text in self.text, f"it ended: {self.text!r}"

    def write(self, text):
        os.write(self.fd, text.encode())

    def end(self, seconds=30):
        limit = time.monotonic() + seconds
        while self.read_some(0.2):
            assert time.monotonic() < limit, f"does not end: {self.text!r}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def main(cases):
    try:
        cases["case_" + sys.argv[4]]()
    except Skip as e:
        print(e)
        sys.exit(77)


__all__ = [n for n in dir() if not n.startswith("_")]
