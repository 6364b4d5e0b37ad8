#!/usr/bin/env python3
"""demo.py BUILDDIR: unmodified programs, plain and under the library, side by side.

Plain and shimmed runs alternate, and the table shows the medians. Debian's programs are checked by
their own results; a wrong one ends the demo with status 1.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 3
CPUS = len(os.sched_getaffinity(0))

LOCKS = """
import threading
lock, n = threading.Lock(), 0
def work():
    global n
    for _ in range(3000):
        with lock:
            n += 1
threads = [threading.Thread(target=work) for _ in range(64)]
for t in threads: t.start()
for t in threads: t.join()
assert n == 64 * 3000, n
"""


def run(argv, lib, **kw):
    env = dict(os.environ)
    if lib:
        env["LD_PRELOAD"] = str(lib)
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, timeout=120, check=True, **kw)


def seconds_of(argv, check=None):
    def once(lib):
        start = time.monotonic()
        out = run(argv, lib, stdout=subprocess.PIPE).stdout
        taken = time.monotonic() - start
        if check:
            check(out)
        return taken
    return once


def metric_of(argv, name):
    def once(lib):
        out = run(argv, lib, stdout=subprocess.PIPE, text=True).stdout
        for words in (line.split() for line in out.splitlines()):
            if words[:2] == ["METRIC", name]:
                return float(words[2])
        raise ValueError(f"no METRIC {name} from {argv[0]}")
    return once


def same(argv, data):
    def check(out):
        back = subprocess.run(argv, input=out, stdout=subprocess.PIPE, check=True).stdout
        if back != data:
            raise ValueError(f"{argv[0]} does not give the data back")
    return check


def human(value, unit):
    if unit == "s":
        return f"{value:.2f} s"
    if unit == "us":
        return f"{value / 1e6:.2f} s" if value >= 1e6 else \
            f"{value / 1e3:.1f} ms" if value >= 1e3 else f"{value:.0f} us"
    if unit == "":
        return f"{value:.2f}"
    for bound, letter in ((1e6, "M"), (1e3, "k")):
        if value >= bound:
            return f"{value / bound:.2f} {letter}{unit}"
    return f"{value:.0f} {unit}"


def main():
    build = Path(sys.argv[1]).resolve()
    lib = build / "shim/libpreempt.so"
    bench = build / "tests/bench"

    with tempfile.NamedTemporaryFile() as f:
        # Text that compresses at the usual rates.
        data = b"".join(p.read_bytes() for p in sorted(Path("shim").glob("*.[ch]"))) * 100
        data = data[:24_000_000]
        f.write(data)
        f.flush()

        rows = (
            ("64 threads, one pthread spin lock", "/s", "higher",
             metric_of([bench / "spinlock", "64", "1"], "ops")),
            ("  fairness among them (1 is even)", "", "higher",
             metric_of([bench / "spinlock", "64", "1"], "jain")),
            ("64 threads, one mutex", "/s", "higher",
             metric_of([bench / "mutex", "64", "0.8"], "ops")),
            ("16 pairs, mutex and condition", "/s", "higher",
             metric_of([bench / "pingpong_cond", "16", "0.8"], "roundtrips")),
            ("pigz, 32 threads", "s", "lower",
             seconds_of(["pigz", "-p32", "-c", f.name], same(["pigz", "-dc"], data))),
            ("xz, 8 threads", "s", "lower",
             seconds_of(["xz", "-1", "-T8", "--block-size=1MiB", "-c", f.name],
                        same(["xz", "-dc"], data))),
            ("Debian's python3, 64 threads, one lock", "s", "lower",
             seconds_of(["/usr/bin/python3", "-c", LOCKS])),
        )
        print(f"{CPUS} CPUs; medians of {ROUNDS} alternating runs; "
              "the programs are the same files in both columns\n")
        print(f"{'':40} {'plain':>12} {'libpreempt':>12}   ")
        status = 0
        for title, unit, better, once in rows:
            plain, shim = [], []
            try:
                for _ in range(ROUNDS):
                    plain.append(once(None))
                    shim.append(once(lib))
            except (subprocess.SubprocessError, ValueError, OSError) as e:
                print(f"{title:40} FAILED: {e}")
                status = 1
                continue
            p, s = statistics.median(plain), statistics.median(shim)
            top, bottom = (s, p) if better == "higher" else (p, s)
            ratio = top / bottom if bottom else 0
            verdict = f"{ratio:.1f} x better" if ratio >= 1.1 else \
                f"{1 / ratio:.1f} x worse" if 0 < ratio <= 1 / 1.1 else "about the same"
            print(f"{title:40} {human(p, unit):>12} {human(s, unit):>12}   {verdict}", flush=True)
    print("\nTry it: build/tools/preempt run -- YOUR-PROGRAM    (settings: preempt help env)")
    return status


if __name__ == "__main__":
    sys.exit(main())
