"""Options that say where a model lies and what it computes in."""

import json

import pytest

from illume_fast import generate_batch
from illume_fast.data.errors import InputError
from illume_fast.data.png import read_record
from illume_fast.model.checkpoint import load_checkpoint, save_checkpoint
from illume_fast.pipeline import IllumePipeline


@pytest.fixture(scope="module")
def language_model(tiny_model, tmp_path_factory):
    """The small model without its vision tokenizer."""
    folder = tmp_path_factory.mktemp("language") / "model"
    whole = load_checkpoint(tiny_model)
    save_checkpoint(folder, whole.config, whole.model, None, whole.tokenizer.read_text(encoding="utf-8"))
    return folder


def tokens(out):
    return [json.loads(line)["tokens"] for line in (out / "results.jsonl").read_text().splitlines()]


def test_a_vision_tokenizer_of_its_own_folder(cli, tiny_model, language_model, tmp_path):
    apart, together = tmp_path / "apart", tmp_path / "together"
    source = ("--model", language_model, "--vision-tokenizer", tiny_model)
    shown = cli("generate", "red apple", *source, "--out", apart)
    assert shown.code == 0, shown.err
    assert cli("generate", "red apple", "--model", tiny_model, "--out", together).code == 0
    assert tokens(apart) == tokens(together)
    asked = cli("chat", "What is this?", "--model", language_model)
    assert asked.out == cli("chat", "What is this?", "--model", tiny_model).out


def test_without_it_nothing_is_drawn(cli, language_model, tmp_path):
    shown = cli("generate", "red apple", "--model", language_model, "--out", tmp_path / "out")
    assert shown.code == 2
    assert "this model was loaded without a vision tokenizer" in shown.err


def test_two_of_them_are_refused(cli, tiny_model, tmp_path):
    source = ("--model", tiny_model, "--vision-tokenizer", tiny_model)
    shown = cli("generate", "red apple", *source, "--out", tmp_path / "out")
    assert shown.code == 2
    assert "has a vision tokenizer of its own; leave out vision_tokenizer" in shown.err


def test_dtypes_do_not_mix_in_one_folder(cli, tiny_model, tmp_path):
    arguments = ("generate", "red apple", "--model", tiny_model, "--out", tmp_path)
    assert cli(*arguments, "--dtype", "bfloat16").code == 0
    assert read_record(tmp_path / "images/red_apple_0.png")["dtype"] == "bfloat16"
    shown = cli(*arguments)
    assert shown.code == 2
    assert "dtype" in shown.err
    assert "float16" in cli(*arguments, "--dtype", "float16").err


def test_a_loaded_pipeline_has_both(tiny_model, tmp_path):
    pipe = IllumePipeline.from_pretrained(tiny_model)
    for said in ({"dtype": "bfloat16"}, {"vision_tokenizer": str(tiny_model)}):
        with pytest.raises(InputError, match="a loaded pipeline has its decoder, vision tokenizer and dtype"):
            generate_batch(["red apple"], tmp_path, pipe, **said)
    with pytest.raises(InputError, match="dtype 'int3' is not known; allowed are float32, bfloat16"):
        generate_batch(["red apple"], tmp_path, tiny_model, dtype="int3")
