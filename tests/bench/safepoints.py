"""The rows of tests/bench/run about preemption at safe points. They have no plain run to compare with: each has figures
of its own, with bounds, and what stands beside them.

async    a compute loop of 8 threads on 2 Ps at 1 ms: how threads were stopped and how late (PREEMPT_STATS; and late_*, as
         the loop sees it). Beside it the same loop in Go with its fixed slice of 10 ms, in turn.
         late_* can be below 0: the shim counts the slice from the grant of the P, before the thread is awake.
quantum  the work that 8 busy threads do on 2 Ps at 1 ms and at 150 us, over that at 10 ms, in turn. cpu_* is the same for
         a second of CPU time instead of a second: worth more on a busy machine, but blind to time in which a P does nothing.
         interrupts_* is the same without the shim: what is left of the work of 2 threads that are interrupted as often, where
         a timer signals one, and its handler the other. Nobody who ends slices by interrupts can be better.
lookup   a decision of the handler with ten callers, warm and cold.
compile  seconds, seconds of CPU time and memory to make the table of libc, and of the file with the most code below /usr
         and the home directory (BENCH_ELF names another one).
"""

import json
import os
import shutil
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from common import Failure, environment, execute, interval, parse_metrics, spread
from noise import Machine

HERE = Path(__file__).resolve().parent
THREADS, PROCS = 8, 2
GO_SLICE_US = 10000
LARGE = 20 << 20    # bytes of a file worth looking at


@dataclass
class Figure:
    row: str
    metric: str
    unit: str
    better: str = "higher"
    bar: float = None       # lower bound where higher is better, else an upper one
    note: str = ""
    beside: str = ""        # what beside_values are of
    values: list = field(default_factory=list)      # one for each round
    beside_values: list = field(default_factory=list)

    def result(self):
        """As JSON has it."""
        r = {"row": self.row, "metric": self.metric, "unit": self.unit, "better": self.better,
             "kind": "value", "bar": self.bar, "target": "", "values": {"shim": self.values},
             "shim": spread(self.values), "note": self.note, "verdict": ""}
        if self.beside:
            r["values"][self.beside] = self.beside_values
            r["beside"] = {self.beside: spread(self.beside_values)}
        if self.bar is not None:
            higher = self.better == "higher"
            r["target"] = f"{'>=' if higher else '<='} {self.bar:g}"
            good = r["shim"] and (r["shim"]["median"] >= self.bar if higher
                                  else r["shim"]["median"] <= self.bar)
            r["verdict"] = "pass" if good else "FAIL"
        return r


HEAD = ("row", "metric", "unit", "shim", "target", "", "beside")
WIDTHS = (12, 22, 8, 26, 10, 4, 30)


def cells(r):
    beside = r["note"] + "".join(f"{k} {interval(v)}" for k, v in r.get("beside", {}).items())
    return (r["row"], r["metric"], r["unit"], interval(r["shim"]), r["target"], r["verdict"],
            beside)


class Bench:
    """A run: the options, and a directory of its own with the tables and what else is made."""

    def __init__(self, opts):
        self.opts = opts
        self.temporary = tempfile.TemporaryDirectory()
        self.dir = Path(self.temporary.name)
        self.cache = {"PREEMPT_CACHE_DIR": str(self.dir / "tables")}
        (self.dir / "tables").mkdir(mode=0o700)
        self.built = set()

    def close(self):
        self.temporary.cleanup()

    def tables(self, *names):
        for name in set(names) - self.built:
            execute([self.opts.command, "tables", "build", "--quiet", "--needed",
                     self.opts.bin / name], environment(self.cache), 120)
        self.built |= set(names)

    def shim(self, argv, seconds, **settings):
        """The metrics of a program under the library, and its statistics."""
        stats = self.dir / "stats"
        stats.unlink(missing_ok=True)
        env = environment(self.cache | settings | {"PREEMPT_PROCS": str(PROCS),
                                                   "PREEMPT_STATS": str(stats),
                                                   "LD_PRELOAD": str(self.opts.lib)})
        out = execute([self.opts.bin / argv[0], *argv[1:]], env, 20 + 20 * seconds,
                      self.opts.verbose)
        return parse_metrics(out), json.loads(stats.read_text())

    def go(self):
        """The Go twin, built, or None with a line that says why."""
        program = self.dir / "async_go"
        if not shutil.which("go"):
            print("run: async: no go (package golang-go), so nothing beside it", file=sys.stderr)
            return None
        try:
            execute(["go", "build", "-o", program, HERE / "async.go"],
                    environment({"GO111MODULE": "off", "GOCACHE": str(self.dir / "go")}), 300)
        except Failure as e:
            print(f"run: async: go build: {e}", file=sys.stderr)
            return None
        return program


