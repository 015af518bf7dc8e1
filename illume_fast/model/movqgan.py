"""The pixel branch: a MoVQGAN-style encoder and decoder with DC-AE residual down- and up-sampling.

Sources: MoVQ (Zheng et al., arXiv 2209.09002) for the decoder's norms, DC-AE (Chen et al., arXiv 2410.10733) for the
parameter-free shortcuts. Names of weights are those of the published ILLUME+ checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.vision_config import PixelCodecConfig


class GroupNorm(nn.GroupNorm):
    def __init__(self, channels: int):
        super().__init__(32, channels, eps=1e-6)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        return super().forward(x)


class SpatialNorm(nn.Module):
    """GroupNorm whose scale and shift are read from the codes: norm(x) * conv_y(codes) + conv_b(codes)."""

    def __init__(self, channels: int, code_channels: int):
        super().__init__()
        self.norm_layer = GroupNorm(channels)
        self.conv_y = nn.Conv2d(code_channels, channels, 1)
        self.conv_b = nn.Conv2d(code_channels, channels, 1)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        # A 1x1 convolution commutes with nearest-neighbour resizing, so it runs on the small code map.
        scale, shift = self.conv_y(codes), self.conv_b(codes)
        (h, w), (rows, columns) = x.shape[-2:], codes.shape[-2:]
        normed = self.norm_layer(x)
        if h % rows == 0 and w % columns == 0:
            cells = normed.unflatten(3, (columns, -1)).unflatten(
                2, (rows, -1)
            )  # [B, C, rows, h/rows, columns, w/columns]
            out = cells * scale[:, :, :, None, :, None] + shift[:, :, :, None, :, None]
            return out.flatten(4, 5).flatten(2, 3)
        return normed * F.interpolate(scale, size=(h, w)) + F.interpolate(shift, size=(h, w))


def make_norm(channels: int, code_channels: int | None) -> nn.Module:
    return GroupNorm(channels) if code_channels is None else SpatialNorm(channels, code_channels)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, code_channels: int | None, dropout: float):
        super().__init__()
        self.norm1 = make_norm(inputs, code_channels)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = make_norm(outputs, code_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, codes)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h, codes))))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Single-head attention over all positions of the map."""

    def __init__(self, channels: int, code_channels: int | None):
        super().__init__()
        self.norm = make_norm(channels, code_channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        h = self.norm(x, codes)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))  # [B, 1, N, C]
        out = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:])
        return x + self.proj_out(out)


def group_mean(x: Tensor, channels: int) -> Tensor:
    """[B, C, H, W] -> [B, channels, H, W]: the mean of each run of C / channels consecutive channels."""
    return x.unflatten(1, (channels, -1)).mean(2)


class Downsample(nn.Module):
    """Halves both sides: a convolution, plus the mean of the pixels it replaces."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.conv(x), 2) + group_mean(F.pixel_unshuffle(x, 2), x.shape[1])


class Upsample(nn.Module):
    """Doubles both sides: a convolution, plus each pixel repeated."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # Shuffling four copies of every channel is nearest-neighbour doubling.
        return F.pixel_shuffle(self.conv(x), 2) + F.interpolate(x, scale_factor=2)


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention where the level has it."""

    downsample: Downsample
    upsample: Upsample

    def __init__(
        self, inputs: int, outputs: int, blocks: int, attention: bool, code_channels: int | None, dropout: float
    ):
        super().__init__()
        widths = [inputs] + [outputs] * (blocks - 1)
        self.block = nn.ModuleList(ResBlock(width, outputs, code_channels, dropout) for width in widths)
        self.attn = nn.ModuleList(AttentionBlock(outputs, code_channels) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x, codes)
            if self.attn:
                x = self.attn[i](x, codes)
        return x


def levels(parts: nn.ModuleList) -> list[Level]:
    return [part for part in parts if isinstance(part, Level)]


class Middle(nn.Module):
    def __init__(self, channels: int, code_channels: int | None, dropout: float):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, code_channels, dropout)
        self.attn_1 = AttentionBlock(channels, code_channels)
        self.block_2 = ResBlock(channels, channels, code_channels, dropout)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, codes), codes), codes)


class MoVQEncoder(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1] -> features [B, z_channels, H / factor, W / factor]."""

    def __init__(self, config: PixelCodecConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = nn.Conv2d(config.in_channels * config.patch_size**2, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = widths[level - 1] if level else config.ch
            attention = level in config.attn_resolutions
            part = Level(inputs, width, config.num_res_blocks, attention, None, config.dropout)
            if level < len(widths) - 1:
                part.downsample = Downsample(width)
            self.down.append(part)
        self.mid = Middle(widths[-1], None, config.dropout)
        self.norm_out = GroupNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size))
        for level in levels(self.down)[:-1]:
            h = level.downsample(level(h))
        h = F.silu(self.norm_out(self.mid(self.down[-1](h))))
        return self.conv_out(h) + group_mean(h, self.config.z_channels)


class MoVQDecoder(nn.Module):
    """(z [B, z_channels, h, w], codes [B, z_channels, h, w]) -> pictures [B, 3, h * factor, w * factor]."""

    def __init__(self, config: PixelCodecConfig):
        super().__init__()
        self.config = config
        widths, codes = config.widths, config.z_channels
        self.repeats, rest = divmod(widths[-1], config.z_channels)
        if rest:
            raise ValueError(f"pixel decoder: width {widths[-1]} is not a multiple of z_channels {config.z_channels}")
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], codes, config.dropout)
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = widths[min(level + 1, len(widths) - 1)]
            attention = level in config.attn_resolutions
            part = Level(inputs, width, config.num_res_blocks + 1, attention, codes, config.dropout)
            if level:
                part.upsample = Upsample(width)
            self.up.append(part)
        self.norm_out = SpatialNorm(widths[0], codes)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels * config.patch_size**2, 3, padding=1)

    def forward(self, z: Tensor, codes: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z) + z.repeat_interleave(self.repeats, dim=1), codes)
        for level in reversed(levels(self.up)[1:]):
            h = level.upsample(level(h, codes))
        h = self.up[0](h, codes)
        h = self.conv_out(F.silu(self.norm_out(h, codes)))
        return F.pixel_shuffle(h, self.config.patch_size)


def to_uint8(x: Tensor) -> Tensor:
    """Pictures in about [-1, 1] -> uint8, truncating as the official evaluation does."""
    return torch.clamp(127.5 * x.float() + 128.0, 0, 255).to(torch.uint8)
