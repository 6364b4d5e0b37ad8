#!/usr/bin/env python3
"""run.py PREEMPT LIBRARY PROGS CASE: `preempt run`, help, man page and completion."""

import re

from tool import *

SHOW = ["sh", "-c", "env | grep -E '^(PREEMPT_|LD_PRELOAD)' | sort"]

# One good and one bad value of every setting. A new setting fails case_every_setting until it is here.
VALUES = {
    "PREEMPT_LOG": ("info", "loud"),
    "PREEMPT_OFF": ("1", "perhaps"),
    "PREEMPT_PROCS": ("3", "0"),
    "PREEMPT_QUANTUM": ("500us", "10"),
    "PREEMPT_POLICY": ("fair", "lottery"),
    "PREEMPT_ASYNCPREEMPTOFF": ("1", "2"),
    "PREEMPT_SIGNAL": ("SIGRTMIN+3", "SIGKILL"),
    "PREEMPT_FORCE_AFTER": ("50ms", "1ns"),
    "PREEMPT_LOCK_GRACE": ("2ms", "20s"),
    "PREEMPT_SPIN": ("sample", "maybe"),
    "PREEMPT_CREDIT": ("0", "x"),
    "PREEMPT_WEIGHTS": ("a*:200", "a"),
    "PREEMPT_CRITICAL": ("my_*", ":"),
    "PREEMPT_CACHE_DIR": ("/tmp/there", "/" + "x" * 300),
    "PREEMPT_SCHEDTRACE": ("100", "-1"),
    "PREEMPT_STATS": ("/tmp/figures", "x" * 300),
    "PREEMPT_STATS_PAGE": ("/tmp/page", "x" * 300),
    "PREEMPT_TRACE": ("/tmp/trace", "x" * 300),
    "PREEMPT_DUMP_SIGNAL": ("SIGUSR2", "SIGSEGV"),
    "PREEMPT_DEADLOCK": ("abort", "ignore"),
    "PREEMPT_CHAOS": ("42", "-1"),
    "PREEMPT_STRICT": ("1", "x"),
}


def settings():
    out, _ = good(preempt("help", "env"))
    return re.findall(r"^(PREEMPT_\w+)=", out, re.M)


def option(name):
    return "--" + name[len("PREEMPT_"):].lower().replace("_", "-")


def variables(*args, **kw):
    out, err = good(with_library("run", *args, "--", *SHOW, **kw))
    return dict(line.split("=", 1) for line in out.splitlines())


def options_in(text):
    return set(re.findall(r"(--[a-z][a-z-]*)", text))


def case_every_setting():
    """Each setting of the library is an option that sets its variable, and refuses what the library refuses."""
    names = settings()
    assert len(names) > 15
    for name in names:
        assert name in VALUES, f"{name}: no values in this test"
        value, wrong = VALUES[name]
        got = variables(f"{option(name)}={value}", "--log=off")
        assert got[name] == value or name == "PREEMPT_LOG", (name, got)
        bad_usage("run", "--library", LIBRARY, f"{option(name)}={wrong}", "true", say=option(name))
    got = variables("-p", "2", "-q", "1ms", "--strict", "--stats")
    assert [got["PREEMPT_" + n] for n in ("PROCS", "QUANTUM", "STRICT", "STATS")] == ["2", "1ms", "1", "1"], got


def case_preload():
    """The library is first in LD_PRELOAD, once; the other entries stay."""
    assert variables()["LD_PRELOAD"] == LIBRARY
    assert variables(env={"LD_PRELOAD": "libm.so.6"})["LD_PRELOAD"] == LIBRARY + ":libm.so.6"
    both = f"libm.so.6 {LIBRARY}:libdl.so.2"
    assert variables(env={"LD_PRELOAD": both})["LD_PRELOAD"] == LIBRARY + ":libm.so.6:libdl.so.2"


def case_exit_codes():
    """The program's own, and env's: 126 cannot be executed, 127 not found, 125 for the command itself."""
    assert with_library("run", "sh", "-c", "exit 3")[0] == 3
    assert with_library("run", "sh", "-c", "kill -9 $$")[0] == -9
    for name, rc in (("no-such-program", 127), ("/proc/nonexistent/x", 127), ("/etc/passwd", 126), ("/", 126)):
        got, out, err = with_library("run", name)
        assert got == rc and out == "" and err.startswith(f"preempt: {name}: "), (got, out, err)
    lost = write("lost", "#!/proc/nonexistent/sh\n", 0o755)
    rc, _, err = with_library("run", lost)
    assert rc == 127 and "interpreter" in err, (rc, err)
    # Options end with the program's name; what follows is the program's.
    assert with_library("run", "echo", "--strict", "-q")[1] == "--strict -q\n"
    assert with_library("run", "--", "echo", "--", "-q")[1] == "-- -q\n"


