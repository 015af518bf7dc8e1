"""Files import only from the layers below: kernels <- ops <- model <- data <- engine <- integrations <- the rest."""

import ast
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "illume_fast"

# what each layer may import, besides itself; None: everything
ALLOWED = {
    "kernels": set(),
    "ops": {"kernels"},
    "bench": {"diffusion", "pipeline", "tasks", "integrations", "engine", "data", "model", "ops", "kernels"},
    "model": {"ops", "kernels"},
    "data": {"model", "ops"},
    "diffusion": {"data", "model", "ops"},
    "engine": {"data", "model", "ops", "kernels"},
    "training": {"data", "model", "ops"},
    "integrations": {"jobs", "pipeline", "tasks", "engine", "ops", "model", "data"},
    "evaluation": {"engine", "data", "model", "ops"},
    "info": {"ops", "kernels"},
    "tasks": {"engine", "data", "model", "ops"},
    "assembly": {"data", "model"},
    "decoding": {"data", "model", "ops"},
    "decoders": {"decoding", "diffusion", "data", "model"},
    "partials": {"decoding", "data"},
    "records": {"tasks", "data", "model"},
    "outcome": {"records", "tasks", "engine", "data"},
    "drafts": {"outcome", "partials", "decoding", "tasks", "engine", "data"},
    "stream": {"drafts", "records", "outcome", "decoding", "tasks", "engine", "data", "model"},
    "pipeline": {
        *("seeds", "stream", "drafts", "records", "outcome", "decoders", "decoding", "diffusion", "tasks"),
        *("engine", "evaluation", "data", "model", "ops"),
    },
    "seeds": {"engine", "data"},
    "convert": {"data", "model"},
    "jobs": {
        "pipeline",
        "records",
        "outcome",
        "decoders",
        "decoding",
        "diffusion",
        "tasks",
        "engine",
        "data",
        "model",
        "ops",
    },
    "huggingface": {"pipeline", "stream", "decoders", "seeds", "decoding", "tasks", "engine", "data", "model", "ops"},
    "commands": None,
    "cli": None,
}
FOLDERS = ("kernels", "bench")  # packages of illume_fast that lie at the top
FILES = sorted([*PACKAGE.rglob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])


def layer_of(module: str) -> str | None:
    """The layer of "illume_fast.ops.swiglu" is "ops"; None for the package itself and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "illume_fast" and len(parts) > 1 else None


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports, wherever in it, function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            assert all(alias.name != "*" for alias in node.names), f"{path}: wildcard import"
            found |= {
                f"{node.module}.{alias.name}" if node.module == "illume_fast" else node.module for alias in node.names
            }
    return found


def home_of(path: Path) -> str:
    top = path.relative_to(ROOT).parts
    return top[0] if top[0] in FOLDERS else top[1].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    home = home_of(path)
    if home == "__init__":
        assert not {name for name in imports_of(path) if layer_of(name)}, "illume_fast/__init__.py loads torch alone"
        return
    assert home in ALLOWED, f"{home}: a new layer; say in this test what it may import"
    allowed = ALLOWED[home]
    for module in imports_of(path):
        layer = layer_of(module)
        if layer in (None, home) or allowed is None:
            continue
        assert layer in allowed or layer == "__version__", f"{home} must not import {module}"


def test_training_and_engine_do_not_know_each_other():
    assert "engine" not in ALLOWED["training"]
    assert "training" not in ALLOWED["engine"]


def test_a_wrong_import_is_found(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "def f():\n    from illume_fast.engine.plan import Plan\n    import illume_fast.cli\n", encoding="utf-8"
    )
    assert {layer_of(name) for name in imports_of(wrong)} == {"engine", "cli"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle(path):
    assert not {"pickle", "shelve", "dill", "cloudpickle"} & {name.split(".")[0] for name in imports_of(path)}
