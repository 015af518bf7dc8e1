"""What a job is asked to do. Nothing here loads torch."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from illume_fast.data.errors import InputError
from illume_fast.data.prompts import MAX_GUIDANCE, MAX_IMAGES, MAX_SEED, MAX_STEP, check_negative, parse_size
from illume_fast.data.sampling_presets import sampling_preset
from illume_fast.jobs.shard import Shard

Format = Literal["png", "webdataset", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
DType = Literal["float32", "bfloat16"]
DTYPES: tuple[DType, ...] = get_args(DType)

SHEET_PICTURES = 400
"""Most pictures on the contact sheet of a job."""

BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0, 1000),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "seed": (0, MAX_SEED),
    "batch_size": (1, 65_536),
    "guidance": (0, MAX_GUIDANCE),
    "guidance_from": (0, MAX_STEP),
    "guidance_until": (0, MAX_STEP),
    "num_images": (1, MAX_IMAGES),
    "diffusion_steps": (1, 1000),
    "diffusion_guidance": (0, 100),
    "per_file": (1, 1_000_000),
    "workers": (1, 1024),
}
"""The least and the most that an option may be."""


def check_bounds(values: object, name: Callable[[str], str] = str, keys: Iterable[str] = BOUNDS) -> None:
    """Raise InputError for an attribute of `values` that is out of `BOUNDS`; `name` makes its name in the message."""
    for key in keys:
        value, (low, high) = getattr(values, key), BOUNDS[key]
        # written so that NaN fails
        if value is not None and not low <= value <= high:
            raise InputError(f"{name(key)} must be from {low} to {high}, got {value}")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What every picture of a job is drawn with, unless its row says otherwise, and how the work is done.

    What is None is the model's default. The options of `illume-fast generate` of the same names say what they mean.
    """

    out: Path
    model: str = "demo"
    vision_tokenizer: str | None = None
    dtype: DType = "float32"
    backend: str | None = None
    num_images: int = 1
    seed: int = 0
    guidance: float | None = None
    negative_prompt: str | None = None
    guidance_from: int = 0
    guidance_until: int | None = None
    size: str | None = None
    sampling: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    decoder: str | None = None
    diffusion_steps: int | None = None
    diffusion_scheduler: str | None = None
    diffusion_guidance: float | None = None
    batch_size: int = 64
    format: Format = "png"
    per_file: int = 1000
    shard: str = "1/1"
    devices: str = "cpu"
    workers: int = 1
    strict: bool = False

    def check(self, name: Callable[[str], str] = str) -> None:
        """Raise InputError for a value that cannot be used; `name` makes an option's name in the message."""
        check_bounds(self, name)
        sampling_preset(self.sampling, origin=name("sampling"))
        self._check_guidance(name)
        Shard.parse(self.shard, name("shard"))
        if self.size is not None and self.size != "all":
            for size in self.size.split(","):
                parse_size(size, name("size"))
        if self.dtype not in DTYPES:
            raise InputError(f"{name('dtype')} {self.dtype!r} is not known; allowed are {', '.join(DTYPES)}")
        if self.format not in FORMATS:
            raise InputError(f"{name('format')} {self.format!r} is not known; allowed are {', '.join(FORMATS)}")

    @property
    def several_sizes(self) -> bool:
        """Whether rows are drawn at more sizes than one: "all", or a list with commas."""
        return self.size is not None and (self.size == "all" or "," in self.size)

    def _check_guidance(self, name: Callable[[str], str]) -> None:
        since, until = self.guidance_from, self.guidance_until
        if until is not None and until < since:
            raise InputError(f"{name('guidance_until')} {until} is before {name('guidance_from')} {since}")
        if self.negative_prompt is None:
            return
        check_negative(self.negative_prompt, name("negative_prompt"))
        if self.guidance == 1 or until == since:
            vain = f"{name('guidance')} 1" if self.guidance == 1 else f"guidance from step {since} until {until}"
            raise InputError(f"{name('negative_prompt')} does nothing with {vain}; leave one of them out")

    def to_json(self) -> dict[str, Any]:
        """The config as plain values."""
        return {**asdict(self), "out": str(self.out)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The config of `to_json`."""
        return cls(**{**values, "out": Path(values["out"])})

    @classmethod
    def of(cls, options: object) -> Self:
        """The config whose fields are the attributes of `options` of the same names."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


def option(field: str) -> str:
    """The command line's name of a field: "batch_size" is "--batch-size"."""
    return "--" + field.replace("_", "-")
