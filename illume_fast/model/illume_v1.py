"""ILLUME, the first model: a Llama that reads pictures in slices and writes them as 256 semantic codes."""

import torch
from torch import Tensor

from illume_fast.model.decoder import Decoder
from illume_fast.model.hf_encoder import VisionEncoder, scaled
from illume_fast.model.illume import ReadsPictures
from illume_fast.model.image_block import fill_block
from illume_fast.model.projector import mlp
from illume_fast.model.semantic_config import SIDE
from illume_fast.model.v1_config import IllumeV1Config


class IllumeV1Body(Decoder):
    """The decoder together with its eyes, named as in LLaVA.

    The encoder is of the vision tokenizer's kind and begins as a copy of its weights, but is tuned with the language
    model, while the tokenizer's stays as the codes were learnt over it.
    """

    def __init__(self, config: IllumeV1Config) -> None:
        super().__init__(config.decoder)
        width = config.vision_tower.encoder.width
        self.mm_projector = mlp(width, config.decoder.hidden_size, config.projector.depth)
        self.vision_tower = VisionEncoder(config.vision_tower.encoder)


class IllumeV1Model(ReadsPictures):
    """ILLUME (Wang et al., arXiv 2412.06673).

    The paper says that a picture is read whole and as up to 9 slices of 448 pixels, 256 tokens each. Chosen here: the
    whole comes first, so that every slice is read knowing it; then the slices in raster order. Each is a block as a
    written picture is (`model.image_block`), and each row of slices is closed by `<end_of_line>`, which tells their
    grid. A picture of one slice is read whole alone.
    """

    model: IllumeV1Body

    def __init__(self, config: IllumeV1Config) -> None:
        super().__init__(config.decoder, IllumeV1Body(config))
        self.config = config

    def blocks(self, pictures: Tensor, structure: Tensor) -> Tensor:
        """See `ReadsPictures`; pictures are already brought to whole slices (`data.slices`)."""
        tower = self.config.vision_tower
        rows, columns = tower.slices(*pictures.shape[-2:])
        views = [scaled(pictures, tower.base).unsqueeze(1)]
        if rows * columns > 1:
            cut = pictures.unflatten(3, (columns, tower.base)).unflatten(2, (rows, tower.base))
            views.append(cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2))
        seen = torch.cat(views, dim=1)  # [B, 1 + slices, 3, base, base]
        features = self.model.mm_projector(self.model.vision_tower(seen.flatten(0, 1)))
        blocks = fill_block(self.config.vocab, structure, [features], [(SIDE, SIDE)]).unflatten(0, seen.shape[:2])
        if rows * columns == 1:
            return blocks[:, 0]
        lines = blocks[:, 1:].unflatten(1, (rows, columns)).flatten(2, 3)
        line_end = structure[2].to(blocks.dtype).expand(len(pictures), rows, 1, -1)
        return torch.cat([blocks[:, 0], torch.cat([lines, line_end], dim=2).flatten(1, 2)], dim=1)
