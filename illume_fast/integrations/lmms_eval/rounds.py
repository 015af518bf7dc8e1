"""Tasks of several rounds: after each answer the task itself says what is asked next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, kw_only=True)
class Game:
    """One document on its way through the rounds.

    `next_round(document, previous_output=, round_idx=, previous_round_info=)` is the task's `doc_to_text`: it returns
    what is shown and asked next, whether it is over, all answers so far (as the task wants them kept), and whatever
    it wants to be given back in the round after.
    """

    document: Any
    next_round: Callable[..., tuple[Any, str, bool, Sequence[str], Any]]
    visuals: Any
    context: str
    said: list[str] = field(default_factory=list)
    info: Any = None


def play(games: Sequence[Game], answer: Callable[[Sequence[Game], int], Sequence[str]]) -> list[list[str]]:
    """All answers of each game; `answer(games, round)` answers what those that go on ask, in one batch."""
    going, number = list(games), 0
    while going:
        for game, words in zip(going, answer(going, number), strict=True):
            game.said.append(words)
        number += 1
        going = [game for game in going if not _is_over(game, number)]
    return [game.said for game in games]


def _is_over(game: Game, number: int) -> bool:
    visuals, context, over, said, info = game.next_round(
        game.document, previous_output=list(game.said), round_idx=number, previous_round_info=game.info
    )
    game.said, game.info = list(said), info
    if not over:
        game.visuals, game.context = visuals, context
    return bool(over)
