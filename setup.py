"""Builds the extension with CMake. Without a compiler the package still installs, and records why it has no kernels.

Environment: ILLUME_FAST_CUDA=0|1 (default: whether nvcc is found), ILLUME_FAST_CUDA_ARCHITECTURES="80;90a",
ILLUME_FAST_REQUIRE_NATIVE=1 (a failed build is an error), ILLUME_FAST_WERROR=0, ILLUME_FAST_JOBS=N.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
SWITCH = {"0": False, "1": True}


def switch(name: str, default: bool) -> bool:
    value = os.environ.get(name) or ("1" if default else "0")
    if value not in SWITCH:
        raise SystemExit(f"{name}={value!r}: must be 0 or 1")
    return SWITCH[value]


class BuildError(Exception):
    """Why there will be no extension, in one line."""


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt, and writes `_build_report.json` beside where the extension goes."""

    def run(self):
        for ext in self.extensions:
            self.build_extension(ext)

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        report = {"native": "built", "cuda": "built"}
        try:
            report["cuda"] = self.build_native(target.parent)
        except BuildError as error:
            if switch("ILLUME_FAST_REQUIRE_NATIVE", False):
                raise SystemExit(f"illume_fast: {error}") from error
            report = dict.fromkeys(report, str(error))
            target.unlink(missing_ok=True)
            print(f"illume_fast: WARNING: installing without compiled kernels: {error}", file=sys.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        (target.parent / "_build_report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def build_native(self, folder: Path) -> str:
        """Build the extension into `folder`; returns the report's line on CUDA."""
        nvcc = shutil.which("nvcc")
        cuda = switch("ILLUME_FAST_CUDA", nvcc is not None)
        if not cuda:
            self.build_with_cmake(folder, cuda=False)
            return "switched off by ILLUME_FAST_CUDA=0" if nvcc else "nvcc was not found when this was built"
        try:
            self.build_with_cmake(folder, cuda=True)
            return "built"
        except BuildError as error:
            if os.environ.get("ILLUME_FAST_CUDA") or switch("ILLUME_FAST_REQUIRE_NATIVE", False):
                raise
            # an nvcc that does not work must not cost the CPU kernels
            print(f"illume_fast: WARNING: building without CUDA: {error}", file=sys.stderr)
            self.build_with_cmake(folder, cuda=False)
            return str(error)

    def build_with_cmake(self, folder: Path, *, cuda: bool) -> None:
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        build = ROOT / "build" / "native" if self.inplace else Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        import pybind11

        configure = [
            cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DILLUME_FAST_CUDA={'ON' if cuda else 'OFF'}",
            f"-DILLUME_FAST_WERROR={'ON' if switch('ILLUME_FAST_WERROR', True) else 'OFF'}",
        ]  # fmt: skip
        if cuda:
            architectures = os.environ.get("ILLUME_FAST_CUDA_ARCHITECTURES") or "80;90a"
            configure.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
        run(configure, "cmake could not configure")
        jobs = os.environ.get("ILLUME_FAST_JOBS") or str(os.cpu_count() or 1)
        run([cmake, "--build", str(build), "--target", "_C", "--parallel", jobs], "the compiler failed")


def find_tool(name: str) -> str:
    """The tool beside this Python (a pip package) or on PATH."""
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise BuildError(f"{name} was not found when this was built")
    return path


def run(command: list[str], failure: str) -> None:
    """Run a command; its output is shown, and the first line that tells of an error becomes the reason."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sys.stdout.write(result.stdout)
    sys.stdout.flush()
    if result.returncode != 0:
        lines = [line.strip() for line in result.stdout.splitlines()]
        errors = (line for line in lines if "error" in line.lower() and len(line) < 300)
        cause = next(errors, f"exit code {result.returncode}")
        raise BuildError(f"{failure} when this was built: {cause}")


# folders at the top that are packages of illume_fast
FOLDERS = ("kernels", "bench")
packages = [f"illume_fast.{name}" for folder in FOLDERS for name in find_packages(include=[folder, f"{folder}.*"])]

setup(
    packages=[*find_packages(include=["illume_fast", "illume_fast.*"]), *packages],
    package_dir={f"illume_fast.{folder}": folder for folder in FOLDERS},
    ext_modules=[Extension("illume_fast.kernels._C", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
)
