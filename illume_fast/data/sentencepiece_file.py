"""Llama's `tokenizer.model`, a BPE of the sentencepiece library, as a `tokenizer.json`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from illume_fast.data.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_PROBES = ("Hello world", "a  b", "  naïve café 🙂\n\nUSER: what's 2+2?\t", "ASSISTANT: 日本語, Straße; e^x")


def read_sentencepiece(path: Path) -> "Tokenizer":
    """The tokenizer in `path`, its control tokens `<unk>`, `<s>`, `</s>` special.

    InputError when it cannot be read, or is no BPE with bytes to fall back on and a space before the first word: the
    only kind that Llama and Vicuna have.
    """
    pieces = _load(path)
    tokenizer = _bpe(pieces)
    for text in _PROBES:
        if tokenizer.encode(text, add_special_tokens=False).ids != pieces.encode(text):
            raise InputError(f"{path}: not a tokenizer of Llama's kind; give a tokenizer.json instead")
    return tokenizer


def _load(path: Path) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise InputError(
            f"{path}: needs the package 'sentencepiece'; install it with: pip install sentencepiece"
        ) from None
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not a model of sentencepiece: {' '.join(str(error).split())}") from None


def _bpe(pieces: Any) -> "Tokenizer":
    """Merges are what the pieces can be made of, in the order of the made pieces' scores, as sentencepiece merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    words = {p for p, i in vocab.items() if not (pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i))}
    merges = []
    for piece in words:
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        parts = [(left, right) for left, right in halves if left in words and right in words]
        merges += [(-pieces.get_score(vocab[piece]), vocab[left], vocab[right], left, right) for left, right in parts]
    unknown = pieces.id_to_piece(pieces.unk_id())
    model = models.BPE(vocab, [m[3:] for m in sorted(merges)], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ])  # fmt: skip
    special = [p for p, i in vocab.items() if pieces.is_control(i) or pieces.is_unknown(i)]
    tokenizer.add_special_tokens([AddedToken(p, normalized=False, special=True) for p in special])
    return tokenizer
