#!/usr/bin/env python3
"""oracle.py: the frame rules of every safe row against readelf's reading of the same file.

A row that the table calls safe must have, over all of its bytes, the CFA that `readelf
--debug-dump=frames-interp` gives, and the return address at c-8. Also checked: the rows are sorted,
do not overlap, and cover every byte of the executable sections exactly once. And the other way
round, so that a compiler that calls nothing safe fails: of the bytes that readelf describes by rsp
or rbp plus a constant with c-8, all must have that CFA in the table, whatever else they are marked.

  oracle.py --dump CMD FILE...      CMD FILE prints the table
  oracle.py --dump CMD --sample     a few files that are on every system
  oracle.py --dump CMD --all N      N files from /usr/bin, /usr/sbin and /usr/lib, always the same ones

Exit status 0, 1 with any mismatch, 77 without readelf.
"""

import argparse
import bisect
import os
import random
import re
import shlex
import shutil
import subprocess
import sys

SAMPLE = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libm.so.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/lib/x86_64-linux-gnu/libgomp.so.1",
    "/usr/bin/python3",
    "/usr/bin/bash",
]

# readelf's text for a larger file takes gigabytes of Python's memory.
MAX_BYTES = 30 << 20

FDE = re.compile(r"^[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ FDE cie=([0-9a-f]+) pc=([0-9a-f]+)\.\.([0-9a-f]+)")
CIE = re.compile(r'^([0-9a-f]+) [0-9a-f]+ [0-9a-f]+ CIE "([^"]*)" cf=\S+ df=\S+ ra=(\d+)')
ROW = re.compile(r"^([0-9a-f]{16}) (\S+) +(.*)$")
SIMPLE = re.compile(r"^(rsp|rbp)\+(\d+)$")


def run(cmd):
    return subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace", env={**os.environ, "LC_ALL": "C"})


def executable_sections(path):
    """(lo, hi) of the sections with code that is in the file."""
    out = []
    for line in run(["readelf", "-SW", path]).stdout.splitlines():
        m = re.match(r"^\s*\[\s*\d+\]\s+(\S*)\s+PROGBITS\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)"
                     r"\s+[0-9a-f]+\s+(\S+)", line)
        if m and "X" in m[4] and int(m[3], 16):
            lo = int(m[2], 16)
            out.append((lo, lo + int(m[3], 16)))
    return sorted(out)


def readelf_rows(path):
    """Sorted (lo, hi, cfa, ra) of .eh_frame, else .debug_frame; FDEs of other sections do not mix.

    Of overlapping FDEs the one that begins first has the bytes, as in the compiler.
    """
    text = run(["readelf", "--debug-dump=frames-interp", path]).stdout
    sections = {}
    current = None
    cies = {}
    fde = None
    for line in text.splitlines():
        if line.startswith("Contents of the "):
            current = sections.setdefault(line.split()[3], [])
            cies, fde, columns = {}, None, None
            continue
        m = CIE.match(line)
        if m:
            cie = {"signal": "S" in m[2], "ra": int(m[3]), "row": None}
            cies[int(m[1], 16)] = cie
            fde = cie
            continue
        m = FDE.match(line)
        if m:
            fde = {"lo": int(m[2], 16), "hi": int(m[3], 16), "rows": [],
                   "cie": cies.get(int(m[1], 16)), "order": len(current)}
            current.append(fde)
            continue
        if line.startswith("   LOC"):
            columns = line.split()[1:]
            continue
        m = ROW.match(line)
        if m and fde is not None and columns:
            # "r8 (r8)" is one column.
            values = dict(zip(columns, [m[2]] + re.sub(r" \(\w+\)", "", m[3]).split()))
            row = (int(m[1], 16), values.get("CFA", "?"), values.get("ra", "u"))
            if "rows" in fde:
                fde["rows"].append(row)
            else:
                fde["row"] = row
    rows = []
    end = 0
    for section in (".eh_frame", ".debug_frame"):
        if rows:
            break
        for fde in sorted(sections.get(section, []), key=lambda f: (f["lo"], f["order"])):
            cie = fde["cie"]
            points = [r for r in fde["rows"]]
            # An FDE without instructions is printed without rows: it has those of its CIE.
            if not points and cie and cie["row"]:
                points = [(fde["lo"], cie["row"][1], cie["row"][2])]
            for i, (lo, cfa, ra) in enumerate(points):
                hi = points[i + 1][0] if i + 1 < len(points) else fde["hi"]
                if cie is None or cie["signal"] or cie["ra"] != 16:
                    cfa, ra = "?", "?"
                lo, hi = max(lo, end), min(hi, fde["hi"])
                if lo < hi:
                    rows.append((lo, hi, cfa, ra))
            end = max(end, fde["hi"])
    return rows


