"""A training run on disk: weights, their moving average, the optimiser's state and the step, without pickle."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from illume_fast.model.tensor_files import staging


class Average:
    """Exponential moving average of a module's parameters, warmed up so that early steps do not linger."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(module.named_parameters())
        torch._foreach_lerp_(list(self.values.values()), [parameters[name] for name in self.values], 1 - decay)

    def swap(self, module: nn.Module) -> None:
        """Exchange the module's parameters with the average (call twice to undo)."""
        for name, parameter in module.named_parameters():
            if name in self.values:
                parameter.data, self.values[name] = self.values[name], parameter.data


@dataclass
class RunState:
    """What a run must remember to go on as if it had never stopped."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    step: int = 0

    def save(self, folder: Path) -> None:
        """Replace `folder/state.safetensors` in one move; a kill leaves the old one whole."""
        tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.values.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
        write_tensors(folder / "state.safetensors", tensors, {"step": str(self.step)})

    def load(self, folder: Path) -> bool:
        """Restore from `folder` if it holds a saved state; returns whether it did."""
        path = folder / "state.safetensors"
        if not path.exists():
            return False
        tensors = load_file(path)
        part = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        self.module.load_state_dict(part("model."), strict=True)
        for name, value in part("average.").items():
            self.average.values[name].copy_(value)
        saved = self.optimizer.state_dict()
        for key, value in part("optimizer.").items():
            index, name = key.split(".", 1)
            saved["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(saved)
        for parameter, values in self.optimizer.state.items():
            # files hold no memory layout, and another layout may round otherwise
            moments = {k: torch.empty_like(parameter).copy_(v) for k, v in values.items() if v.shape == parameter.shape}
            values.update({k: v for k, v in moments.items() if v.dim()})
        self.step = int(read_metadata(path)["step"])
        return True


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that it is either whole or not there."""
    with staging(path.parent) as stage:
        # copies that share memory are written twice rather than refused
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, stage.path(path.name), metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """The free-form text fields of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
