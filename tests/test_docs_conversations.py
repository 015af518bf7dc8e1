"""The examples of docs/conversations.md run with the demo model."""

import re

import pytest
from PIL import Image
from support import ROOT

from illume_fast.model.checkpoint import DEMO

PAGE = (ROOT / "docs" / "conversations.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo model is not there")
def test_the_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(CODE, "docs/conversations.md", "exec"), names)
    assert Image.open("green.png").size == (64, 64)
    assert names["answer"].text in capsys.readouterr().out
    assert len(names["turns"]) == 5


def test_settings_that_are_named_exist():
    from illume_fast.pipeline import Converse

    fields = set(Converse.__dataclass_fields__)
    named = set(re.findall(r"`(\w+)=", PAGE)) - {"images"}
    assert named == {"answer", "size", "keep", "as_is", "restore", "max_pixels"} <= fields
