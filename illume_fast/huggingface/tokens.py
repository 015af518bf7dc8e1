"""Ids as the published tokens' names and back, by arithmetic: nothing is matched against a hundred thousand of them."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from illume_fast.data.chat import IMAGE_MARK
from illume_fast.data.sequence import ImageCodes, decode_image
from illume_fast.data.sizes import ImageGrid
from illume_fast.data.text_tokenizer import SPECIALS, TextTokenizer
from illume_fast.model.generation_config import CheckpointConfig
from illume_fast.model.vocab import IMAGE_PLACEHOLDER, VocabConfig, structure_tokens

_TOKEN = re.compile(
    r"<\|(?:im_start|im_end|endoftext)\|>|<(?:start|end)_of_(?:image|line|level\d)>|<(?:height|width)_\d+>"
    r"|<\|image_level\d_\d+\|>"
)
_BLOCK = re.compile(r"<start_of_image>.*?<end_of_image>", re.DOTALL)


class Tokens:
    """The names of one vocabulary's ids, over a tokenizer for what is text."""

    def __init__(self, text: TextTokenizer, config: CheckpointConfig) -> None:
        self.text, self.vocab = text, config.model.vocab
        self._config = config
        self._specials = dict(zip((self.vocab.pad, self.vocab.im_start, self.vocab.im_end), SPECIALS, strict=True))
        self._named = self._specials | _few_names(self.vocab)
        self._ids = {name: i for i, name in self._named.items()}

    def name(self, token: int) -> str | None:
        """The name of a control or image token, "<image>" of the placeholder; None for text and for ids of no token."""
        if token == IMAGE_PLACEHOLDER:
            return IMAGE_MARK
        for level, (lo, hi) in enumerate(self.vocab.levels):
            if lo <= token < hi:
                return f"<|image_level{level}_{token - lo}|>"
        return self._named.get(token)

    def id(self, name: str) -> int | None:
        """The id of a control or image token, or None."""
        if (code := re.fullmatch(r"<\|image_level(\d)_(\d+)\|>", name)) is None:
            return self._ids.get(name)
        level, number = int(code[1]), int(code[2])
        if level >= len(self.vocab.levels) or number >= self.vocab.codes(level):
            return None
        return self.vocab.levels[level][0] + number

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Ids -> text with the names of image tokens in it, and those of control tokens unless they are skipped."""
        parts: list[str] = []
        words: list[int] = []
        for token in ids:
            name = self.name(token)
            if name is None:
                words.append(token)
                continue
            parts += [self.text.decode(words)] if words else []
            words = []
            if not (skip_special_tokens and token in self._specials):
                parts.append(name)
        return "".join([*parts, self.text.decode(words)] if words else parts)

    def first_name(self, text: str) -> str | None:
        """The first name of a token that is written out in a text, or None."""
        return next((found[0] for found in _TOKEN.finditer(text) if self.id(found[0]) is not None), None)

    def encode_named(self, text: str) -> list[int]:
        """Text -> ids, where names of control and image tokens, and `<image>`, stand for the tokens."""
        ids: list[int] = []
        start = 0
        for found in re.finditer(f"{IMAGE_MARK}|{_TOKEN.pattern}", text):
            token = IMAGE_PLACEHOLDER if found[0] == IMAGE_MARK else self.id(found[0])
            if token is None:
                continue
            ids += self.text.encode(text[start : found.start()]) if found.start() > start else []
            ids.append(token)
            start = found.end()
        return ids + (self.text.encode(text[start:]) if start < len(text) else [])

    def parts(self, ids: Sequence[int]) -> list[list[int] | ImageCodes]:
        """Ids -> runs of other tokens, and the codes of each picture between them. ValueError for a damaged picture."""
        found: list[list[int] | ImageCodes] = []
        rest = list(ids)
        while self.vocab.start_of_image in rest:
            begin = rest.index(self.vocab.start_of_image)
            if self.vocab.end_of_image not in rest[begin:]:
                raise ValueError("a picture begins and does not end; generate more tokens")
            end = rest.index(self.vocab.end_of_image, begin) + 1
            found += [rest[:begin]] if begin else []
            found.append(self.codes(rest[begin:end]))
            rest = rest[end:]
        return [*found, rest] if rest else found

    def split(self, text: str) -> list[str | ImageCodes]:
        """As `parts`, of a text with names of tokens."""
        found: list[str | ImageCodes] = []
        start = 0
        for block in _BLOCK.finditer(text):
            found += [text[start : block.start()]] if block.start() > start else []
            ids = [self.id(token[0]) for token in _TOKEN.finditer(block[0])]
            found.append(self.codes([token for token in ids if token is not None]))
            start = block.end()
        return [*found, text[start:]] if start < len(text) else found

    def codes(self, block: Sequence[int]) -> ImageCodes:
        """Ids from `<start_of_image>` to `<end_of_image>` -> codes. ValueError where that is no picture."""
        reason = f"no size of this model takes {len(block)} tokens"
        for height, width in self._config.generation.allowed_sizes:
            grid = ImageGrid(height, width, self._config.vision_tokenizer.grids(height, width))
            if grid.num_tokens != len(block):
                continue
            try:
                return decode_image(block, grid, self.vocab)
            except ValueError as error:
                reason = str(error)
        raise ValueError(f"the picture is damaged: {reason}")


def _few_names(vocab: VocabConfig) -> dict[int, str]:
    names = dict(zip(vocab.structure, structure_tokens(len(vocab.levels)), strict=True))
    for i, pixels in enumerate(vocab.tag_pixels):
        names[vocab.first_height + i] = f"<height_{pixels}>"
        names[vocab.first_width + i] = f"<width_{pixels}>"
    return names


def _plain(ids: Any) -> Any:
    return ids.tolist() if hasattr(ids, "tolist") else ids


def rows_of_ids(ids: Tensor | int | Sequence[int] | Sequence[Sequence[int]]) -> list[list[int]]:
    """An id, [T] or [B, T], as a tensor, an array or lists -> a list of ids for each row."""
    given: Any = _plain(ids)
    values: list[Any] = [given] if isinstance(given, int) else [_plain(one) for one in given]
    return [list(map(int, row)) for row in (values if values and not isinstance(values[0], int) else [values])]
