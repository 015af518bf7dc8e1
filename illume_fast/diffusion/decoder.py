"""What both diffusion decoders share: the parts of a folder, groups of a fixed number of pictures, and their making."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from illume_fast.data.errors import InputError, shorten
from illume_fast.data.sizes import Size
from illume_fast.diffusion.denoising import AfterStep, Denoising, OnStep, Predict, fresh, noise, seeded, to_uint8
from illume_fast.diffusion.folder import scheduler_like
from illume_fast.diffusion.settings import DiffusionSettings
from illume_fast.diffusion.work import Work

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_GROUP_PIXELS = 2 * 2**20
_MOST_TOGETHER = 16


class NotFiniteError(ValueError):
    """A decoder made NaN or infinite values of a picture."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """The loaded parts of a folder, on one device; `fingerprint` tells their weights from others."""

    unet: Any
    vae: Any
    scheduler: Any
    device: torch.device
    fingerprint: str = ""


class LatentDecoder:
    """Makes pictures by denoising latents with a UNet and decoding them with a VAE.

    Convolutions add up in another order in a batch of another size, so a group always has the same number of pictures
    of one size (`pictures_together`; without it one on a CPU, on an accelerator about two million pixels of them), the
    last of them repeated where there are fewer: a picture of one seed is the same to the bit, alone or in any batch.
    Each is decoded by the VAE on its own, which bounds memory.
    """

    def __init__(self, parts: Parts, pictures_together: int | None = None) -> None:
        if pictures_together is not None and pictures_together < 1:
            raise InputError(f"pictures_together must be at least 1, got {pictures_together}")
        self.unet, self.vae, self.scheduler = parts.unet, parts.vae, parts.scheduler
        self.device, self.fingerprint = parts.device, parts.fingerprint
        self._together = pictures_together
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's type."""
        return self.unet.dtype

    @property
    def factor(self) -> int:
        """Pixels of a picture on a side of a latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def together(self, output: Size) -> int:
        """Pictures of `output` (height, width) in a group."""
        if self._together is not None:
            return self._together
        return 1 if self.device.type == "cpu" else max(1, min(_MOST_TOGETHER, _GROUP_PIXELS // (output[0] * output[1])))

    def compile(self, **options: Any) -> None:
        """Compile the UNet by torch.compile with these options, in place; a group's fixed shape suits it."""
        self.unet.compile(**options)

    def __call__(
        self,
        conditions: Tensor,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 2.0,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        scheduler: Any = None,
        latents: Tensor | None = None,
        callback_on_step_end: OnStep | None = None,
    ) -> Tensor:
        """Conditions [N, ...], as the class says -> pictures uint8 [N, 3, H, W] on the CPU.

        The noise of a picture is `torch.randn((1, C, H / f, W / f))` of a CPU generator with its seed, and what a
        scheduler draws later comes from the same generator. One seed serves all; of generators each picture has its
        own; `latents` [N, C, H / f, W / f] stand for the noise. `scheduler` is any of diffusers', or the name of its
        class. InputError for what cannot be used, NotFiniteError for values that are not finite.
        """
        output = self.output_size(conditions)
        name = scheduler if isinstance(scheduler, str) else None
        settings = DiffusionSettings(num_inference_steps, guidance_scale, name)
        generators = generators_of(len(conditions), seed, generator)
        shape = [len(conditions), *self._latent_shape(output)]
        if latents is not None and list(latents.shape) != shape:
            raise InputError(f"latents must be {shape}, got {list(latents.shape)}")
        together, made = self.together(output), [torch.empty(0, 3, *output, dtype=torch.uint8)]
        for first in range(0, len(conditions), together):
            part = slice(first, min(first + together, len(conditions)))
            pixels, work = self._start(
                conditions[part],
                generators[part],
                settings,
                scheduler=None if name else scheduler,
                latents=None if latents is None else latents[part],
                after_step=callback_on_step_end and partial(self._tell, callback_on_step_end, part),
            )
            work.synchronize()
            made.append(pixels)
        return torch.cat(made)

    def check(self, settings: DiffusionSettings) -> None:
        """Raise InputError for settings that no picture can be made with."""
        fresh(self._scheduler(None, settings), settings.steps)

    def start(self, conditions: Tensor, seeds: Sequence[int], settings: DiffusionSettings) -> tuple[Tensor, Work]:
        """Begin a group of at most `together` pictures: (uint8 [N, 3, H, W] on the CPU, the work that fills it)."""
        return self._start(conditions, [seeded(seed) for seed in seeds], settings)

    def output_size(self, conditions: Tensor) -> Size:
        """Height and width of the pictures of these conditions. InputError when they are none."""
        raise NotImplementedError

    def _predict(self, conditions: Tensor, guided: bool) -> Predict:
        """What denoising asks of the UNet, for these conditions on this decoder's device."""
        raise NotImplementedError

    def _start(
        self,
        conditions: Tensor,
        generators: Sequence[torch.Generator],
        settings: DiffusionSettings,
        scheduler: Any = None,
        latents: Tensor | None = None,
        after_step: AfterStep | None = None,
    ) -> tuple[Tensor, Work]:
        output, count = self.output_size(conditions), len(conditions)
        spare = self.together(output) - count
        generators = [*generators, *[generators[-1].clone_state() for _ in range(spare)]]
        begin = noise(generators, self._latent_shape(output)) if latents is None else _padded(latents.float(), spare)
        denoising = Denoising(
            predict=self._predict(_padded(conditions, spare).to(self.device), settings.guidance > 1),
            scheduler=self._scheduler(scheduler, settings),
            latents=begin.to(self.device),
            generators=generators,
            steps=settings.steps,
            guidance=settings.guidance,
            after_step=after_step,
        )
        if self._stream is not None:
            # made on another stream, whose later work must not be given this memory before the first step has read it
            denoising.latents.record_stream(self._stream)
        there = torch.empty(count, 3, *output, dtype=torch.uint8, pin_memory=self._stream is not None)
        return there, Work(self._pieces(denoising, there), self.device, self._stream)

    def _tell(self, on_step: OnStep, part: slice, step: int, time: Any, latents: Tensor) -> Tensor | None:
        """Show a caller its pictures, without those that only fill the group."""
        count = part.stop - part.start
        seen = {"latents": latents[:count], "pictures": range(part.start, part.stop)}
        changed = (on_step(self, step, time, seen) or {}).get("latents")
        return None if changed is None else _padded(changed.to(latents), len(latents) - count)

    def _latent_shape(self, output: Size) -> tuple[int, int, int]:
        return self.unet.config.out_channels, output[0] // self.factor, output[1] // self.factor

    def _pieces(self, denoising: Denoising, there: Tensor) -> Iterator[None]:
        while not denoising.finished:
            denoising.step()
            yield
        finite = torch.empty(len(there), dtype=torch.bool, pin_memory=self._stream is not None)
        for number, latents in enumerate(denoising.latents[: len(there)]):
            picture = self.decode_latents(latents[None])[0]
            there[number].copy_(to_uint8(picture), non_blocking=True)
            finite[number].copy_(picture.isfinite().all(), non_blocking=True)
            yield
        if self._stream is not None:
            # all but these copies is done already, or `synchronize` waits for it anyway
            self._stream.synchronize()
        if bad := (~finite).nonzero().flatten().tolist():
            raise NotFiniteError(
                f"the diffusion decoder made values that are not finite of picture {bad[0]} of its group; "
                f"its UNet runs in {self.dtype}, its VAE in {self.vae.dtype}"
            )

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents [N, C, h, w] as the scheduler leaves them -> pictures [N, 3, H, W], about [-1, 1]."""
        config = self.vae.config
        latents = latents.float() / config.scaling_factor
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("latents_mean", "latents_std"))
            latents = latents * std.to(latents) + mean.to(latents)
        latents = latents + (config.get("shift_factor") or 0)
        return self.vae.decode(latents.to(self.vae.dtype)).sample

    def _scheduler(self, scheduler: Any, settings: DiffusionSettings) -> Any:
        if scheduler is not None:
            return scheduler
        if settings.scheduler is None:
            return self.scheduler
        return scheduler_like(self.scheduler, settings.scheduler)


def generators_of(
    count: int, seed: int | Sequence[int] | None, generator: torch.Generator | Sequence[torch.Generator] | None
) -> list[torch.Generator]:
    """A generator for each of `count` pictures; one seed serves all. InputError for another number of them."""
    if seed is not None and generator is not None:
        raise InputError("give a seed or a generator, not both")
    if isinstance(generator, torch.Generator):
        if count != 1:
            raise InputError(f"one generator was given for {count} pictures; give a list of one for each, or seeds")
        return [_generator_of(generator)]
    if generator is None and not isinstance(seed, Iterable):
        return [_generator_of(int(torch.randint(2**53, ())) if seed is None else seed) for _ in range(count)]
    given: list[Any] = list(generator if generator is not None else seed)  # type: ignore[arg-type]
    if len(given) != count:
        name = "seeds" if generator is None else "generators"
        raise InputError(f"{len(given)} {name} were given for {count} pictures; give one for each")
    return [_generator_of(one) for one in given]


def _generator_of(one: Any) -> torch.Generator:
    if isinstance(one, Integral) and -(2**63) <= int(one) < 2**64:
        return seeded(int(one))
    if isinstance(one, torch.Generator) and one.device.type == "cpu":
        return one
    got = f"a generator on {one.device}" if isinstance(one, torch.Generator) else shorten(one)
    raise InputError(f"a seed must be a whole number of 64 bits, a generator torch's on the CPU; got {got}")


def _padded(rows: Tensor, spare: int) -> Tensor:
    """`rows` and the last of them `spare` times more."""
    return torch.cat([rows, rows[-1:].expand(spare, *rows.shape[1:])]) if spare else rows


def require_dtype(dtype: torch.dtype) -> None:
    """InputError for a type that no decoder runs in."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype} is not supported; allowed are {', '.join(map(str, DTYPES))}")
