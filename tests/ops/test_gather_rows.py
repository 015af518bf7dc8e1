import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import gather_rows, use_backend

BACKENDS = backend_names(gather_rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_any_type(backend, dtype):
    table = torch.randint(0, 2, (7, 5)).to(DEVICE, dtype)
    index = torch.tensor([[6, 0, -1], [3, 3, -9]], device=DEVICE)
    skip_unless_runs(gather_rows, backend, table, index)
    with use_backend(backend):
        rows = gather_rows(table, index)
    assert rows.dtype == dtype
    assert rows.is_contiguous()
    assert torch.equal(rows, torch.where(index[..., None] < 0, torch.zeros((), dtype=dtype), table[index.clamp(min=0)]))


@given(rows=st.integers(1, 9), width=st.integers(0, 70), index=st.lists(st.integers(-2, 8), max_size=40))
def test_any_shape_and_stride(rows, width, index):
    wide = torch.randn(rows, width + 3, device=DEVICE)
    numbers = torch.tensor([min(i, rows - 1) for i in index], dtype=torch.int64, device=DEVICE)
    for table in (wide[:, 2 : 2 + width], wide.T[:rows]):
        clipped = numbers.clamp(max=len(table) - 1)
        expected = torch.where(clipped[:, None] < 0, 0, table[clipped.clamp(min=0)])
        for backend in backends_here(gather_rows):
            if next(c for c in gather_rows.choices if c.name == backend).declines(table, clipped) is None:
                with use_backend(backend):
                    assert torch.equal(gather_rows(table, clipped), expected)


def test_many_rows_by_all_threads():
    table = torch.randn(50, 4000, device=DEVICE)
    index = torch.randint(0, 50, (999,), device=DEVICE)
    assert torch.equal(gather_rows(table, index), table[index])


def test_bad_arguments_are_named():
    table = torch.randn(4, 3)
    with pytest.raises(RuntimeError, match=r"must be \[N, W\] and int64"):
        gather_rows(table, torch.tensor([1], dtype=torch.int32))
    with pytest.raises(RuntimeError, match=r"must be \[N, W\] and int64"):
        gather_rows(table[0], torch.tensor([1]))
    with pytest.raises((RuntimeError, IndexError)):
        gather_rows(table, torch.tensor([0, 4]))
    with pytest.raises(RuntimeError, match="the table has no rows"):
        gather_rows(table[:0], torch.tensor([0]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    args = torch.randn(4, 3, device=DEVICE), torch.tensor([3, -1], device=DEVICE)
    skip_unless_runs(gather_rows, backend, *args)
    with use_backend(backend):
        torch.library.opcheck(gather_rows.overload, args)


def test_compiles_without_graph_breaks():
    args = torch.randn(4, 3, device=DEVICE), torch.tensor([3, -1], device=DEVICE)
    compiled = torch.compile(lambda *a: gather_rows(*a) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), gather_rows(*args) + 1)
