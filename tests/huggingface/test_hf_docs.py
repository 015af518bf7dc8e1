"""The examples of docs/huggingface.md, in order, as one program; and what the page says of the measured table."""

import re

import pytest
from support import ROOT

from illume_fast.model.checkpoint import DEMO

PAGE = (ROOT / "docs" / "huggingface.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo model is not there")
def test_the_examples(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "docs/huggingface.md", "exec"), names)
    assert capsys.readouterr().out.strip()
    assert names["heart"].size == names["star"].size == names["blue"].size == (64, 64)
    assert names["heart"].tobytes() != names["blue"].tobytes()
    assert names["hidden"].shape == (1, 8, 256)
    assert len(names["processor"].post_process_images(names["ids"])) == 2


def test_every_file_that_is_named_exists():
    named = re.findall(r"\]\(((?!http)[^)]+)\)", PAGE)
    assert named
    assert not [name for name in named if not (ROOT / "docs" / name).exists()]
