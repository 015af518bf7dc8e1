"""Reads what compilers made of GPU kernels: registers, memory and instructions in a cubin or in an extension."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# tensor-core instructions in SASS: HGMMA is what PTX calls wgmma, HMMA mma
TENSOR = ("HGMMA", "HMMA", "DMMA", "IMMA")
_SPILLS = {"STL": "spill_stores", "LDL": "spill_loads"}

_USAGE = re.compile(
    r"^arch = (\S+)|^ *Function (\S+?):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", re.MULTILINE
)
_HEADING = re.compile(r"^\s*(?:code for (\S+)|Function : (\S+))")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z0-9_]+)")


def cuobjdump() -> Path | None:
    """The tool that reads them: CUDA's, else the one that comes with Triton; None where there is neither."""
    found = shutil.which("cuobjdump")
    if found is None and (triton := find_spec("triton")) is not None and triton.origin is not None:
        found = shutil.which("cuobjdump", path=Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    return None if found is None else Path(found)


def usage(tool: Path, file: Path, target: str | None = None) -> list[dict[str, Any]]:
    """A row for each kernel in `file`: names, target, registers, bytes of stack, static shared and local memory.

    `target` is that of a cubin; an extension has several and names them.
    """
    return parse_usage(_run(tool, "--dump-resource-usage", file), target)


def parse_usage(text: str, target: str | None = None) -> list[dict[str, Any]]:
    """The rows of `usage` in what `cuobjdump --dump-resource-usage` prints."""
    rows, arch = [], target
    for heading, symbol, *numbers in _USAGE.findall(text):
        if heading:
            arch = target or heading
            continue
        sizes = dict(zip(("registers", "stack", "shared", "local"), map(int, numbers), strict=True))
        rows.append({"symbol": symbol, "target": arch, **sizes})
    for row, (file, name) in zip(rows, _readable([row["symbol"] for row in rows]), strict=True):
        row.update(file=file, kernel=name)
    return rows


def add_instructions(tool: Path, file: Path, rows: Sequence[dict[str, Any]], target: str | None = None) -> None:
    """Count the instructions of the kernels of `rows`: all, those of tensor cores, loads and stores of spills."""
    wanted = [] if target else ["-fun", ",".join(sorted({row["symbol"] for row in rows}))]
    counts: dict[tuple[str, str], dict[str, int]] = {}
    arch, own = target, {}
    for line in _run(tool, "-sass", *wanted, file).splitlines():
        if heading := _HEADING.match(line):
            if heading[1]:
                arch = target or heading[1]
            else:
                own = counts.setdefault((str(arch), heading[2]), {})
        elif instruction := _INSTRUCTION.match(line):
            own[instruction[1]] = own.get(instruction[1], 0) + 1
    for row in rows:
        own = counts[row["target"], row["symbol"]]
        row.update({name: own.get(kind, 0) for kind, name in _SPILLS.items()})
        row["tensor"] = {kind: own[kind] for kind in TENSOR if kind in own}
        row["instructions"] = sum(own.values())


def _run(tool: Path, *arguments: str | Path) -> str:
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _readable(symbols: Iterable[str]) -> list[tuple[str, str]]:
    """(CUDA file or "", name without namespaces and parameters) of mangled names."""
    symbols = list(symbols)
    names = symbols
    filt = shutil.which("c++filt")
    if filt and symbols:
        done = subprocess.run([filt], input="\n".join(symbols), capture_output=True, text=True, check=True)
        names = done.stdout.splitlines()
    # an anonymous namespace is called after its file and a number: _GLOBAL__N__0a1b2c3d_7_rope_cu_4e5f...
    files = [re.search(r"_GLOBAL__N__[0-9a-f]+_\d+_(\w+?)_cu_", symbol) for symbol in symbols]
    short = (re.sub(r"\(anonymous namespace\)::|illume_fast::cuda::|^void ", "", name) for name in names)
    return [
        (f"{file[1]}.cu" if file else "", re.sub(r"\(.*$", "", name)) for file, name in zip(files, short, strict=True)
    ]
