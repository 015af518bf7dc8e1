"""Checkpoints: what is saved comes back, and whatever is damaged is refused by name."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_vision import LEVELS, tiny_vision

from illume_fast.model import checkpoint as checkpoints
from illume_fast.model.checkpoint import CheckpointError, build, load_checkpoint, resolve, save_checkpoint
from illume_fast.model.config import ConfigError, DecoderConfig, build_vocab
from illume_fast.model.generation_config import CheckpointConfig
from illume_fast.model.presets import demo
from illume_fast.model.vision_config import PixelCodecConfig

WEIGHT = "model.layers.0.mlp.up_proj.weight"


def tiny_config(tied: bool = True) -> CheckpointConfig:
    config = demo()
    vocab = build_vocab(40, pad=37, im_start=38, im_end=39, levels=LEVELS, tag_pixels=(64,))
    pixel = PixelCodecConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(1,), patch_size=4)
    decoder = DecoderConfig(
        vocab_size=vocab.rows, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    tokenizer, tower = tiny_vision(pixel)
    model = replace(config.model, decoder=decoder, vision_tower=tower, vocab=vocab)
    return replace(config, model=model, vision_tokenizer=tokenizer)


def save_tiny(folder, seed=0, tied=True, **options):
    torch.manual_seed(seed)
    config = tiny_config(tied)
    model, vision = build(config, "cpu")
    save_checkpoint(folder, config, model, vision, "{}", **options)
    return config, model, vision


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save_tiny(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A saved checkpoint to damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def rewrite(path, change):
    """Apply `change` to a file's tensors, its metadata kept."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize("shard_bytes", [2**30, 20_000])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path, tied, shard_bytes):
    config, model, vision = save_tiny(tmp_path, tied=tied, max_shard_bytes=shard_bytes)
    loaded = load_checkpoint(tmp_path)
    assert replace(loaded.config, fingerprint="") == config
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_bytes < 2**30)
    for before, after in ((model, loaded.model), (vision, loaded.vision_tokenizer)):
        state = after.state_dict()
        assert list(state) == list(before.state_dict())
        assert all(torch.equal(state[name], tensor) for name, tensor in before.state_dict().items())
        assert not after.training
    assert (loaded.model.lm_head is None) == tied
    images = loaded.model.image_embeds(torch.zeros(1, 3, 64, 64))
    assert images[0].shape == (6 + 4 * 5 + 8 * 9, 16)


def test_rounding_spares_the_codebooks(tmp_path):
    _, model, vision = save_tiny(tmp_path, dtype=torch.bfloat16)
    loaded = load_checkpoint(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(loaded.model.head_weight, model.head_weight.to(torch.bfloat16))
    assert loaded.model.image_embeds(torch.zeros(2, 3, 64, 64))[1].dtype == torch.bfloat16
    assert torch.equal(loaded.vision_tokenizer.pixel_quantizer.codebook, vision.pixel_quantizer.codebook)


def test_saving_again_leaves_nothing_behind(tmp_path):
    save_tiny(tmp_path, max_shard_bytes=20_000)
    _, model, _ = save_tiny(tmp_path, seed=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "vision_tokenizer.safetensors",
    ]  # fmt: skip
    assert torch.equal(load_checkpoint(tmp_path).model.head_weight, model.head_weight)


def test_files_are_as_open_to_others_as_any(tmp_path):
    save_tiny(tmp_path / "model")
    (tmp_path / "any").touch()
    assert {path.stat().st_mode for path in (tmp_path / "model").iterdir()} == {(tmp_path / "any").stat().st_mode}


def test_equal_weights_give_equal_files(tmp_path):
    save_tiny(tmp_path / "a")
    save_tiny(tmp_path / "b")
    for name in ("config.json", "model.safetensors", "vision_tokenizer.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def poison(value):
    def change(tensors):
        tensors[WEIGHT][1, 2] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(WEIGHT), rf"missing {WEIGHT} \[24, 16\]"),
        (lambda t: t.update(odd=torch.zeros(2)), "unknown odd"),
        (
            lambda t: t.update({WEIGHT: torch.zeros(24, 15)}),
            rf"wrong shape {WEIGHT} \[24, 15\] \(expected \[24, 16\]\)",
        ),
        (lambda t: t.update({WEIGHT: torch.zeros(24, 16, dtype=torch.int8)}), f"not floating point {WEIGHT}"),
        (poison(float("nan")), f"NaN or infinite values in {WEIGHT}"),
        (poison(float("-inf")), f"NaN or infinite values in {WEIGHT}"),
    ],
)
def test_damaged_tensors(folder, change, message):
    rewrite(folder / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_all_problems_are_listed_at_once(folder):
    def change(tensors):
        for name in list(tensors)[:10]:
            del tensors[name]
        tensors["odd"] = torch.zeros(1)

    rewrite(folder / "vision_tokenizer.safetensors", change)
    with pytest.raises(CheckpointError, match=r"vision_tokenizer\.safetensors: missing .* and 4 more; unknown odd"):
        load_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or truncated"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vision_tokenizer.safetensors", "tokenizer.json"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(folder)


def test_a_missing_shard(tmp_path):
    save_tiny(tmp_path, max_shard_bytes=20_000)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"file '{shard.name}' is not in"):
        load_checkpoint(tmp_path)


