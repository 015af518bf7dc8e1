"""SimVQ: a frozen random codebook behind one trained linear map (Zhu et al., arXiv 2411.02038)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.vision_config import SimVQConfig
from illume_fast.ops.nearest_code import nearest_code
from illume_fast.ops.quantize import quantize


class SimVQ(nn.Module):
    """Quantises channel-first maps to the nearest code; ties go to the lowest id.

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
