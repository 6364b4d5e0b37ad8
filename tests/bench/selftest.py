#!/usr/bin/env python3
"""selftest.py: the rules by which tests/bench/run gives no verdict, and its report. Needs no benchmark to run."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True

import noise
import report
from common import spread


def verdicts():
    # A ratio of 1.02 against a bar of 0.99: 3 % away. Plain that differs from plain by 1 % can tell, one by 10 % cannot.
    close = [1.01, 1.02, 1.03]
    assert not noise.undecided("ratio", spread(close), close, 0.99, [0.995, 1.0, 1.005])
    assert noise.undecided("ratio", spread(close), close, 0.99, [1.09, 1.10, 1.11])
    assert noise.undecided("ratio", spread(close), close, 0.99, [0.8, 1.0, 1.2])
    # The same noise does not hide a factor of 10, for better or worse.
    for far in ([9, 10, 11], [0.09, 0.1, 0.11]):
        assert not noise.undecided("ratio", spread(far), far, 0.99, [0.8, 1.0, 1.2])
    # Differences and values of the library's own are judged in their own unit.
    assert noise.undecided("diff", spread([4.8, 4.9, 5.0]), [4.8, 4.9, 5.0], 5, [-1, 0.5, 2])
    assert not noise.undecided("diff", spread([1.7, 1.8, 2.0]), [1.7, 1.8, 2.0], 5, [-1, 0.5, 2])
    assert noise.undecided("value", spread([0.80, 0.91, 0.99]), [0.80, 0.91, 0.99], 0.9, [])
    assert not noise.undecided("value", spread([0.97, 0.98, 0.99]), [0.97, 0.98, 0.99], 0.9, [])


def neighbours():
    # Somebody else's process, not a child of ours: whatever else runs here, the machine is not quiet.
    m = noise.Machine()
    subprocess.run(["sh", "-c", "for i in 1 2; do timeout 1 sh -c 'while :; do :; done' & done"], check=True)
    time.sleep(0.9)
    found = m.finish([1.0])
    assert found["foreign_percent"] > noise.FOREIGN_MAX and not found["quiet"], found
    assert "too noisy" in noise.sentence(found)
    assert not noise.Machine().finish([1.2, 1.3, 1.4])["quiet"]     # plain differs from plain by a third


def pictures():
    def line(row, target, ratio):
        return {"row": row, "metric": "a_b", "kind": "ratio", "target": target, "again_over_plain": spread([1.0, 1.1]),
                "shim_over_plain": spread(ratio), "rival_over_plain": None, "go_over_plain": spread([0.5, 2.0])}

    results = [line("one_row", ">= 1x", [1.0, 2.0]), line("other", "", [0.3, 0.4])]
    text = report.document(["head"], [(("row", "x"), [("one_row", 1)]), (("none",), [])])
    assert "| one_row | 1 |" in text and "none" not in text, text
    if not shutil.which("gnuplot"):
        return "no gnuplot"
    with tempfile.TemporaryDirectory() as where:
        assert report.draw(results, Path(where)) == ["ratios.svg", "reported.svg"]
        drawn = (Path(where) / "ratios.svg").read_text()
        assert "<svg" in drawn and "one_row" in drawn and "other" not in drawn
    return None


if __name__ == "__main__":
    verdicts()
    neighbours()
    missing = pictures()
    print("skipped the pictures: " + missing if missing else "ok")
    sys.exit(77 if missing else 0)
