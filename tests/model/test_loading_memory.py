"""How much memory loading takes, measured in a process of its own against the bytes on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from official_folder import write_tiny_official

MIB = 2**20
# the process is warmed up on a small folder of the same kind, then its peak is set back
MEASURE = """
import re, sys, torch
from illume_fast.model.checkpoint import load_checkpoint

def memory(what):
    with open("/proc/self/status") as file:
        return int(re.search(what + r":\\s+(\\d+) kB", file.read())[1]) * 1024

warm, folder, dtype = sys.argv[1:]
load_checkpoint(warm, getattr(torch, dtype))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = memory("VmRSS")
loaded = load_checkpoint(folder, getattr(torch, dtype))
print(memory("VmHWM") - before)
"""


def peak_of_loading(warm: Path, folder: Path, dtype: str) -> int:
    """Bytes by which a process grows at most while it loads `folder`."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system has no /proc/self/clear_refs to set a process's peak back with")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, warm, folder, dtype], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def bytes_of_weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def bytes_of_largest_tensor(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    return config["vocab_size"] * config["hidden_size"] * 2


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    return write_tiny_official(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="module")
def medium(tmp_path_factory) -> Path:
    """A published folder of about 90 MiB."""
    return write_tiny_official(
        tmp_path_factory.mktemp("medium"), 50_000, hidden_size=512, intermediate_size=4096, num_hidden_layers=4
    )


def test_as_stored(warm, medium):
    assert peak_of_loading(warm, medium, "bfloat16") <= 1.15 * bytes_of_weights(medium) + 16 * MIB


def test_cast(warm, medium):
    """The result is twice the file; of the file itself only one tensor is held at a time."""
    most = 2 * bytes_of_weights(medium) + bytes_of_largest_tensor(medium)
    assert peak_of_loading(warm, medium, "float32") <= 1.05 * most + 16 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("dtype, factor", [("bfloat16", 1.15), ("float32", 2.3)])
def test_hundreds_of_megabytes(warm, tmp_path, dtype, factor):
    """No allowance here: 1.15 times the bytes on disk, or of what they become."""
    folder = write_tiny_official(
        tmp_path, 20_000, hidden_size=1024, intermediate_size=8192, num_hidden_layers=20, num_attention_heads=8
    )
    on_disk = bytes_of_weights(folder)
    assert on_disk > 800 * MIB
    peak = peak_of_loading(warm, folder, dtype)
    print(f"{dtype}: peak {peak / on_disk:.3f} of {on_disk / MIB:.0f} MiB on disk")
    assert peak <= factor * on_disk
