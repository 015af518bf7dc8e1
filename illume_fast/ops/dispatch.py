"""One rule for every op: the first backend that accepts the arguments runs them."""

import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter

# bound once: they are asked at every call
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_functorch_level = torch._C._functorch.peek_interpreter_stack
_jit_trace = torch._C._get_tracing_state

# most arguments are of these types, which is quicker to see than that they are no tensor
_PLAIN = frozenset({float, int, bool, str, type(None)})

_forced: ContextVar[str | None] = ContextVar("backend", default=os.environ.get("ILLUME_FAST_BACKEND") or None)


# how many dispatch modes of this thread the ops may run under as if there were none
_ignored = threading.local()


@dataclass(frozen=True)
class Backend:
    """A way to run an op. `declines` takes the op's arguments and returns why it cannot run them, or None."""

    name: str
    run: Callable[..., Any]
    declines: Callable[..., str | None]


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Run every op inside the block on the backend `name`; an op that cannot raises RuntimeError saying why.

    None leaves the choice to each op. The environment variable ILLUME_FAST_BACKEND sets the same for a whole process.
    """
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def ops_run_plainly() -> Iterator[None]:
    """Inside the block, the ops do not tell the dispatch modes that are active at its beginning of themselves.

    Such a mode sees what a backend asks of torch, and not the op as a whole.
    """
    before = getattr(_ignored, "modes", 0)
    _ignored.modes = _dispatch_modes()
    try:
        yield
    finally:
        _ignored.modes = before


def forced_backend() -> str | None:
    """The backend that `use_backend` or ILLUME_FAST_BACKEND asks for, or None."""
    return _forced.get()


class BackendError(RuntimeError):
    """The backend that was asked for cannot run these arguments, or there is none of that name."""


class Op:
    """An op with several backends, callable like the function `reference` it was declared with.

    `choices` lists its backends, fastest first, the reference last. `overload` is the `torch.library` operator
    (`torch.ops.illume_fast.<name>.default`) that compilers, autograd, functorch and tensor subclasses see; plain eager
    calls that need no gradient run the backend without it.
    """

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        backends: Sequence[Backend],
        check: Callable[..., None],
        mutates: Sequence[str],
    ) -> None:
        self.__name__ = name
        self.__doc__ = reference.__doc__
        self.__wrapped__ = reference
        self.choices = (*backends, Backend("reference", reference, lambda *args: None))
        self._check = check
        parameters = inspect.signature(reference).parameters
        self._names = tuple(parameters)
        self._defaults = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
        self._mutated = tuple(self._names.index(m) for m in mutates)
        schema = torch.library.infer_schema(reference, mutates_args=tuple(mutates))
        self._library_op = torch.library.custom_op(
            f"illume_fast::{name}", self._run_traced, mutates_args=tuple(mutates), schema=schema
        )
        self.overload = getattr(torch.ops.illume_fast, name).default

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != len(self._names):
            args = self._bind(args, kwargs)
        if is_compiling():
            return self.overload(*args)
        if _is_traced() or _has_own_rules(args):
            if _has_tangent(args):
                raise RuntimeError(f"{self.__name__}: has no forward-mode derivative; use reverse mode (backward)")
            return self.overload(*args)
        result = self._run(*args)
        for i in self._mutated:
            if not args[i].is_inference():
                torch.autograd.graph.increment_version(args[i])
        return result

    def __repr__(self) -> str:
        return f"<op {self.__name__}: {', '.join(backend.name for backend in self.choices)}>"

    def _run(self, *args: Any) -> Any:
        self._check(*args)
        forced = _forced.get()
        for backend in self.choices:
            if (forced is None or forced == backend.name) and backend.declines(*args) is None:
                return backend.run(*args)
        raise BackendError(f"{self.__name__}: {self._refusal(forced, args)}")

    def _run_traced(self, *args: Any) -> Any:
        return self._run(*self._bind(args, {}))  # torch.library leaves out arguments that equal their default

    def _refusal(self, forced: str | None, args: tuple[Any, ...]) -> str:
        for backend in self.choices:
            if backend.name == forced:
                return f"backend {forced!r} cannot run: {backend.declines(*args)}"
        return f"unknown backend {forced!r}; choose one of {', '.join(backend.name for backend in self.choices)}"

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        names = self._names
        if len(args) > len(names):
            raise TypeError(f"{self.__name__}: takes {len(names)} arguments ({', '.join(names)}), got {len(args)}")
        for key in kwargs:
            if key not in names or key in names[: len(args)]:
                why = "got twice" if key in names else f"unknown; the arguments are {', '.join(names)}"
                raise TypeError(f"{self.__name__}: argument {key!r} {why}")
        bound = list(args)
        for key in names[len(args) :]:
            if key in kwargs:
                bound.append(kwargs[key])
            elif key in self._defaults:
                bound.append(self._defaults[key])
            else:
                raise TypeError(f"{self.__name__}: argument {key!r} is missing")
        return tuple(bound)


def declare(
    name: str,
    reference: Callable[..., Any],
    *backends: Backend,
    check: Callable[..., None],
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    mutates: Sequence[str] = (),
) -> Op:
    """Register `illume_fast::<name>` with the signature of `reference` and return it as an `Op`.

    `check` takes the op's arguments and raises on those that no backend may see; it guards every call, eager or traced.
    `fake` returns empty outputs of the right shape, dtype and device. `setup_context(ctx, inputs, output)` and
    `backward(ctx, *grads)` make it differentiable, as in `torch.library.register_autograd`. `mutates` names the
    arguments written in place; such an op returns nothing that aliases them.
    """
    op = Op(name, reference, backends, check, mutates)

    def checked_fake(*args: Any) -> Any:
        args = op._bind(args, {})
        check(*args)
        return fake(*args)

    op._library_op.register_fake(checked_fake)
    if backward is not None:

        def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.illume_fast_backend = _forced.get()
            if setup_context is not None:
                setup_context(ctx, op._bind(inputs, {}), output)

        # autograd may run the gradient on another thread, where the forced backend would be lost
        def same_backend(ctx: Any, *grads: Any) -> Any:
            with use_backend(ctx.illume_fast_backend):
                of_inputs = backward(ctx, *grads)
            # of arguments that torch.library left out it wants no gradient
            return of_inputs[: len(ctx.needs_input_grad)] if isinstance(of_inputs, tuple) else of_inputs

        op._library_op.register_autograd(same_backend, setup_context=remember)
    return op


def _is_traced() -> bool:
    """Whether something other than plain eager execution is watching: dispatch modes, functorch, jit, forward AD."""
    return (
        (_dispatch_modes() > 0 and _dispatch_modes() > getattr(_ignored, "modes", 0))
        or _function_modes() > 0
        or _functorch_level() is not None
        or _jit_trace() is not None
        or forward_ad._current_level >= 0
    )


def _has_own_rules(args: tuple[Any, ...]) -> bool:
    """Whether an argument needs a gradient or is a tensor subclass."""
    grad = torch.is_grad_enabled()
    for arg in args:
        kind = type(arg)
        if kind is Tensor or kind is Parameter:
            if grad and arg.requires_grad:
                return True
        elif kind not in _PLAIN and isinstance(arg, Tensor):
            return True
    return False


def _has_tangent(args: tuple[Any, ...]) -> bool:
    """Whether forward-mode AD follows an argument: torch.library would drop its derivative without a word."""
    if forward_ad._current_level < 0:
        return False
    return any(isinstance(arg, Tensor) and forward_ad.unpack_dual(arg).tangent is not None for arg in args)
