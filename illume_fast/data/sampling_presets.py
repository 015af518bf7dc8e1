"""Settings that the official scripts of ILLUME+ draw with, by name. Nothing here loads torch.

Their evaluation filters twice: its own logits processor with the numbers of each kind of token, and then the warpers of
Hugging Face's `generate` with those of text, whatever the token. Nothing there sets a repetition penalty, so that of
the language model's `generation_config.json` holds. The web demo passes `generate` neutral numbers and so filters once.
docs/sampling.md has the whole table.
"""

from dataclasses import dataclass

from illume_fast.data.errors import InputError


@dataclass(frozen=True)
class Filters:
    """Numbers of one chain, as in `cfg_sample`."""

    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True)
class SamplingPreset:
    """One chain for each kind of token, the scale of guidance, and whether text's chain follows all of them."""

    text: Filters
    semantic: Filters
    pixel: Filters
    guidance: float
    twice: bool = True


def _preset(text: Filters, codes: Filters, guidance: float, *, twice: bool = True) -> SamplingPreset:
    """Pixel codes draw from three times as many as semantic ones."""
    return SamplingPreset(text, codes, Filters(codes.temperature, 3 * codes.top_k, codes.top_p), guidance, twice)


_EDIT = Filters(0.7, 512, 0.8)
_FEW = Filters(1.0, 128, 1.0)
_MANY = Filters(1.0, 2048, 1.0)

# (drawing and answering, editing)
PRESETS = {
    "official": (_preset(_MANY, _MANY, 2.0), _preset(_EDIT, _EDIT, 1.25)),
    "official-notebook": (_preset(_FEW, Filters(1.0, 2024, 1.0), 2.0), _preset(_FEW, _EDIT, 1.5)),
    "official-app": (_preset(_FEW, _MANY, 2.0, twice=False), _preset(_FEW, _EDIT, 1.5, twice=False)),
}


def sampling_preset(name: str | None, *, editing: bool = False, origin: str = "sampling") -> SamplingPreset | None:
    """The preset of that name, or None for None. InputError, beginning with `origin`, for another name."""
    if name is None:
        return None
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"{origin} {name!r} is not known; allowed are {', '.join(PRESETS)}")
    return PRESETS[name][editing]
