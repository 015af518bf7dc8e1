"""Reading weights: every file's header first, then tensors one by one; whatever is not as expected is listed."""

import json
import os
import struct
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from illume_fast.model.tensor_files import CheckpointError, finite
from illume_fast.model.tensor_reader import Weights

EXPECTED = {f"layers.{i}.weight": torch.empty(4, 3, device="meta") for i in range(6)}


def write(folder: Path, **changes: str) -> dict[str, torch.Tensor]:
    """Six tensors in three files and their index, in which `changes` alters the file of a tensor."""
    tensors = {name: torch.full((4, 3), float(i)) for i, name in enumerate(EXPECTED)}
    home = {name: f"model-{i // 2 + 1:05}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for file in set(home.values()):
        save_file({name: t for name, t in tensors.items() if home[name] == file}, folder / file)
    write_index(folder, home)
    return tensors


def write_index(folder: Path, home: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": home}))


def homes(folder: Path) -> dict[str, str]:
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def test_all_come_back(tmp_path):
    tensors = write(tmp_path)
    weights = Weights.survey(tmp_path, "model")
    weights.require(EXPECTED)
    found = weights.read(torch.float32, "cpu")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float64])
def test_dtypes(tmp_path, dtype):
    stored = {
        "a": torch.randn(3),
        "b": torch.randn(2, 2).bfloat16(),
        "empty": torch.empty(0, 4),
        "one": torch.tensor(2.0),
    }
    save_file(stored, tmp_path / "model.safetensors")
    found = Weights.survey(tmp_path, "model").read(dtype, "cpu")
    for name, tensor in stored.items():
        assert torch.equal(found[name], tensor.to(dtype or tensor.dtype))
        assert found[name].dtype == (dtype or tensor.dtype)


def test_a_file_that_the_index_does_not_know(tmp_path):
    write(tmp_path)
    save_file({"odd": torch.zeros(1)}, tmp_path / "model-00004-of-00004.safetensors")
    with pytest.raises(CheckpointError, match=r"does not know the files model-00004-of-00004\.safetensors"):
        Weights.survey(tmp_path, "model")


def test_numbered_files_beside_a_whole_one(tmp_path):
    write(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        Weights.survey(tmp_path, "model")
    save_file({"odd": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="only one is allowed"):
        Weights.survey(tmp_path, "model")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda home: home.pop("layers.3.weight"), r"it does not list layers\.3\.weight \(model-00002-of-00003"),
        (lambda home: home.update(ghost="model-00001-of-00003.safetensors"), r"no file holds ghost \(model-00001"),
        (
            lambda home: home.update({"layers.0.weight": "model-00003-of-00003.safetensors"}),
            r"other files hold layers\.0\.weight \(model-00001",
        ),
    ],
)
def test_an_index_that_says_otherwise(tmp_path, change, message):
    write(tmp_path)
    home = homes(tmp_path)
    change(home)
    write_index(tmp_path, home)
    with pytest.raises(CheckpointError, match=message):
        Weights.survey(tmp_path, "model")


def test_a_tensor_in_two_files(tmp_path):
    tensors = write(tmp_path)
    second = tmp_path / "model-00002-of-00003.safetensors"
    save_file({**load_file(second), "layers.0.weight": tensors["layers.0.weight"]}, second)
    with pytest.raises(CheckpointError, match=r"layers\.0\.weight is stored in model-00001-of-00003\.safetensors"):
        Weights.survey(tmp_path, "model")


def test_a_tensor_twice_in_one_file(tmp_path):
    part = '"a":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    header = ("{" + part % (0, 4) + "," + part % (4, 8) + "}").encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        Weights.survey(tmp_path, "model")


@pytest.mark.parametrize("file", [1, 2, 3])
def test_any_truncated_file_is_found_before_any_is_read(tmp_path, file):
    write(tmp_path)
    path = tmp_path / f"model-0000{file}-of-00003.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=rf"model-0000{file}-of-00003\.safetensors: damaged or truncated"):
        Weights.survey(tmp_path, "model")


def test_names_that_say_nothing_new_may_be_there(tmp_path):
    write(tmp_path)
    weights = Weights.survey(tmp_path, "model")
    few = {name: shape for name, shape in EXPECTED.items() if name != "layers.5.weight"}
    with pytest.raises(CheckpointError, match=r"unknown layers\.5\.weight"):
        weights.require(few)
    weights.require(few, lambda name: name == "layers.5.weight")


def test_many_gigabytes_are_refused_at_once(tmp_path):
    """The file is a hole behind its header: reading it would take minutes."""
    size = 2**36
    entry = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
    header = json.dumps({"odd": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    try:
        os.truncate(path, path.stat().st_size + size)
    except OSError as error:
        pytest.skip(f"this file system has no files of 64 GiB with holes: {error}")
    begin = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"missing layers\.0\.weight .*; unknown odd"):
        Weights.survey(tmp_path, "model").require(EXPECTED)
    assert time.perf_counter() - begin < 5


@given(
    size=st.sampled_from([1, 7, 2**20 - 1, 2**20, 2**20 + 3]),
    place=st.integers(0, 2**21),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, 3e38]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_finite(size, place, value, dtype):
    tensor = torch.ones(size, dtype=dtype)
    tensor[place % size] = value
    assert finite(tensor) == bool(tensor.isfinite().all())


def test_large_values_are_finite():
    assert finite(torch.full((4, 1000), 3e38))
