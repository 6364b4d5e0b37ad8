"""The report of tests/bench/run --report DIR: Markdown, and pictures by gnuplot.

report.py FIGURES.json... -o DIR makes it again, from one or several runs: of a row that is in several the last one counts.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

BARS = (("shim", "libpreempt", "#24477a"), ("rival", "short slices", "#c08a2b"), ("go", "Go", "#4a8f6a"))
KINDS = ("ratio", "diff")       # what else there is are figures of the library alone


def document(head, tables):
    out = "\n\n".join(head) + "\n"
    for names, rows in tables:
        if rows:
            out += "\n| " + " | ".join(names) + " |\n|" + " --- |" * len(names) + "\n"
            out += "".join("| " + " | ".join(str(c) for c in row) + " |\n" for row in rows)
    return out


def chosen(results):
    """One line of each row: the first that has a ratio to plain."""
    seen = {}
    for r in results:
        if r.get("shim_over_plain") and r["kind"] in KINDS and r["row"] not in seen:
            seen[r["row"]] = r
    return list(seen.values())


def script(rows, control):
    """gnuplot's commands: for each row the ratios to plain, on a logarithmic axis, with the range of the rounds."""
    height = 90 + 26 * len(rows)
    lines = [f"set terminal svg size 820,{height} background '#ffffff' font 'sans-serif,12'",
             "set logscale x", "set grid xtics lc rgb '#dddddd'", "set border 3", "set tics nomirror",
             "set xlabel 'times as good as plain; the bars are the range of the rounds'", "set key top right outside",
             f"set yrange [{len(rows) - 0.4}:-0.6]",
             "set ytics (" + ", ".join(f'"{r["row"]} {r["metric"]}" {i}' for i, r in enumerate(rows))
             .replace("_", "\\\\_") + ")",
             "set arrow from 1, graph 0 to 1, graph 1 nohead lc rgb '#888888'"]
    if control:
        lines.append(f"set object rectangle from {control['min']:g}, graph 0 to {control['max']:g}, graph 1 "
                     "behind fc rgb '#eeeeee' fs noborder")
    plots, data = [], []
    for k, (case, label, colour) in enumerate(BARS):
        points = [(i, r[f"{case}_over_plain"]) for i, r in enumerate(rows) if r.get(f"{case}_over_plain")]
        if not points:
            continue
        data.append(f"${case} << EOD\n" + "".join(
            f"{p['median']:g} {i + (k - 1) * 0.22:g} {p['min']:g} {p['max']:g}\n" for i, p in points) + "EOD")
        plots.append(f"${case} using 1:2:3:4 with xerrorbars pt 7 ps 0.7 lw 1.5 lc rgb '{colour}' title '{label}'")
    return "\n".join(data + lines + ["plot " + ", ".join(plots)]) + "\n" if plots else ""


def control_range(rows):
    """How far plain is from plain: the medians of the rows, least and greatest."""
    medians = [r["again_over_plain"]["median"] for r in rows if r.get("again_over_plain")]
    return {"min": min(medians), "max": max(medians)} if medians else None


def draw(results, where):
    """Draws what there is; the names of the pictures."""
    rows = chosen(results)
    if not rows:
        return []
    if not shutil.which("gnuplot"):
        print("report: no pictures without gnuplot (package gnuplot-nox)", file=sys.stderr)
        return []
    names = []
    for name, part in (("ratios.svg", [r for r in rows if r["target"]]),
                       ("reported.svg", [r for r in rows if not r["target"]])):
        commands = script(part, control_range(part)) if part else ""
        if not commands:
            continue
        p = subprocess.run(["gnuplot"], input=commands, text=True, capture_output=True, check=False)
        if p.returncode or not p.stdout:
            print(f"report: gnuplot: {p.stderr.strip()[-300:]}", file=sys.stderr)
            continue
        (where / name).write_text(p.stdout)
        names.append(name)
    return names


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("figures", nargs="+", type=Path)
    p.add_argument("--output", "-o", type=Path, required=True)
    opts = p.parse_args()
    results = {}
    for path in opts.figures:
        for r in json.loads(path.read_text(encoding="utf-8"))["results"]:
            results[r["row"], r["metric"]] = r
    opts.output.mkdir(parents=True, exist_ok=True)
    print(*draw(list(results.values()), opts.output), sep="\n")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
