"""The extension itself: choice of the instruction set, threads, what it exports, and CUDA without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ROOT

from illume_fast.kernels import native
from illume_fast.ops import swiglu, use_backend

pytestmark = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))


def active_isa_of_a_new_process(forced: str) -> subprocess.CompletedProcess[str]:
    code = "from illume_fast.kernels import native; print(native._C.active_isa())"
    env = {**os.environ, "ILLUME_FAST_ISA": forced}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_environment_forces_the_instruction_set():
    assert active_isa_of_a_new_process("portable").stdout.strip() == "portable"


def test_lacking_instruction_set_names_what_there_is():
    error = active_isa_of_a_new_process("avx1024").stderr
    assert f"ILLUME_FAST_ISA: 'avx1024' cannot run here; this CPU has {', '.join(native.isas())}" in error


def test_best_instruction_set_is_the_default():
    expected = os.environ.get("ILLUME_FAST_ISA") or native.isas()[-1]
    assert native._C.active_isa() == expected


def test_use_isa_is_undone_and_refuses():
    before = native._C.active_isa()
    with native.use_isa("portable"):
        assert native._C.active_isa() == "portable"
    assert native._C.active_isa() == before
    with pytest.raises(ValueError, match="isa: 'mmx' cannot run here"), native.use_isa("mmx"):
        pass


def test_objects_are_linked_from_the_least_instruction_set_to_the_greatest():
    """Of a template instance in several objects the linker keeps the first: it must be one that every CPU can run."""
    plan = ROOT / "build" / "native" / "build.ninja"
    if not plan.exists():
        pytest.skip("needs the build folder of `make build`")
    (line,) = (line for line in plan.read_text().splitlines() if line.startswith("build ") and "MODULE_LIBRARY" in line)
    objects = [word for word in line.split(" | ")[0].split() if word.endswith(".o")]
    ranks = [2 if "illume_fast_avx512.dir" in word else int("illume_fast_avx2.dir" in word) for word in objects]
    assert ranks == sorted(ranks)
    if len(native.isas()) > 1:
        assert set(ranks) == {0, 1, 2}


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_torchs_and_change_nothing(threads):
    gate, up = torch.randn(2, 300, 1001, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    with use_backend("cpu"):
        expected = swiglu(gate, up)
        try:
            torch.set_num_threads(threads)
            assert native._C.max_threads() == threads
            assert torch.equal(swiglu(gate, up), expected)
        finally:
            torch.set_num_threads(before)


def test_cuda_refuses_without_a_gpu():
    if reason := native.cuda_missing():
        pytest.skip(reason)
    if native._C.cuda_device_count():
        pytest.skip("there is a GPU")
    x = torch.ones(8)
    with (
        use_backend("cuda"),
        pytest.raises(RuntimeError, match="swiglu: backend 'cuda' cannot run: needs CUDA tensors"),
    ):
        swiglu(x, x)
    pointer = x.data_ptr()
    code = native._C.cuda_swiglu_forward(0, pointer, 8, pointer, 8, pointer, 1, 8, 0)
    assert code != 0
    with pytest.raises(RuntimeError, match=rf"swiglu: CUDA error {code}: \w+"):
        native.raise_cuda_error("swiglu", code)


def test_build_report_tells_of_cuda():
    report = native.build_report()
    assert report["native"] == "built"
    assert (report["cuda"] == "built") == (native._C.cuda_architectures is not None)
    assert (native.cuda_missing() is None) == (report["cuda"] == "built")
    assert Path(native._C.__file__).with_name("_build_report.json").exists()
