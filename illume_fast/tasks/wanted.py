"""What an engine request is for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from illume_fast.data.sizes import ImageGrid
from illume_fast.tasks.asked import Task

if TYPE_CHECKING:
    from illume_fast.tasks.answer import Answer


@dataclass(frozen=True, eq=False)
class Wanted:
    """A task, which sample of it, and the grid when it is a picture; of a conversation also the answer under way."""

    task: Task
    sample: int = 0
    grid: ImageGrid | None = None
    answer: "Answer | None" = None
