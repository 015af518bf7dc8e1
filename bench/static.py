"""What the GPU kernels became, without a GPU: registers, shared memory, spills and tensor-core instructions.

`python -m illume_fast.bench.static [--out bench/results/static]` reads the CUDA kernels out of the extension as it was
built, compiles every Triton kernel ahead of time for sm_80 and sm_90, and writes `cuda.json`, `triton.json` (a row for
each variant) and `README.md` (a row for each kernel). What is missing is said and left out.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illume_fast.bench import cubin
from illume_fast.kernels import native

ROOT = Path(__file__).resolve().parent.parent
TRITON_TARGETS = (80, 90)


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

    rows = []
    for kernel in kernels:
        module = __import__(f"illume_fast.kernels.triton.{kernel.module}", fromlist=[kernel.name])
        function = getattr(module, kernel.name)
        types = dict(zip(function.arg_names, kernel.types.split(), strict=True))
        sizes = {name: value for name, value in kernel.constants.items() if isinstance(value, int) and value > 1}
        for target in TRITON_TARGETS:
            source = triton.compiler.ASTSource(fn=function, signature=types, constexprs=dict(kernel.constants))
            made = triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": kernel.warps})
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(made.asm["cubin"])
                file.flush()
                found = _read(Path(file.name), f"sm_{target}")
            for row in found:
                rows.append({**row, "file": f"{kernel.module}.py", "shared": made.metadata.shared, "constants": sizes})
    return rows


def cuda_missing() -> str | None:
    """Why the CUDA kernels cannot be read; None when they can."""
    return native.cuda_missing() or (None if cubin.cuobjdump() else "cuobjdump comes with CUDA, or with Triton")


def cuda_rows() -> list[dict[str, Any]]:
    """A row for each CUDA kernel of the extension, for each target that it was built for."""
    return _read(Path(native._C.__file__))


def _read(file: Path, target: str | None = None) -> list[dict[str, Any]]:
    tool = cubin.cuobjdump()
    if tool is None:
        raise RuntimeError("static: cuobjdump was not found")
    rows = cubin.usage(tool, file, target)
    cubin.add_instructions(tool, file, rows, target)
    for row in rows:
        del row["symbol"]
    return rows


def markdown(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each kernel and target: the most that any variant of it takes."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        constants = " ".join(f"{name}={value}" for name, value in row.get("constants", {}).items())
        name = row["kernel"].split("<")[0]
        groups.setdefault((row["file"], name, constants, row["target"]), []).append(row)
    lines = [
        "| file | kernel | target | variants | registers | static shared, bytes | spilled, bytes | tensor cores |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    for (file, name, constants, target), group in sorted(groups.items()):
        kinds = sorted({kind for row in group for kind in row["tensor"]})
        cells = (
            file,
            f"`{name}`" + (f" {constants}" if constants else ""),
            target,
            len(group),
            _span(row["registers"] for row in group),
            _span(row["shared"] for row in group),
            _span(row["stack"] + row["local"] for row in group),
            ", ".join(f"{_span(row['tensor'].get(kind, 0) for row in group)} {kind}" for kind in kinds) or "none",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def spilling(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The kernels, with their targets, that keep something in local memory."""
    return [
        f"{row['kernel']} ({row['target']})"
        for row in rows
        if row["stack"] or row["local"] or row["spill_stores"] or row["spill_loads"]
    ]


def main() -> int:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "static")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    text = [
        "# GPU kernels as compiled\n",
        "By `python -m illume_fast.bench.static`, without a GPU: nothing ran. A line is a kernel for a target, with",
        "what its variants (dtypes and sizes) take, from the least to the most; each is a row of the JSON. Shared",
        "memory asked for at launch is counted for Triton alone. Of tensor-core instructions HGMMA are Hopper's own",
        "(wgmma), HMMA those that every GPU since Ampere has (mma).\n",
    ]
    for title, reason, collect in (
        ("CUDA C++", cuda_missing(), cuda_rows),
        ("Triton", _triton_missing(), triton_rows),
    ):
        if reason is not None:
            print(f"static: {title} left out: {reason}", file=sys.stderr)
            continue
        rows = collect()
        lines = ",\n".join(json.dumps(row) for row in rows)
        (out / f"{title.split()[0].lower()}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        spills = spilling(rows)
        summary = f"{len(rows)} variants; " + (f"these spill: {', '.join(spills)}." if spills else "none spills.")
        text += [f"## {title}\n", summary + "\n", *markdown(rows), ""]
    (out / "README.md").write_text("\n".join(text), encoding="utf-8")
    print(out / "README.md")
    return 0


def _triton_missing() -> str | None:
    from illume_fast.kernels.triton import missing

    return missing() or (None if cubin.cuobjdump() else "its cuobjdump was not found")


if __name__ == "__main__":
    sys.exit(main())
