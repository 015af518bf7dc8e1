"""The accounts that every test ends with do notice what is wrong."""

import pytest
from engine_cases import ask, small_engine


@pytest.fixture
def accounts(page_accounts):
    yield page_accounts
    page_accounts.faults.clear()


def leak(engine) -> int:
    sequence = engine.cache.pool.new()
    engine.cache.pool.append(sequence, 9)
    return sequence


def test_a_leak_of_an_engine_that_lives_is_noticed(accounts):
    engine = small_engine()
    leaked = leak(engine)
    assert any("never freed" in fault and "they hold 3 pages" in fault for fault in accounts.settle())
    engine.cache.pool.free(leaked)
    assert accounts.settle() == []


def test_a_leak_of_an_engine_that_is_gone_is_noticed(accounts):
    leak(small_engine())
    (fault,) = accounts.settle()
    assert "they hold 3 pages" in fault


def test_an_engine_left_at_work_is_noticed(accounts):
    engine = small_engine()
    answers = engine.generate([ask(1), ask(2)])
    next(answers)
    assert accounts.settle() == ["an engine is still generating"]
    answers.close()
    assert accounts.settle() == []
