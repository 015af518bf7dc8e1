"""`illume-fast bench`: time the ops beside what people use today, and show what came out."""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from illume_fast.data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time the ops beside what people use today. Every result is checked before it is timed.

    `illume-fast bench report FILE... --out DIR` makes a page of what --json wrote."""

    op: Annotated[tuple[str, ...], arg(metavar="OP")] = ()
    """Ops to time; all by default."""
    case: Annotated[tuple[str, ...], arg(metavar="TEXT")] = ()
    """Keep the cases whose name contains one of these."""
    peer: Annotated[tuple[str, ...] | None, arg(metavar="TEXT")] = None
    """Keep the peers whose name contains one of these; without a value none."""
    backend: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Time these backends of ours, side by side; by default the one that runs when none is asked for."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run."""
    curves: bool = False
    """Time the cases that make up curves over batch, codebook and vocabulary instead."""
    seconds: Annotated[float, arg(metavar="S")] = 3.0
    """Time for each case."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Append a JSON line for every contestant."""
    compare: Annotated[Path | None, arg(metavar="FILE")] = None
    """What --json wrote in an earlier run: exit 1 if ours became slower beyond noise, that is if its median grew by
    more than 10 % and its fastest fifth is slower than its slowest fifth was, after taking off what the peers lost."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make a page of results: Markdown, and an HTML file that needs nothing else."""

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE")]
    """What `illume-fast bench --json` wrote."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for README.md, report.html and the plots; made if it does not exist."""


def bench(arguments: Sequence[str]) -> int:
    """Run `illume-fast bench` with these arguments; the exit code, 1 if a result was wrong or, with --compare, slower.

    Raises:
        InputError: an option or a file cannot be used.
    """
    if arguments[:1] == ["report"]:
        report(tyro.cli(Report, prog="illume-fast bench report", args=list(arguments[1:])))
        return 0
    return run_cases(tyro.cli(Bench, prog="illume-fast bench", args=list(arguments)))


def report(options: Report) -> None:
    """Write the page and say where it is."""
    from illume_fast.bench.report import write_report

    rows = [row for path in options.files for row in _read(path)]
    try:
        written = write_report(rows, options.out)
    except ValueError as error:
        raise InputError(str(error)) from None
    for path in written:
        print(path)


def run_cases(options: Bench) -> int:
    """Time the chosen cases, print them, and compare if asked to."""
    import torch

    from illume_fast.bench.cases import all_cases, select
    from illume_fast.bench.compare import regressions
    from illume_fast.bench.machine import where
    from illume_fast.bench.runner import run
    from illume_fast.kernels import native

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here")
    if native.missing is not None:
        raise InputError(f"bench: {native.missing}")
    if options.seconds <= 0:
        raise InputError(f"--seconds must be positive, got {options.seconds:g}")
    if options.json is not None and not options.json.parent.is_dir():
        raise InputError(f"--json {options.json}: folder {options.json.parent} does not exist")
    before = [] if options.compare is None else _read(options.compare)
    try:
        cases = select(all_cases(curves=options.curves), options.op, options.case)
    except ValueError as error:
        raise InputError(f"bench: {error}") from None
    with contextlib.suppress(PermissionError, AttributeError):
        os.nice(-5)
    here = where(options.device)
    print(
        f"{here['device']}, torch {here['torch']}, load {here['load_average']:.1f}; "
        f"{here['bandwidth_GB_per_s']:.1f} GB/s, "
        f"{here['float32_GFLOP_per_s']:.0f} ({here['bfloat16_GFLOP_per_s']:.0f} in bfloat16) GFLOP/s\n"
    )
    print(f"{'median ms':>10} {'p20':>9} {'p80':>9} {'floor':>9} {'ratio':>7}")
    after, wrong = [], False
    for case in cases:
        print(f"{case.op}: {case.name}", flush=True)
        try:
            rows = run(case, options.seconds, device=options.device, backends=options.backend, peers=options.peer)
        except RuntimeError as error:  # the others can be timed all the same
            print(f"wrong: {case.op}, {case.name}: {error}", file=sys.stderr)
            wrong = True
            continue
        after += rows
        if options.json is not None:
            with options.json.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            numbers = (row["median_ms"], row["p20_ms"], row["p80_ms"], row["floor_ms"])
            print(" ".join(f"{n:{w}.3f}" for n, w in zip(numbers, (10, 9, 9, 9), strict=True)), end="")
            print(f" {row['ours_is_faster_by']:6.1f}x {row['who']}", flush=True)
    slower = regressions(before, after)
    for line in slower:
        print(f"slower: {line}", file=sys.stderr)
    return 1 if slower or wrong else 0


def _read(path: Path) -> list[dict[str, Any]]:
    from illume_fast.bench.table import read_rows

    try:
        return read_rows(path)
    except (OSError, ValueError) as error:
        raise InputError(f"bench: {error}") from None
