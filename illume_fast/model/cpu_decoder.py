"""DualViTok's decoder as a CPU runs it best: the same sums in float32, pictures as rows of pixels (channels last).

Against the modules it was made from, a picture at a time: weights of small maps lie in oneDNN's own order instead of
being brought into it at every call; the 1x1 convolutions that read every norm's scale and shift from the codes are one
product, queries, keys and values another; a norm, what it is scaled and shifted by and the activation after it are one
op; residuals are added by the convolution that makes them.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.movqgan import AttentionBlock, Level, ResBlock, SpatialNorm, Upsample, levels
from illume_fast.ops.linear import linear
from illume_fast.ops.spatial_norm import spatial_norm

_SMALL_MAP = 1024
"""Pixels below which bringing a convolution's weights into order takes a good part of its time."""


class CpuDecoder:
    """Vectors of codes -> pictures, for a `DualViTok` on the CPU that is not trained meanwhile.

    Equal to `DualViTok.decode` up to the rounding of float32. The weights of convolutions on small maps, of upsampling
    and of 1x1 convolutions are held a second time.
    """

    def __init__(self, tokenizer: DualViTok) -> None:
        decoder = tokenizer.pixel_decoder
        norms = [m for m in decoder.modules() if isinstance(m, SpatialNorm)]
        parts = [part for norm in norms for part in (norm.conv_y, norm.conv_b)]
        self._modulation = _Product(*parts)
        ends = torch.tensor([0, *(part.out_channels for part in parts)]).cumsum(0).tolist()
        spans = [slice(*span) for span in pairwise(ends)]
        places = {norm: (spans[2 * i], spans[2 * i + 1]) for i, norm in enumerate(norms)}
        self._merge = tokenizer.merge
        self._post = _conv(tokenizer.pixel_post_quant_conv)
        self._conv_in, self._repeats = _conv(decoder.conv_in), decoder.repeats
        middle = decoder.mid
        self._blocks = [_block(m, places) for m in (middle.block_1, middle.attn_1, middle.block_2)]
        for level in reversed(levels(decoder.up)):
            self._blocks += _level(level, places)
        self._norm_out, self._conv_out = _Norm(decoder.norm_out, places), _conv(decoder.conv_out)
        self._patch = decoder.config.patch_size

    def __call__(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """Codes float32 [B, z, h, w] and [B, z, p, q] -> pictures [B, 3, H, W], about [-1, 1]."""
        merged = self._merge(semantic, pixel).contiguous(memory_format=torch.channels_last)
        modulation = self._modulation(merged)
        z = self._post(merged)
        copies = z.repeat_interleave(self._repeats, dim=1).contiguous(memory_format=torch.channels_last)
        h = self._conv_in(z, copies)
        for block in self._blocks:
            h = block(h, modulation)
        h = self._conv_out(self._norm_out(h, modulation, True))
        return F.pixel_shuffle(h, self._patch)


class _Product:
    """1x1 convolutions of the same map as one; [B, C, H, W] -> [B, sum of outputs, H, W]."""

    def __init__(self, *parts: nn.Conv2d) -> None:
        self._weight = torch.cat([part.weight.detach().flatten(1) for part in parts])
        self._bias = torch.cat([_bias(part) for part in parts])

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = linear(x.permute(0, 2, 3, 1), self._weight, self._bias).permute(0, 3, 1, 2)
        return out if residual is None else out.add_(residual)


class _Convolution:
    """A 3x3 convolution with zeros around the map, and the sum with a residual if there is one."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias
        self._packed: Tensor | None = None
        self._packs = torch.backends.mkldnn.is_available() and weight.dtype == torch.float32

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self._packs and x.shape[2] * x.shape[3] < _SMALL_MAP:
            return self._with_packed(x, residual)
        out = F.conv2d(x, self._weight, self._bias, padding=1)
        return out if residual is None else out.add_(residual)

    def _with_packed(self, x: Tensor, residual: Tensor | None) -> Tensor:
        # torch has packed weights for its own compiler's use alone; these are the calls which that one makes
        convolution = torch.ops.mkldnn._convolution_pointwise
        settings = [1, 1], [1, 1], [1, 1], 1  # padding, stride, dilation, groups
        if self._packed is None:
            pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            dense = self._weight.contiguous(memory_format=torch.channels_last).to_mkldnn()
            self._packed = pack(dense, *settings, list(x.shape))
        if residual is None:
            return convolution(x, self._packed, self._bias, *settings, "none", [], "")
        return convolution.binary(x, residual, self._packed, self._bias, *settings, "add", 1.0, None, [], None)


def _conv(module: nn.Conv2d) -> _Product | _Convolution:
    return _Product(module) if module.kernel_size == (1, 1) else _Convolution(module.weight.detach(), _bias(module))


def _bias(module: nn.Conv2d) -> Tensor:
    assert module.bias is not None
    return module.bias.detach()


_Places = dict[SpatialNorm, tuple[slice, slice]]


class _Norm:
    """`SpatialNorm` whose scale and shift lie at known channels of the modulation."""

    def __init__(self, module: nn.Module, places: _Places) -> None:
        assert isinstance(module, SpatialNorm)
        self._group, (self._scale, self._shift) = module.norm_layer, places[module]

    def __call__(self, x: Tensor, modulation: Tensor, silu: bool) -> Tensor:
        group, scale, shift = self._group, modulation[:, self._scale], modulation[:, self._shift]
        return spatial_norm(x, group.weight, group.bias, scale, shift, group.num_groups, group.eps, silu)


class _Residual:
    def __init__(self, module: ResBlock, places: _Places) -> None:
        self._norms = _Norm(module.norm1, places), _Norm(module.norm2, places)
        self._convs = _conv(module.conv1), _conv(module.conv2)
        self._shortcut = None if module.nin_shortcut is None else _conv(module.nin_shortcut)

    def __call__(self, x: Tensor, modulation: Tensor) -> Tensor:
        h = self._convs[0](self._norms[0](x, modulation, True))
        h = self._norms[1](h, modulation, True)
        return self._convs[1](h, x if self._shortcut is None else self._shortcut(x))


class _Attention:
    def __init__(self, module: AttentionBlock, places: _Places) -> None:
        self._norm = _Norm(module.norm, places)
        self._qkv = _Product(module.q, module.k, module.v)
        self._out = _conv(module.proj_out)

    def __call__(self, x: Tensor, modulation: Tensor) -> Tensor:
        qkv = self._qkv(self._norm(x, modulation, False)).permute(0, 2, 3, 1).flatten(1, 2)[:, None]  # [B, 1, N, 3C]
        q, k, v = qkv.chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return self._out(out.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2), x)


class _Upsample:
    """`Upsample` with the convolution's channels in the order (row, column, channel) of the shuffle."""

    def __init__(self, module: Upsample) -> None:
        parameters = module.conv.weight.detach(), _bias(module.conv)
        weight, bias = (p.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1) for p in parameters)
        self._conv = _Convolution(weight, bias)

    def __call__(self, x: Tensor, modulation: Tensor) -> Tensor:
        b, c, h, w = x.shape
        grown = self._conv(x).permute(0, 2, 3, 1).unflatten(3, (2, 2, c))  # [B, h, w, 2, 2, C]
        out = x.new_empty(b, h, 2, w, 2, c)
        torch.add(grown.transpose(2, 3), x.permute(0, 2, 3, 1)[:, :, None, :, None], out=out)
        return out.view(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


_Block = _Residual | _Attention | _Upsample


def _block(module: nn.Module, places: _Places) -> _Block:
    if isinstance(module, ResBlock):
        return _Residual(module, places)
    assert isinstance(module, AttentionBlock)
    return _Attention(module, places)


def _level(level: Level, places: _Places) -> list[_Block]:
    blocks: list[_Block] = []
    for i, block in enumerate(level.block):
        blocks.append(_block(block, places))
        if level.attn:
            blocks.append(_block(level.attn[i], places))
    return [*blocks, _Upsample(level.upsample)] if hasattr(level, "upsample") else blocks
