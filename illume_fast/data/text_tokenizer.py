"""Text to ids and back, over the `tokenizers` library and its `tokenizer.json`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from illume_fast.data.chat_template import QWEN2
from illume_fast.data.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIALS = QWEN2.specials

# Qwen2: contractions, words with at most one leading sign, single digits, runs of signs, line ends, other white space
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TextTokenizer:
    """A byte-level BPE (Qwen2's), or one of words with bytes to fall back on (Llama's).

    Whatever a text holds, it is encoded as plain text: control and image tokens written out in a caption never become
    the tokens themselves. `specials` are the names of the padding and of what opens and closes a turn.
    """

    def __init__(self, tokenizer: "Tokenizer", specials: Sequence[str] = SPECIALS) -> None:
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True
        self.pad, self.im_start, self.im_end = (self._id(token) for token in specials)

    @classmethod
    def from_file(
        cls, path: Path | str, text_size: int | None = None, specials: Sequence[str] = SPECIALS
    ) -> "TextTokenizer":
        """Read `tokenizer.json`, or a `vocab.json` with `merges.txt` and `added_tokens.json` beside it, as Qwen2's
        older saves have. InputError when it is missing or damaged.

        Added tokens at and above `text_size` (structure, sizes, codes) are left out: they are known by id, and
        matching over a hundred thousand of them would slow every text down. Those below it are never matched.
        """
        try:
            path = Path(path)
            values = json.loads(tokenizer_json(path))
            kept = sorted(values["added_tokens"], key=lambda token: token["id"])
            if text_size is not None:
                # only special tokens can be kept from matching
                kept = [{**token, "special": True} for token in kept if token["id"] < text_size]
            values["added_tokens"] = kept
            _keep_controls_apart(values)
            tokenizer = _library().Tokenizer.from_str(json.dumps(values))
            for token in kept:
                if tokenizer.token_to_id(token["content"]) != token["id"]:
                    raise InputError(f"added token {token['content']} cannot have the id {token['id']}")
            return cls(tokenizer, specials)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        # the library raises plain Exception for what it cannot parse
        except Exception as error:
            raise InputError(f"{path}: not a tokenizer.json: {error}") from None

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "TextTokenizer":
        """Learn a byte-level BPE of at most `size` tokens, the three control tokens last."""
        library = _library()
        tokenizer = _byte_level(library, library.models.BPE())
        trainer = library.trainers.BpeTrainer(
            vocab_size=size - len(SPECIALS),
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.add_special_tokens(list(SPECIALS))
        return cls(tokenizer)

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Plain text -> ids."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text; control tokens and ids outside the text vocabulary leave nothing behind."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, path: Path | str) -> None:
        """Write `tokenizer.json`."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The text of `tokenizer.json`."""
        return self._tokenizer.to_str(pretty=False)

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise InputError(f"the tokenizer lacks {token}")
        return found


def _keep_controls_apart(values: dict[str, Any]) -> None:
    """Takes out of a BPE the merges that spell a control token or a byte of its alphabet: Llama's has its control
    tokens among the words, so that "</" and "s>" typed by a user would become the end of an answer."""
    model = values["model"]
    if model.get("type") != "BPE":
        return
    barred = {token["content"] for token in values["added_tokens"] if token["special"]}
    if model.get("byte_fallback"):
        barred |= {f"<0x{byte:02X}>" for byte in range(256)}

    def spelt(merge: Any) -> str:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        return left + right

    model["merges"] = [merge for merge in model["merges"] if spelt(merge) not in barred]


def _byte_level(library: Any, model: Any) -> "Tokenizer":
    """Qwen2's pipeline around `model`."""
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([
        library.pre_tokenizers.Split(library.Regex(_WORDS), behavior="isolated"),
        library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = library.decoders.ByteLevel()
    return tokenizer


def tokenizer_json(path: Path | str) -> str:
    """The text of a `tokenizer.json`, or what one would hold for the `vocab.json` of an older save; all added tokens
    included. OSError and what the library raises where files are missing or damaged."""
    path = Path(path)
    if path.name != "vocab.json":
        return path.read_text(encoding="utf-8")
    folder = path.parent
    library = _library()
    model = library.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    values = json.loads(_byte_level(library, model).to_str())
    same = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    tokens = [{"id": i, "content": text, **same, "special": text in SPECIALS} for text, i in added.items()]
    tokens.sort(key=lambda token: token["id"])
    return json.dumps({**values, "added_tokens": tokens}, ensure_ascii=False)


def _library() -> Any:
    try:
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers  # noqa: F401
    except ImportError:
        raise InputError("text needs the package 'tokenizers'; install it with: pip install tokenizers") from None
    return tokenizers
