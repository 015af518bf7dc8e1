"""Installing: wheel, sdist, editable, without a compiler; and what importing loads. Probed from another folder."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import ROOT

from illume_fast.kernels import native

PROBE = """
import json, illume_fast.kernels as kernels, illume_fast.ops, torch
from illume_fast.kernels import native
from illume_fast.info import report

y = illume_fast.ops.swiglu(torch.ones(3), torch.full((3,), 2.0))
print(json.dumps({"file": kernels.__file__, "missing": native.missing, "y": y.tolist(), "report": report()}))
"""
SOURCES = ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "LICENSE", "README.md", "Makefile")
FOLDERS = ("csrc", "kernels", "bench", "illume_fast", "examples", "tests")
# an unoptimised build is found, loaded and called like any other
QUICK = {"ILLUME_FAST_CUDA": "0", "CMAKE_BUILD_TYPE": "Debug", "PYTHONSAFEPATH": "1"}


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    result = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env={**os.environ, **QUICK, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def pip(*arguments: str | Path, cwd: Path, **env: str) -> str:
    return run(sys.executable, "-m", "pip", *arguments, "--no-build-isolation", "--no-deps", "-v", cwd=cwd, **env)


def probe(site: Path, elsewhere: Path) -> dict:
    """What the package installed in `site` says of itself, asked by a Python that stands elsewhere."""
    # -S: the environment's own editable install must not answer in its stead
    paths = [str(site), *(path for path in sys.path if path.endswith("-packages"))]
    code = f"import site, sys; sys.path += {paths!r}; site.addsitedir({str(site)!r})\n{PROBE}"
    answer = json.loads(run(sys.executable, "-S", "-c", code, cwd=elsewhere).splitlines()[-1])
    assert answer["y"] == pytest.approx([1.4621172] * 3)
    return answer


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources without anything built."""
    target = tmp_path / "checkout"
    target.mkdir()
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "_build_report.json", "*.egg-info")
    for name in FOLDERS:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in SOURCES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target)
    return target


# those compiled once, what every binding needs, and one kernel
LIGHT_SOURCES = (
    "crew.cpp",
    "fork.cpp",
    "isa.cpp",
    "plan_ahead.cpp",
    "plan_steps.cpp",
    "recording.cpp",
    "swiglu.cpp",
    "threads.cpp",
)
LIGHT_BINDINGS = """
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include "illume_fast/isa.h"
namespace illume_fast { void register_swiglu(pybind11::module_& m); }
PYBIND11_MODULE(_C, m) {
  m.def("active_isa", [] { return illume_fast::isa_name(illume_fast::active_isa()); });
  m.def("available_isas", &illume_fast::available_isas);
  m.attr("cuda_architectures") = pybind11::none();
  illume_fast::register_swiglu(m);
}
"""


@pytest.fixture
def light(checkout: Path) -> Path:
    """The same with swiglu as its only kernel: enough to see how the extension is built, carried and found."""
    for folder in ("cpu", "bindings", "paging"):
        for source in (checkout / "csrc" / folder).glob("*.cpp"):
            if source.name not in LIGHT_SOURCES:
                source.unlink()
    (checkout / "csrc" / "bindings.cpp").write_text(LIGHT_BINDINGS, encoding="utf-8")
    return checkout


@pytest.fixture
def asset(checkout: Path) -> str:
    """The path of a file laid among the demo model's, as the package must carry it."""
    name = "illume_fast/assets/demo/deep/inside/weights.safetensors"
    (checkout / name).parent.mkdir(parents=True)
    (checkout / name).write_bytes(b"weights")
    return name


def needs_compiler() -> None:
    if shutil.which("c++") is None and "CXX" not in os.environ:
        pytest.skip("there is no C++ compiler here")


def built_wheel(source: Path, tmp_path: Path, **env: str) -> Path:
    pip("wheel", source, "-w", tmp_path / "dist", cwd=tmp_path, **env)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    return wheel


def installed(wheel: Path, tmp_path: Path) -> Path:
    site = tmp_path / "site"
    pip("install", wheel, "--target", site, cwd=tmp_path)
    return site


def test_wheel(light: Path, asset: str, tmp_path: Path):
    needs_compiler()
    wheel = built_wheel(light, tmp_path, ILLUME_FAST_REQUIRE_NATIVE="1")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"illume_fast"}
    assert any(name.startswith("illume_fast/kernels/_C.") for name in names)
    assert "illume_fast/bench/cases/search.py" in names
    assert not [name for name in names if name.startswith("illume_fast/bench/results")]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert asset in names
    for file in (light / "illume_fast" / "assets").rglob("*"):
        assert file.is_dir() or file.relative_to(light).as_posix() in names

    site = installed(wheel, tmp_path)
    answer = probe(site, tmp_path)
    assert answer["missing"] is None
    assert Path(answer["file"]) == site / "illume_fast" / "kernels" / "__init__.py"
    assert "switched off by ILLUME_FAST_CUDA=0" in answer["report"] or "nvcc was not found" in answer["report"]