def test_an_index_may_not_lead_elsewhere(tmp_path):
    save_tiny(tmp_path, max_shard_bytes=20_000)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"'\.\./other\.safetensors' is not in"):
        load_checkpoint(tmp_path)


def edit_config(folder, change):
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda v: v.pop("model"), "missing keys model"),
        (lambda v: v["model"]["decoder"].update(hidden=3), "DecoderConfig: unknown keys hidden"),
        (lambda v: v["model"]["decoder"].update(hidden_size="16"), "hidden_size: expected int, got str"),
        (
            lambda v: v["vision_tokenizer"]["pixel_quantizer"].update(codebook_size=25),
            "24 ids in the vocabulary, 25 codes",
        ),
        (lambda v: v["generation"].update(sizes=[[64, 60]]), "both sides must be multiples of 8"),
        (lambda v: v["generation"].update(sizes=[[64, 128]]), "no size tag for 128 pixels; allowed sides are 64"),
        (lambda v: v["generation"]["text"].update(top_p=0.0), "0 < top_p <= 1"),
        (lambda v: v["generation"]["text"].update(temperature=float("nan")), "temperature nan"),
        (lambda v: v["generation"].update(guidance=float("inf")), "guidance inf, .* must be finite"),
        (lambda v: v.update(format=2), "format: 2 is not known"),
    ],
)
def test_bad_configs(folder, change, message):
    edit_config(folder, change)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\x01"])
def test_config_that_is_no_json_object(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: (not JSON|expected a JSON object)"):
        load_checkpoint(folder)


def test_files_of_two_saves_do_not_mix(tmp_path):
    save_tiny(tmp_path / "a")
    save_tiny(tmp_path / "b", seed=1)
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="belongs to another save"):
        load_checkpoint(tmp_path / "a")


def test_a_failed_save_keeps_the_old_files(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    config, model, vision = tiny_config(), *build(tiny_config(), "cpu")
    with torch.no_grad():
        vision.pixel_decoder.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"will not save NaN .* pixel_decoder\.conv_in\.weight"):
        save_checkpoint(folder, config, model, vision, "{}")
    _, vision = build(config, "cpu")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("illume_fast.model.tensor_files._sync", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left on device"):
        save_checkpoint(folder, config, model, vision, "{}")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_must_match_the_config(tmp_path):
    model, vision = build(tiny_config(), "cpu")
    with pytest.raises(CheckpointError, match=r"do not match the config: missing lm_head\.weight"):
        save_checkpoint(tmp_path / "new", tiny_config(tied=False), model, vision, "{}")
    assert not (tmp_path / "new").exists()


def test_a_vocab_must_fit_the_decoder():
    config = demo()
    with pytest.raises(ConfigError, match=r"vocab_size 7 differs from vocab\.rows"):
        replace(config.model, decoder=replace(config.model.decoder, vocab_size=7))


def test_resolve(tmp_path, folder, monkeypatch):
    assert resolve(folder) == folder
    monkeypatch.setattr(checkpoints, "DEMO", folder)
    assert resolve("demo") == folder
    assert resolve(Path("demo")) == folder
    with pytest.raises(CheckpointError, match="give 'demo' or a folder"):
        resolve(tmp_path / "nothing")


@pytest.mark.parametrize("survivors", range(4))
def test_interrupted_between_files(tmp_path, monkeypatch, survivors):
    """A save that dies with some files moved leaves the old save, or a folder that says it is torn."""
    _, old, _ = save_tiny(tmp_path)
    moved = []

    def dying_replace(path, target):
        if len(moved) == survivors:
            raise KeyboardInterrupt
        moved.append(target)
        os.rename(path, target)

    monkeypatch.setattr(Path, "replace", dying_replace)
    with pytest.raises(KeyboardInterrupt):
        save_tiny(tmp_path, seed=1)
    monkeypatch.undo()
    if survivors == 0:
        assert torch.equal(load_checkpoint(tmp_path).model.head_weight, old.head_weight)
    else:
        with pytest.raises(CheckpointError, match="belongs to another save"):
            load_checkpoint(tmp_path)