def table_rows(dump, path):
    proc = run(dump + [path])
    if proc.returncode:
        return None, proc.stderr.strip()
    rows = []
    for line in proc.stdout.splitlines():
        lo, hi, cfa, ra, flags = line.split()
        rows.append((int(lo, 16), int(hi, 16), cfa, ra, flags))
    return rows, ""


def overlapping(rows, starts, lo, hi):
    i = max(bisect.bisect_right(starts, lo) - 1, 0)
    while i < len(rows) and rows[i][0] < hi:
        if rows[i][1] > lo:
            yield rows[i]
        i += 1


def compare(path, dump):
    """Returns (mismatches, safe rows) or None if there is no table."""
    bad = []
    table, why = table_rows(dump, path)
    if table is None:
        return None, why
    truth = readelf_rows(path)
    starts = [r[0] for r in truth]
    safe = 0

    # Cover: no hole, no overlap, from the first section to the last.
    text = executable_sections(path)
    if text and (table[0][0] != text[0][0] or table[-1][1] != max(hi for _, hi in text)):
        bad.append("the table covers %x..%x" % (table[0][0], table[-1][1]))
    for a, b in zip(table, table[1:]):
        if a[1] != b[0]:
            bad.append("hole or overlap at %x" % a[1])
        if a[2:] == b[2:] and "syscall" not in a[4]:
            bad.append("rows not merged at %x" % a[1])

    for lo, hi, cfa, ra, flags in table:
        if "safe" not in flags.split(","):
            continue
        safe += 1
        at = lo
        for tlo, thi, tcfa, tra in overlapping(truth, starts, lo, hi):
            if tlo > at:
                break
            if tcfa != cfa or tra != "c-8" or ra != "c-8":
                bad.append("%x: table %s %s, readelf %s %s" % (max(lo, tlo), cfa, ra, tcfa, tra))
            at = thi
        if at < hi:
            bad.append("%x: safe, but readelf knows nothing of it" % at)

    starts = [r[0] for r in table]
    for lo, hi, cfa, ra in truth:
        m = SIMPLE.match(cfa)
        if not m or ra != "c-8" or int(m[2]) % 8 or int(m[2]) < 8:
            continue
        for tlo, thi, tcfa, _, flags in overlapping(table, starts, lo, hi):
            # Trampolines begin a byte early.
            if tcfa != cfa and "trampoline" not in flags and any(
                    max(lo, tlo) < h and min(hi, thi) > l for l, h in text):
                bad.append("%x: readelf %s, table %s %s" % (max(lo, tlo), cfa, tcfa, flags))
    return bad, safe


def elf_files(count):
    """Files that are ELF programs or libraries for x86-64, each once, in a fixed random order."""
    found = set()
    for top in ("/usr/bin", "/usr/sbin", "/usr/lib"):
        for where, dirs, names in os.walk(top):
            dirs[:] = [d for d in dirs if d != "debug"]
            for name in names:
                if top == "/usr/lib" and ".so" not in name:
                    continue
                path = os.path.join(where, name)
                try:
                    if not os.path.isfile(path) or os.path.getsize(path) > MAX_BYTES:
                        continue
                    with open(path, "rb") as f:
                        head = f.read(20)
                except OSError:
                    continue
                if head[:5] == b"\x7fELF\x02" and head[16] in (2, 3) and head[18] == 62:
                    found.add(os.path.realpath(path))
    paths = sorted(found)
    random.Random(1).shuffle(paths)
    return paths[:count]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dump", default="preempt tables dump")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--all", type=int, metavar="N", default=0)
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    if not shutil.which("readelf"):
        print("no readelf here")
        return 77
    files = list(args.files)
    if args.sample:
        files += sorted({os.path.realpath(p) for p in SAMPLE if os.path.exists(p)})
    if args.all:
        files += elf_files(args.all)
    if not files:
        parser.error("no files")

    wrong = rows = tables = 0
    for path in files:
        bad, safe = compare(path, shlex.split(args.dump))
        if bad is None:
            print("%s: no table: %s" % (path, safe))
            wrong += path in args.files or args.sample
            continue
        tables += 1
        rows += safe
        wrong += len(bad)
        if bad or not args.all:
            print("%s: %d safe rows, %d mismatches" % (path, safe, len(bad)))
        for line in bad[:10]:
            print("    " + line)
    print("%d files, %d tables, %d safe rows, %d mismatches" % (len(files), tables, rows, wrong))
    return 1 if wrong or tables == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
