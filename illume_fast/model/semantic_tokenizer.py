"""ILLUME's vision tokenizer: what an encoder sees, as 256 codes, and back to what it saw.

Source: ILLUME (Wang et al., arXiv 2412.06673). The paper gives the principle, the codebook of 16 384 and the 256
tokens; blocks, widths and the normalised target are ILLUME+'s.

Shapes: B pictures, D width of the encoder's features, z width of a code.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.dual_vitok import SemanticDecoder, to_map
from illume_fast.model.hf_encoder import VisionEncoder
from illume_fast.model.semantic_config import SIDE, SemanticTokenizerConfig
from illume_fast.model.vision_encoder import VisionBlocks
from illume_fast.model.vq import EmaVQ, SimVQ


class SemanticProjection(nn.Module):
    """The blocks from the encoder's features [B, 256, D] to values to quantise [B, z, 16, 16]."""

    def __init__(self, config: SemanticTokenizerConfig):
        super().__init__()
        self.proj_in = nn.Linear(config.encoder.width, config.embed_dim)
        self.blocks = VisionBlocks(config.num_blocks, config.embed_dim, config.num_heads)
        self.proj_out = nn.Linear(config.embed_dim, config.z_channels)

    def forward(self, features: Tensor) -> Tensor:
        grid = (SIDE, SIDE)
        return to_map(self.proj_out(self.blocks(self.proj_in(features), grid)), grid)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A batch in training: ids int64 [B, 16, 16], the `target` and `rebuilt` features [B, 256, D], and losses []."""

    ids: Tensor
    target: Tensor
    rebuilt: Tensor
    loss: Tensor
    cosine: Tensor
    mse: Tensor
    quantizer: Tensor


class SemanticTokenizer(nn.Module):
    """Encodes pictures [B, 3, H, W] in [-1, 1], of any size, to ids [B, 16, 16], and ids to features [B, 256, D].

    The encoder is frozen: it has no gradient, and stays in evaluation mode. What is quantised and rebuilt are its
    features after a layer norm without weights.
    """

    def __init__(self, config: SemanticTokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = VisionEncoder(config.encoder).requires_grad_(False)
        self.projection = SemanticProjection(config)
        self.quantizer = SimVQ(config.codes) if config.quantizer == "simvq" else EmaVQ(config.codes, config.decay)
        self.feature_decoder = SemanticDecoder(config.decoder)
        self.encoder.eval()

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the encoder."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Pictures -> normalised features [B, 256, D]: what is to be rebuilt."""
        raw = self.encoder(pictures)
        return F.layer_norm(raw, raw.shape[-1:], eps=1e-6)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures -> ids int64 [B, 16, 16]."""
        return self.quantizer.encode(self.projection(self.features(pictures)))

    def decode_features(self, ids: Tensor) -> Tensor:
        """Ids int64 [B, 16, 16] -> features [B, 256, D]. ValueError for another shape or an id that is no code."""
        if ids.dim() != 3 or tuple(ids.shape[1:]) != (SIDE, SIDE) or ids.is_floating_point():
            raise ValueError(f"ids: expected integers [B, {SIDE}, {SIDE}], got {ids.dtype} {list(ids.shape)}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.codebook_size:
            raise ValueError(
                f"ids: {int(ids.min())} to {int(ids.max())} given; allowed are 0 to {self.config.codebook_size - 1}"
            )
        codes = self.quantizer.indices_to_codes(ids)
        return self.feature_decoder(codes.to(self.feature_decoder.proj_in.weight.dtype))

    def forward(self, pictures: Tensor) -> Reconstruction:
        """Pictures -> the losses of training.

        `loss` is the cosine loss, mean of 1 - cos(target, rebuilt) over all tokens, plus `mse_weight` times the mean
        squared error, plus the quantiser's own.
        """
        target = self.features(pictures)
        codes, quantizer, ids = self.quantizer(self.projection(target))
        rebuilt = self.feature_decoder(codes.to(target.dtype))
        cosine = (1 - F.cosine_similarity(rebuilt.float(), target.float(), dim=-1)).mean()
        mse = F.mse_loss(rebuilt.float(), target.float())
        loss = cosine + self.config.mse_weight * mse + quantizer
        return Reconstruction(ids, target, rebuilt, loss, cosine, mse, quantizer)
