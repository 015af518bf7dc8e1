"""What can be asked of a model: pictures, answers in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from illume_fast.data.sizes import ImageGrid, Size

_ID_LENGTH = 60


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """Pictures from a prompt or, with `image`, edits of it. What is None is the model's own default.

    `size` is (height, width) in pixels. `samples` says which samples of `seed` are wanted: sample k is drawn with
    `sample_seed(seed, k)`. An edit has the size nearest to its source's and comes back in the source's own size unless
    `restore` is off. Guidance leads away from `negative_prompt`, or from no prompt at all, at the steps of the
    picture's tokens from `guidance_from` until before `guidance_until` (None: to the end). `tag` comes back untouched.
    """

    prompt: str
    image: Image.Image | None = None
    size: Size | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    guidance_from: int = 0
    guidance_until: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    samples: Sequence[int] = (0,)
    restore: bool = True
    id: str = ""
    tag: Any = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Ask:
    """A question about any number of pictures, answered in words; greedily unless `temperature` says otherwise."""

    prompt: str
    images: Sequence[Image.Image] = ()
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    id: str = ""
    tag: Any = None


Task = Draw | Ask


def name_of(task: Task) -> str:
    """What messages call a task: its id, or how its prompt begins."""
    return task.id or task.prompt.strip()[:_ID_LENGTH]


@dataclass(frozen=True, eq=False)
class Wanted:
    """What an engine request is for: a task, which sample of it, and the grid when it is a picture."""

    task: Task
    sample: int = 0
    grid: ImageGrid | None = None
