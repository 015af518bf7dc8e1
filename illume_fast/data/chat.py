"""Conversations as ids and labels, and the prompts of every task.

Text, pictures and size tags are parts of a message, and each becomes ids by itself. Nothing is spliced into a string,
so braces, `<image>` or control tokens inside a user's words stay words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from illume_fast.data.errors import InputError
from illume_fast.data.sequence import ImageCodes, encode_image
from illume_fast.data.sizes import Size
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.illume import Sample
from illume_fast.model.vocab import IGNORE_INDEX, IMAGE_PLACEHOLDER, VocabConfig

SYSTEM = "You are a helpful assistant."
IMAGE_MARK = "<image>"
SIZE_MARK = "{resolution_tag}"
ROLES = ("user", "assistant")


@dataclass(frozen=True)
class ReadImage:
    """A picture that the model reads as continuous features."""


@dataclass(frozen=True)
class SizeTag:
    """`<height_H><width_W>`, in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Written:
    """Words that the model wrote: their ids come back as they were, however else the text could be cut up."""

    text: str
    ids: tuple[int, ...]


Part = str | ReadImage | SizeTag | ImageCodes | Written


@dataclass(frozen=True)
class Message:
    """What one side says: words, pictures read, words and pictures written, size tags."""

    role: str
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r} is not allowed; allowed are {', '.join(ROLES)}")


class Chat:
    """Turns messages into ids for one tokenizer and vocabulary (Qwen2's chat template)."""

    def __init__(self, text: TextTokenizer, vocab: VocabConfig, system: str = SYSTEM) -> None:
        named = {"pad": text.pad, "im_start": text.im_start, "im_end": text.im_end}
        for name, found in named.items():
            if found != getattr(vocab, name):
                raise InputError(f"the tokenizer's {name} is {found}, the vocabulary's {getattr(vocab, name)}")
        self.text, self.vocab = text, vocab
        self._headers = {role: [vocab.im_start, *text.encode(f"{role}\n")] for role in ("system", *ROLES)}
        self._end = [vocab.im_end, *text.encode("\n")]
        self._system = [*self._headers["system"], *text.encode(system), *self._end]

    def encode(
        self, messages: Sequence[Message], continuation: Sequence[Part] | None = None
    ) -> tuple[list[int], list[int]]:
        """Messages -> (ids, labels). Learnt is what the assistant says, with the `<|im_end|>` and line end after it.

        With `continuation` the ids end inside an assistant's turn that begins with these parts, and nothing is learnt
        from them: a prompt.
        """
        ids, labels = [], []

        def say(tokens: list[int], learnt: bool) -> None:
            ids.extend(tokens)
            labels.extend(tokens if learnt else [IGNORE_INDEX] * len(tokens))

        say(self._system, False)
        for message in messages:
            answer = message.role == "assistant"
            header, words = self._turn(message)
            say(header, False)
            say([*words, *self._end], answer)
        if continuation is not None:
            header, words = self._turn(Message("assistant", tuple(continuation)))
            say([*header, *words], False)
        return ids, labels

    def sample(self, messages: Sequence[Message], images: Sequence[torch.Tensor] = ()) -> Sample:
        """A training sample; `images` are the pictures read, in order, each [1, 3, H, W] in [-1, 1]."""
        ids, labels = self.encode(messages)
        return Sample(torch.tensor(ids), torch.tensor(labels), tuple(images))

    def ask(self, question: str, images: int = 1) -> list[int]:
        """Prompt of understanding: `images` pictures, then a question."""
        pictures: list[Part] = []
        for _ in range(images):
            pictures += [ReadImage(), " "]
        lead = [*pictures[:-1], "\n"] if images else []
        return self._prompt([*lead, question], [])

    def generate(self, caption: str, size: Size) -> list[int]:
        """Prompt of text-to-image; the size tag is already written after it."""
        return self._prompt(text_to_image(caption, size).parts, [SizeTag(*size)])

    def generate_anything(self, size: Size) -> list[int]:
        """Text-to-image without a caption: the unconditional branch of guidance."""
        return self._prompt(random_image(size).parts, [SizeTag(*size)])

    def edit(self, instruction: str, size: Size) -> list[int]:
        """Prompt of editing one read picture."""
        return self._prompt(edit_image(instruction, size).parts, [SizeTag(*size)])

    def edit_nothing(self, size: Size) -> list[int]:
        """Editing without an instruction, the picture kept: the unconditional branch of guidance."""
        return self._prompt(reconstruct_image(size).parts, [SizeTag(*size)])

    def _prompt(self, parts: Sequence[Part], continuation: Sequence[Part]) -> list[int]:
        return self.encode([Message("user", tuple(parts))], continuation)[0]

    def _turn(self, message: Message) -> tuple[list[int], list[int]]:
        """Header and content. A user's first words are encoded together with the header's line end, as in the text
        they form; an answer is kept apart, since generation starts after the header."""
        if message.role == "assistant" or not message.parts or not isinstance(message.parts[0], str):
            return self._headers[message.role], self._content(message.parts)
        joined = (f"{message.role}\n{message.parts[0]}", *message.parts[1:])
        return [self.vocab.im_start], self._content(joined)

    def _content(self, parts: Sequence[Part]) -> list[int]:
        ids: list[int] = []
        words = ""
        for part in parts:
            if isinstance(part, str):
                words += part
                continue
            ids += self.text.encode(words) if words else []
            words = ""
            if isinstance(part, ReadImage):
                ids.append(IMAGE_PLACEHOLDER)
            elif isinstance(part, SizeTag):
                ids += self.vocab.size_tag(part.height, part.width)
            elif isinstance(part, Written):
                ids += part.ids
            else:
                ids += encode_image(part, self.vocab).tolist()
        return ids + (self.text.encode(words) if words else [])


