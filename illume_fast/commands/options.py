"""Options that several commands share."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from illume_fast.data.errors import InputError
from illume_fast.data.sampling_presets import sampling_preset
from illume_fast.jobs.config import DType, Format, JobConfig, check_bounds, option

MODELS_OWN = "(default: the model's own)"
NONE = "(default: none)"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model to load, and what runs it."""

    model: Annotated[str, arg(metavar="demo|DIR")] = "demo"
    """The model: "demo", which comes with the package, or the folder of a checkpoint."""
    vision_tokenizer: Annotated[str | None, arg(metavar="DIR", help_behavior_hint=NONE)] = None
    """Folder of the vision tokenizer, for a model that comes without one; `illume-fast convert` makes it."""
    dtype: DType = "float32"
    """What the language model, and a diffusion decoder, compute in. bfloat16 takes half the memory, and draws other
    pictures."""
    backend: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the fastest that can)")] = None
    """Run every op on one backend; `illume-fast info` lists them."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How pictures are drawn; what is not given is the model's own default."""

    sampling: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: none)")] = None
    """Settings of an official script: official, official-notebook or official-app. They filter twice, penalise
    repetitions, and replace the model's own defaults; docs/sampling.md has them."""
    temperature: Annotated[float | None, arg(metavar="T", help_behavior_hint=MODELS_OWN)] = None
    """How much chance has a say: 0 always takes the likeliest token, 1 draws as the model learnt, more is wilder."""
    top_k: Annotated[int | None, arg(metavar="K", help_behavior_hint=MODELS_OWN)] = None
    """Draw from the K likeliest tokens; 0 from all."""
    top_p: Annotated[float | None, arg(metavar="P", help_behavior_hint=MODELS_OWN)] = None
    """Draw from the likeliest tokens that together have probability P, from 0 to 1."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Number that chance starts from. The same prompt, seed and settings give the same picture, in any batch."""
    batch_size: Annotated[int, arg(metavar="N")] = 64
    """Most pictures drawn at once; more are faster and take more memory."""

    def check(self) -> None:
        """Raise InputError for a value out of range."""
        check_bounds(self, option, ("temperature", "top_k", "top_p", "seed", "batch_size"))
        sampling_preset(self.sampling, origin=option("sampling"))


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is drawn, and where it goes."""

    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the pictures; made if it does not exist."""
    num_images: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 1)")] = None
    """Pictures for each prompt, each from a seed of its own."""
    size: Annotated[str | None, arg(metavar="HxW", help_behavior_hint=MODELS_OWN)] = None
    """Height and width in pixels, one of those that the model draws; several with commas between, or "all":
    every row without a size of its own is drawn at each, and its id ends in the size.
    An edit is drawn at the nearest to its source's, and always brought back to that."""


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """What pictures are led towards and away from."""

    guidance: Annotated[float | None, arg(metavar="G", help_behavior_hint=MODELS_OWN)] = None
    """How strongly to follow the prompt, from 0 to 100: 1 is no guidance, more follows it more closely."""
    negative_prompt: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint=NONE)] = None
    """What guidance leads away from, instead of from no prompt at all. Needs guidance other than 1."""
    guidance_from: Annotated[int, arg(metavar="STEP")] = 0
    """Guide from this step on. A picture's tokens are its steps, from 0; docs/generation.md says which are which."""
    guidance_until: Annotated[int | None, arg(metavar="STEP", help_behavior_hint="(default: to the end)")] = None
    """Guide until before this step; the steps after it cost half as much."""


@dataclass(frozen=True, kw_only=True)
class DecoderOptions:
    """What makes pictures of the codes that are drawn."""

    decoder: Annotated[str | None, arg(metavar="pixel|diffusion|DIR", help_behavior_hint=MODELS_OWN)] = None
    """What makes pictures of codes: the vision tokenizer's own pixel decoder, the diffusion decoder in the model's
    folder, or the folder of one. Pictures of ILLUME+'s diffusion decoder are twice as high and as wide."""
    diffusion_steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 50)")] = None
    """Steps of the diffusion decoder for a picture; fewer are faster."""
    diffusion_scheduler: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: its own)")] = None
    """Scheduler of the diffusion decoder: the name of a class of diffusers, like EulerDiscreteScheduler."""
    diffusion_guidance: Annotated[float | None, arg(metavar="G", help_behavior_hint="(default: 2)")] = None
    """How strongly the diffusion decoder follows the codes, from 0 to 100; up to 1 is no guidance, and costs half."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions(DecoderOptions, GuidanceOptions, SamplingOptions, ModelOptions, OutputOptions):
    """Options of every command that draws into a folder."""

    format: Format = "png"
    """png: a file for each picture; webdataset: tar files of many, each picture beside its record; parquet: tables."""
    per_file: Annotated[int, arg(metavar="N")] = 1000
    """Pictures in one tar or parquet file."""
    shard: Annotated[str, arg(metavar="I/N")] = "1/1"
    """Draw the I-th of N parts of the job, for several machines that share the folder; each is given the same prompts,
    settings and N."""
    devices: Annotated[str, arg(metavar="DEVICES")] = "cpu"
    """cpu, all (every GPU, or the CPU where there is none), or some, like cuda:0,cuda:1; a process runs on each."""
    workers: Annotated[int, arg(metavar="N")] = 1
    """Processes on each device; one that dies is started again."""
    strict: bool = False
    """Stop at the first row that cannot be drawn. Otherwise it is recorded with its reason, the others are drawn, and
    the exit code is 1; either way such rows are tried again by the next run."""

    def check(self) -> None:
        """Raise InputError for a value that cannot be used."""
        self.job().check(option)

    def job(self) -> JobConfig:
        """The job that these options describe."""
        return JobConfig.of(replace(self, num_images=1 if self.num_images is None else self.num_images))


def check_guidance(guidance: float | None) -> None:
    """Raise InputError unless `guidance` is None or a sensible scale."""
    check_range("--guidance", guidance, 0, 100)


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Raise InputError unless `value` is None or within [low, high]."""
    # written so that NaN fails
    if value is not None and not low <= value <= high:
        raise InputError(f"{name} must be from {low} to {high}, got {value}")
