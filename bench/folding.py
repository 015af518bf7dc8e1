"""What folding the SDXL decoder's cross-attention saves: weights, multiplications, and time of a UNet's forward pass.

    python -m illume_fast.bench.folding --width 128 --latent 64 --turns 3

counts weights and operations of the real shape on the meta device, and times a UNet of `width` channels (SDXL has 320)
as it comes, over its zero context of 77 tokens, and folded, taking turns. What they predict is compared before.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from illume_fast.diffusion.folding import fold_cross_attention

CONTEXT_TOKENS, CONTEXT_WIDTH, CODES = 77, 2048, 64
WIDTH = 320


def sdxl_unet(width: int = WIDTH) -> Any:
    """The UNet of ILLUME+'s SDXL decoder, or one whose every width is `width` / 320 of its."""
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel(
        sample_size=128,
        in_channels=4 + CODES,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(width, 2 * width, 4 * width),
        layers_per_block=2,
        attention_head_dim=(width // 64, width // 32, width // 16),
        cross_attention_dim=CONTEXT_WIDTH * width // WIDTH,
        transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1280 + 6 * 256,
    )
    return unet.eval()


def forward(unet: Any, latent: int, context: bool, device: str = "cpu", rows: int = 2) -> Callable[[], Tensor]:
    """A call that predicts one step of a guided picture."""
    generator = None if device == "meta" else torch.Generator(device).manual_seed(0)
    sample = torch.randn(rows, 4 + CODES, latent, latent, generator=generator, device=device)
    added = {"text_embeds": torch.zeros(rows, 1280, device=device), "time_ids": torch.zeros(rows, 6, device=device)}
    words = torch.zeros(rows, CONTEXT_TOKENS, unet.config.cross_attention_dim, device=device) if context else None
    at = torch.tensor(501.0, device=device)
    return lambda: unet(sample, at, words, added_cond_kwargs=added).sample


def count(latent: int) -> dict[str, float]:
    """Weights, and operations of a forward pass of two rows, of the real shape: whole and folded."""
    with torch.device("meta"):
        unet = sdxl_unet()
    found: dict[str, float] = {"latent": latent}
    for name in ("whole", "folded"):
        found[f"{name}_weights"] = sum(weight.numel() for weight in unet.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            forward(unet, latent, name == "whole", "meta")()
        found[f"{name}_operations"] = counter.get_total_flops()
        fold_cross_attention(unet)
    return found


@torch.no_grad()
def measure(width: int, latent: int, turns: int) -> dict[str, float]:
    """Seconds of the CPU's time of a forward pass of two rows, whole and folded: medians of `turns`, taken in turn."""
    torch.manual_seed(0)
    whole = sdxl_unet(width)
    for name, weight in whole.named_parameters():
        if name.endswith("attn2.to_out.0.bias"):
            weight.normal_(std=0.1)
    folded = copy.deepcopy(whole)
    fold_cross_attention(folded)
    calls = {"whole": forward(whole, latent, True), "folded": forward(folded, latent, False)}
    torch.testing.assert_close(calls["folded"](), calls["whole"](), rtol=1e-3, atol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    medians = {f"{name}_cpu_seconds": statistics.median(values) for name, values in seconds.items()}
    return {"width": width, "latent": latent, "threads": torch.get_num_threads(), "turns": turns, **medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="channels of the UNet that is timed")
    parser.add_argument("--latent", type=int, default=64, help="side of its latents")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    for latent in (64, 128):
        print(json.dumps(count(latent)))
    print(json.dumps(measure(options.width, options.latent, options.turns)))


if __name__ == "__main__":
    main()