def rounds_of(rounds, steps):
    """Runs the steps in each round, in an order that rotates."""
    for r in range(rounds):
        first = r % len(steps)
        for step in steps[first:] + steps[:first]:
            step()


def row_async(bench):
    seconds = 1.5 if bench.opts.quick else 10
    figures = {
        "async": Figure("async", "async_share", "%", "higher", 95),
        "forced": Figure("async", "forced_share", "%", "lower", 1),
        "stops": Figure("async", "stops", "1/s"),
        "p50": Figure("async", "overshoot_p50", "us", "lower", 150),
        "p99": Figure("async", "overshoot_p99", "us", "lower", 1000),
        "late_p50": Figure("async", "late_p50", "us", "lower", beside="go"),
        "late_p99": Figure("async", "late_p99", "us", "lower", beside="go"),
    }
    size = (str(THREADS), str(seconds))

    def shim():
        metrics, stats = bench.shim(("async", *size, "1000", str(PROCS)), seconds,
                                    PREEMPT_QUANTUM="1ms")
        how = stats["preempt"]
        stops = how["cooperative"] + how["async"] + how["forced"]
        if not stops:
            raise Failure("nobody was stopped")
        figures["async"].values.append(100 * how["async"] / stops)
        figures["forced"].values.append(100 * how["forced"] / stops)
        figures["stops"].values.append(stops / seconds)
        for p in ("p50", "p99"):
            figures[p].values.append(stats["overshoot_ns"][p] / 1e3)
            figures["late_" + p].values.append(metrics["late_" + p][0])

    def go():
        out = execute([program, *size, GO_SLICE_US, PROCS], environment(), 20 + 20 * seconds)
        metrics = parse_metrics(out)
        if metrics["turns"][0]:
            for p in ("late_p50", "late_p99"):
                figures[p].beside_values.append(metrics[p][0])

    bench.tables("async")
    program = bench.go()
    rounds_of(1 if bench.opts.quick else min(bench.opts.rounds, 3), [shim, go] if program else [shim])
    return list(figures.values())


def row_quantum(bench):
    seconds = 0.5 if bench.opts.quick else 0.7
    repeats = 1 if bench.opts.quick else 4      # short and often: the speed of virtual machines drifts
    bars = {"1ms": 0.99, "150us": 0.90}
    period_us = {"10ms": 0, "1ms": 1040, "150us": 190}      # of the slices' ends, see sysmon.c
    samples = {kind: {q: [] for q in period_us} for kind in ("work", "cpu", "interrupts")}

    def under_shim(quantum):
        def run():
            metrics, _ = bench.shim(("busy", str(THREADS), str(seconds)), seconds,
                                    PREEMPT_QUANTUM=quantum)
            samples["work"][quantum].append(metrics["work"][0])
            samples["cpu"][quantum].append(metrics["work_cpu"][0])
        return run

    def interrupted(quantum):
        def run():
            out = execute([bench.opts.bin / "interrupts", PROCS, seconds, period_us[quantum]],
                          environment({}), 20 + 20 * seconds)
            samples["interrupts"][quantum].append(parse_metrics(out)["work"][0])
        return run

    bench.tables("busy")
    rounds_of(bench.opts.rounds * repeats,
              [step(q) for step in (under_shim, interrupted) for q in period_us])
    figures = []
    for q, bar in bars.items():
        for kind, by in samples.items():
            ratios = [w / base for w, base in zip(by[q], by["10ms"])]
            name = f"interrupts_{q}" if kind == "interrupts" else f"{kind}_{q}_over_10ms"
            figures.append(Figure("quantum", name, "ratio", "higher",
                                  bar if kind == "work" else None, values=ratios))
    return figures


