#!/usr/bin/env python3
"""session.py PREEMPT LIBRARY PROGS CASE: what README.md shows is what happens."""

import re
import shutil

from tool import *

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def case_readme():
    """The session runs to its end, and each command of it is in README.md and says what is shown there, whatever the figures."""
    if not all(map(shutil.which, ("sysbench", "pgrep"))):
        raise Skip("no sysbench")
    p = subprocess.run([os.path.join(TOP, "examples", "session.sh"), tmp], text=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=550,
                       env={**env, "LOCKS": "1000", "PATH": os.path.dirname(PREEMPT) + ":" + env["PATH"]})
    assert p.returncode == 0, p
    commands = [c.replace("=1000 ", "=150000 ") for c in re.findall(r"^\$ (preempt .*)", p.stdout, re.M)]
    readme = read(os.path.join(TOP, "README.md"))
    shown = re.findall(r"^\$ (preempt .*)", readme, re.M)
    plain = [re.sub(r"dump .*", "dump", c) for c in commands]
    assert plain == [re.sub(r"dump .*", "dump", c) for c in shown], (plain, shown)
    for say in ("libpreempt will schedule the threads of sysbench", "mean ratio", "total time: ", "65   threads",
                r"\d events of .* in .*job.trace, none lost", "preempt: wrote job.trace.html",
                "deadlock: each of 2 threads waits for the next, and the last for the first",
                r"thread \d \[pthread_mutex_lock, .* s\], tid \d+, \"bank\"\n\twaits for mutex 0x\w+, locked by thread \d, tid \d+\n"
                r"\tholds mutex 0x\w+\n(\tby .*\n)?\tby transfer\+.*bank\.c:15"):
        assert re.search(say, p.stdout), (say, p.stdout)


if __name__ == "__main__":
    main(globals())
