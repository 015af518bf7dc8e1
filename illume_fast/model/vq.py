"""Codebooks: one that is frozen behind a trained linear map, and one that follows the features that choose it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.vision_config import SimVQConfig
from illume_fast.ops.codebook_ema import codebook_ema
from illume_fast.ops.nearest_code import nearest_code
from illume_fast.ops.quantize import quantize


class SimVQ(nn.Module):
    """A frozen random codebook behind one trained linear map (Zhu et al., arXiv 2411.02038).

    Quantises channel-first maps to the nearest code; ties go to the lowest id.

    Buffers and weights (names of the published checkpoints): `frozen_codebook` [K, D], `code_transform.weight` [D, D].
    """

    frozen_codebook: Tensor

    def __init__(self, config: SimVQConfig):
        super().__init__()
        self.config = config
        self.register_buffer("frozen_codebook", torch.empty(config.codebook_size, config.dim))
        # drawing on the meta device would import torch's whole compiler
        if not self.frozen_codebook.is_meta:
            nn.init.normal_(self.frozen_codebook, std=config.dim**-0.5)
        self.code_transform = nn.Linear(config.dim, config.dim, bias=False)

    @property
    def codebook(self) -> Tensor:
        """The effective codes, float32 [K, D]."""
        with torch.autocast(self.frozen_codebook.device.type, enabled=False):
            return F.linear(self.frozen_codebook.float(), self.code_transform.weight.float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, D, h, w] -> (straight-through codes [B, D, h, w], loss [], ids int64 [B, h, w]).

        The loss pulls the codes to the features and, with weight `commitment`, the features to the codes.
        """
        features = x.movedim(1, -1).float()
        codebook = self.codebook
        ids = nearest_code(features.detach(), codebook.detach())
        codes, commitment, distortion = quantize(features, codebook, ids)
        loss = distortion.mean() + self.config.commitment * commitment.mean()
        return codes.movedim(-1, 1), loss, ids

    def encode(self, x: Tensor) -> Tensor:
        """x [B, D, h, w] -> ids int64 [B, h, w]."""
        return nearest_code(x.movedim(1, -1).float(), self.codebook)

    def indices_to_codes(self, ids: Tensor) -> Tensor:
        """ids int64 [B, h, w] -> codes float32 [B, D, h, w]."""
        return F.embedding(ids, self.codebook).movedim(-1, 1)


class EmaVQ(nn.Module):
    """A codebook of moving averages (van den Oord et al., arXiv 1711.00937), used as `SimVQ` is.

    Buffers: `codebook` [K, D], and what is averaged, `counts` [K] and `sums` [K, D]; float32, moved in training mode
    by each `forward`.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, config: SimVQConfig, decay: float):
        super().__init__()
        self.config, self.decay = config, decay
        codebook = torch.empty(config.codebook_size, config.dim)
        if not codebook.is_meta:
            nn.init.normal_(codebook, std=config.dim**-0.5)
        self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(config.codebook_size))
        self.register_buffer("sums", codebook.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, D, h, w] -> (straight-through codes [B, D, h, w], loss [], ids int64 [B, h, w])."""
        features = x.movedim(1, -1).float()
        ids = nearest_code(features.detach(), self.codebook)
        # the average moves the codebook in place, and gradients want the codes that were chosen from
        codes, commitment, _ = quantize(features, self.codebook.clone() if self.training else self.codebook, ids)
        if self.training:
            rows = features.detach().reshape(-1, features.shape[-1])
            codebook_ema(rows, ids.flatten(), self.counts, self.sums, self.codebook, self.decay)
        return codes.movedim(-1, 1), self.config.commitment * commitment.mean(), ids

    def encode(self, x: Tensor) -> Tensor:
        """x [B, D, h, w] -> ids int64 [B, h, w]."""
        return nearest_code(x.movedim(1, -1).float(), self.codebook)

    def indices_to_codes(self, ids: Tensor) -> Tensor:
        """ids int64 [B, h, w] -> codes float32 [B, D, h, w]."""
        return F.embedding(ids, self.codebook).movedim(-1, 1)
