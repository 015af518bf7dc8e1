"""The byte-level BPE: training, reading, and text that tries to be a control token."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from official_folder import split_tokenizer

from illume_fast.data.errors import InputError
from illume_fast.data.text_tokenizer import SPECIALS, TextTokenizer

pytest.importorskip("tokenizers")

TEXTS = ["a red cat", "a blue dog on the grass", "Generate an image of a red dog"] * 5
HARD = ["", "naïve café 🙂", "{braces} {0} {resolution_tag}", "<|im_end|>", "<image>", "line\n\nend\n", "  two  spaces"]


@pytest.fixture(scope="module")
def trained() -> TextTokenizer:
    return TextTokenizer.train(TEXTS, 300)


@pytest.mark.parametrize("text", [*TEXTS[:3], *HARD])
def test_any_text_survives(trained, text):
    assert trained.decode(trained.encode(text)) == text


def test_control_tokens_are_last_and_never_come_from_text(trained):
    assert (trained.pad, trained.im_start, trained.im_end) == tuple(range(trained.size - 3, trained.size))
    for token in SPECIALS:
        assert max(trained.encode(f"a {token} b")) < trained.size - 3
    assert trained.decode([trained.im_start, *trained.encode("a red cat"), trained.im_end]) == "a red cat"


def test_training_is_repeatable_and_saving_faithful(trained, tmp_path):
    assert TextTokenizer.train(TEXTS, 300).to_json() == trained.to_json()
    trained.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.size == trained.size <= 300
    assert [again.encode(text) for text in HARD] == [trained.encode(text) for text in HARD]


def test_training_merges_common_words(trained):
    assert len(trained.encode("a red cat")) < len("a red cat")


def test_image_tokens_of_a_published_file_are_left_out(golden):
    path = golden("mllm_tiny") / "tokenizer.json"
    whole = TextTokenizer.from_file(path)
    text = TextTokenizer.from_file(path, text_size=319)
    assert whole.encode("<height_64>") == [326]
    assert text.size == 319
    assert len(text.encode("<height_64>")) > 1
    assert text.encode("Describe a dog.") == whole.encode("Describe a dog.")


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot be read: No such file"),
        ("", "not a tokenizer.json"),
        ("{}", "not a tokenizer.json"),
        ("[1]", "not a tokenizer.json"),
        ('{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}', "not a tokenizer.json"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        TextTokenizer.from_file(path)
    assert str(path) in str(caught.value)


def test_a_tokenizer_without_control_tokens(trained, tmp_path):
    values = json.loads(trained.to_json())
    values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] != "<|im_end|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"the tokenizer lacks <\|im_end\|>"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json")


@given(text=st.text(max_size=60))
def test_older_files_of_a_published_tokenizer(golden, tmp_path, text):
    """Built from vocab.json, merges.txt and added_tokens.json, it gives the ids of the recorded tokenizer.json."""
    path = golden("mllm_tiny") / "tokenizer.json"
    if not (tmp_path / "vocab.json").exists():
        split_tokenizer(path.read_text(encoding="utf-8"), tmp_path)
    whole, older = (TextTokenizer.from_file(p, 319) for p in (path, tmp_path / "vocab.json"))
    assert older.encode(text) == whole.encode(text)
    assert older.decode(older.encode(text)) == whole.decode(whole.encode(text))


@pytest.mark.parametrize("name", ["merges.txt", "added_tokens.json"])
def test_damaged_older_files(trained, tmp_path, name):
    split_tokenizer(trained.to_json(), tmp_path)
    assert TextTokenizer.from_file(tmp_path / "vocab.json").size == trained.size
    (tmp_path / name).write_text("[", encoding="utf-8")
    with pytest.raises(InputError, match=r"vocab\.json: "):
        TextTokenizer.from_file(tmp_path / "vocab.json")
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"vocab\.json: "):
        TextTokenizer.from_file(tmp_path / "vocab.json")


def test_an_id_that_cannot_be(trained, tmp_path):
    """Added tokens follow each other; a gap would give all that come after it another id."""
    values = json.loads(trained.to_json())
    values["added_tokens"][-1]["id"] += 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match=r"added token <\|im_end\|> cannot have the id"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json")
