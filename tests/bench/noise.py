"""Is the machine quiet enough for a verdict?

Two answers. For a line of the table: each round also runs the plain program a second time (case "again"). What that differs from
plain is the machine's doing, so a verdict needs a result that is further from its bar than that (undecided). For the whole run:
CPU time that was used by others, or taken by the host of a virtual machine (Machine).
"""

import math
import os
import resource
import statistics
import time

from common import interval

FOREIGN_MAX = 5.0   # per cent of all CPUs: more than daemons of an idle machine use, less than one other program
STEAL_MAX = 3.0
CONTROL_MAX = 1.05  # a median of plain over plain further from 1 than the strictest bars, is no ruler for them


def undecided(kind, judged, values, bar, control):
    """True if the machine's noise is larger than the distance from the bar.

    judged is the spread of what is compared with the bar, values its samples; control is, for "ratio", the ratios of the second plain
    run over the first, and for "diff" their differences.
    """
    if judged is None or len(values) < 2:
        return False
    median = judged["median"]
    if kind == "ratio":
        if median <= 0 or not control:
            return False
        distance = abs(math.log(median / bar))
        noise = [math.log(c) for c in control if c > 0]
    elif kind == "diff":
        distance = abs(median - bar)
        noise = control
    else:   # the shim's own figure has its own rounds only
        distance = abs(median - bar)
        noise = [v - median for v in values]
    if not noise:
        return False
    # How far the median is off, or could be: half the range of n samples over the root of n.
    off = max(abs(statistics.median(noise)), (max(noise) - min(noise)) / 2 / math.sqrt(len(noise)))
    return distance < off


def _ticks():
    with open("/proc/stat", encoding="ascii") as f:
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, f.readline().split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _own():
    return sum(u.ru_utime + u.ru_stime for u in (resource.getrusage(resource.RUSAGE_SELF),
                                                 resource.getrusage(resource.RUSAGE_CHILDREN)))


class Machine:
    """From its making to finish(): what others did."""

    def __init__(self):
        self.begun = time.monotonic()
        self.busy, self.steal = _ticks()
        self.own = _own()

    def finish(self, controls):
        """The verdict as JSON has it. controls: medians of plain over plain, one of each line."""
        busy, steal = _ticks()
        seconds = max(time.monotonic() - self.begun, 1e-3) * os.cpu_count()
        away = [max(c, 1 / c) for c in controls if c and c > 0]
        r = {
            "foreign_percent": max(0.0, 100 * ((busy - self.busy) - (_own() - self.own)) / seconds),
            "steal_percent": 100 * (steal - self.steal) / seconds,
            "control": {"median": statistics.median(away), "min": min(away), "max": max(away)} if away else None,
        }
        r["quiet"] = bool(r["foreign_percent"] <= FOREIGN_MAX and r["steal_percent"] <= STEAL_MAX
                          and (not away or r["control"]["median"] <= CONTROL_MAX))
        return r


def sentence(r):
    words = "quiet" if r["quiet"] else "too noisy for verdicts"
    control = f"; plain against plain differs by {interval(r['control'])} times" if r["control"] else ""
    return (f"machine: {words}: others had {r['foreign_percent']:.1f} % of the CPUs (at most {FOREIGN_MAX:g}), "
            f"the host {r['steal_percent']:.1f} % (at most {STEAL_MAX:g}){control}"
            + (f" (at most {CONTROL_MAX:g})" if control else ""))
