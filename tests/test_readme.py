"""Every command and every piece of code in README.md is run, and every file it names exists."""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from support import ROOT

from illume_fast.bench.report import with_tables
from illume_fast.bench.table import generation_table, read_rows, table
from illume_fast.cli import main
from illume_fast.commands.train import STAGES
from illume_fast.model.checkpoint import DEMO

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
# the demo model belongs to the package; only while it is being trained is there none
needs_demo = pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo model is not there")


def commands(kind):
    """The commands of the shell blocks that begin with the word `kind`, in order."""
    lines = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [command for command in found if command and command[0] == kind]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with the examples in it, as the current one."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_block_is_left_out():
    assert {language for language, _ in BLOCKS} == {"sh", "python"}
    shell = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines() if line]
    assert len(shell) == len(commands("make")) + len(commands("illume-fast"))


@pytest.mark.parametrize("command", commands("make"), ids=" ".join)
def test_make_knows_its_targets(command):
    """Which commands make would run; that they work is what CI and the packaging tests show."""
    done = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "illume-fast generate examples/prompts.txt" in done.stdout or "pytest" in done.stdout


@needs_demo
def test_the_commands_in_order(folder, capsys):
    for program, *arguments in commands("illume-fast"):
        assert main(arguments) == 0, f"{program} {' '.join(arguments)}: {capsys.readouterr().err}"
    assert Path("edited/contact_sheet.png").exists()
    assert len(list(Path("pictures/images").iterdir())) == 32 + 1


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"], ids=["pipeline", "ops"])
def test_the_python(code, folder, capsys):
    if '"demo"' in code and not (DEMO / "config.json").exists():
        pytest.skip("the demo model is not there")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    if "tokens" in names:
        assert names["ids"].shape == (1024,)
        assert names["tokens"].shape == (64,)
    else:
        assert names["green"].size == names["apple"].size == (64, 64)
        assert capsys.readouterr().out.strip()


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`((?:illume_fast|kernels|csrc|examples|docs|bench)/[\w./]+)`", README))
    named |= set(re.findall(r"\]\(((?!http)[^)]+)\)", README))
    assert len(named) > 10
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing


def test_the_number_of_training_stages():
    trained = [stage for stage in STAGES if stage not in ("publish",)]
    words = {3: "three", 4: "four", 5: "five"}
    assert f"{words[len(trained)]} stages, one command each" in README


@needs_demo
def test_the_scores_are_those_of_the_model_card():
    card = (DEMO / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in card if re.match(r"\| (train|val|val_combo) \|", line)]
    assert rows
    for row in rows:
        assert row in README.splitlines(), f"README.md lacks, or has changed: {row}"


def test_the_measured_tables_are_those_of_the_results():
    """`illume-fast bench report bench/results/cpu/*.jsonl --out bench/results/cpu --tables README.md` draws them."""
    folder = ROOT / "bench" / "results" / "cpu"
    rows = [row for file in sorted(folder.glob("*.jsonl")) for row in read_rows(file)]
    assert README == with_tables(README, rows)
    assert README.count("| `nearest_code` |") > 5
    page = (folder / "README.md").read_text(encoding="utf-8")
    for line in (*table(rows), *generation_table(rows)):
        assert line in page, f"bench/results/cpu/README.md lacks what its files say: {line}"


@needs_demo
def test_the_gallery(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gallery.py", "gallery"])
    runpy.run_path("examples/gallery.py", run_name="__main__")
    sizes = {path.stem: Image.open(path).size for path in Path("gallery").iterdir()}
    assert sizes.keys() == {"drawn", "edited", "named"}
    assert min(min(size) for size in sizes.values()) > 200
