"""Random calls of codebook search and statistics."""

import torch
from random_inputs import DTYPES, Random
from random_tolerance import assert_within, exact
from support import DEVICE

from illume_fast.ops import PackedCodebook, code_statistics, nearest_code


def check_nearest_code(r: Random) -> None:
    dtype, size, metric = r.choice(DTYPES), r.size(70, huge=2000), r.choice(("l2", "cosine", "dot"))
    vectors, codes = r.size(40), max(1, r.size(huge=20_000 if size < 40 else 0))
    x = r.values(vectors, size, dtype=dtype)
    book = r.values(codes, size, dtype=r.choice(DTYPES))
    if r.chance(0.2) and size:  # hardly to be told apart
        noise = torch.randn(codes, size, generator=r.gen)
        book = (book[:1].float() + 1e-6 * noise.to(DEVICE)).to(book.dtype)
    if r.chance(0.2):
        book = book[r.integers(0, codes, codes).to(DEVICE)]  # equal codes
    if r.chance(0.1) and vectors:  # vectors that are codes
        x = book[r.integers(0, codes, vectors).to(DEVICE)].to(dtype)
    ids = nearest_code(x, PackedCodebook(book, metric) if r.chance(0.3) else book, metric).cpu()
    a, b = exact(x), exact(book)
    usable, good = b.isfinite().all(1), a.isfinite().all(1)
    assert torch.equal(ids < 0, ~good | ~usable.any())
    for row in (ids >= 0).nonzero()[:, 0].tolist():
        code = int(ids[row])
        assert usable[code]
        if metric == "l2":
            far = (a[row] - b).square().sum(1)
        else:
            far = -(b @ a[row])
            if metric == "cosine":
                far = torch.where(b.norm(dim=1) > 0, far / b.norm(dim=1).clamp_min(1e-300), 0.0)
        far = torch.where(usable, far, torch.inf)
        slack = 1e-12 * (far[usable].abs().amax() + far.min().abs())
        if metric != "l2":  # products may cancel, and then agree to within the rounding of their terms
            longest = b[usable].norm(dim=1).amax() if metric == "dot" else 1.0
            slack += (size + 8) * 2**-51 * a[row].norm() * longest
        assert far[code] <= far.min() + slack, f"code {code} at {far[code]}, the nearest is at {far.min()}"
        same = (b == b[code]).all(1).nonzero()[0, 0] if size else 0
        assert code == int(same), "an equal code has a lower id"


def check_code_statistics(r: Random) -> None:
    rows, size, codes = r.size(huge=20_000), r.size(70), max(1, r.size(40, huge=3000))
    x = r.values(rows, size, dtype=r.choice(DTYPES), special=False)
    ids = r.integers(-1, codes, rows)
    counts, sums = code_statistics(x, ids.to(DEVICE), codes)
    wide = exact(x)
    expected, scale = (
        torch.zeros(codes + 1, size, dtype=torch.float64).index_add_(0, ids + 1, t)[1:] for t in (wide, wide.abs())
    )
    assert torch.equal(counts.double().cpu(), torch.bincount(ids + 1, minlength=codes + 1)[1:].double())
    assert_within(sums, expected, torch.where(scale < 1e37, 2**-23 * scale + 1e-37, torch.inf))
