"""Whether an outside model computes what its class says: nothing swapped, hooked in, quantised or spread out.

Our decoder reads a model's parameters and never calls its modules; whatever else those modules have come to do would
be lost without a word.
"""

from collections.abc import Iterator

import torch
from torch import nn


class UnsupportedModelError(ValueError):
    """The model, or something attached to it, cannot run on our engine; the message names it."""


_TORCH_PARTS = frozenset({nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU})
_THEIR_PARTS = ("transformers.models.", "transformers.activations")
# these hand a layer's outputs to those who ask for them, and change nothing
_HARMLESS_HOOKS = "transformers.utils.output_capturing"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def check_plain(root: nn.Module, name: str) -> None:
    """Raise unless `root`, called `name` in messages, and all it holds are as `transformers` made them.

    Raises:
        UnsupportedModelError: a part is of another class (adapters, quantised layers), has hooks or a `forward` of its
            own, is in training mode or holds a parameter that is no plain tensor; parameters differ in dtype or device.
    """
    for path, part in root.named_modules(prefix=name):
        kind = type(part)
        if kind not in _TORCH_PARTS and not kind.__module__.startswith(_THEIR_PARTS):
            whole = f"{kind.__module__}.{kind.__name__}"
            raise UnsupportedModelError(f"{path}: is a {whole}; adapters and quantised layers have to be merged first")
        if part.training:
            raise UnsupportedModelError(f"{path}: is in training mode; call model.eval() first")
        if "forward" in vars(part):
            raise UnsupportedModelError(f"{path}: its forward was replaced, and the replacement would not be called")
        if (hook := next(_foreign_hooks(part), None)) is not None:
            raise UnsupportedModelError(f"{path}: has the hook {hook}, which would not be called; remove it first")
    _check_parameters(root, name)


def _foreign_hooks(part: nn.Module) -> Iterator[str]:
    for kind in _HOOKS:
        for hook in getattr(part, kind).values():
            if getattr(hook, "__module__", None) != _HARMLESS_HOOKS:
                yield getattr(hook, "__qualname__", repr(hook))


def _check_parameters(root: nn.Module, name: str) -> None:
    first: tuple[str, torch.dtype, torch.device] | None = None
    for path, parameter in root.named_parameters(prefix=name):
        if type(parameter) is not nn.Parameter:
            raise UnsupportedModelError(
                f"{path}: is a {type(parameter).__name__}, not a plain parameter; is it quantised?"
            )
        if parameter.is_meta:
            raise UnsupportedModelError(f"{path}: is on the meta device, it has no values")
        if parameter.dtype not in _DTYPES:
            raise UnsupportedModelError(f"{path}: is {parameter.dtype}, allowed are {', '.join(map(str, _DTYPES))}")
        first = first or (path, parameter.dtype, parameter.device)
        for what, theirs, expected in (("dtype", parameter.dtype, first[1]), ("device", parameter.device, first[2])):
            if theirs != expected:
                raise UnsupportedModelError(f"{path}: its {what} is {theirs}, that of {first[0]} is {expected}")
