"""`illume-fast bench`: time the ops, or whole generation, beside what people use today, and show what came out."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from illume_fast.data.errors import InputError
from illume_fast.data.files import write_atomically

Row = dict[str, Any]
# an option that takes several words and may be given again: a tuple for each time
Words = tuple[tuple[str, ...], ...]

_SAID = {
    "steps_per_s": "steps/s",
    "pictures_per_s": "pictures/s",
    "tokens_per_s": "tokens/s",
    "outside_share": "of the time outside kernels",
    "accepted_per_step": "draws kept a step",
    "ready_s": "s until ready",
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time the ops beside what people use today. Every result is checked before it is timed.

    `illume-fast bench engine` times whole generation; `illume-fast bench report FILE... --out DIR` makes a page of what
    --json wrote."""

    op: Annotated[Words, UseAppendAction, arg(metavar="OP")] = ()
    """Ops to time; all by default."""
    case: Annotated[Words, UseAppendAction, arg(metavar="TEXT")] = ()
    """Keep the cases whose name contains one of these."""
    peer: Annotated[Words, UseAppendAction, arg(metavar="TEXT")] = ()
    """Keep the peers whose name contains one of these; without a value none."""
    backend: Annotated[Words, UseAppendAction, arg(metavar="NAME")] = ()
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
class EngineBench:
    """Time whole generation beside `transformers` and beside the first version of the engine.

    What is drawn is checked first. Takes minutes, and at first a few more, to build the first version from this
    checkout's history."""

    case: Annotated[Words, UseAppendAction, arg(metavar="TEXT")] = ()
    """Keep the cases whose name contains one of these."""
    peer: Annotated[Words, UseAppendAction, arg(metavar="TEXT")] = ()
    """Keep the peers whose name contains one of these; without a value none."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run; on a GPU ILLUME+'s own shapes, in bfloat16."""
    curves: bool = False
    """Time the cases that make up curves over the batch instead."""
    rehearse: bool = False
    """Run the cases of a GPU here, on tiny shapes."""
    seconds: Annotated[float, arg(metavar="S")] = 10.0
    """Time for each case; it takes longer where three turns of each contestant do."""
    peer_seconds: Annotated[float, arg(metavar="S")] = 120.0
    """Leave out a peer that is not ready after that time, or whose turns would take longer, judging by its first."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Append a JSON line for every contestant."""
    compare: Annotated[Path | None, arg(metavar="FILE")] = None
    """What --json wrote in an earlier run: exit 1 if ours became slower beyond noise, as in `illume-fast bench`."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make a page of results: Markdown, and an HTML file that needs nothing else."""

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE")]
    """What `illume-fast bench --json` wrote."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for README.md, report.html and the plots; made if it does not exist."""
    tables: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the tables in this file anew as well: what stands between <!-- measured ops --> or <!-- measured generation
    --> and <!-- end -->."""


def bench(arguments: Sequence[str]) -> int:
    """Run `illume-fast bench` with these arguments; the exit code, 1 if a result was wrong or, with --compare, slower.

    Raises:
        InputError: an option or a file cannot be used.
    """
    if arguments[:1] == ["report"]:
        report(tyro.cli(Report, prog="illume-fast bench report", args=list(arguments[1:])))
        return 0
    if arguments[:1] == ["engine"]:
        return run_engine(tyro.cli(EngineBench, prog="illume-fast bench engine", args=list(arguments[1:])))
    return run_ops(tyro.cli(Bench, prog="illume-fast bench", args=list(arguments)))


def report(options: Report) -> None:
    """Write the page and say where it is."""
    from illume_fast.bench.report import with_tables, write_report

    rows = [row for path in options.files for row in _read(path)]
    try:
        written = write_report(rows, options.out)
        if options.tables is not None:
            text = with_tables(options.tables.read_text(encoding="utf-8"), rows)
            write_atomically(options.tables, lambda file: file.write(text.encode()))
            written.append(options.tables)
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from None
    for path in written:
        print(path)


def run_ops(options: Bench) -> int:
    """Time the chosen cases of ops."""
    from illume_fast.bench.cases import all_cases
    from illume_fast.bench.runner import run

    def rows_of(case: Any) -> list[Row]:
        return run(case, options.seconds, device=options.device, backends=_all(options.backend), peers=_peers(options))

    return _run(options, all_cases(curves=options.curves), _all(options.op), rows_of)


def run_engine(options: EngineBench) -> int:
    """Time the chosen cases of whole generation."""
    from illume_fast.bench.engine import contests
    from illume_fast.bench.engine.contest import run_contest

    if options.rehearse:
        chosen = contests("cuda", "REHEARSAL")
    else:
        chosen = contests(options.device, "CURVES" if options.curves else "CONTESTS")

    def rows_of(contest: Any) -> list[Row]:
        return run_contest(
            contest, options.seconds, device=options.device, peers=_peers(options), peer_seconds=options.peer_seconds
        )

    return _run(options, chosen, (), rows_of)


def _all(words: Words) -> tuple[str, ...]:
    """What an option was given, each time it was."""
    return tuple(word for given in words for word in given)


def _peers(options: Bench | EngineBench) -> tuple[str, ...] | None:
    """Parts of the names of peers to keep; None for all, where the option is absent."""
    return _all(options.peer) if options.peer else None


def _run(
    options: Bench | EngineBench, cases: list[Any], ops: tuple[str, ...], rows_of: Callable[[Any], list[Row]]
) -> int:
    """Time the chosen cases, print them, and compare if asked to."""
    from illume_fast.bench.cases import select
    from illume_fast.bench.compare import regressions

    _require(options)
    before = [] if options.compare is None else _read(options.compare)
    try:
        cases = select(cases, ops, _all(options.case))
    except ValueError as error:
        raise InputError(f"bench: {error}") from None
    with contextlib.suppress(PermissionError, AttributeError):
        os.nice(-5)
    _print_machine(options.device)
    after, wrong, start = [], False, time.monotonic()
    for case in cases:
        print(f"{case.op}: {case.name}", flush=True)
        try:
            rows = rows_of(case)
        except RuntimeError as error:  # the others can be timed all the same
            print(f"wrong: {case.op}, {case.name}: {error}", file=sys.stderr)
            wrong = True
            continue
        after += rows
        if options.json is not None:
            with options.json.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            _print_row(row)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f"\n{len(cases)} cases in {minutes} min {seconds} s")
    slower = regressions(before, after)
    for line in slower:
        print(f"slower: {line}", file=sys.stderr)
    return 1 if slower or wrong else 0


def _require(options: Bench | EngineBench) -> None:
    """InputError, naming the option, for what cannot run here."""
    import torch

    from illume_fast.kernels import native

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here")
    if native.missing is not None:
        raise InputError(f"bench: {native.missing}")
    for name in ("seconds", "peer_seconds"):
        if getattr(options, name, 1) <= 0:
            raise InputError(f"--{name.replace('_', '-')} must be positive, got {getattr(options, name):g}")
    if options.json is not None and not options.json.parent.is_dir():
        raise InputError(f"--json {options.json}: folder {options.json.parent} does not exist")


def _print_machine(device: str) -> None:
    from illume_fast.bench.machine import where

    here = where(device)
    print(
        f"{here['device']}, torch {here['torch']}, load {here['load_average']:.1f}; "
        f"{here['bandwidth_GB_per_s']:.1f} GB/s, "
        f"{here['float32_GFLOP_per_s']:.0f} ({here['bfloat16_GFLOP_per_s']:.0f} in bfloat16) GFLOP/s\n"
    )
    print(f"{'median ms':>10} {'p20':>9} {'p80':>9} {'floor':>9} {'ratio':>7}")


def _print_row(row: Row) -> None:
    numbers = (row["median_ms"], row["p20_ms"], row["p80_ms"], row["floor_ms"])
    print(" ".join(f"{n:{w}.3f}" for n, w in zip(numbers, (10, 9, 9, 9), strict=True)), end="")
    said = [f"{row[key]:.3g} {words}" for key, words in _SAID.items() if key in row]
    print(f" {row['ours_is_faster_by']:6.1f}x {', '.join((row['who'], *said))}", flush=True)


def _read(path: Path) -> list[dict[str, Any]]:
    from illume_fast.bench.table import read_rows

    try:
        return read_rows(path)
    except (OSError, ValueError) as error:
        raise InputError(f"bench: {error}") from None
