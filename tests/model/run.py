#!/usr/bin/env python3
"""run.py MODEL [-l] [-j N] [NAME...]: check a model with spin, and that each mutation of it is found.

models.txt has the runs and the mutations; see its head. -l: the larger runs too, by hand. NAME: only these runs or
mutations. Exit 77 if spin or a C compiler is not there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))


def read_table(model):
    """The runs {name: (large, [-D...])} and the mutations [(name, run, why)] of a model."""
    runs, mutations = {}, []
    current = None
    for line in open(os.path.join(HERE, "models.txt")):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "model":
            current = words[1]
        elif current == model and words[0] in ("run", "large"):
            runs[words[1]] = (words[0] == "large", ["-D" + w for w in words[2:]])
        elif current == model and words[0] == "mutation":
            mutations.append((words[1], words[2], " ".join(words[3:])))
        elif words[0] not in ("run", "large", "mutation"):
            sys.exit(f"models.txt: what is {line!r}?")
    if not runs:
        sys.exit(f"no model {model}")
    return runs, mutations


def check(model, defines, optimize):
    """(errors, states, output) of a search through all states, or up to the first error."""
    with tempfile.TemporaryDirectory(prefix="model") as d:
        cc = os.environ.get("CC", "cc").split()
        subprocess.run(["spin", "-a", *defines, os.path.join(HERE, model + ".pml")], cwd=d,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        made = subprocess.run([*cc, optimize, "-w", "-DSAFETY", "-DCOLLAPSE", "-DNOFAIR", "-DMEMLIM=6000",
                               "-o", "pan", "pan.c"], cwd=d, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if made.returncode:
            sys.exit(f"{model} {' '.join(defines)}: no verifier\n{made.stdout}")
        ran = subprocess.run(["./pan", "-m3000000", "-n"], cwd=d, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
        out = ran.stdout
        # What does not say that the search was complete is no pass.
        found = re.search(r"errors: (\d+)", out)
        states = re.search(r"(\d+) states, stored", out)
        complete = "Search not completed" not in out and "max search depth" not in out
        if not found or not states or (found.group(1) == "0" and not complete):
            sys.exit(f"{model} {' '.join(defines)}: the search did not end\n{out[-2000:]}")
        trail = ""
        if found.group(1) != "0" and os.environ.get("MODEL_TRAIL"):
            shutil.copy(os.path.join(HERE, model + ".pml"), d)
            trail = subprocess.run(["spin", "-t", "-p", "-g", *defines, model + ".pml"], cwd=d,
                                   stdout=subprocess.PIPE, text=True).stdout
        return int(found.group(1)), int(states.group(1)), out + trail


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("-l", action="store_true")
    parser.add_argument("-j", type=int, default=1)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    for tool in ("spin", os.environ.get("CC", "cc").split()[0]):
        if not shutil.which(tool):
            print(f"skipped: {tool} is not there")
            return 77
    runs, mutations = read_table(args.model)
    text = open(os.path.join(HERE, args.model + ".pml")).read()
    bad = False
    # A mutation of the model that the table does not have, and the other way round.
    used = set(re.findall(r"\bMUT_(\w+)", text))
    listed = {m[0] for m in mutations}
    for name in sorted(used ^ listed):
        print(f"mutation {name}: not in both {args.model}.pml and models.txt")
        bad = True

    work = []
    for name, (large, defines) in runs.items():
        if (not large or args.l) and (not args.names or name in args.names):
            work.append((name, defines, "-O1" if large else "-O0", False, ""))
    for name, run, why in mutations:
        if not args.names or name in args.names:
            work.append((name, runs[run][1] + ["-DMUT_" + name], "-O0", True, why))

    def do(item):
        return item, check(args.model, item[1], item[2])

    with ThreadPoolExecutor(args.j) as pool:
        for (name, _, _, mutated, why), (errors, states, out) in pool.map(do, work):
            ok = (errors > 0) == mutated
            what = f"mutation {name} ({why})" if mutated else f"run {name}"
            result = "found" if errors else "no errors"
            print(f"{'ok' if ok else 'FAILED':6} {what}: {result}, {states} states", flush=True)
            if not ok or os.environ.get("MODEL_TRAIL"):
                print(out[-6000:])
            bad |= not ok
    print(f"{args.model}: {len(work)} searches" + ("" if not bad else ", FAILED"))
    return 1 if bad else 0


sys.exit(main())
