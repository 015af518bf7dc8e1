"""`illume-fast convert`: published files to folders of ours, once and whole; whatever needs pickle is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from official_folder import vision_sizes, write_tiny_official
from safetensors.torch import load_file

from illume_fast.commands.failures import explain
from illume_fast.convert import convert_tokenizer
from illume_fast.model.checkpoint import CheckpointError, load_checkpoint, load_vision_tokenizer, save_checkpoint
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.official_tokenizer import tokenizer_sizes

SIZES = tokenizer_sizes(vision_sizes(), "here")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return DualViTok(SIZES).state_dict()


@pytest.fixture
def source(weights, tmp_path) -> Path:
    """A file as the official training writes it, but for what only pickle reads."""
    path = tmp_path / "pytorch_model.bin"
    average = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"model": weights, "ema": average, "steps": 3}, path)
    return path


@pytest.fixture
def sizes(tmp_path) -> Path:
    path = tmp_path / "sizes.json"
    path.write_text(json.dumps(vision_sizes()))
    return path


def holds(folder: Path, weights: dict[str, torch.Tensor]) -> bool:
    state = load_vision_tokenizer(folder, None).state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[n], t) for n, t in weights.items())


def test_a_tokenizer(cli, source, sizes, weights, tmp_path):
    out = tmp_path / "out"
    done = cli("convert", source, "--out", out, "--config", sizes)
    assert (done.code, done.out) == (0, f"{out}: written\n"), done.err
    assert sorted(path.name for path in out.iterdir()) == [
        "checksums.json", "config.json", "vision_tokenizer.safetensors",
    ]  # fmt: skip
    assert holds(out, weights)
    assert not load_vision_tokenizer(out).training
    verified = cli("convert", "--verify", out)
    assert (verified.code, verified.out) == (0, f"{out}: 2 files are as they were written\n")


def test_a_second_run_finds_it_done(cli, source, sizes, tmp_path):
    out = tmp_path / "out"
    cli("convert", source, "--out", out, "--config", sizes)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = cli("convert", source, "--out", out, "--config", sizes)
    assert again.out == f"{out}: was converted before and is whole; nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    other = cli("convert", source, "--out", out, "--config", sizes, "--ema")
    assert other.code == 2
    assert "holds the conversion of another pytorch_model.bin; give another --out" in other.err


def test_an_interrupted_run_is_made_good(cli, source, sizes, weights, tmp_path):
    """The checksums come last; without them nothing counts as done."""
    out = tmp_path / "out"
    cli("convert", source, "--out", out, "--config", sizes)
    (out / "checksums.json").unlink()
    (out / "vision_tokenizer.safetensors").write_bytes(b"torn")
    assert cli("convert", source, "--out", out, "--config", sizes).out == f"{out}: written\n"
    assert holds(out, weights)


@pytest.mark.parametrize(
    "entry, ema", [("flat", False), ("model", False), ("state_dict", False), ("ema", True), ("legacy", False)]
)
def test_where_the_weights_lie(weights, tmp_path, entry, ema):
    path = tmp_path / "file.pt"
    content = weights if entry in ("flat", "legacy") else {entry: weights}
    torch.save(content, path, _use_new_zipfile_serialization=entry != "legacy")
    assert convert_tokenizer(path, tmp_path / "out", ema=ema, sizes=SIZES)
    assert holds(tmp_path / "out", weights)


def test_the_average_where_it_is_wished(cli, source, sizes, weights, tmp_path):
    assert cli("convert", source, "--out", tmp_path / "out", "--config", sizes, "--ema").code == 0
    assert holds(tmp_path / "out", {name: tensor + 1 for name, tensor in weights.items()})


def test_many_files(source, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("illume_fast.convert.SHARD_BYTES", 2**20)
    assert convert_tokenizer(source, tmp_path / "out", sizes=SIZES)
    files = list((tmp_path / "out").glob("vision_tokenizer-*-of-*.safetensors"))
    assert len(files) > 2
    assert sum(len(load_file(path)) for path in files) == len(weights)
    assert holds(tmp_path / "out", weights)


class NeedsPickle:
    pass


def damaged(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda p, w: torch.save({"model": w, "args": NeedsPickle()}, p), r"than tensors \(\S*NeedsPickle\), which"),
        (lambda p, w: damaged(p), "damaged, or not a file of tensors"),
        (lambda p, w: p.write_bytes(b""), "damaged, or not a file of tensors"),
        (lambda p, w: p.write_text("a text"), "damaged, or not a file of tensors"),
        (lambda p, w: torch.save([1], p), "expected tensors by name, got list"),
        (lambda p, w: torch.save({"model": {}}, p), "entry 'model': expected tensors by name"),
        (lambda p, w: torch.save({"model": {"steps": 3}}, p), r"expected tensors by name, got steps \(int\)"),
        (lambda p, w: torch.save({"model": {**w, "odd": w["pixel_quant_conv.bias"]}}, p), "unknown odd"),
        (
            lambda p, w: torch.save({k: v for k, v in w.items() if k != "pixel_quant_conv.bias"}, p),
            r"missing pixel_quant_conv\.bias \[32\]",
        ),
        (
            lambda p, w: torch.save({**w, "pixel_quant_conv.bias": torch.zeros(31)}, p),
            r"wrong shape pixel_quant_conv\.bias \[31\] \(expected \[32\]\)",
        ),
        (
            lambda p, w: torch.save({**w, "pixel_quant_conv.bias": torch.zeros(32, dtype=torch.int32)}, p),
            r"not floating point pixel_quant_conv\.bias \(torch\.int32\)",
        ),
        (
            lambda p, w: torch.save({**w, "pixel_quant_conv.bias": torch.full((32,), float("nan"))}, p),
            r"NaN or infinite values, found in pixel_quant_conv\.bias",
        ),
    ],
)  # fmt: skip
def test_bad_files(source, weights, tmp_path, write, message):
    write(source, weights)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_tokenizer(source, tmp_path / "out", sizes=SIZES)
    assert "\n" not in (explain(caught.value) or "\n")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_other_sizes_than_the_file_has(cli, source, tmp_path):
    done = cli("convert", source, "--out", tmp_path / "out")
    assert done.code == 2
    assert "wrong shape" in done.err
    assert "missing semantic_encoder.model.blocks.1." in done.err
    (tmp_path / "bad.json").write_text('{"semantic_encoder": 3}')
    bad = cli("convert", source, "--out", tmp_path / "out", "--config", tmp_path / "bad.json")
    assert bad.code == 2
    assert "bad.json: " in bad.err


@pytest.fixture
def converted(source, tmp_path) -> Path:
    convert_tokenizer(source, tmp_path / "converted", sizes=SIZES)
    return tmp_path / "converted"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: (f / "config.json").unlink(), "missing config.json"),
        (lambda f: (f / "config.json").write_text("{}"), "changed or damaged config.json"),
        (lambda f: damaged(f / "vision_tokenizer.safetensors"), "changed or damaged vision_tokenizer.safetensors"),
        (
            lambda f: shutil.copy(f / "vision_tokenizer.safetensors", f / "vision_tokenizer-2.safetensors"),
            "without a checksum vision_tokenizer-2.safetensors",
        ),
        (lambda f: (f / "checksums.json").unlink(), "checksums.json: cannot be read"),
        (lambda f: (f / "checksums.json").write_text("{}"), "expected objects 'source' and 'files'"),
        (
            lambda f: (f / "checksums.json").write_text('{"source": {}, "files": {"../x": {}}}'),
            "expected objects 'source' and 'files'",
        ),
    ],
)
def test_damage_is_found(cli, converted, change, message):
    change(converted)
    done = cli("convert", "--verify", converted)
    assert done.code == 2
    assert message in done.err


def test_one_flipped_bit_is_found(cli, converted):
    path = converted / "vision_tokenizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert "changed or damaged vision_tokenizer.safetensors" in cli("convert", "--verify", converted).err


def test_a_damaged_conversion_is_not_taken_for_done(cli, source, sizes, converted):
    (converted / "config.json").write_text("{}")
    done = cli("convert", source, "--out", converted, "--config", sizes)
    assert done.code == 2
    assert "delete the folder to convert again" in done.err


def test_a_language_model_and_its_tokenizer(cli, converted, weights, tmp_path):
    official, out = write_tiny_official(tmp_path / "official"), tmp_path / "whole"
    options = ("convert", official, "--vision-tokenizer", converted, "--out", out)
    assert cli(*options).out == f"{out}: written\n"
    assert cli("convert", "--verify", out).code == 0
    assert "nothing to do" in cli(*options).out
    apart = load_checkpoint(official, None, vision_dtype=None, vision_tokenizer=converted)
    whole = load_checkpoint(out, None, vision_dtype=None)
    for one, other in ((apart.model, whole.model), (apart.vision_tokenizer, whole.vision_tokenizer)):
        state = other.state_dict()
        assert all(torch.equal(state[n], t) and state[n].dtype == t.dtype for n, t in one.state_dict().items())
    assert whole.config.model == apart.config.model
    assert whole.config.generation == apart.config.generation
    assert holds(out, weights)


def test_models_are_never_written_over(cli, source, sizes, converted, tmp_path):
    official = write_tiny_official(tmp_path / "official")
    before = {path: path.read_bytes() for path in official.iterdir()}
    whole = tmp_path / "whole"
    loaded = load_checkpoint(official, vision_tokenizer=converted)
    save_checkpoint(whole, loaded.config, loaded.model, loaded.vision_tokenizer, loaded.tokenizer.read_text())
    for done in (
        cli("convert", source, "--out", official, "--config", sizes),
        cli("convert", source, "--out", whole, "--config", sizes),
        cli("convert", official, "--vision-tokenizer", converted, "--out", whole),
    ):
        assert done.code == 2
        assert "holds a model already" in done.err
    assert {path: path.read_bytes() for path in official.iterdir()} == before
    load_checkpoint(whole)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "give what to convert and --out DIR, or --verify DIR"),
        (("{source}",), "give what to convert and --out DIR"),
        (("nothing.bin", "--out", "out"), "nothing.bin does not exist"),
        (("{source}", "--verify", "out"), "--verify DIR stands alone"),
        (("{source}", "--out", "{source}"), "--out must be another folder"),
        (("{source}", "--out", "out", "--vision-tokenizer", "x"), "goes with the folder of a language model"),
        (("{folder}", "--out", "out"), "give --vision-tokenizer DIR"),
        (("{folder}", "--out", "out", "--ema"), "--config and --ema go with a tokenizer's file"),
        (("--verify", "nowhere"), "nowhere/checksums.json: cannot be read"),
    ],
)
def test_options_that_do_not_go_together(cli, source, arguments, message):
    done = cli("convert", *(a.format(source=source, folder=source.parent) for a in arguments))
    assert done.code == 2
    assert message in done.err
