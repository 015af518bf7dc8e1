"""Folders to weights under Hugging Face's arguments: `dtype`, `device_map`, `quantization_config`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from illume_fast.model.checkpoint import Checkpoint, build, load_checkpoint, read_config, resolve
from illume_fast.model.generation_config import CheckpointConfig
from illume_fast.model.kinds import illume_plus
from illume_fast.model.quantized import prepare, quantize_by

DeviceMap = str | int | torch.device | Mapping[str, str | int | torch.device]
_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")

# arguments of transformers that say nothing here, and the values at which they say nothing
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "_from_auto": (True, False),
    "adapter_kwargs": (None,),
    "attn_implementation": (None,),
    "cache_dir": (None,),
    "force_download": (False,),
    "local_files_only": (True, False),
    "low_cpu_mem_usage": (True, None),
    "output_loading_info": (False,),
    "proxies": (None,),
    "revision": (None, "main"),
    "subfolder": (None, ""),
    "token": (None,),
    "trust_remote_code": (True, False, None),
    "use_safetensors": (True, None),
}


def load(
    name: str | Path,
    dtype: torch.dtype | str | None,
    device_map: DeviceMap | None,
    max_memory: Mapping[Any, Any] | None,
    quantization_config: Any,
    vision_tokenizer: str | Path | None,
) -> Checkpoint:
    """A checkpoint as `from_pretrained` was asked for it; strict as `load_checkpoint`."""
    folder = resolve(name)
    wanted = stored_dtype(folder) if dtype in (None, "auto") else parse_dtype(dtype)
    device = place(illume_plus(read_config(folder)), wanted, device_map, max_memory)
    _require_here(device)
    given: dict[str, Any] = {} if vision_tokenizer is None else {"vision_tokenizer": vision_tokenizer}
    checkpoint = load_checkpoint(folder, wanted, device, **given)
    if quantization_config is None or isinstance(quantization_config, str):
        prepare(checkpoint.model, quantization_config)
    else:
        quantize_by(checkpoint.model, quantization_config)
    return checkpoint


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """`torch.bfloat16` or "bfloat16". ValueError for a dtype that no kernel takes."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype {dtype!r} is not known; allowed are 'auto', 'float32', 'bfloat16', 'float16'")
    return found


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of a folder's language model: the widest among the first tensors of its first file."""
    path = min([*folder.glob("model.safetensors"), *folder.glob("model-*.safetensors")], default=None)
    if path is None:
        return torch.float32  # the loader says what is missing
    with safe_open(path, framework="pt") as file:
        names = {file.get_slice(key).get_dtype() for key in list(file.keys())[:8]}
    for name, dtype in {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}.items():
        if name in names:
            return dtype
    return torch.float32


def place(
    config: CheckpointConfig, dtype: torch.dtype, device_map: DeviceMap | None, max_memory: Mapping[Any, Any] | None
) -> torch.device:
    """The one device that `device_map` means, where the engine's cache is too; a strategy picks the first with room.

    Raises:
        ValueError: there is no such device or strategy, no device has room for the whole model, or a map names several.
    """
    if max_memory is not None and device_map not in _STRATEGIES:
        raise ValueError(f"max_memory goes with device_map={_STRATEGIES[0]!r}, got device_map={device_map!r}")
    if device_map is None:
        return torch.device("cpu")
    if isinstance(device_map, str) and device_map in _STRATEGIES:
        return _device(_with_room(config, dtype, max_memory))
    if not isinstance(device_map, Mapping):
        return _device(device_map)
    places = sorted({str(place) for place in device_map.values()})
    if len(places) != 1:
        raise ValueError(
            f"device_map puts parts of the model on {', '.join(places) or 'no device'}, but the engine draws on one"
            " device, where the whole model must fit; name one, or have smaller weights by dtype or quantization_config"
        )
    return _device(next(iter(device_map.values())))


def _device(name: str | int | torch.device) -> torch.device:
    try:
        return torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    except RuntimeError:
        allowed = ", ".join(map(repr, _STRATEGIES))
        raise ValueError(
            f"device_map {name!r} is not known; allowed are {allowed}, a device, or a dict that names one"
        ) from None


def _require_here(device: torch.device) -> None:
    if device.type == "meta":
        raise ValueError("device_map 'meta' holds no weights; build the class from a config under torch.device('meta')")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device_map {str(device)!r}: torch sees {torch.cuda.device_count()} GPUs here")


def _with_room(config: CheckpointConfig, dtype: torch.dtype, max_memory: Mapping[Any, Any] | None) -> Any:
    try:
        from accelerate.utils import compute_module_sizes, get_max_memory
    except ImportError as error:
        raise RuntimeError(
            f"device_map={_STRATEGIES[0]!r} needs accelerate ({error}): pip install accelerate"
        ) from None
    needed = compute_module_sizes(build(config)[0], dtype=dtype)[""]
    room = get_max_memory(None if max_memory is None else dict(max_memory))
    # the CPU comes last; it is for machines without anything faster, and not where that is too small
    devices = [device for device in room if device not in ("cpu", "disk")] or ["cpu"]
    for device in devices:
        if needed <= room.get(device, 0):
            return device
    found = ", ".join(f"{device} {room.get(device, 0) / 1e9:.2f} GB" for device in devices)
    raise ValueError(
        f"the language model takes {needed / 1e9:.2f} GB in {dtype}, and no device has room for it ({found}); have"
        " smaller weights by dtype, or name a device by device_map"
    )


def check_neutral(rest: Mapping[str, Any]) -> None:
    """TypeError for an argument that is not known; ValueError for one that would mean something here."""
    if unknown := sorted(set(rest) - set(_NEUTRAL)):
        raise TypeError(f"from_pretrained: unexpected keyword arguments {', '.join(unknown)}")
    for key, value in rest.items():
        if value not in _NEUTRAL[key]:
            allowed = " or ".join(map(repr, _NEUTRAL[key]))
            raise ValueError(f"from_pretrained: {key}={value!r} is not supported; allowed is {allowed}")
