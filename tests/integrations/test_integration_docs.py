"""The example of docs/integrations.md, on a small model."""

import re

from janus_cases import SHAPE
from support import ROOT

BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


def test_the_example(model, prompts, capsys):
    loading, using = BLOCKS
    compile(loading, "docs/integrations.md", "exec")
    before = set(vars(model))
    names = {"model": model, "inputs": prompts}
    exec(using, names)
    assert names["tokens"].shape == (4 * len(prompts["input_ids"]), SHAPE.image_tokens)
    assert names["pictures"].shape[0] == len(names["tokens"])
    assert "our decoder over the same parameters" in capsys.readouterr().out
    assert set(vars(model)) == before
