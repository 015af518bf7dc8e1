"""from_pretrained, save_pretrained and Auto* classes: strict, exact, and one way only."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from hf_cases import load_tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

import illume_fast
from illume_fast.huggingface import IllumeConfig, IllumeForConditionalGeneration, IllumeProcessor
from illume_fast.huggingface.loading import place
from illume_fast.model.checkpoint import DEMO, CheckpointError, build, load_checkpoint, read_config
from illume_fast.model.presets import demo, illume_7b, illume_plus_7b


def tensors_of(model):
    vision = {f"vision.{name}": tensor for name, tensor in model.vision_tokenizer.state_dict().items()}
    return {**model.state_dict(), **vision}


def assert_same(a, b):
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_names_are_those_of_the_published_checkpoints(tiny):
    model, _ = tiny
    assert list(model.state_dict()) == list(model.core.state_dict())
    assert {name.split(".")[0] for name in model.state_dict()} == {"model"}
    assert model.get_output_embeddings() is None
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert not model.training


def test_an_untied_head_is_a_module_of_its_own():
    config = illume_plus_7b()
    with torch.device("meta"):
        model = IllumeForConditionalGeneration(IllumeConfig(config))
    assert model.state_dict().keys() == build(config)[0].state_dict().keys()
    assert model.get_output_embeddings() is model.core.lm_head
    assert model.state_dict()["lm_head.weight"].shape == (283175, 3584)


@pytest.mark.parametrize("shard", ["4GB", "100KB", 30_000])
def test_round_trip(tiny, tmp_path, shard):
    model, processor = tiny
    model.save_pretrained(tmp_path, max_shard_size=shard)
    processor.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("model*.safetensors"))
    assert (len(files) > 1) == (shard != "4GB")
    again, same = load_tiny(tmp_path)
    assert_same(tensors_of(again), tensors_of(model))
    assert same.tokenizer.to_json() == processor.tokenizer.to_json()
    assert_same(load_checkpoint(tmp_path).model.state_dict(), model.state_dict())


def test_dtype(tiny_folder, tmp_path):
    half, _ = load_tiny(tiny_folder, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert next(half.vision_tokenizer.parameters()).dtype == torch.float32
    half.save_pretrained(tmp_path)
    for dtype, expected in ((None, torch.bfloat16), ("auto", torch.bfloat16), (torch.float32, torch.float32)):
        assert load_tiny(tmp_path, dtype=dtype)[0].dtype == expected
    with pytest.raises(ValueError, match="dtype 'int8' is not known"):
        load_tiny(tiny_folder, dtype="int8")
    with pytest.raises(ValueError, match="float64 is not known; allowed are 'auto', 'float32', 'bfloat16', 'float16'"):
        load_tiny(tiny_folder, dtype=torch.float64)
    with pytest.raises(ValueError, match="differ; give dtype alone"):
        load_tiny(tiny_folder, dtype="bfloat16", torch_dtype="float32")


@pytest.mark.parametrize(
    "device_map", ["auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}]
)
def test_device_map(tiny_folder, device_map):
    model, _ = load_tiny(tiny_folder, device_map=device_map)
    assert model.device.type == "cpu"


def test_device_maps_that_cannot_be(tiny_folder):
    wrong = {
        "disc": "'disc' is not known; allowed are 'auto'",
        ("cpu", "disk"): "puts parts of the model on cpu, disk, but the engine draws on one",
    }
    for device_map, message in wrong.items():
        given = device_map if isinstance(device_map, str) else dict(zip(("model", "lm_head"), device_map, strict=True))
        with pytest.raises(ValueError, match=message):
            load_tiny(tiny_folder, device_map=given)
    with pytest.raises(ValueError, match="no device has room for it"):
        load_tiny(tiny_folder, device_map="auto", max_memory={"cpu": 1000})
    with pytest.raises(ValueError, match=r"device_map 'cuda:99': torch sees [0-9]+ GPUs here"):
        load_tiny(tiny_folder, device_map="cuda:99")
    with pytest.raises(ValueError, match="'meta' holds no weights"):
        load_tiny(tiny_folder, device_map="meta")
    with pytest.raises(ValueError, match="max_memory goes with"):
        load_tiny(tiny_folder, max_memory={"cpu": 1000})


def test_the_first_device_with_room_is_taken(monkeypatch):
    room = {0: 10e9, 1: 25e9, "cpu": 400e9}
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda given: room)
    assert place(illume_plus_7b(), torch.bfloat16, "auto", None) == torch.device("cuda", 1)
    assert place(demo(), torch.bfloat16, "auto", None) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"takes \d+\.\d+ GB .* \(0 10\.00 GB, 1 25\.00 GB\)"):
        place(illume_plus_7b(), torch.float32, "auto", None)


def test_arguments_that_nobody_reads_are_refused(tiny_folder, tiny, tmp_path):
    with pytest.raises(TypeError, match="unexpected keyword arguments gguf_file, variant"):
        load_tiny(tiny_folder, variant="fp16", gguf_file="x")
    with pytest.raises(ValueError, match=r"revision='v2' is not supported"):
        load_tiny(tiny_folder, revision="v2")
    with pytest.raises(ValueError, match=r"attn_implementation='sdpa' is not supported; allowed is None$"):
        load_tiny(tiny_folder, attn_implementation="sdpa")
    with pytest.raises(TypeError, match="unexpected keyword arguments variant"):
        tiny[0].save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(ValueError, match="push_to_hub=True is not supported"):
        tiny[0].save_pretrained(tmp_path, push_to_hub=True)
    assert not list(tmp_path.iterdir())


def test_a_missing_and_an_unknown_tensor(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["model.odd"] = tensors.pop("model.norm.weight")
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"missing model\.norm\.weight.*unknown model\.odd"):
        load_tiny(folder)


def test_what_cannot_be_saved(tiny_folder, tiny, tmp_path):
    fresh = IllumeForConditionalGeneration(IllumeConfig(read_config(tiny_folder)))
    with pytest.raises(ValueError, match=r"set model\.tokenizer to the path"):
        fresh.save_pretrained(tmp_path)
    model, _ = tiny
    other = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="state_dict holds other weights"):
        model.save_pretrained(tmp_path, state_dict=other)
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert (tmp_path / "config.json").exists()


def test_a_config_of_another_model_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="config is not that of"):
        load_tiny(tiny_folder, config=IllumeConfig(demo()))


def test_the_first_model_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(illume_7b().to_dict()))
    (tmp_path / "tokenizer.json").write_text("{}")
    for kind in (IllumeForConditionalGeneration, IllumeProcessor):
        with pytest.raises(CheckpointError, match="where 'illume_plus' alone is served"):
            kind.from_pretrained(tmp_path)


def test_auto_classes(tiny_folder, tmp_path):
    assert isinstance(AutoConfig.from_pretrained(DEMO), illume_fast.IllumeConfig)
    config = AutoConfig.from_pretrained(tiny_folder)
    assert config.checkpoint == read_config(tiny_folder)
    for auto in (AutoModel, AutoModelForImageTextToText):
        model = auto.from_pretrained(tiny_folder, dtype="bfloat16", device_map="cpu")
        assert type(model) is illume_fast.IllumeForConditionalGeneration
        assert model.dtype == torch.bfloat16
    assert isinstance(AutoProcessor.from_pretrained(tiny_folder), illume_fast.IllumeProcessor)
    fresh = AutoModelForImageTextToText.from_config(config)
    assert_same(fresh.state_dict(), fresh.core.state_dict())


def test_config_round_trip(tiny_folder, tmp_path):
    config = AutoConfig.from_pretrained(tiny_folder)
    config.save_pretrained(tmp_path)
    assert read_config(tmp_path) == config.checkpoint
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "illume_fast"
    assert AutoConfig.from_pretrained(tmp_path).checkpoint == config.checkpoint
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (
        config.checkpoint.model.vocab.rows, 32, 2,
    )  # fmt: skip
    assert IllumeConfig().num_hidden_layers == 36
    values = {**config.to_dict(), "odd": 1}
    with pytest.raises(ValueError, match="odd"):
        IllumeConfig(values)


def test_a_config_without_its_kind_is_read_as_before(tmp_path):
    values = demo().to_dict()
    del values["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path) == demo()
    (tmp_path / "config.json").write_text(json.dumps({**values, "model_type": "llama"}))
    with pytest.raises(CheckpointError, match="model_type: 'llama' is not known"):
        read_config(tmp_path)


def test_the_processor_will_not_join_another_vocabulary(tiny, tmp_path):
    IllumeConfig(demo()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another vocabulary"):
        tiny[1].save_pretrained(tmp_path)
    assert isinstance(tiny[1], IllumeProcessor)


def test_the_package_alone_needs_no_transformers():
    code = (
        "import sys, illume_fast\n"
        "assert 'transformers' not in sys.modules\n"
        "sys.modules['transformers'] = None\n"
        "illume_fast.IllumeConfig"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: illume_fast.huggingface needs transformers" in done.stderr
    assert "pip install 'illume-fast[huggingface]'" in done.stderr
