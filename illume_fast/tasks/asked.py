"""What can be asked of a model: pictures, answers in words, the next turn of a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from illume_fast.data.sizes import Size
from illume_fast.data.turns import Turn

_ID_LENGTH = 60


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """Pictures from a prompt or, with `image`, edits of it. What is None is the model's own default.

    `size` is (height, width) in pixels. `samples` says which samples of `seed` are wanted: sample k is drawn with
    `sample_seed(seed, k)`. An edit has the size nearest to its source's and comes back in the source's own size unless
    `restore` is off. Guidance leads away from `negative_prompt`, or from no prompt at all, at the steps of the
    picture's tokens from `guidance_from` until before `guidance_until` (None: to the end). `sampling` names a preset
    ("official" and others, see docs/sampling.md), whose defaults and further filters go before the model's; what is
    said beside it goes before the preset. `tag` comes back untouched.
    """

    prompt: str
    image: Image.Image | None = None
    size: Size | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    guidance_from: int = 0
    guidance_until: int | None = None
    sampling: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    samples: Sequence[int] = (0,)
    restore: bool = True
    id: str = ""
    tag: Any = None

    @property
    def source(self) -> Image.Image | None:
        """The picture whose size the edit has in the end."""
        return self.image if self.restore else None

    @property
    def shows_pictures(self) -> bool:
        """Whether it is an edit, which has guidance of its own."""
        return self.image is not None

    @property
    def draws(self) -> bool:
        """Whether pictures may come of it."""
        return True


@dataclass(frozen=True, eq=False, kw_only=True)
class Ask:
    """A question about any number of pictures, answered in words; greedily unless `temperature` says otherwise.

    `sampling` names a preset, as in `Draw`, which is not greedy either.
    Pictures are read in their own size, scaled down where they have more than `max_pixels` (None: the model's bound).
    """

    prompt: str
    images: Sequence[Image.Image] = ()
    max_new_tokens: int | None = None
    max_pixels: int | None = None
    sampling: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    id: str = ""
    tag: Any = None

    @property
    def source(self) -> None:
        """No answer in words is an edit."""

    @property
    def draws(self) -> bool:
        """Whether pictures may come of it."""
        return False


AnswerKind = Literal["text", "image", "interleaved"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Converse:
    """The next turn of a conversation whose last turn is the user's. What is None is the model's own default.

    The answer is "text"; or exactly one picture ("image"); or "interleaved": words, and at most `max_pictures`
    pictures where the model begins one. `max_new_tokens` bounds the words alone. `temperature`, `top_k` and `top_p`
    are those of the words (greedy without), `picture_temperature` and so on those of the pictures; `sampling` names a
    preset of both, as in `Draw`. `guidance` and `negative_prompt` are as there, and lead away from a prompt without
    words that keeps the pictures the user showed last.

    `size` is that of every picture of the answer. Without it, the model chooses for an interleaved answer; one
    picture has the size nearest to the first picture of the user's last turn, and comes back in that picture's own
    size unless `restore` is off; where the turn shows none, the default size.

    What a user says is put into the prompts of the training where one picture alone answers it, now or earlier in the
    conversation: an edit where there is a picture by then, text-to-image otherwise. With `as_is` it stays as it is.

    With `keep`, the answer stays in the engine's cache while there is room, so that the next turn reads what is new.
    """

    messages: Sequence[Turn]
    answer: AnswerKind = "interleaved"
    size: Size | None = None
    max_new_tokens: int | None = None
    max_pictures: int = 4
    max_pixels: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    picture_temperature: float | None = None
    picture_top_k: int | None = None
    picture_top_p: float | None = None
    sampling: str | None = None
    as_is: bool = False
    restore: bool = True
    keep: bool = True
    seed: int = 0
    id: str = ""
    tag: Any = None

    @property
    def prompt(self) -> str:
        """The user's last words."""
        return self.messages[-1].words if self.messages else ""

    @property
    def shows_pictures(self) -> bool:
        """Whether a user has shown pictures: what is drawn then is guided as an edit."""
        return any(turn.role == "user" and turn.pictures for turn in self.messages)

    @property
    def source(self) -> Image.Image | None:
        """The picture whose size the answer has in the end."""
        wanted = self.answer == "image" and self.restore
        return next(iter(self.messages[-1].pictures), None) if wanted else None

    @property
    def draws(self) -> bool:
        """Whether pictures may come of it."""
        return self.answer != "text"


Task = Draw | Ask | Converse


def name_of(task: Task) -> str:
    """What messages call a task: its id, or how its prompt begins."""
    return task.id or task.prompt.strip()[:_ID_LENGTH] or "a conversation"
