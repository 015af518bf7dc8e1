"""Vicuna's conversations and Llama's tokens, against transformers and sentencepiece."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import llama_text, write_llama_json, write_sentencepiece

from illume_fast.data.chat import Chat, Message, ReadImage, parse_marks
from illume_fast.data.chat_template import QWEN2, TEMPLATES, VICUNA, chat_template
from illume_fast.data.errors import InputError
from illume_fast.data.sentencepiece_file import read_sentencepiece
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.config import build_vocab
from illume_fast.model.vocab import IGNORE_INDEX, IMAGE_PLACEHOLDER

sentencepiece = pytest.importorskip("sentencepiece")

# as on the pages of transformers' models that are built on Vicuna
JINJA = (
    "{{ bos_token }}A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. {% for m in messages %}"
    "{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}ASSISTANT: {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
TURNS = [("user", "What is a dog?"), ("assistant", "a small dog near\nthe tree"), ("user", "and a  cat?")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("llama")


@pytest.fixture(scope="module")
def text(folder) -> TextTokenizer:
    return llama_text(folder)


@pytest.fixture(scope="module")
def chat(text) -> Chat:
    vocab = build_vocab(
        text.size, pad=text.pad, im_start=text.im_start, im_end=text.im_end, levels=(64,), tag_pixels=()
    )
    return Chat(text, vocab, template=VICUNA)


@pytest.fixture(scope="module")
def pieces(folder):
    return sentencepiece.SentencePieceProcessor(model_file=str(write_sentencepiece(folder / "again.model")))


def test_conversations_equal_transformers(chat, folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(write_llama_json(folder)), bos_token="<s>", eos_token="</s>", chat_template=JINJA
    )
    messages = [{"role": role, "content": words} for role, words in TURNS]
    for count, prompt in ((1, True), (2, False), (3, True)):
        written = theirs.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=prompt)
        ids, _ = chat.encode([Message(role, (words,)) for role, words in TURNS[:count]], () if prompt else None)
        assert ids == theirs(written, add_special_tokens=False).input_ids


def test_answers_are_learnt_with_their_end(chat):
    ids, labels = chat.encode([Message(role, (words,)) for role, words in TURNS[:2]])
    learnt = [i for i, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX]
    assert learnt == [*chat.text.encode(TURNS[1][1]), chat.vocab.im_end]
    assert ids[0] == chat.vocab.im_start == 1
    assert chat.vocab.im_end == 2
    prompt, _ = chat.encode([Message("user", ("What is a dog?",))], ())
    assert ids[: len(prompt)] == prompt


def test_prompts_of_a_model_with_one_size_have_no_tag(chat):
    prompt = chat.generate("a red heart", (512, 512))
    words = chat.text.decode(prompt)
    assert words.endswith("USER: Generate an image, the content of image is a red heart\n ASSISTANT:")
    assert "Generate a random image\n" in chat.text.decode(chat.generate_anything((512, 512)))
    assert max(prompt) < chat.text.size
    edit = chat.edit("make the sky green", (512, 512))
    assert edit.count(IMAGE_PLACEHOLDER) == 1
    shared = edit.index(IMAGE_PLACEHOLDER) + 1
    assert chat.edit_nothing((512, 512))[:shared] == edit[:shared]


def test_pictures_stand_between_words(chat):
    ids = chat.ask("What is it?", 2)
    assert ids.count(IMAGE_PLACEHOLDER) == 2
    codes = ImageCodes(512, 512, (torch.arange(64).repeat(4).view(16, 16),))
    written, labels = chat.encode([Message("user", ("draw",)), Message("assistant", (codes,))])
    start = written.index(chat.vocab.start_of_image)
    assert len(written) - start == 1 + 16 * 17 + 1 + 1
    assert labels[start:] == written[start:]
    assert parse_marks("<image>\nx") == (ReadImage(), "\nx")


@pytest.mark.parametrize("words", ["</s>", "<s>", "<unk>", "<pad>", "a</s>b", "</s></s>", "<0x0A>", "\n<s>\n"])
def test_typed_control_tokens_stay_words(chat, words):
    control = {0, chat.vocab.im_start, chat.vocab.im_end, chat.vocab.pad}
    ids = chat.text.encode(words)
    assert not control & set(ids)
    assert chat.text.decode(ids) == words
    harmless = chat.ask("a cat", 0)
    assert sum(i in control for i in chat.ask(words, 0)) == sum(i in control for i in harmless)


def test_the_trap_is_real(folder):
    """Taken as it comes from a BPE with those merges, the text of a control token is the token."""
    values = json.loads(write_llama_json(folder).read_text())
    vocab = values["model"]["vocab"]
    for parts in (("</", "s>"), ("s", ">"), ("<", "/")):
        vocab.setdefault("".join(parts), len(vocab))
        values["model"]["merges"].insert(0, list(parts))
    values["added_tokens"][-1]["id"] = len(vocab)
    path = folder / "trap.json"
    path.write_text(json.dumps(values))
    import tokenizers

    naive = tokenizers.Tokenizer.from_file(str(path))
    naive.encode_special_tokens = True
    assert vocab["</s>"] in naive.encode("a </s>", add_special_tokens=False).ids
    ours = TextTokenizer.from_file(path, specials=VICUNA.specials)
    assert vocab["</s>"] not in ours.encode("a </s>")


@given(words=st.text(st.sampled_from("ared hot</s>USER:\n<unk>é🙂▁"), max_size=30))
def test_tokens_equal_sentencepiece(text, pieces, words):
    assert text.encode(words) == pieces.encode(words)


@given(words=st.text(max_size=40))
def test_any_words_survive(text, words):
    assert text.decode(text.encode(words)) == words.replace("▁", " ")


def test_files_that_are_none(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(InputError, match="not a model of sentencepiece"):
        read_sentencepiece(tmp_path / "tokenizer.model")
    unigram = tmp_path / "unigram.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red heart", "the small dog near a tree"] * 9), vocab_size=40, minloglevel=2,
        model_prefix=str(unigram.with_suffix("")), hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"not a tokenizer of Llama's kind; give a tokenizer\.json"):
        read_sentencepiece(unigram)


def test_templates_by_name():
    assert chat_template("vicuna") is VICUNA
    assert chat_template("qwen2") is QWEN2
    assert list(TEMPLATES) == ["qwen2", "vicuna"]
    with pytest.raises(InputError, match="chat template 'llama' is not known; allowed are 'qwen2', 'vicuna'"):
        chat_template("llama")


def test_a_tokenizer_of_another_family(folder):
    with pytest.raises(InputError, match=r"the tokenizer lacks <\|endoftext\|>"):
        TextTokenizer.from_file(write_llama_json(folder), specials=QWEN2.specials)
