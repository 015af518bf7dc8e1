"""Stage 2: the dual vision tokenizer, on the frozen vision transformer of stage 1."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from illume_fast.data.errors import InputError
from illume_fast.data.jsonl import Pictures, read_conversations
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.movqgan import to_uint8
from illume_fast.model.presets import demo_tokenizer
from illume_fast.training.augment import random_colours, random_flip, random_shift, random_zoom, to_float
from illume_fast.training.loop import LoopConfig, fit, steady_threads
from illume_fast.training.state import write_tensors


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """`semantic` is the folder of stage 1; `colours` the share of pictures whose colour channels are swapped.

    `start`, the folder of another run of this stage, takes the place of `semantic`: training goes on from there. With
    `decoder_only` the codes of every picture stay what they are, and a language model that writes them stays right.
    """

    data: Path
    prepared: Path
    out: Path
    semantic: Path | None = None
    start: Path | None = None
    decoder_only: bool = False
    size: int = 64
    colours: float = 0.3
    lowest_zoom: float = 0.8
    compile: bool = True
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=4000, batch_size=32, learning_rate=6e-4, evaluate_every=250)
    )


def main(config: TokenizerConfig) -> None:
    """Train and write `out/vision_tokenizer.safetensors`."""
    steady_threads()
    seen, unseen = (load_pictures(config, split) for split in ("train", "val"))
    model = first_model(config, seen)
    for branch in (model.pixel_encoder, model.pixel_decoder):
        to_channels_last(branch)
        if config.compile:
            branch.compile()

    def step(generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(seen), (config.loop.batch_size,), generator=generator)
        x = random_flip(random_shift(to_float(seen[rows]), 4, generator), generator)
        x = random_zoom(random_colours(x, config.colours, generator), config.lowest_zoom, generator)
        with torch.autocast("cpu", torch.bfloat16):
            return losses(model, x.contiguous(memory_format=torch.channels_last))

    def evaluate() -> dict[str, float]:
        with torch.compiler.set_stance("force_eager"):  # other batch sizes than in training
            return {"train_psnr": psnr(model, seen[:256]), "score": psnr(model, unseen), **usage(model, seen[:1024])}

    fit(model, step, config.loop, config.out, evaluate)
    write_tensors(config.out / "vision_tokenizer.safetensors", model.state_dict(), {})


def first_model(config: TokenizerConfig, seen: Tensor) -> DualViTok:
    """The model before training, with all that is not to be trained frozen."""
    torch.manual_seed(config.loop.seed)
    model = DualViTok(demo_tokenizer())
    vit = model.semantic_encoder.model
    if config.start is not None:
        model.load_state_dict(load_file(config.start / "vision_tokenizer.safetensors"), strict=True)
    elif config.semantic is not None and not config.decoder_only:
        vit.load_state_dict(load_file(config.semantic / "vit.safetensors"), strict=True)
        spread_codes(model, to_float(seen[:256]))
    else:
        needed = "--start with --decoder-only" if config.decoder_only else "--semantic (stage 1's folder) or --start"
        raise InputError(f"train tokenizer: give {needed}")
    vit.requires_grad_(False)
    if config.decoder_only:
        model.requires_grad_(False)
        for part in (model.pixel_post_quant_conv, model.pixel_decoder):
            part.requires_grad_(True)
    return model


@torch.no_grad()
def spread_codes(model: DualViTok, x: Tensor) -> None:
    """Starts each codebook's linear map so that its codes have the covariance of what they are to quantise.

    The frozen codes are white with variance 1 / D, so the map is the matrix root of the covariance times sqrt(D).
    """
    semantic, pixel, _ = model.features(x)
    for quantizer, values in ((model.semantic_quantizer, semantic), (model.pixel_quantizer, pixel)):
        rows = values.movedim(1, -1).flatten(0, -2).double()
        scales, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
        root = axes @ torch.diag(scales.clamp_min(0).sqrt()) @ axes.T
        quantizer.code_transform.weight.copy_(root * quantizer.config.dim**0.5)


def to_channels_last(module: nn.Module) -> None:
    """Lay out the convolutions' weights as the CPU's bfloat16 kernels want them."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def losses(model: DualViTok, x: Tensor) -> dict[str, Tensor]:
    """The reference's losses without its perceptual and adversarial parts; see the README of the demo model.

    The pixel loss is the root mean square error of each picture, averaged, so that easy pictures go on improving.
    """
    encoded = model.quantize(x)
    image = model.decode(encoded.semantic_codes, model.noisy(encoded.pixel_codes)).float()
    rebuilt = model.semantic_decoder(encoded.semantic_codes).float()
    error = image - x
    rms = (error.square().mean((1, 2, 3)) + 1e-6).sqrt().mean()
    cosine = (1 - F.cosine_similarity(rebuilt, encoded.target.float(), dim=-1)).mean()
    parts = {
        "rms": rms,
        "absolute": error.abs().mean(),
        "cosine": cosine,
        "semantic_vq": encoded.semantic_loss,
        "pixel_vq": encoded.pixel_loss,
    }
    total = rms + 0.3 * parts["absolute"] + 0.2 * cosine + 0.5 * encoded.semantic_loss + 0.5 * encoded.pixel_loss
    return {"loss": total, **parts}


def load_pictures(config: TokenizerConfig, split: str) -> Tensor:
    """All pictures of a split, uint8 [N, 3, S, S]."""
    conversations = read_conversations(config.prepared / split / "captions.jsonl")
    return Pictures(config.data, [path for c in conversations for path in c.images], config.size).pixels


@torch.inference_mode()
def psnr(model: DualViTok, pixels: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio of encode and decode, in dB on 8-bit values."""
    values = []
    for batch in pixels.split(64):
        rebuilt = to_uint8(model.decode_code(*model.encode(to_float(batch)))).float()
        error = (rebuilt - batch.float()).square().mean((1, 2, 3)).clamp_min(1e-3)
        values.append(10 * torch.log10(255**2 / error))
    return float(torch.cat(values).mean())


@torch.inference_mode()
def usage(model: DualViTok, pixels: Tensor) -> dict[str, float]:
    """Share of each codebook that some picture uses."""
    ids = [model.encode(to_float(batch)) for batch in pixels.split(64)]
    semantic, pixel = (torch.cat([pair[i].flatten() for pair in ids]).unique().numel() for i in (0, 1))
    config = model.config
    return {
        "semantic_used": semantic / config.semantic_quantizer.codebook_size,
        "pixel_used": pixel / config.pixel_quantizer.codebook_size,
    }
