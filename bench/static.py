"""What the GPU kernels became, without a GPU: registers, shared memory, spills and tensor-core instructions.

`python -m illume_fast.bench.static [--out bench/results/static]` compiles every Triton kernel ahead of time for sm_80
and sm_90 and every CUDA file for sm_80 and sm_90a, and writes `triton.json`, `cuda.json` and `README.md`. It needs
Triton, and nvcc with cuobjdump for CUDA; what is missing is said and left out.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TRITON_TARGETS = (80, 90)
CUDA_TARGETS = ("80", "90a")

# tensor-core instructions in SASS: HGMMA is what PTX calls wgmma, HMMA mma
_TENSOR = ("HGMMA", "HMMA", "DMMA", "IMMA")
_USAGE = re.compile(r"Function (\S+?):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class TritonKernel:
    """A kernel as it is launched: its arguments' types in order, "constexpr" among them, and the constants' values."""

    module: str
    name: str
    types: str
    constants: Mapping[str, Any]
    warps: int = 4


_SAMPLE = "*bf16 *bf16 *i64 i64 i64 i32 i32 fp32 fp32 i64 fp32 fp32 i64 i64 *fp32" + 7 * " constexpr"
_ROWS_OFF = dict.fromkeys(
    ("temperature_rows", "top_k_rows", "top_p_rows", "min_p_rows", "seed_rows", "step_rows"), None
)
TRITON_KERNELS = (
    TritonKernel(
        "cfg_sample", "sample_kernel", _SAMPLE + " constexpr", {**_ROWS_OFF, "TWO": True, "BLOCK": 4096}, warps=8
    ),
    TritonKernel(
        "nearest_code", "round_kernel", "*bf16 i64 i64 *fp32 *bf16 *fp32 *fp32 i32 i32 constexpr", {"WIDE": 32}
    ),
    TritonKernel(
        "nearest_code",
        "score_kernel",
        "*bf16 *bf16 *fp32 *fp32 i32 i32 i32 i32" + 4 * " constexpr",
        {"ROWS": 64, "CODES": 64, "CHUNK": 32, "WIDEN": False},
    ),
    TritonKernel(
        "nearest_code",
        "refine_kernel",
        "*bf16 i64 i64 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i64 i32 i32 fp32" + 4 * " constexpr",
        {"METRIC": 0, "BLOCKS": 512, "CODES": 64, "CHUNK": 32},
    ),
    TritonKernel(
        "paged_attention",
        "attend_kernel",
        "*bf16 i64 i64 *bf16 *bf16 *i32 constexpr *i32 *fp32 i32 fp32 i32 i32 i32 i32 i32 i32 i32" + 6 * " constexpr",
        {"rows": None, "GROUP": 7, "GROUPS": 16, "WIDE": 128, "KEYS": 32, "STRETCH": 512, "HALVES": True},
    ),
    TritonKernel(
        "paged_attention",
        "join_kernel",
        "*fp32 *i32 *bf16 i32 i32 i32 i32" + 2 * " constexpr",
        {"STRETCH": 512, "WIDE": 128},
    ),
    TritonKernel(
        "linear_cross_entropy",
        "statistics_kernel",
        "*bf16 *bf16 *i64 *fp32 *fp32 *fp32 i32 i32 i32 i32" + 5 * " constexpr",
        {"CHUNK": 4096, "ROWS": 64, "CODES": 64, "SIZES": 32, "WIDEN": False},
        warps=8,
    ),
    TritonKernel(
        "linear_cross_entropy",
        "gradient_kernel",
        "*bf16 *bf16 *i64 *fp32 *fp32 *bf16 i32 i32 i32 i32" + 4 * " constexpr",
        {"ROWS": 64, "CODES": 64, "SIZES": 32, "WIDEN": False},
        warps=8,
    ),
    TritonKernel(
        "quantize",
        "forward_kernel",
        "*bf16 i64 i64 *fp32 *i64 *bf16 *fp32 *fp32 i32 i32 i32 constexpr constexpr",
        {"ROWS": 32, "WIDE": 32},
        warps=8,
    ),
    TritonKernel(
        "quantize",
        "backward_kernel",
        "*bf16 *fp32 *bf16 i64 i64 *fp32 *i64 *bf16 i32 i32 i32 constexpr constexpr constexpr",
        {"ROTATE": True, "ROWS": 32, "WIDE": 32},
        warps=8,
    ),
    TritonKernel(
        "quantize",
        "codebook_gradient_kernel",
        "*bf16 i64 i64 *fp32 *i64 *i64 *fp32 *fp32 i32 constexpr",
        {"WIDE": 256},
        warps=2,
    ),
    TritonKernel(
        "codebook_ema",
        "update_kernel",
        "*bf16 i64 i64 *i64 *i64 *fp64 *fp64 *fp32 i64 i64 *fp32 i64 i64 i32 constexpr",
        {"WIDE": 256},
        warps=2,
    ),
)


def triton_rows(kernels: Iterable[TritonKernel] = TRITON_KERNELS) -> list[dict[str, Any]]:
    """Compile the kernels for every target; a row for each.

    Raises:
        whatever Triton raises for a kernel that does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    rows = []
    for kernel in kernels:
        module = __import__(f"illume_fast.kernels.triton.{kernel.module}", fromlist=[kernel.name])
        function = getattr(module, kernel.name)
        types = dict(zip(function.arg_names, kernel.types.split(), strict=True))
        for target in TRITON_TARGETS:
            source = triton.compiler.ASTSource(fn=function, signature=types, constexprs=dict(kernel.constants))
            made = triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": kernel.warps})
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(made.asm["cubin"])
                file.flush()
                found = _read_cubin(tools / "cuobjdump", Path(file.name))
            sizes = {name: value for name, value in kernel.constants.items() if isinstance(value, int) and value > 1}
            for row in found:
                row["shared"] = made.metadata.shared
                label = " ".join(f"{name}={value}" for name, value in sizes.items())
                rows.append({"file": f"{kernel.module}.py", "target": f"sm_{target}", **row, "constants": label})
    return rows


