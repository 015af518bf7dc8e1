"""Conversations as ids and labels, and the prompts of every task.

Text, pictures and size tags are parts of a message, and each becomes ids by itself. Nothing is spliced into a string,
so braces, `<image>` or control tokens inside a user's words stay words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from illume_fast.data.chat_template import QWEN2, ChatTemplate, Control
from illume_fast.data.errors import InputError
from illume_fast.data.sequence import ImageCodes, encode_image
from illume_fast.data.sizes import Size
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.illume import Sample
from illume_fast.model.vocab import IGNORE_INDEX, IMAGE_PLACEHOLDER, VocabConfig

IMAGE_MARK = "<image>"
SIZE_MARK = "{resolution_tag}"
ROLES = ("user", "assistant")


@dataclass(frozen=True)
class ReadImage:
    """A picture that the model reads as continuous features."""


@dataclass(frozen=True)
class SizeTag:
    """`<height_H><width_W>`, in pixels, behind the words `lead`; a vocabulary without size tags has neither."""

    height: int
    width: int
    lead: str = ""


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
    """Turns messages into ids for one tokenizer, vocabulary and chat template."""

    def __init__(
        self, text: TextTokenizer, vocab: VocabConfig, system: str | None = None, template: ChatTemplate = QWEN2
    ) -> None:
        named = {"pad": text.pad, "im_start": text.im_start, "im_end": text.im_end}
        for name, found in named.items():
            if found != getattr(vocab, name):
                raise InputError(f"the tokenizer's {name} is {found}, the vocabulary's {getattr(vocab, name)}")
        self.text, self.vocab, self.template = text, vocab, template
        self.system = template.system if system is None else system

    def encode(
        self, messages: Sequence[Message], continuation: Sequence[Part] | None = None
    ) -> tuple[list[int], list[int]]:
        """Messages -> (ids, labels). Learnt is what the assistant says, with what closes its turn (`<|im_end|>` and a
        line end, or `</s>`).

        With `continuation` the ids end inside an assistant's turn that begins with these parts, and nothing is learnt
        from them: a prompt.
        """
        script = _Script(self)
        before, after = self.template.around["system"]
        script.say([*before, self.system, *after])
        for message in messages:
            before, after = self.template.around[message.role]
            script.say(before)
            if message.role == "assistant":
                # kept apart from its header, after which generation starts
                script.close()
                script.say([*message.parts, *after], learnt=True)
            else:
                script.say([*message.parts, *after])
        if continuation is not None:
            script.say(self.template.around["assistant"][0])
            script.close()
            script.say(continuation)
        script.close()
        return script.ids, script.labels

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

    def ids_of(self, part: Part | Control) -> list[int]:
        """The ids of a part that is no text."""
        if isinstance(part, Control):
            return [self.vocab.im_start if part is Control.START else self.vocab.im_end]
        if isinstance(part, ReadImage):
            return [IMAGE_PLACEHOLDER]
        if isinstance(part, SizeTag):
            return self.vocab.size_tag(part.height, part.width)
        if isinstance(part, Written):
            return list(part.ids)
        assert isinstance(part, ImageCodes)
        return encode_image(part, self.vocab).tolist()

    def _prompt(self, parts: Sequence[Part], continuation: Sequence[Part]) -> list[int]:
        return self.encode([Message("user", tuple(parts))], continuation)[0]


class _Script:
    """Ids and labels as they are written; texts that meet are encoded as one."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.ids: list[int] = []
        self.labels: list[int] = []
        self._words = ""
        self._learnt = False

    def say(self, parts: Sequence[Part | Control], learnt: bool = False) -> None:
        for part in parts:
            if isinstance(part, SizeTag):
                if not self.chat.vocab.tag_pixels:
                    continue
                self.say([part.lead] if part.lead else [], learnt)
            if not isinstance(part, str):
                self.close()
                self._write(self.chat.ids_of(part), learnt)
                continue
            if learnt != self._learnt:
                self.close()
            self._words, self._learnt = self._words + part, learnt

    def close(self) -> None:
        """Encode the words that are still open."""
        if self._words:
            self._write(self.chat.text.encode(self._words), self._learnt)
        self._words = ""

    def _write(self, ids: list[int], learnt: bool) -> None:
        self.ids += ids
        self.labels += ids if learnt else [IGNORE_INDEX] * len(ids)


def text_to_image(caption: str, size: Size) -> Message:
    """What a user says to have a picture made."""
    words = f", the content of image is {caption}\n"
    return Message("user", ("Generate an image", SizeTag(*size, lead=" of "), words))


def random_image(size: Size) -> Message:
    """`text_to_image` without its caption."""
    return Message("user", ("Generate a random image", SizeTag(*size, lead=" of "), "\n"))


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
