"""What an integration tells about a model it took over."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, kw_only=True)
class Report:
    """What runs on our engine now, what stays as it was, and the way back.

    `replaced` pairs a part of the model with what runs in its place, `kept` lists parts that are called as before, and
    `originals` the options of a call for which the model's own code runs instead, with a warning. `shared_bytes` is
    the size of the parameters that both use, `cached_bytes` that of what was computed from them.
    """

    model: str
    replaced: tuple[tuple[str, str], ...]
    kept: tuple[str, ...]
    originals: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    shared_bytes: int
    cached_bytes: int
    undo: Callable[[], None] = field(repr=False, compare=False)

    def revert(self) -> None:
        """Make the model exactly what it was; does nothing the second time."""
        self.undo()

    def __str__(self) -> str:
        width = max(len(theirs) for theirs, _ in self.replaced)
        return "\n".join(
            [
                f"{self.model} on the engine of illume_fast: {self.dtype} on {self.device}",
                "replaced",
                *(f"  {theirs:{width}}  by {ours}" for theirs, ours in self.replaced),
                "kept",
                *(f"  {part}" for part in self.kept),
                "the model's own code runs, with a warning, for",
                *(f"  {option}" for option in self.originals),
                f"{_mebibytes(self.shared_bytes)} of parameters shared, none copied; "
                f"{_mebibytes(self.cached_bytes)} computed from them",
            ]
        )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
