"""The host waits for the device in one place, `Fetch.ids`, and for what it asked for a step before."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_cases import PICTURE, SMALL, TEXT, ask, features_of, run, small_engine, small_model
from support import DEVICE, ROOT

from illume_fast.engine.transfer import Fetch, send, sent

ENGINE = ROOT / "illume_fast" / "engine"
# what copies between host and device, or waits for it
COPIES = {"cpu", "cuda", "from_numpy", "item", "numpy", "pin_memory", "synchronize", "to"}
ALLOWED = {
    "transfer.py": COPIES,
    "arena.py": {"from_numpy"},  # memory of the CPU's recordings
    "cache.py": {"from_numpy"},  # the cache of a CPU
    "clock.py": {"synchronize"},  # for events of steps that are over
    "invariance.py": {"to"},  # measured once, before anything is drawn
    "reading.py": {"to"},  # features to the type of the embeddings
}


@pytest.mark.parametrize("path", sorted(ENGINE.glob("*.py")), ids=lambda path: path.name)
def test_all_copies_are_in_one_place(path: Path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    called = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)}
    assert called & COPIES <= ALLOWED.get(path.name, set())
    given = {keyword.arg for node in calls for keyword in node.keywords}
    assert path.name == "transfer.py" or "non_blocking" not in given
    makes = {"tensor", "as_tensor", "asarray"}
    assert not any(
        isinstance(node.func, ast.Attribute) and node.func.attr in makes and {k.arg for k in node.keywords} & {"device"}
        for node in calls
    ), "a tensor made on the device from values of the host"


def test_what_was_sent_arrives_and_comes_back():
    device = torch.device(DEVICE)
    values = np.arange(12, dtype=np.int64).reshape(3, 4)
    there = sent(values, device)
    assert there.device.type == DEVICE
    wide = torch.zeros(3, 6, dtype=torch.int64, device=device)
    send(values, wide[:, 1:5])
    wide[:, 1:5] += there
    fetched = Fetch(wide[1])
    wide.zero_()  # comes behind the copy
    assert fetched.ids().tolist() == [0, 8, 10, 12, 14, 0]
    assert torch.equal(sent(torch.ones(3), device).cpu(), torch.ones(3))


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU, on which there is something to wait for")
def test_nothing_else_is_waited_for():
    """Prompts, pictures of the host, steps that guess and parts of answers; shapes have been met before."""
    model = small_model().cuda()
    engine = small_engine(model, speculative=3, speculative_tokens=12)
    asked = [ask(i, plan=(PICTURE, TEXT, SMALL)[i % 3], guidance=1.0 + i % 2, partial_every=4) for i in range(9)]
    asked.append(ask(20, prompt=(features_of("a", 9),)))
    expected, shown = run(engine, asked), []
    engine.clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = list(engine.generate(asked, on_partial=shown.append))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {(r.request.id, r.sample): r.ids.tolist() for r in found} == expected
    assert shown