def text_to_image(caption: str, size: Size) -> Message:
    """What a user says to have a picture made."""
    return Message("user", ("Generate an image of ", SizeTag(*size), f", the content of image is {caption}\n"))


def random_image(size: Size) -> Message:
    """`text_to_image` without its caption."""
    return Message("user", ("Generate a random image of ", SizeTag(*size), "\n"))


def edit_image(instruction: str, *sizes: Size) -> Message:
    """What a user says to have pictures of these sizes changed; without sizes, one that was spoken of before."""
    lead = "\n" if sizes else ""
    words = f"{lead}Please edit the image according to the instruction: {instruction}\n"
    return Message("user", (*_sources(sizes), words))


def reconstruct_image(*sizes: Size) -> Message:
    """`edit_image` without its instruction."""
    words = "\nReconstruct the image according to the given image\n"
    return Message("user", (*_sources(sizes), words))


def _sources(sizes: Sequence[Size]) -> list[Part]:
    return [part for size in sizes for part in (SizeTag(*size), ReadImage())]


def written_image(codes: ImageCodes) -> Message:
    """The assistant's answer that is a picture."""
    return Message("assistant", (SizeTag(codes.height, codes.width), codes))


def parse_marks(text: str, size: Size | None = None) -> tuple[Part, ...]:
    """Words of a data set with `<image>` and `{resolution_tag}` marks -> parts; the marks are the only syntax.

    `size` is what `{resolution_tag}` stands for; InputError when it is needed and None.
    """
    parts: list[Part] = []
    for i, piece in enumerate(text.split(IMAGE_MARK)):
        parts += [ReadImage()] if i else []
        for j, words in enumerate(piece.split(SIZE_MARK)):
            if j and size is None:
                raise InputError(f"{SIZE_MARK} needs a picture size, and none was given")
            parts += [SizeTag(*size)] if j and size is not None else []
            parts += [words] if words else []
    return tuple(parts)
