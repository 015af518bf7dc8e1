"""Language models that read pictures as continuous features and write them as discrete tokens: ILLUME+, and what it
shares with ILLUME."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from illume_fast.model.attention import SeveralBatches
from illume_fast.model.config import IllumeModelConfig
from illume_fast.model.decoder import CausalLM, Decoder
from illume_fast.model.image_block import fill_block
from illume_fast.model.projector import MixedProjector
from illume_fast.model.vision_tower import DualVisionTower
from illume_fast.model.vocab import IGNORE_INDEX, IMAGE_PLACEHOLDER


@dataclass(frozen=True)
class Sample:
    """One training sequence: ids int64 [L] (`IMAGE_PLACEHOLDER` where a picture is read), labels int64 [L]
    (`IGNORE_INDEX` where nothing is learnt) and the pictures, each [1, 3, H, W] in [-1, 1]."""

    input_ids: Tensor
    labels: Tensor
    images: Sequence[Tensor] = field(default=())


@dataclass(frozen=True)
class Batch:
    """Samples with pictures expanded, padded to the right: embeddings [B, T, H], labels [B, T] and `lengths`."""

    inputs_embeds: Tensor
    labels: Tensor
    lengths: tuple[int, ...]


class ReadsPictures(CausalLM):
    """A language model with eyes. Trains on `Sample`s; the engine uses `embed`, `decoder`, `head` and `image_embeds`.

    A kind of model gives `config` (with `vocab` and `max_length`) and `blocks`.
    """

    config: Any

    def blocks(self, pictures: Tensor, structure: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] -> embeddings [B, n, H], those of the structure tokens [S, H] included.

        ValueError for a size that the model cannot see.
        """
        raise NotImplementedError

    def image_embeds(self, images: Sequence[Tensor] | Tensor) -> list[Tensor]:
        """Pictures [1, 3, H, W] in [-1, 1] (or one stacked [B, 3, H, W]) -> embeddings [n, H] of each, structure
        tokens included. Pictures of one size go through the tower together, in the model's dtype."""
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        pictures = list(images.split(1)) if isinstance(images, Tensor) else list(images)
        for i, picture in enumerate(pictures):
            if picture.dim() != 4 or picture.shape[:2] != (1, 3):
                raise ValueError(f"picture {i}: expected [1, 3, H, W], got {list(picture.shape)}")
            by_size[picture.shape[2], picture.shape[3]].append(i)
        structure = self.embed(torch.tensor(self.config.vocab.structure, device=self.head_weight.device))
        found: list[Tensor | None] = [None] * len(pictures)
        for places in by_size.values():
            blocks = self.blocks(torch.cat([pictures[i] for i in places]).to(structure), structure)
            for i, block in zip(places, blocks, strict=True):
                found[i] = block
        return [block for block in found if block is not None]

    def assemble(self, samples: Sequence[Sample]) -> Batch:
        """Put each sample's pictures in place of its placeholders, cut to `max_length`, pad to the right."""
        for i, sample in enumerate(samples):
            wanted = int((sample.input_ids == IMAGE_PLACEHOLDER).sum())
            if wanted != len(sample.images):
                raise ValueError(f"sample {i}: {wanted} image placeholders but {len(sample.images)} images")
        blocks = iter(self.image_embeds([image for sample in samples for image in sample.images]))
        embeds, labels = [], []
        for sample in samples:
            rows, marks = self._expand(sample, [next(blocks) for _ in sample.images])
            embeds.append(rows[: self.config.max_length])
            labels.append(marks[: self.config.max_length])
        return Batch(
            pad_sequence(embeds, batch_first=True),
            pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            tuple(len(row) for row in labels),
        )

    def forward(self, samples: Sequence[Sample]) -> Tensor:
        """Samples -> mean cross entropy (float32 scalar) over every label that is not ignored."""
        batch = self.assemble(samples)
        return self.loss(self.hidden(batch.inputs_embeds), batch.labels)

    def hidden(self, inputs_embeds: Tensor) -> Tensor:
        """Embeddings [B, T, H], padded to the right or not at all -> hidden states [B, T, H]."""
        return self.hidden_of([inputs_embeds])[0]

    def hidden_of(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """As `hidden`, of several batches in one pass; B and T may differ."""
        shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
        tokens = torch.cat([batch.flatten(0, 1) for batch in batches])
        positions = torch.cat([torch.arange(length, device=tokens.device).repeat(count) for count, length in shapes])
        out = self.model(tokens, positions, SeveralBatches(shapes))
        parts = out.split([count * length for count, length in shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]

    def loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Hidden states [B, T, H], labels [B, T] -> mean next-token cross entropy.

        Only learnt positions meet the head.
        """
        return self.losses([hidden], [labels])[0]

    def losses(self, hidden: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
        """As `loss`, of several batches, with one product of the head."""
        targets = [batch[:, 1:] for batch in labels]
        learnt = [batch != IGNORE_INDEX for batch in targets]
        if not all(batch.any() for batch in learnt):
            raise ValueError("every label of the batch is ignored: there is nothing to learn from it")
        rows = torch.cat([states[:, :-1][where] for states, where in zip(hidden, learnt, strict=True)])
        wanted = [batch[where] for batch, where in zip(targets, learnt, strict=True)]
        logits = F.linear(rows, self.head_weight).float()
        each = F.cross_entropy(logits, torch.cat(wanted), reduction="none")
        return [part.mean() for part in each.split([len(batch) for batch in wanted])]

    def _expand(self, sample: Sample, blocks: list[Tensor]) -> tuple[Tensor, Tensor]:
        holes = (sample.input_ids == IMAGE_PLACEHOLDER).nonzero().flatten().tolist()
        text = self.embed(sample.input_ids.clamp(min=0))
        if not holes:
            return text, sample.labels
        rows, labels, start = [], [], 0
        for hole, block in zip(holes, blocks, strict=True):
            rows += [text[start:hole], block.to(text.dtype)]
            labels += [sample.labels[start:hole], sample.labels.new_full((len(block),), IGNORE_INDEX)]
            start = hole + 1
        return torch.cat([*rows, text[start:]]), torch.cat([*labels, sample.labels[start:]])


class IllumeBody(Decoder):
    """The decoder together with its eyes, under the names of the published checkpoints."""

    def __init__(self, config: IllumeModelConfig) -> None:
        super().__init__(config.decoder)
        self.mm_projector = MixedProjector(config.projector, config.vision_tower.widths, config.decoder.hidden_size)
        self.vision_tower = DualVisionTower(config.vision_tower)


class IllumeModel(ReadsPictures):
    """ILLUME+ (Huang et al., arXiv 2504.01934)."""

    model: IllumeBody

    def __init__(self, config: IllumeModelConfig) -> None:
        super().__init__(config.decoder, IllumeBody(config))
        self.config = config

    def blocks(self, pictures: Tensor, structure: Tensor) -> Tensor:
        """See `ReadsPictures`; sides must be multiples of the tower's factor."""
        grids = self.config.vision_tower.grids(*pictures.shape[-2:])
        features = self.model.mm_projector(*self.model.vision_tower(pictures))
        return fill_block(self.config.vocab, structure, features, grids)


def build_illume(config: IllumeModelConfig, seed: int) -> IllumeModel:
    """A fresh model with reproducible random weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = IllumeModel(config)
    return model
