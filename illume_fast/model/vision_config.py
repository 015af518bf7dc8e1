"""Sizes of the vision tokenizer, as frozen dataclasses whose defaults are the published ILLUME+ values."""

from dataclasses import dataclass, field

# (height, width) -> size seen by the semantic encoder when its cell is 28 pixels; both orientations of each pair
# are listed because the official table is symmetric. Any other size is rounded down to whole cells.
MAPPED_SIZES = {
    (256, 256): (252, 252),
    (512, 512): (504, 504),
    (384, 512): (336, 448),
    (512, 384): (448, 336),
    (384, 768): (364, 728),
    (768, 384): (728, 364),
    (384, 576): (336, 504),
    (576, 384): (504, 336),
    (320, 960): (308, 924),
    (960, 320): (924, 308),
    (256, 1024): (252, 1008),
    (1024, 256): (1008, 252),
}
MAPPED_CELL = 28


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTConfig:
    """A Qwen2-VL vision transformer; `hidden_size` is the width after the patch merger."""

    depth: int = 32
    embed_dim: int = 1280
    num_heads: int = 16
    hidden_size: int = 3584
    mlp_ratio: int = 4
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3

    def __post_init__(self):
        for name in ("num_heads", "patch_size", "spatial_merge_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"ViTConfig.{name}: must be at least 1, got {getattr(self, name)}")
        head_dim, rest = divmod(self.embed_dim, self.num_heads)
        if rest or head_dim % 4:
            raise ValueError(
                f"ViTConfig: embed_dim {self.embed_dim} over num_heads {self.num_heads} must give a head size "
                "divisible by 4 (half the angles turn with the row, half with the column)"
            )

    @property
    def cell(self) -> int:
        """Side in pixels of the square that becomes one feature vector."""
        return self.patch_size * self.spatial_merge_size

    def mapped_size(self, height: int, width: int) -> tuple[int, int]:
        """Size in pixels to which a picture of `height` x `width` is scaled before it is cut into patches."""
        if self.cell == MAPPED_CELL and (height, width) in MAPPED_SIZES:
            return MAPPED_SIZES[height, width]
        return max(self.cell, height // self.cell * self.cell), max(self.cell, width // self.cell * self.cell)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of feature vectors for a picture of `height` x `width` pixels."""
        rows, columns = self.mapped_size(height, width)
        return rows // self.cell, columns // self.cell


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticEncoderConfig:
    """The vision transformer and the blocks that bring its features to the width of the codes."""

    vit: ViTConfig = field(default_factory=ViTConfig)
    num_blocks: int = 4
    num_heads: int = 16
    embed_dim: int = 1280
    z_channels: int = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticDecoderConfig:
    """The blocks that rebuild the encoder's features from the codes."""

    num_blocks: int = 4
    num_heads: int = 16
    embed_dim: int = 1280
    z_channels: int = 32
    output_channels: int = 3584


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelCodecConfig:
    """One half (encoder or decoder) of the MoVQGAN-style pixel branch; `attn_resolutions` are level indices.

    With `patch_size` above 1 (the published models have 1) each patch of pixels enters and leaves as one position,
    which spares small models the costly full resolution.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (4,)
    in_channels: int = 3
    out_channels: int = 3
    z_channels: int = 32
    embed_dim: int = 32
    dropout: float = 0.0
    patch_size: int = 1

    @property
    def factor(self) -> int:
        """Pixels per code along a side."""
        return self.patch_size * 2 ** (len(self.ch_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.ch * mult for mult in self.ch_mult)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimVQConfig:
    """A codebook of `codebook_size` frozen vectors of width `dim` seen through one trained linear map."""

    codebook_size: int
    dim: int = 32
    commitment: float = 0.25


def dual_grids(
    semantic: ViTConfig, pixel: PixelCodecConfig, height: int, width: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of semantic and of pixel features of a picture; ValueError unless its sides suit the factor."""
    factor = pixel.factor
    if height < factor or width < factor or height % factor or width % factor:
        raise ValueError(f"size {height}x{width}: both sides must be multiples of {factor}")
    return semantic.grid(height, width), (height // factor, width // factor)


def _published_decoder() -> PixelCodecConfig:
    return PixelCodecConfig(ch=384, z_channels=64, embed_dim=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class DualViTokConfig:
    """The dual vision tokenizer of ILLUME+: a semantic and a pixel branch, each with its own codebook."""

    semantic_encoder: SemanticEncoderConfig = field(default_factory=SemanticEncoderConfig)
    semantic_quantizer: SimVQConfig = field(default_factory=lambda: SimVQConfig(codebook_size=32_768))
    semantic_decoder: SemanticDecoderConfig = field(default_factory=SemanticDecoderConfig)
    pixel_encoder: PixelCodecConfig = field(default_factory=PixelCodecConfig)
    pixel_quantizer: SimVQConfig = field(default_factory=lambda: SimVQConfig(codebook_size=98_304))
    pixel_decoder: PixelCodecConfig = field(default_factory=_published_decoder)
    pixel_drop_rate: float | None = None
    pixel_drop_batch_rate: float = 0.1
    pixel_noise_type: str = "random"

    def __post_init__(self):
        if self.pixel_noise_type not in ("random", "zero"):
            raise ValueError(f"pixel_noise_type is {self.pixel_noise_type!r}; allowed are 'random' and 'zero'")
        merged = self.semantic_quantizer.dim + self.pixel_quantizer.dim
        if self.pixel_decoder.z_channels != merged:
            raise ValueError(
                f"pixel_decoder.z_channels is {self.pixel_decoder.z_channels}, "
                f"but both codes side by side have {merged} channels"
            )
        if self.pixel_encoder.factor != self.pixel_decoder.factor:
            raise ValueError(
                f"pixel encoder shrinks by {self.pixel_encoder.factor}, "
                f"pixel decoder grows by {self.pixel_decoder.factor}"
            )

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """((semantic rows, columns), (pixel rows, columns)) for a picture of `height` x `width` pixels."""
        return dual_grids(self.semantic_encoder.vit, self.pixel_encoder, height, width)
