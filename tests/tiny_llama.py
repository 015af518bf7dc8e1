"""A text tokenizer of Llama's kind with few words, in both forms of file."""

import io
from pathlib import Path

from illume_fast.data.chat_template import VICUNA
from illume_fast.data.sentencepiece_file import read_sentencepiece
from illume_fast.data.text_tokenizer import TextTokenizer

TEXTS = [VICUNA.system, "a red heart", "a small dog near the tree", "make the sky green", "</ s> <s USER: ASSISTANT:"]


def write_sentencepiece(path: Path, size: int = 400) -> Path:
    """A `tokenizer.model` as Llama's: BPE with bytes, `<unk>`, `<s>` and `</s>` first."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 10), model_writer=model, model_type="bpe", vocab_size=size,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, unk_id=0, bos_id=1,
        eos_id=2, pad_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return path


def write_llama_json(folder: Path) -> Path:
    """The `tokenizer.json` of such a model, with a token for padding after its words."""
    tokenizer = read_sentencepiece(write_sentencepiece(folder / "tokenizer.model"))
    tokenizer.add_special_tokens([VICUNA.specials[0]])
    path = folder / "tokenizer.json"
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return path


def llama_text(folder: Path) -> TextTokenizer:
    return TextTokenizer.from_file(write_llama_json(folder), specials=VICUNA.specials)
