import importlib
import os
import pkgutil
import subprocess
import sys
import threading

import pytest
import torch
from torch import Tensor

from illume_fast import ops
from illume_fast.ops import swiglu, use_backend
from illume_fast.ops.dispatch import Backend, declare


def scale_reference(x: Tensor, factor: float = 2.0) -> Tensor:
    return x * factor


def fill_reference(out: Tensor, value: float) -> None:
    out.fill_(value)


calls: list[str] = []


def scale_fast(x, factor):
    calls.append("fast")
    return x * factor


def check_scale(x, factor):
    if x.dim() == 0:
        raise RuntimeError("test_scale: x has no axes")


scale = declare(
    "test_scale",
    scale_reference,
    Backend("fast", scale_fast, lambda x, factor: "odd sizes are not for me" if x.numel() % 2 else None),
    check=check_scale,
    fake=lambda x, factor: torch.empty_like(x),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "factor", inputs[1]),
    backward=lambda ctx, grad: (scale(grad, ctx.factor), None),
)
fill = declare("test_fill", fill_reference, check=lambda *args: None, fake=lambda *args: None, mutates=("out",))


@pytest.fixture(autouse=True)
def forget_calls():
    calls.clear()


def test_first_accepting_backend_runs():
    assert scale(torch.ones(2), 3.0).tolist() == [3, 3]
    assert calls == ["fast"]
    assert scale(torch.ones(3), 3.0).tolist() == [3, 3, 3]
    assert calls == ["fast"]


def test_defaults_and_keywords():
    x = torch.ones(2)
    assert scale(x).tolist() == [2, 2]
    assert scale(x=x, factor=4.0).tolist() == [4, 4]
    with pytest.raises(TypeError, match="test_scale: argument 'x' is missing"):
        scale()
    with pytest.raises(TypeError, match="test_scale: argument 'speed' unknown; the arguments are x, factor"):
        scale(x, speed=1)
    with pytest.raises(TypeError, match="test_scale: argument 'x' got twice"):
        scale(x, x=x)
    with pytest.raises(TypeError, match=r"test_scale: takes 2 arguments \(x, factor\), got 3"):
        scale(x, 1.0, 2.0)


@pytest.mark.parametrize("needs_grad", [False, True])
def test_forced_backend_runs_or_says_why(needs_grad):
    x = torch.ones(3, requires_grad=needs_grad)
    with use_backend("reference"):
        scale(torch.ones(2, requires_grad=needs_grad))
    assert calls == []
    with use_backend("fast"), pytest.raises(RuntimeError, match="test_scale: backend 'fast' cannot run: odd sizes"):
        scale(x)
    with use_backend("tpu"), pytest.raises(RuntimeError, match="unknown backend 'tpu'; choose one of fast, reference"):
        scale(x)
    with use_backend("tpu"), use_backend(None):
        scale(x)


def test_environment_forces_a_backend():
    code = "import torch; from illume_fast.ops import swiglu; swiglu(torch.ones(2), torch.ones(2))"
    env = {**os.environ, "ILLUME_FAST_BACKEND": "tpu"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "unknown backend 'tpu'; choose one of" in result.stderr


@pytest.mark.parametrize("mode", ["eager", "grad", "fake"])
def test_check_guards_every_path(mode):
    x = torch.ones((), requires_grad=mode == "grad")
    context = torch._subclasses.FakeTensorMode() if mode == "fake" else torch.enable_grad()
    with context, pytest.raises(RuntimeError, match="no axes"):
        scale(torch.ones(()) if mode == "fake" else x)


def test_forced_backend_holds_in_backward_on_another_thread():
    x = torch.ones(2, requires_grad=True)
    with use_backend("reference"):
        y = scale(x).sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    assert x.grad.tolist() == [2, 2]
    assert calls == []
    scale(x).sum().backward()
    assert calls == ["fast", "fast"]


def test_gradients_pass_through_inference_and_no_grad():
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert not scale(x).requires_grad
    with torch.inference_mode():
        assert scale(torch.ones(2)).is_inference()
    assert scale(x).requires_grad


def test_parameters_and_subclasses_follow_their_own_rules():
    class Loud(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return super().__torch_function__(func, types, args, kwargs or {})

    scale(torch.ones(2).as_subclass(Loud))
    assert calls[0] == "illume_fast.test_scale.default"
    assert scale(torch.nn.Parameter(torch.ones(2))).requires_grad


def test_modes_see_the_op():
    seen = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2)
    with Spy():
        scale(x)
    assert scale.overload in seen
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda t: scale(t))(x)
    assert scale.overload in [node.target for node in graph.graph.nodes]


def test_functorch_and_forward_mode_refuse_rather_than_lose_derivatives():
    x = torch.ones(2)
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda t: scale(t, 3.0).sum())(x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones(2))
        with pytest.raises(RuntimeError, match="test_scale: has no forward-mode derivative"):
            scale(dual)
        assert scale(x).tolist() == [2, 2]


def test_mutation_is_seen_by_autograd():
    out = torch.zeros(4)
    version = out._version
    fill(out, 3.0)
    assert out.tolist() == [3.0] * 4
    assert out._version > version

    x = torch.ones(4, requires_grad=True)
    buffer = torch.ones(4)
    y = (x * buffer).sum()
    fill(buffer, 2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()

    with torch.inference_mode():
        fill(torch.zeros(2), 1.0)


def test_registrations_pass_opcheck():
    torch.library.opcheck(scale.overload, (torch.randn(3, requires_grad=True), 2.0))
    torch.library.opcheck(fill.overload, (torch.zeros(3), 2.0))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic):
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=dynamic)
    def f(x):
        out = torch.zeros_like(x)
        fill(out, 2.0)
        return scale(x, factor=3.0) + out

    for n in (2, 4):
        x = torch.ones(n, requires_grad=True)
        y = f(x)
        assert y.tolist() == [5.0] * n
        y.sum().backward()
        assert x.grad.tolist() == [3.0] * n


def test_compiled_code_obeys_the_backend_forced_later():
    f = torch.compile(lambda x: scale(x, 3.0), fullgraph=True, backend="aot_eager")
    f(torch.ones(2))
    assert "fast" in calls
    calls.clear()
    with use_backend("reference"):
        f(torch.ones(2))
    assert calls == []


def test_exports():
    class Module(torch.nn.Module):
        def forward(self, gate, up):
            return swiglu(gate, up)

    program = torch.export.export(Module(), (torch.ones(2, 4), torch.ones(2, 4)))
    assert swiglu.overload in [node.target for node in program.graph.nodes]


def test_an_op_describes_itself():
    assert repr(scale) == "<op test_scale: fast, reference>"
    assert swiglu.__doc__.startswith("silu(gate) * up.")


def test_names_stand_for_ops_whatever_is_imported():
    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"illume_fast.ops.{module.name}")
    for name in ops.__all__:
        assert callable(getattr(ops, name)), name
