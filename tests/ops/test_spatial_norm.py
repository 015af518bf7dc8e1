import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, skip_unless_runs

from illume_fast.ops import spatial_norm, use_backend

BACKENDS = backend_names(spatial_norm)
GRIDS = [
    pytest.param((8, 8), (8, 8), id="a-code-a-pixel"),
    pytest.param((32, 32), (8, 8), id="cells"),
    pytest.param((12, 70), (4, 7), id="oblong"),
    pytest.param((1, 1), (1, 1), id="one-pixel"),
    pytest.param((9, 11), (4, 4), id="no-multiple"),
]


def inputs(size, cells, batch=2, channels=64, seed=0, apart=0):
    """x, weight, bias, scale and shift; the last two are spans of a wider map where `apart` is not 0."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    wide = randn(batch, 2 * channels + apart, *cells).contiguous(memory_format=torch.channels_last)
    x = 2 * randn(batch, channels, *size) + 3 * randn(batch, channels, 1, 1)
    scale, shift = wide[:, :channels], wide[:, channels + apart :]
    return x, 1 + randn(channels), randn(channels), scale, shift


def in_double(args, groups=32, eps=1e-6, silu=False):
    x, weight, bias, scale, shift = (a.double() for a in args)
    rows = (torch.arange(x.shape[2]) * scale.shape[2]).div(x.shape[2], rounding_mode="floor")
    columns = (torch.arange(x.shape[3]) * scale.shape[3]).div(x.shape[3], rounding_mode="floor")
    scale, shift = (m[:, :, rows][:, :, :, columns] for m in (scale, shift))
    out = F.group_norm(x, groups, weight, bias, eps) * scale + shift
    return F.silu(out) if silu else out


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("size", "cells"), GRIDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, size, cells, silu):
    args = inputs(size, cells, apart=5)
    skip_unless_runs(spatial_norm, backend, *args, 32)
    with use_backend(backend):
        actual = spatial_norm(*args, 32, silu=silu)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert_matches(actual, in_double(args, silu=silu), "eager")


def test_every_instruction_set(isa):
    args = [a.cpu() for a in inputs((8, 12), (4, 4), channels=36)]
    with use_backend("cpu"):
        assert_matches(spatial_norm(*args, 12, silu=True), in_double(args, groups=12, silu=True), isa)


@given(
    cell=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    cells=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    batch=st.integers(1, 3),
    width=st.integers(1, 5),
    groups=st.integers(1, 9),
    layout=st.sampled_from(["last", "first", "turned"]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_stride(cell, cells, batch, width, groups, layout, seed):
    size = cell[0] * cells[0] + 1, cell[1] * cells[1]
    cells = (cells[0] * cell[0] + 1, cells[1]) if seed % 2 else (1, 1)
    args = inputs(size, cells, batch, width * groups, seed)
    if layout != "first":
        args = [a.contiguous(memory_format=torch.channels_last) if a.dim() == 4 else a for a in args]
    if layout == "turned":
        args = [a.flip(0).transpose(2, 3).contiguous().transpose(2, 3) if a.dim() == 4 else a for a in args]
    with use_backend("cpu"):
        actual = spatial_norm(*args, groups)
    # a group of few values has a small variance now and then, and large quotients with it
    expected = in_double(args, groups)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4 * (1 + float(expected.abs().max())))


def test_company_and_threads_change_no_bit():
    args = inputs((32, 24), (8, 8), batch=3)
    with use_backend("cpu"):
        together = spatial_norm(*args, 32, silu=True)
        parts = [a.split(1) if a.dim() == 4 else [a] * 3 for a in args]
        apart = torch.cat([spatial_norm(*one, 32, silu=True) for one in zip(*parts, strict=True)])
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            shared = spatial_norm(*args, 32, silu=True)
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(together, apart)
    assert torch.equal(together, shared)


def test_a_large_mean_costs_no_digits():
    x, *rest = inputs((16, 16), (4, 4))
    x = x / 100 + 1000
    with use_backend("cpu"):
        error = (spatial_norm(x, *rest, 32).double() - in_double((x, *rest))).abs().max()
    with use_backend("reference"):
        plain = (spatial_norm(x, *rest, 32).double() - in_double((x, *rest))).abs().max()
    assert error < 0.1
    assert error <= 2 * plain + 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_group_alone(value):
    args = inputs((8, 8), (8, 8))
    clean = spatial_norm(*args, 32)
    args[0][1, 5, 3, 3] = value
    spoilt = spatial_norm(*args, 32)
    assert spoilt[1, 4:6].isnan().all()
    spoilt[1, 4:6] = clean[1, 4:6]
    assert torch.equal(spoilt, clean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    args = inputs((8, 8), (4, 4))
    skip_unless_runs(spatial_norm, backend, *args, 32)
    with use_backend(backend):
        torch.library.opcheck(spatial_norm.overload, (*args, 32, 1e-6, True))


def test_bad_arguments_name_both_values():
    x, weight, bias, scale, shift = inputs((8, 8), (4, 4))
    for args, reason in (
        ((x[0], weight, bias, scale, shift, 32), r"x has shape \(64, 8, 8\), it must be \[B, C, H, W\]"),
        ((x, weight, bias, scale, shift, 5), "64 channels do not make 5 groups"),
        ((x, weight[:3], bias, scale, shift, 32), r"weight has shape \(3,\), it must be \[64\]"),
        ((x, weight, bias, scale[:1], shift, 32), r"scale has shape \(1, 64, 4, 4\)"),
        ((x, weight, bias, scale, shift[:, :, :2], 32), r"shift has shape \(2, 64, 2, 4\)"),
        ((x, weight.double(), bias, scale, shift, 32), "dtypes torch.float32 and torch.float64 differ"),
        ((*(a.long() for a in (x, weight, bias, scale, shift)), 32), "not a floating-point type"),
    ):
        with pytest.raises(RuntimeError, match=f"spatial_norm: .*{reason}"):
            spatial_norm(*args)


def test_compiles_without_graph_breaks():
    args = inputs((8, 8), (4, 4))
    compiled = torch.compile(lambda *a: spatial_norm(*a, 32) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), spatial_norm(*args, 32) + 1)
