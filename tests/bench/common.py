"""What run and safepoints.py share: running a program, reading its METRIC lines, printing numbers."""

import os
import signal
import statistics
import subprocess
import sys


class Failure(Exception):
    pass


def environment(extra=None):
    return {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | (extra or {})


def execute(argv, env, limit, verbose=False):
    """What the program prints; Failure if it fails or does not end."""
    child = subprocess.Popen([str(a) for a in argv], env=env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             start_new_session=True)
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise Failure(f"no end after {limit:.0f} s") from None
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    if "cannot be preloaded" in err:
        raise Failure("the library could not be loaded: " + err.strip().splitlines()[0])
    if child.returncode:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit {child.returncode}"
        raise Failure(f"{how}: {err.strip()[-200:]}")
    if err and verbose:
        sys.stderr.write(err)
    return out


def parse_metrics(text):
    """{name: (value, unit, which direction is better)}"""
    found = {}
    for words in (line.split() for line in text.splitlines()):
        if len(words) == 5 and words[0] == "METRIC":
            found[words[1]] = (float(words[2]), words[3], words[4])
    return found


def spread(values):
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(base, other, better):
    """One ratio per round in which both ran; above 1 means other is better."""
    ratios = []
    for b, o in zip(base, other):
        if b is not None and o is not None:
            top, bottom = (o, b) if better == "higher" else (b, o)
            if bottom > 0:
                ratios.append(top / bottom)
    return spread(ratios)


def number(x):
    if x is None:
        return "-"
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(x) >= bound:
            return f"{x / (1e3 if letter == 'k' else bound):.3g}{letter}"
    return f"{x:.3g}"


def interval(s, signed=False):
    if s is None:
        return "-"
    sign = "+" if signed else ""
    return f"{s['median']:{sign}.3g} ({s['min']:{sign}.3g}..{s['max']:{sign}.3g})"


def text_line(fields, widths):
    return "  ".join(f.ljust(w) for f, w in zip(fields, widths)).rstrip()