def row_lookup(bench):
    seconds = 0.3 if bench.opts.quick else 1
    bars = {"decision_median": 2000, "decision_cold": None, "find_median": None}
    figures = {m: Figure("lookup", m, "ns", "lower", bar) for m, bar in bars.items()}

    bench.tables("lookup_frames.so")
    for _ in range(bench.opts.rounds):
        out = execute([bench.opts.bin / "lookup", bench.opts.bin / "lookup_frames.so", seconds],
                      environment(bench.cache), 60)
        metrics = parse_metrics(out)
        for m, figure in figures.items():
            figure.values.append(metrics[m][0])
    return list(figures.values())


def text_size(path):
    """Bytes of executable sections of an ELF file that has frame descriptions; 0 for others."""
    try:
        with open(path, "rb") as f:
            header = f.read(64)
            if header[:6] != b"\x7fELF\x02\x01" or header[18:20] != b"\x3e\x00":
                return 0
            at, = struct.unpack_from("<Q", header, 40)
            size, n, names = struct.unpack_from("<HHH", header, 58)
            if size != 64 or names >= n:
                return 0
            f.seek(at)
            sections = list(struct.iter_unpack("<IIQQQQIIQQ", f.read(size * n)))
            f.seek(sections[names][4])
            text = f.read(sections[names][5])
            if not any(text[s[0]:s[0] + 10] == b".eh_frame\0" for s in sections):
                return 0
            return sum(s[5] for s in sections if s[2] & 4)
    except (OSError, struct.error, IndexError):
        return 0


def largest_elf():
    if "BENCH_ELF" in os.environ:
        return Path(os.environ["BENCH_ELF"])
    best, found = 0, None
    for root in ("/usr", os.path.expanduser("~")):
        for where, _, files in os.walk(root):
            for name in files:
                path = os.path.join(where, name)
                try:
                    if os.path.islink(path) or os.path.getsize(path) < LARGE:
                        continue
                except OSError:
                    continue
                size = text_size(path)
                if size > best:
                    best, found = size, Path(path)
    return found


def compile_table(bench, path):
    """Seconds, seconds of CPU time and MB that the compiler takes."""
    start = time.monotonic()
    pid = os.posix_spawn(bench.opts.command,
                         [str(bench.opts.command), "tables", "build", "--quiet", "--force",
                          str(path)], environment(bench.cache))
    try:
        _, status, usage = os.wait4(pid, 0) # with its workers
    except BaseException:
        os.kill(pid, 9)
        raise
    if status:
        raise Failure(f"tables build {path}: status {os.waitstatus_to_exitcode(status)}")
    return (time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def row_compile(bench):
    with open("/proc/self/maps", encoding="utf-8") as f:
        libc = next(line.split()[-1] for line in f if "/libc.so.6" in line)
    figures = [Figure("compile", "libc", "s", "lower", 1),
               Figure("compile", "libc_cpu", "s", "lower"),
               Figure("compile", "libc_memory", "MB", "lower")]
    for _ in range(bench.opts.rounds):
        for figure, value in zip(figures, compile_table(bench, libc)):
            figure.values.append(value)
    path = None if bench.opts.quick else largest_elf()
    if path:
        name = f"{path.name}, {text_size(path) / 1e6:.0f} MB of code"
        took = compile_table(bench, path)
        figures += [Figure("compile", "largest", "s", "lower", None, name, values=took[:1]),
                    Figure("compile", "largest_cpu", "s", "lower", values=took[1:2]),
                    Figure("compile", "largest_memory", "MB", "lower", 1024, values=took[2:])]
    return figures


ROWS = {"async": row_async, "quantum": row_quantum, "lookup": row_lookup, "compile": row_compile}
PROGRAMS = {"async": ("async",), "quantum": ("busy", "interrupts"), "lookup": ("lookup", "lookup_frames.so"),
            "compile": ()}


def run_rows(names, opts, show):
    """The results of the rows, each shown when it is there, and whether any row broke."""
    bench = Bench(opts)
    results = []
    broken = False
    try:
        for name in names:
            here = Machine()
            try:
                found = [f.result() for f in ROWS[name](bench)]
            except (Failure, OSError, KeyError, ValueError) as e:
                print(f"{name}: {type(e).__name__}: {e}", file=sys.stderr)
                broken = True
                continue
            quiet = here.finish([])["quiet"]
            for r in found:
                if r["verdict"] and not quiet:
                    r["verdict"] = "noisy"
                show(r)
            results += found
    finally:
        bench.close()
    return results, broken
