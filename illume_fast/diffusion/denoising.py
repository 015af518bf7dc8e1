"""From noise to latents, a step of a scheduler at a time, and from latents to pixels."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from illume_fast.data.errors import InputError
from illume_fast.diffusion.folder import OWN_NOISE

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents [R, C, h, w], timestep []) -> what the UNet predicts [R, C, h, w]; R = 2N under guidance, without first."""

OnStep = Callable[[Any, int, Any, dict[str, Any]], Mapping[str, Any] | None]
"""(decoder, step, timestep, {"latents": Tensor [N, C, h, w], "pictures": range}), as in diffusers: latents that it
returns in a mapping replace these."""

AfterStep = Callable[[int, Any, Tensor], Tensor | None]
"""(step, timestep, latents of the whole group) -> latents that replace these, or None."""


@dataclass(kw_only=True)
class Denoising:
    """A group of N pictures on its way from noise to latents (float32 whatever the UNet's type).

    The state of a scheduler is its own and on the CPU, so that a step never waits for an accelerator.
    """

    predict: Predict
    scheduler: Any
    latents: Tensor
    generators: Sequence[torch.Generator]
    steps: int
    guidance: float
    after_step: AfterStep | None = None
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.scheduler = fresh(self.scheduler, self.steps)
        self._times = self.scheduler.timesteps
        self._device_times = self._times.to(self.latents.device)
        self._rest = _step_arguments(self.scheduler, self.generators)
        self.latents = self.latents * self.scheduler.init_noise_sigma

    @property
    def guided(self) -> bool:
        return self.guidance > 1

    @property
    def finished(self) -> bool:
        return self.done == len(self._times)

    def step(self) -> None:
        """Take one step of the scheduler (some take more than one for each that was asked for)."""
        time = self._times[self.done]
        scaled = self.scheduler.scale_model_input(self.latents, time)
        rows = torch.cat([scaled, scaled]) if self.guided else scaled
        predicted = self.predict(rows, self._device_times[self.done]).float()
        if self.guided:
            without, towards = predicted.chunk(2)
            predicted = without + self.guidance * (towards - without)
        self.latents = self.scheduler.step(predicted, time, self.latents, **self._rest).prev_sample
        if self.after_step is not None:
            changed = self.after_step(self.done, time, self.latents)
            self.latents = self.latents if changed is None else changed
        self.done += 1


def fresh(scheduler: Any, steps: int) -> Any:
    """A scheduler like this one, set to `steps` on the CPU. InputError for one that does not fit, or so many steps."""
    kind = type(scheduler)
    if not (hasattr(scheduler, "scale_model_input") and hasattr(scheduler, "init_noise_sigma")):
        raise InputError(f"{kind.__name__} is no scheduler of latent noise; EulerDiscreteScheduler is one, for example")
    most = scheduler.config.get("num_train_timesteps", 1000)
    if kind.__name__ in OWN_NOISE:
        raise InputError(f"{kind.__name__} draws noise of its own, not from a picture's seed; take another scheduler")
    if not 1 <= steps <= most:
        raise InputError(f"num_inference_steps must be from 1 to {most}, got {steps}")
    own = kind.from_config(scheduler.config)
    try:
        own.set_timesteps(steps, device="cpu")
    except (ValueError, IndexError, RuntimeError) as error:
        raise InputError(f"{kind.__name__} takes no {steps} steps: {' '.join(str(error).split())}") from None
    return own


def _step_arguments(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Each picture's noise of every step comes from its own generator."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if takes else {}


def noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """float32 [N, *shape] on the CPU: picture i is `torch.randn((1, *shape), generator=generators[i])`, as diffusers'
    with a list of generators, so it is the same alone, in any batch and on any device."""
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators])


def seeded(seed: int) -> torch.Generator:
    """The generator of a picture."""
    return torch.Generator().manual_seed(seed)


def to_uint8(pictures: Tensor) -> Tensor:
    """Pictures about [-1, 1] -> uint8, rounded to the nearest as diffusers does."""
    return ((pictures.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
