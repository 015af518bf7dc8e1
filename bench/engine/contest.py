"""What a benchmark of whole generation is, and how its contestants take turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from illume_fast.bench.case import Measured
from illume_fast.bench.clock import Turn
from illume_fast.bench.runner import OURS, kept, rows_of, take_turns

Made = Any


@dataclass(frozen=True, kw_only=True)
class Contest(Measured):
    """Ours and the peers on one model.

    `make(device, stack)` builds models and requests; what must be given back goes on the stack. `check(made)` raises
    RuntimeError unless ours draws what it should. `ours(made)` and each of `peers`, called with (made, stack), give a
    turn, whose seconds are those of what the name says. `notes(made)` is asked after the turns, for what else is said
    of ours.

    That is `pictures` pictures and `tokens` tokens of prompts (0: not counted). Each contestant is timed at least
    `fewest` times.
    """

    make: Callable[[str, ExitStack], Made]
    check: Callable[[Made], None]
    ours: Callable[[Made], Turn]
    peers: Mapping[str, Callable[[Made, ExitStack], Turn]] = field(default_factory=dict)
    notes: Callable[[Made], dict[str, Any]] | None = None
    pictures: int = 0
    tokens: int = 0
    fewest: int = 3


def once(call: Callable[[], Any]) -> Turn:
    """A turn is one call, which takes long enough by itself."""

    def turn() -> list[float]:
        start = time.perf_counter()
        call()
        return [time.perf_counter() - start]

    return turn


def run_contest(
    contest: Contest, seconds: float, *, device: str = "cpu", peers: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Check, then time a contest for about `seconds`, and for a turn of each at least; a row each, ours first.

    `peers` are names to keep (a part of a name will do); None keeps all. A peer that fails is left out, with the
    reason.

    Raises:
        RuntimeError: ours draws what it should not.
    """
    with ExitStack() as stack:
        made = contest.make(device, stack)
        contest.check(made)
        turns = {OURS: contest.ours(made)}
        turns[OURS]()
        for name, peer in kept(contest.peers, peers).items():
            try:
                turn = peer(made, stack)
                turn()  # whatever is made when first called
                turns[name] = turn
            except Exception as error:  # whatever a library of others may raise
                reason = (str(error).splitlines() or [""])[0]
                print(f"{'':10} left out: {name}: {type(error).__name__}: {reason}", flush=True)
        times = take_turns(turns, seconds, contest.fewest)
        notes = {} if contest.notes is None else contest.notes(made)
    rows = [{**row, **_rates(contest, row)} for row in rows_of(contest, times, device)]
    rows[0] |= notes
    return rows


def _rates(contest: Contest, row: Mapping[str, Any]) -> dict[str, Any]:
    """What is made in a second, and what could be."""
    seconds = {"": row["median_ms"] / 1e3, "floor_": row["floor_ms"] / 1e3}
    counts = {"pictures_per_s": contest.pictures, "tokens_per_s": contest.tokens}
    return {f"{of}{name}": n / s for name, n in counts.items() if n for of, s in seconds.items()}
