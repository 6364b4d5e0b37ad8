#!/usr/bin/env python3
"""damage.py DUMP FILE [SECONDS [SEED]]: damaged copies of FILE make DUMP print a table or fail in
words, and never crash or hang, but for libdwarf. Most of the damage is in the headers, where it hurts most."""

import random
import struct
import subprocess
import sys
import tempfile
import time

AWKWARD = [0, 1, 2**31 - 1, 2**32 - 1, 2**32, 2**63, 2**64 - 8, 2**64 - 1]


def damaged(data, rng):
    b = bytearray(data)
    phoff, shoff = struct.unpack_from("<QQ", b, 32)
    phnum, = struct.unpack_from("<H", b, 56)
    shnum, = struct.unpack_from("<H", b, 60)
    areas = [(0, 64), (phoff, 56 * phnum), (shoff, 64 * shnum), (0, len(b))]
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        start, size = rng.choice(areas)
        i = start + rng.randrange(max(size, 1))
        kind = rng.random()
        if i + 8 >= len(b):
            continue
        if kind < 0.5:
            b[i] = rng.randrange(256)
        elif kind < 0.8:
            value = rng.choice(AWKWARD + [len(b) - 1, len(b), rng.randrange(len(b))])
            b[i & ~7:(i & ~7) + 8] = struct.pack("<Q", value)
        else:
            b[i] ^= 1 << rng.randrange(8)
    return b[:rng.randrange(len(b))] if rng.random() < 0.1 else b


def run(*argv):
    """None: it hangs."""
    try:
        return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return None


def main():
    dump, path = sys.argv[1:3]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 10
    rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    with open(path, "rb") as f:
        data = f.read()
    end = time.monotonic() + seconds
    count = tables = crashes = 0
    with tempfile.NamedTemporaryFile() as f:
        while time.monotonic() < end or count < 20:
            b = damaged(data, rng)
            f.seek(0)
            f.truncate()
            f.write(b)
            f.flush()
            proc = run(dump, f.name)
            if proc and proc.returncode < 0:
                # libdwarf reads debug information where that of the file is damaged, and may crash; whoever builds tables does
                # it in a process of its own, and then once more without that information (tools/build.c).
                crashes += 1
                proc = run(dump, "-n", f.name)
            ok = proc and proc.returncode in (0, 1) and (proc.returncode == 0) == (not proc.stderr)
            if not ok:
                with open("damaged-file", "wb") as keep:
                    keep.write(b)
                print("file %d: crash or hang; kept as damaged-file" % count)
                return 1
            count += 1
            tables += proc.returncode == 0
    print("%d files, %d tables, %d crashes over debug information" % (count, tables, crashes))
    return 0 if 0 < tables < count and crashes <= count // 100 + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
