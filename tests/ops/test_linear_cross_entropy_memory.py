"""What the loss needs beside its inputs, against the plain loss; each in a process of its own."""

import subprocess
import sys

import pytest

from illume_fast.kernels import native

PROGRAM = """
import sys
import torch
import torch.nn.functional as F
from illume_fast.ops import linear_cross_entropy

def bytes_of(field):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024

form, rows, vocabulary, width = sys.argv[1], *map(int, sys.argv[2:])
x = torch.randn(rows, width).mul_(0.1).bfloat16().requires_grad_()
weight = torch.empty(vocabulary, width, dtype=torch.bfloat16).uniform_(-0.1, 0.1).requires_grad_()
labels = torch.randint(0, vocabulary, (rows,))
before = bytes_of("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # from here on the peak counts
if form == "ours":
    loss = linear_cross_entropy(x, weight, labels)
else:
    loss = F.cross_entropy(F.linear(x, weight).float(), labels)
loss.backward()
print(float(loss), bytes_of("VmHWM") - before)
"""


def measure(form, *sizes):
    """(loss, bytes at the peak of forward and backward, over x, weight and labels)."""
    command = [sys.executable, "-c", PROGRAM, form, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loss, peak = done.stdout.split()
    return float(loss), int(peak)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.skipif(native.missing is not None, reason=str(native.missing))
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((4096, 49152, 64), id="small"),
        # ILLUME+ 3B; the plain loss takes 16 GB
        pytest.param((4096, 283047, 2048), id="illume-plus-3b", marks=pytest.mark.slow),
    ],
)
def test_peak_is_an_eighth_of_the_plain_loss(sizes):
    (plain_loss, plain), (loss, peak) = measure("plain", *sizes), measure("ours", *sizes)
    print(f"T, V, H {sizes}: {peak / 1e6:.0f} MB, plain {plain / 1e6:.0f} MB, 1 / {plain / peak:.1f}")
    assert loss == pytest.approx(plain_loss, rel=0.01)
    assert peak <= plain / 8
