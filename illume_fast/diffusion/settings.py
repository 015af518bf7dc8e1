"""How a diffusion decoder makes a picture. Nothing here loads torch."""

from dataclasses import dataclass

from illume_fast.data.errors import InputError

MAX_STEPS, MAX_GUIDANCE = 1000, 100.0


@dataclass(frozen=True)
class DiffusionSettings:
    """Steps of denoising, and how strongly they follow the codes; guidance up to 1 is none, and costs half.

    `scheduler` is the class name of a diffusers scheduler that takes the folder's betas (None: the folder's own).
    The defaults are those of ILLUME+'s decoder. InputError for values out of range.
    """

    steps: int = 50
    guidance: float = 2.0
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or not 1 <= self.steps <= MAX_STEPS:
            raise InputError(f"diffusion steps must be whole, from 1 to {MAX_STEPS}, got {self.steps!r}")
        # written so that NaN fails
        if not isinstance(self.guidance, int | float) or not 0 <= self.guidance <= MAX_GUIDANCE:
            raise InputError(f"diffusion guidance must be from 0 to {MAX_GUIDANCE:g}, got {self.guidance!r}")
