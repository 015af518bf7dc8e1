"""What a benchmark of whole generation is, and how its contestants take turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from illume_fast.bench.case import Measured
from illume_fast.bench.clock import Turn
from illume_fast.bench.engine.limit import at_most
from illume_fast.bench.runner import OURS, kept, rows_of

Made = Any
PEER_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Contest(Measured):
    """Ours and the peers on one model.

    `make(device, stack)` builds models and requests; what must be given back goes on the stack. `check(made)` raises
    RuntimeError unless ours draws what it should. `ours(made)` and each of `peers`, called with (made, stack), give a
    turn, whose seconds are those of what the name says. `notes(made)` is asked after the turns, for what else is said
    of ours.

    That is `steps` steps, `pictures` pictures and `tokens` tokens, read or drawn (0: not counted). Each contestant has
    at least `fewest` turns. Ours is to be `goal` times as fast as the best peer (0: nothing was set).
    """

    make: Callable[[str, ExitStack], Made]
    check: Callable[[Made], None]
    ours: Callable[[Made], Turn]
    peers: Mapping[str, Callable[[Made, ExitStack], Turn]] = field(default_factory=dict)
    notes: Callable[[Made], dict[str, Any]] | None = None
    steps: int = 0
    pictures: int = 0
    tokens: int = 0
    fewest: int = 3
    goal: float = 0.0


def once(call: Callable[[], Any]) -> Turn:
    """A turn is one call, which takes long enough by itself."""

    def turn() -> list[float]:
        start = time.perf_counter()
        call()
        return [time.perf_counter() - start]

    return turn


def run_contest(
    contest: Contest,
    seconds: float,
    *,
    device: str = "cpu",
    peers: Sequence[str] | None = None,
    peer_seconds: float = PEER_SECONDS,
) -> list[dict[str, Any]]:
    """Check, then time a contest for about `seconds`, and `fewest` turns of each at least; a row each, ours first.

    `peers` are names to keep (a part of a name will do); None keeps all. A peer that fails is left out, and so is one
    that is not ready after `peer_seconds`, its first turn included, or whose `fewest` turns would take longer; the
    reason is printed, and stands in the row of ours.

    Raises:
        RuntimeError: ours draws what it should not.
    """
    with ExitStack() as stack:
        made = contest.make(device, stack)
        contest.check(made)
        turns = {OURS: contest.ours(made)}
        turns[OURS]()
        left_out: dict[str, str] = {}
        ready: dict[str, float] = {}
        for name, peer in kept(contest.peers, peers).items():
            start = time.perf_counter()
            try:
                with at_most(peer_seconds):
                    turn = peer(made, stack)
                    turn()  # whatever is made when first called
                turns[name], ready[name] = turn, time.perf_counter() - start
            except Exception as error:  # whatever a library of others may raise
                left_out[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        taken, late = take_turns(turns, seconds, contest.fewest, peer_seconds)
        left_out |= late
        notes = {} if contest.notes is None else contest.notes(made)
    for name, reason in left_out.items():
        print(f"{'':10} left out: {name}: {reason}", flush=True)
    rows = rows_of(contest, {name: list(chain.from_iterable(t)) for name, t in taken.items()}, device)
    rows = [row | ({"ready_s": ready[row["who"]]} if row["who"] in ready else {}) for row in rows]
    rows = [{**row, "turns": len(taken[row["who"]]), **_rates(contest, row)} for row in rows]
    rows[0] |= {
        **notes,
        **({"goal": contest.goal} if contest.goal else {}),
        **({"left_out": left_out} if left_out else {}),
    }
    return rows


def take_turns(
    turns: Mapping[str, Turn], seconds: float, fewest: int, peer_seconds: float
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """The turns that each has taken, one after the other, and why some have left.

    They go on for `seconds`, and until each has had `fewest`. A peer leaves after its first turn if `fewest` of that
    length would take more than `peer_seconds`; ours always stays.
    """
    taken: dict[str, list[list[float]]] = {name: [] for name in turns}
    late: dict[str, str] = {}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, taken.values())) < fewest:
        for name in list(taken):
            start = time.perf_counter()
            taken[name].append(turns[name]())
            took = time.perf_counter() - start
            if name != OURS and len(taken[name]) == 1 and fewest * took > peer_seconds:
                del taken[name]
                late[name] = f"a turn takes {took:.0f} s, and {fewest} of them may take {peer_seconds:g} s"
    return taken, late


def _rates(contest: Contest, row: Mapping[str, Any]) -> dict[str, Any]:
    """What is made in a second, and what could be."""
    seconds = {"": row["median_ms"] / 1e3, "floor_": row["floor_ms"] / 1e3}
    counts = {"steps_per_s": contest.steps, "pictures_per_s": contest.pictures, "tokens_per_s": contest.tokens}
    return {f"{of}{name}": n / s for name, n in counts.items() if n for of, s in seconds.items()}