def case_errors():
    """What is wrong, and what to do; nothing is started."""
    bad_usage("run", say="no command given")
    bad_usage("run", "--nothing", "true", say="--nothing")
    bad_usage("run", "--library", "/proc/nonexistent.so", "true", say="/proc/nonexistent.so")
    spaced = os.path.join(tmp, "a b.so")
    write("a b.so", "")
    bad_usage("run", "--library", spaced, "true", say="space")
    bad_usage("nothing", say="preempt help")
    rc, out, err = preempt()
    assert rc == 125 and out == "" and err.startswith("Usage: preempt"), (rc, err)
    bad_usage("help", "nothing", say="there is help on")


def case_help():
    """Every command has help, on standard output, in both ways; a full disk is an error."""
    out, err = good(preempt("help"))
    assert good(preempt("--help"))[0] == out and err == ""
    verbs = re.findall(r"^  ([a-z]+) +\w", out, re.M)
    assert {"run", "stat", "compare", "doctor", "tables"} <= set(verbs), verbs
    for verb in verbs:
        if verb == "help":
            continue
        text, err = good(preempt("help", verb))
        assert text.startswith("Usage: preempt " + verb) and err == "", (verb, text)
        assert options_in(text) <= options_in(good(preempt(verb, "--help"))[0]) | {"--lock-grace"}, verb
    assert good(preempt("--version"))[0].startswith("preempt ")
    with open("/dev/full", "w") as full:
        assert preempt("help", stdout=full)[0] == 125
        assert preempt("help", "env", stdout=full)[0] == 125
        assert preempt("help", "run", stdout=full)[0] == 125


def case_manual():
    """The man page has every command and every option, but for the settings, of which libpreempt(7) has all."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    page = read(os.path.join(root, "man/preempt.1")).replace("\\-", "-").replace("\\fR", "")
    names = {option(n) for n in settings()}
    for verb in ("run", "stat", "compare", "doctor", "tables", "top", "dump"):
        assert f"preempt {verb}" in page, verb
        missing = options_in(good(preempt("help", verb))[0]) - names - options_in(page)
        assert not missing, (verb, missing)


def complete(*words):
    """What bash offers for the last word."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    program = f"""
        source {root}/tools/completion/preempt
        _command_offset() {{ COMPREPLY=("offset $1"); }}
        preempt() {{ {PREEMPT} "$@"; }}
        COMP_WORDS=(preempt "$@")
        COMP_CWORD=$#
        _preempt 2>/dev/null
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    out = subprocess.run(["bash", "-c", program, "bash", *words], env=env, cwd=tmp, text=True, check=True,
                         stdout=subprocess.PIPE).stdout
    return out.split("\n")[:-1]


def case_completion():
    """bash offers the commands, the options that help prints, the values of settings, and the program's own completion."""
    assert {"run", "stat", "compare", "doctor", "tables", "help"} <= set(complete(""))
    assert complete("comp") == ["compare"]
    for verb in ("run", "stat", "compare", "doctor"):
        want = options_in(good(preempt("help", verb))[0])
        assert want <= set(complete(verb, "--")) | {"--"}, (verb, want - set(complete(verb, "--")))
    assert complete("run", "--lock") == ["--lock-grace"]
    assert set(complete("run", "--policy", "")) == {"go", "fair"}
    assert set(complete("run", "--deadlock", "")) == {"off", "report", "abort"}
    assert complete("run", "-p", "2", "--", "ls", "x") == ["offset 5"]
    assert complete("run", "--strict", "ls", "x") == ["offset 3"]
    assert complete("stat", "-r", "3", "--json", "ls", "x") == ["offset 5"]
    assert "env" in complete("help", "")
    assert complete("tables", "b") == ["build"]
    for verb in ("top", "dump"):  # options, and processes
        want = options_in(good(preempt("help", verb))[0])
        assert want <= set(complete(verb, "--")) | {"--"}, (verb, want - set(complete(verb, "--")))
        assert str(os.getpid()) in complete(verb, "")
    assert "delay" in complete("top", "--sort", "=", "")


def case_progress():
    """On a terminal a bar shows that tables are built, and is gone when the program starts."""
    t = Terminal("run", "--library", LIBRARY, "--", "echo", "started")
    assert t.end() == 0
    before, after = t.text.split("started")
    assert "safe-point tables [" in before and "[" not in after, t.text
    t = Terminal("run", "--library", LIBRARY, "--", "echo", "again")
    assert t.end() == 0 and t.text == "again\r\n", t.text


if __name__ == "__main__":
    main(globals())