def test_no_compiler_installs_and_says_why(light: Path, tmp_path: Path):
    wheel = built_wheel(light, tmp_path, CC="false", CXX="false", ILLUME_FAST_REQUIRE_NATIVE="0")
    answer = probe(installed(wheel, tmp_path), tmp_path)
    assert "cmake could not configure when this was built" in answer["missing"]
    assert answer["missing"] in answer["report"]


def test_no_compiler_is_fatal_when_kernels_are_required(light: Path, tmp_path: Path):
    with pytest.raises(AssertionError, match="illume_fast: cmake could not configure"):
        built_wheel(light, tmp_path, CC="false", CXX="false", ILLUME_FAST_REQUIRE_NATIVE="1")


@pytest.mark.slow
def test_a_broken_nvcc_costs_only_cuda(light: Path, tmp_path: Path):
    needs_compiler()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvcc").write_text("#!/bin/sh\necho broken >&2\nexit 1\n", encoding="utf-8")
    (tools / "nvcc").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    broken = {"PATH": path, "CUDACXX": str(tools / "nvcc"), "ILLUME_FAST_CUDA": ""}
    wheel = built_wheel(light, tmp_path, **broken, ILLUME_FAST_REQUIRE_NATIVE="0")
    answer = probe(installed(wheel, tmp_path), tmp_path)
    assert answer["missing"] is None
    assert "cuda            missing: cmake could not configure when this was built" in answer["report"]


def test_misspelt_switch_is_named(light: Path, tmp_path: Path):
    with pytest.raises(AssertionError, match="ILLUME_FAST_CUDA='yes': must be 0 or 1"):
        built_wheel(light, tmp_path, ILLUME_FAST_CUDA="yes")


@pytest.mark.slow
def test_sdist_holds_all_sources_and_builds(light: Path, asset: str, tmp_path: Path):
    needs_compiler()
    run(sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path / "sdist", cwd=light)
    (sdist,) = (tmp_path / "sdist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("csrc", "kernels", "examples"):
        for file in (light / folder).rglob("*"):
            assert file.relative_to(light).as_posix() in held
    assert not [name for name in held if name.endswith((".so", ".pyc"))]
    wheel = built_wheel(sdist, tmp_path, ILLUME_FAST_REQUIRE_NATIVE="1")
    assert asset in zipfile.ZipFile(wheel).namelist()
    assert probe(installed(wheel, tmp_path), tmp_path)["missing"] is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "strict"])
def test_editable(light: Path, tmp_path: Path, mode: str):
    needs_compiler()
    settings = ["--config-settings", "editable_mode=strict"] if mode == "strict" else []
    site = tmp_path / "site"
    pip("install", "-e", light, "--target", site, *settings, cwd=tmp_path, ILLUME_FAST_REQUIRE_NATIVE="1")
    answer = probe(site, tmp_path)
    assert answer["missing"] is None
    assert "checkout" in answer["file"] or mode == "strict"


def test_kernels_folder_is_not_shadowed():
    import illume_fast.kernels

    assert illume_fast.kernels.__file__ is not None
    assert not (ROOT / "illume_fast" / "kernels").exists()


def test_import_needs_torch_alone(tmp_path: Path):
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {REFUSED}:
            raise ModuleNotFoundError("refused: " + name, name=name)
sys.meta_path.insert(0, Refuse())
import illume_fast, illume_fast.ops, torch
print(illume_fast.__version__, illume_fast.ops.swiglu(torch.ones(2), torch.ones(2)).tolist())
"""
    refused = {"numpy", "PIL", "safetensors", "tokenizers", "tyro", "rich", "transformers", "diffusers", "triton"}
    code = code.replace("{REFUSED}", repr(refused))
    assert run(sys.executable, "-c", code, cwd=tmp_path).splitlines()[-1].startswith("0.")


def test_one_openmp_runtime(tmp_path: Path):
    if native.missing:
        pytest.skip(native.missing)
    if not Path("/proc/self/maps").exists():
        pytest.skip("/proc/self/maps tells it, on Linux alone")
    code = """
from illume_fast.kernels import native
import torch
paths = {line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line or "iomp" in line or "libomp" in line}
torch.set_num_threads(1)
print(len(paths), native._C.max_threads(), paths)
"""
    assert run(sys.executable, "-c", code, cwd=tmp_path).splitlines()[-1].startswith("1 1 ")


def run_make(*arguments: str, cwd: Path) -> str:
    return run("make", "--no-print-directory", *arguments, cwd=cwd)


def test_set_up_is_idempotent(checkout: Path):
    """Nothing is run here: `make -n` shows what would be, first and once the stamps are there."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    shutil.copy(ROOT / "constraints.txt", checkout)
    planned = run_make("-n", "setup", cwd=checkout)
    assert "-m venv .venv" in planned
    assert "pip install" in planned
    stamps = [word for word in planned.split() if word.startswith(".venv/.") and "*" not in word]
    (checkout / ".venv").mkdir()
    for stamp in [".venv/.created", *stamps]:
        (checkout / stamp).touch()
    assert stamps
    assert "Nothing to be done" in run_make("-n", "setup", cwd=checkout)
    with (checkout / "CMakeLists.txt").open("a") as file:
        file.write("# changed\n")
    assert "pip install" in run_make("-n", "setup", cwd=checkout)
