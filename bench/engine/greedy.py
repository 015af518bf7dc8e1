"""When greedy answers are right."""

from collections.abc import Callable

from torch import Tensor

# by how much of the logits' spread the chosen one may lie below the best
NEAR_TIE = {"torch.float32": 1e-3, "torch.bfloat16": 1.0}
_LOOKED_AT = 2


def same_greedy(name: str, ours: Tensor, theirs: Tensor, logits: Callable[[int, int], Tensor], near_tie: float) -> None:
    """Answers [B, S] are equal, or differ first where ids tie but for rounding.

    `logits(row, step)` are those that follow the first `step` ids of a row's answer, for all ids, -inf for those that
    may not come; of rows that differ some are looked at. What comes after a tie went another way may differ as it
    likes. In float32 a tie is within a thousandth of the logits' standard deviation; guidance makes the rounding of
    bfloat16 as large as the deviation itself, where the best of thousands lies three to five above the mean.

    Raises:
        RuntimeError: they differ where no ids tie.
    """
    if ours.shape != theirs.shape:
        raise RuntimeError(f"{name}: answers have shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
    differ = (ours != theirs).any(1).nonzero()[:, 0].tolist()
    for row in differ[:_LOOKED_AT]:
        step = int((ours[row] != theirs[row]).nonzero()[0, 0])
        scores = logits(row, step).double()
        ids = [int(answers[row, step]) for answers in (ours, theirs)]
        below = max(float(scores.max() - scores[i]) for i in ids) / float(scores[scores.isfinite()].std())
        if not below < near_tie:
            raise RuntimeError(
                f"{name}: greedy answer {row} has id {ids[0]} at step {step}, the peer's {ids[1]}, and one lies "
                f"{below:.2g} standard deviations below the best; allowed are {near_tie:g}"
            )
