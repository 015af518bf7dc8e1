import re

import pytest
import torch

from illume_fast import info
from illume_fast.kernels import native
from illume_fast.ops import use_backend


def test_report_names_versions_threads_and_every_backend():
    text = info.report()
    assert re.search(rf"torch +{re.escape(torch.__version__)}", text)
    assert re.search(rf"threads +{torch.get_num_threads()} ", text)
    for backend, state in info.backends().items():
        assert re.search(rf"^  {backend} +{re.escape(state)}$", text, re.MULTILINE)
        assert state.startswith(("ready", "missing: "))
        assert "\n" not in state


def test_report_tells_the_forced_backend():
    with use_backend("reference"):
        assert re.search(r"forced backend +reference", info.report())


def test_without_the_extension_the_reason_stands_for_cpu_and_cuda(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "_C", None)
    monkeypatch.setattr(native, "missing", "the compiler failed when this was built: no such header")
    for backend in ("cpu", "cuda"):
        assert info.backends()[backend] == "missing: the compiler failed when this was built: no such header"


def test_the_active_instruction_set_is_named(isa: str):
    assert info.backends()["cpu"].startswith(f"ready: {isa} ")
