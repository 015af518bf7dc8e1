"""python bench/run.py [op ...] [--seconds 3] [--out bench/results]: time the ops beside what people use today.

Each case is checked before it is timed. Prints a table, and appends a row per contestant to OUT/<device>.jsonl.
Another family of ops is another file like search.py: a list CASES of `timing.Case`, named in FAMILIES.
"""

import argparse
import contextlib
import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads its threads: waiting ones must not spin

FAMILIES = ["search", "sampling", "layers"]


def main() -> int:
    from timing import run, where

    cases = [case for family in FAMILIES for case in import_module(family).CASES]
    ops = sorted({case.op for case in cases})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="op", help=f"any of {', '.join(ops)}; all by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each case")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if unknown := sorted(set(args.ops) - set(ops)):
        parser.error(f"unknown op {', '.join(unknown)}; choose from {', '.join(ops)}")

    with contextlib.suppress(PermissionError):
        os.nice(-5)
    here = where()
    print(
        f"{here['device']}, {here['isa']}, torch {here['torch']}, load {here['load_average']:.1f}; reads "
        f"{here['bandwidth_GB_per_s']:.1f} GB/s, multiplies {here['float32_GFLOP_per_s']:.0f} "
        f"({here['bfloat16_GFLOP_per_s']:.0f} in bfloat16) GFLOP/s\n"
    )
    print(f"{'median ms':>10} {'p20':>9} {'p80':>9} {'floor':>9} {'ratio':>7}")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / (re.sub(r"[^a-z0-9]+", "-", here["device"].lower()).strip("-") + ".jsonl")
    with file.open("a", encoding="utf-8") as results:
        for case in cases:
            if args.ops and case.op not in args.ops:
                continue
            print(f"{case.op}: {case.name}")
            for row in run(case, args.seconds):
                results.write(json.dumps(row) + "\n")
                numbers = (row["median_ms"], row["p20_ms"], row["p80_ms"], row["floor_ms"])
                print(
                    f"{numbers[0]:10.3f} {numbers[1]:9.3f} {numbers[2]:9.3f} {numbers[3]:9.3f} "
                    f"{row['ours_is_faster_by']:6.1f}x {row['who']}",
                    flush=True,
                )
    print(f"\nrows added to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