def cuda_rows() -> list[dict[str, Any]]:
    """Compile every file of csrc/cuda for every target; a row for each kernel in it.

    Raises:
        RuntimeError: a file does not compile without warnings.
    """
    rows = []
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        for target in CUDA_TARGETS:
            with tempfile.TemporaryDirectory() as folder:
                cubin = Path(folder) / "kernel.cubin"
                flags = ["-cubin", "-std=c++17", "-O3", "-Werror", "all-warnings", "-I", str(ROOT / "csrc" / "include")]
                command = ["nvcc", *flags, f"-arch=sm_{target}", str(source), "-o", str(cubin)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise RuntimeError(f"{source.name} for sm_{target}: {done.stderr.strip()}")
                for row in _read_cubin(Path(shutil.which("cuobjdump") or "cuobjdump"), cubin):
                    rows.append({"file": source.name, "target": f"sm_{target}", **row})
    return rows


def _read_cubin(cuobjdump: Path, cubin: Path) -> list[dict[str, Any]]:
    """A row for each kernel: registers, bytes of stack, static shared and local memory, instructions of interest."""

    def dump(option: str) -> str:
        done = subprocess.run([str(cuobjdump), option, str(cubin)], capture_output=True, text=True, check=True)
        return done.stdout

    pieces = _FUNCTION.split(dump("-sass"))
    code = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    rows = []
    for name, registers, stack, shared, local in _USAGE.findall(dump("--dump-resource-usage")):
        sass = code.get(name, "")
        rows.append(
            {
                "kernel": _short(name),
                "registers": int(registers),
                "stack": int(stack),
                "shared": int(shared),
                "local": int(local),
                "spill_stores": len(re.findall(r"\bSTL\b", sass)),
                "spill_loads": len(re.findall(r"\bLDL\b", sass)),
                "tensor": {kind: count for kind in _TENSOR if (count := len(re.findall(rf"\b{kind}\b", sass)))},
                "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", sass, flags=re.MULTILINE)),
            }
        )
    return rows


def _short(name: str) -> str:
    """A mangled name as people write it, without namespaces and parameter types."""
    filt = shutil.which("c++filt")
    if filt and name.startswith("_Z"):
        name = subprocess.run([filt, name], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|illume_fast::cuda::|^void ", "", name)
    return re.sub(r"\((?!anonymous).*\)$", "", name)


def markdown(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The rows as a table."""
    lines = [
        "| file | kernel | target | registers | shared, bytes | stack, bytes | spills, stores / loads | tensor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        tensor = ", ".join(f"{count} {kind}" for kind, count in row["tensor"].items()) or "-"
        kernel = f"`{row['kernel']}`" + (f" {row['constants']}" if row.get("constants") else "")
        spills = f"{row['spill_stores']} / {row['spill_loads']}"
        cells = row["file"], kernel, row["target"], row["registers"], row["shared"], row["stack"], spills, tensor
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def main() -> int:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "static")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    text = [
        "# GPU kernels as compiled\n",
        "Compiled ahead of time by `python -m illume_fast.bench.static`; nothing ran.\n",
    ]
    for title, present, collect in (
        ("CUDA C++", shutil.which("nvcc") and shutil.which("cuobjdump"), cuda_rows),
        ("Triton", _has_triton(), triton_rows),
    ):
        if not present:
            print(f"static: {title}: its compiler is not here, left out", file=sys.stderr)
            continue
        rows = collect()
        (out / f"{title.split()[0].lower()}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        text += [f"## {title}\n", *markdown(rows), ""]
    (out / "README.md").write_text("\n".join(text), encoding="utf-8")
    print(out / "README.md")
    return 0


def _has_triton() -> bool:
    from illume_fast.kernels.triton import missing

    return missing() is None


if __name__ == "__main__":
    sys.exit(main())
