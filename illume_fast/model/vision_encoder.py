"""The semantic encoder: a Qwen2-VL style vision transformer over pictures of one size.

Shapes: B pictures, N patches each, C width, R x S the grid of merged cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.vision_config import ViTConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ROPE_THETA = 10_000.0


def scale_and_patchify(x: Tensor, config: ViTConfig) -> tuple[Tensor, tuple[int, int]]:
    """Pictures [B, 3, H, W] in [-1, 1] -> (patches [B, N, 3 * T * p * p], patch grid (rows, columns)).

    The picture is scaled (bicubic, antialiased, float32) to whole cells, normalised with CLIP's mean and deviation and
    repeated over the T frames of a temporal patch. Patches come cell by cell: the merge x merge patches that the
    merger joins are neighbours in the sequence.
    """
    size = config.mapped_size(*x.shape[-2:])
    image = (x + 1) / 2
    if size != tuple(x.shape[-2:]):
        image = F.interpolate(image.float(), size=size, mode="bicubic", align_corners=False, antialias=True).to(x.dtype)
    mean, std = (torch.tensor(values, dtype=x.dtype, device=x.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    image = (image.clamp(0, 1) - mean) / std
    p, m = config.patch_size, config.spatial_merge_size
    rows, columns = size[0] // p, size[1] // p
    cells = image.reshape(-1, 3, rows // m, m, p, columns // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    frames = cells.unsqueeze(6).expand(*cells.shape[:6], config.temporal_patch_size, p, p)
    return frames.reshape(x.shape[0], rows * columns, -1), (rows, columns)


def rotary_angles(rows: Tensor, columns: Tensor, head_dim: int) -> Tensor:
    """Positions [N], [N] -> angles float32 [N, head_dim / 2]: half turn with the row, half with the column."""
    exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=rows.device) / (head_dim // 2)
    frequencies = ROPE_THETA**-exponents
    return torch.cat([rows[:, None] * frequencies, columns[:, None] * frequencies], dim=-1)


def grid_positions(rows: int, columns: int, merge: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column index of every patch, float32 [N] each, in `scale_and_patchify`'s order (raster if merge is 1)."""
    row = torch.arange(rows, dtype=torch.float32, device=device)[:, None].expand(rows, columns)
    column = torch.arange(columns, dtype=torch.float32, device=device)[None].expand(rows, columns)

    def by_cell(index: Tensor) -> Tensor:
        return index.reshape(rows // merge, merge, columns // merge, merge).transpose(1, 2).reshape(-1)

    return by_cell(row), by_cell(column)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x [B, N, heads, D] turned by angles [N, D / 2] in float32 (rotate-half convention)."""
    cos, sin = (torch.cat([part, part], dim=-1)[:, None] for part in (angles.cos(), angles.sin()))
    wide = x.float()
    low, high = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat([-high, low], dim=-1) * sin).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class VisionAttention(nn.Module):
    """Full attention within each picture."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # [B, N, heads, D]
        q, k = rotate(q, angles), rotate(k, angles)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.proj(out.transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = QuickGELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class VisionBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = VisionAttention(dim, num_heads)
        self.mlp = VisionMLP(dim, mlp_ratio * dim)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        h = x + self.attn(self.norm1(x), angles)
        return h + self.mlp(self.norm2(h))


class VisionBlocks(nn.ModuleList):
    """Blocks over a raster grid of one size; positions are the grid's rows and columns."""

    def __init__(self, depth: int, dim: int, num_heads: int):
        super().__init__(VisionBlock(dim, num_heads) for _ in range(depth))
        self.head_dim = dim // num_heads

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x [B, R * S, C], grid (R, S) -> [B, R * S, C]."""
        angles = rotary_angles(*grid_positions(*grid, 1, x.device), self.head_dim)
        for block in self:
            x = block(x, angles)
        return x


class PatchEmbed(nn.Module):
    """A Conv3d whose kernel is its stride, applied as a matrix product."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.embed_dim, kernel, stride=kernel, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1))


class PatchMerger(nn.Module):
    """Joins each cell of merge x merge neighbouring patches into one vector of width `hidden_size`."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.joined = config.embed_dim * config.spatial_merge_size**2
        self.ln_q = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(self.joined, self.joined), nn.GELU(), nn.Linear(self.joined, config.hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).reshape(x.shape[0], -1, self.joined))


class Qwen2ViT(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1] -> merged features [B, R * S, hidden_size], raster order."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(
            VisionBlock(config.embed_dim, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.merger = PatchMerger(config)

    def forward(self, x: Tensor) -> Tensor:
        patches, grid = scale_and_patchify(x, self.config)
        positions = grid_positions(*grid, self.config.spatial_merge_size, x.device)
        angles = rotary_angles(*positions, self.config.embed_dim // self.config.num_heads)
        h = self.patch_embed(patches)
        for block in self.blocks:
            h = block(h, angles)
        return self.merger(h)
