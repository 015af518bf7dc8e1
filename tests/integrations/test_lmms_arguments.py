"""What lmms-eval's command line may say to the model, and how a task may ask for words. lmms-eval is not needed."""

import ast
import importlib.util
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from illume_fast.data.errors import InputError
from illume_fast.integrations.lmms_eval.arguments import Arguments
from illume_fast.integrations.lmms_eval.wording import Wording


def test_everything_has_a_default_and_texts_become_what_they_mean():
    assert Arguments.of({}) == Arguments()
    found = Arguments.of(
        {
            "pretrained": 7,
            "batch_size": "8",
            "dtype": "torch.bfloat16",
            "stage1_top_p": "None",
            "stage1_temperature": 1,
            "seed": 3.0,
            "device": None,
            "trust_remote_code": False,
        }
    )
    assert (found.pretrained, found.batch_size, found.dtype, found.stage1_top_p) == ("7", 8, "bfloat16", None)
    assert (found.stage1_temperature, found.seed, found.trust_remote_code) == (1.0, 3, False)
    assert isinstance(found.seed, int)


@pytest.mark.parametrize(
    "given_,message",
    [
        ({"attention": "sdpa"}, "unknown attention; known are"),
        ({"use_cache": False}, "use_cache=False: the engine always has a key-value cache; allowed is True"),
        ({"attn_implementation": "flash_attention_2"}, "allowed is sdpa or None"),
        ({"device_map": "auto"}, "a model lies on one device"),
        ({"infer_auto_device_map": True}, "a model lies on one device"),
        ({"stage1_num_beams": 3}, "stage1_num_beams=3: the engine draws, it does not search; allowed is 1"),
        ({"stage2_num_beams": 2}, "allowed is 1"),
        ({"tokenizer_checkpoint": "x.bin"}, "weights come with their folder"),
        ({"batch_size": "auto"}, "batch_size must be int, got 'auto'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be int, got 1.5"),
        ({"batch_size": True}, "batch_size must be int, got True"),
        ({"batch_size": float("inf")}, "batch_size must be int"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"enable_visual_cot": "yes"}, "enable_visual_cot must be bool, got 'yes'"),
        ({"pretrained": None}, "pretrained must be str, got None"),
        ({"dtype": "int7"}, "dtype 'int7' is not known; allowed are float32"),
        ({"stage1_size": "64"}, "stage1_size: size '64' is not HEIGHTxWIDTH"),
        ({"generation_prompt_template": "draw {it}"}, "may hold {question} alone"),
        ({"generation_prompt_template": "draw {"}, "may hold {question} alone"),
        ({"enable_visual_cot": True, "enable_image_decoding": False}, "without pictures"),
    ],
)
def test_what_the_engine_does_not_do_is_refused(given_, message):
    with pytest.raises(InputError) as error:
        Arguments.of(given_)
    assert message in str(error.value)


def test_a_folder_of_a_decoder_means_to_think_with_pictures():
    assert not Arguments.of({}).thinks
    assert Arguments.of({"enable_visual_cot": True}).thinks
    assert Arguments.of({"tokenizer_config_path": "folder"}).thinks
    assert Arguments.of({"diffusion_decoder_path": "folder"}).thinks


def test_artifacts_lie_where_it_is_said():
    assert Arguments.of({}).artifacts is None
    assert Arguments.of({"save_intermediate": True, "output_dir": "o"}).artifacts == Path("o/intermediate_artifacts")
    assert Arguments.of({"save_intermediate": True, "intermediate_dir": "i"}).artifacts == Path("i")


def test_every_argument_of_illume_plus_is_taken():
    """Its source is read and not imported, as it needs a model's own code."""
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or spec.origin is None:
        pytest.skip("lmms-eval is not installed")
    source = Path(spec.origin).parent / "models" / "simple" / "illume_plus.py"
    (theirs,) = [
        node
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    assert {arg.arg for arg in theirs.args.args} - {"self"} <= {field.name for field in fields(Arguments)}


def test_the_entry_point_of_the_package_is_there():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (value,) = package["project"]["entry-points"]["lmms_eval.models"].values()
    module, name = value.split(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_sampling_follows_do_sample_and_else_the_temperature():
    assert Wording.of({}) == Wording()
    assert Wording.of({"temperature": 0.7}).temperature == 0.7
    assert Wording.of({"temperature": 0.7, "do_sample": False, "top_p": 0}).temperature == 0
    assert Wording.of({"do_sample": True}).temperature == 1.0
    assert Wording.of({"do_sample": True, "temperature": 0.2, "top_p": 0.9, "top_k": 5}) == Wording(
        temperature=0.2, top_p=0.9, top_k=5
    )
    every = {"num_beams": 1, "image_aspect_ratio": "pad", "visual_cot": True, "repetition_penalty": 1.0}
    assert Wording.of({**every, "max_new_tokens": 16, "skip_special_tokens": True}) == Wording(max_new_tokens=16)


@pytest.mark.parametrize(
    "kwargs,message",
    [
        ({"num_beams": 5}, "num_beams=5 is not supported; allowed is None or 1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 is not supported"),
        ({"bagel_interleaved": {}}, "'bagel_interleaved' is not known; known are until"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"until": 3}, "until must be a text or a list of texts, got 3"),
        ({"until": ["a", 3]}, "until must be a text or a list of texts"),
    ],
)
def test_other_ways_to_make_words_are_refused(kwargs, message):
    with pytest.raises(InputError) as error:
        Wording.of(kwargs)
    assert message in str(error.value)


def test_answers_end_before_the_first_stop():
    assert Wording.of({"until": ["\n", "Q:"]}).cut("yes Q: no\n") == "yes "
    assert Wording.of({"until": "."}).cut("A. B.") == "A"
    assert Wording.of({"until": ["", "\n\n"]}).cut("a\n\nb") == "a"
    # what the evaluator fills in where a task says nothing
    assert Wording.of({"until": ["\n\n"]}).cut("a\n\nb") == "a\n\nb"


@given(st.text(alphabet="ab\n", max_size=20), st.lists(st.text(alphabet="ab\n", max_size=3), max_size=3))
def test_a_cut_answer_holds_no_stop(answer, until):
    wording = Wording.of({"until": until})
    cut = wording.cut(answer)
    assert answer.startswith(cut)
    assert not any(stop in cut for stop in wording.stops)
