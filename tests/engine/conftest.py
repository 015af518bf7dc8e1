"""After every test, the engines it made hold no pages but those kept for later prompts, and give these back as well."""

import weakref

import pytest

from illume_fast.engine import Engine


@pytest.fixture(autouse=True)
def pages_come_back(monkeypatch):
    engines = []
    make = Engine.__init__

    def noted(self, *args, **kwargs):
        make(self, *args, **kwargs)
        engines.append(weakref.ref(self))

    monkeypatch.setattr(Engine, "__init__", noted)
    yield
    for engine in filter(None, (ref() for ref in engines)):
        engine.check()
        engine.clear()
        assert engine.cache.pool.num_free == engine.cache.capacity
