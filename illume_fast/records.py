"""How a result was made, as values for the text chunks of its pictures."""

from typing import Any

import torch

from illume_fast import __version__
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import format_size
from illume_fast.model.checkpoint import Checkpoint
from illume_fast.tasks import Converse, Draw, Task, Tasks
from illume_fast.tasks.sampling import default_guidance

_SETTINGS = (
    *("negative_prompt", "guidance_from", "guidance_until", "sampling", "temperature", "top_k", "top_p"),
    *("picture_temperature", "picture_top_k", "picture_top_p"),
)


def record_of(task: Task, seed: int, tasks: Tasks) -> dict[str, Any]:
    """What a result of `task` depends on, as JSON values; None where the model's own sampling was taken."""
    generation = tasks.generation
    record: dict[str, Any] = {"prompt": task.prompt, "seed": seed}
    if isinstance(task, Draw | Converse):
        default = generation.edit_guidance if task.shows_pictures else generation.guidance
        if isinstance(task, Draw):
            default = default_guidance(task, generation)
        own = default if generation.has_unconditional else 1.0
        record["guidance"] = own if task.guidance is None else task.guidance
    record |= {name: getattr(task, name) for name in _SETTINGS if hasattr(task, name)}
    made_from = {"weights": tasks.checkpoint.config.fingerprint, "dtype": dtype_record(tasks.checkpoint)}
    return {**record, **made_from, "made_by": f"illume_fast {__version__}"}


def dtype_record(checkpoint: Checkpoint) -> str | None:
    """The language model's dtype; None for float32, as in records that were made before there was a choice."""
    dtype = checkpoint.model.head_weight.dtype
    return None if dtype == torch.float32 else str(dtype).removeprefix("torch.")


def with_size(record: dict[str, Any], codes: ImageCodes) -> dict[str, Any]:
    """The record of a picture, which names the size it was drawn in."""
    return {**record, "size": format_size((codes.height, codes.width))}
