"""Shared fixtures of the tests: poisoned memory, the page accounts of every engine, every instruction set, and where
recorded data lies.

Test files and helpers have unique names, since tests/ is no package. What they import is in support.py.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from support import ROOT

from illume_fast.engine import Engine
from illume_fast.kernels import native

hypothesis.settings.register_profile(
    "default",
    deadline=None,
    max_examples=30,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def poisoned_allocations() -> Iterator[None]:
    """Fresh memory is NaN, so a kernel that leaves an element unwritten fails its test."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


class PageAccounts:
    """Every engine of this process: those that live, and what was wrong with those that are gone."""

    def __init__(self) -> None:
        self.engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self.faults: list[str] = []

    def note(self, engine: Engine) -> None:
        self.engines.add(engine)
        # what a test has made and dropped is audited as it goes
        weakref.finalize(engine, self.audit, engine.cache, engine._machine.store).atexit = False

    def audit(self, cache: Any, store: Any) -> None:
        """No pages are held but by prompts kept for later ones, and those give theirs back as well."""
        try:
            cache.check(store.kept)
            store.clear()
            if cache.pool.num_free != cache.capacity:
                raise RuntimeError(
                    f"{cache.capacity - cache.pool.num_free} pages of {cache.capacity} did not come back"
                )
        except RuntimeError as error:
            self.faults.append(str(error))

    def settle(self) -> list[str]:
        """What is wrong with any engine since this was last asked for."""
        for engine in list(self.engines):
            if engine._run is None:
                self.audit(engine.cache, engine._machine.store)
            else:
                self.faults.append("an engine is still generating")
        faults, self.faults = self.faults, []
        return faults


@pytest.fixture(scope="session", autouse=True)
def page_accounts() -> Iterator[PageAccounts]:
    """Notes every engine, those of module-wide fixtures among them."""
    accounts, make = PageAccounts(), Engine.__init__

    def noted(self: Engine, *args: Any, **rest: Any) -> None:
        make(self, *args, **rest)
        accounts.note(self)

    Engine.__init__ = noted  # type: ignore[method-assign]
    yield accounts
    Engine.__init__ = make  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def pages_come_back(page_accounts: PageAccounts) -> Iterator[None]:
    """After every test, whatever it was about, the pages of all engines are accounted for."""
    yield
    assert page_accounts.settle() == []


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for every instruction set of the CPU kernels, forced; skips those this CPU lacks."""
    if request.param not in native.isas():
        pytest.skip(native.missing or f"this CPU has {', '.join(native.isas())}, not {request.param}")
    with native.use_isa(request.param):
        yield request.param


def _folder(variable: str, default: str, name: str) -> Path:
    base = Path(os.environ.get(variable) or ROOT / default)
    if not (base / name).is_dir():
        pytest.skip(f"{base / name} is absent; {variable} names the folder that holds {name}")
    return base / name


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """golden("dualvitok_tiny") is the folder of that recorded case; skips where it is absent."""
    return lambda name: _folder("ILLUME_FAST_GOLDEN", "../shared/golden", name)


@pytest.fixture
def dataset() -> Callable[[str], Path]:
    """dataset("noto_emoji") is the folder of that data set; skips where it is absent."""
    return lambda name: _folder("ILLUME_FAST_DATA", "../shared/data", name)
