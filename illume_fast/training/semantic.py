"""Stage 1: a vision transformer whose features agree with captions (the sigmoid loss of SigLIP, arXiv 2303.15343)."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.data.chat import random_image, reconstruct_image
from illume_fast.data.chat_template import QWEN2
from illume_fast.data.jsonl import Pictures, read_conversations
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.presets import demo_tokenizer
from illume_fast.model.vision_config import ViTConfig
from illume_fast.model.vision_encoder import Qwen2ViT, VisionBlocks
from illume_fast.training.augment import random_shift, to_float
from illume_fast.training.loop import LoopConfig, fit, steady_threads
from illume_fast.training.state import write_tensors

LENGTH = 32
_SPOKEN = (*random_image((64, 64)).parts, *reconstruct_image((64, 64)).parts)
_TEXTS = ("Generate a random image of ", *(part for part in _SPOKEN[1:] if isinstance(part, str)))
FIXED_WORDS = [f"system\n{QWEN2.system}", "assistant\n", *(f"user\n{text}" for text in _TEXTS)]


@dataclass(frozen=True, kw_only=True)
class SemanticConfig:
    """`data` is the folder of pictures, `prepared` what `train prepare` wrote, `out` the run's folder."""

    data: Path
    prepared: Path
    out: Path
    size: int = 64
    text_tokens: int = 1024
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=800, batch_size=128, learning_rate=1.5e-3, evaluate_every=200)
    )


class TextTower(nn.Module):
    """A small bidirectional transformer over caption tokens; only the loss needs it."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = VisionBlocks(2, width, 4)

    def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
        """ids [B, L], keep [B, L] -> [B, width]: the mean over kept tokens."""
        h = self.blocks(self.embed(ids), (1, ids.shape[1]))
        return (h * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)


class Aligner(nn.Module):
    """Both towers, and the temperature and bias of the sigmoid loss."""

    def __init__(self, vit: ViTConfig, vocabulary: int):
        super().__init__()
        self.vision = Qwen2ViT(vit)
        self.text = TextTower(vocabulary, 192)
        self.to_shared = nn.Linear(vit.hidden_size, 192)
        self.scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def embed_images(self, x: Tensor) -> Tensor:
        features = self.vision(x)
        return F.normalize(self.to_shared(F.layer_norm(features, features.shape[-1:]).mean(1)).float(), dim=-1)

    def embed_texts(self, ids: Tensor, keep: Tensor) -> Tensor:
        return F.normalize(self.text(ids, keep).float(), dim=-1)

    def forward(self, x: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
        """Sigmoid loss over all pairs of the batch; equal captions count as pairs."""
        similar = self.embed_images(x) @ self.embed_texts(ids, keep).T
        same = (ids[:, None] == ids[None]).all(-1)
        logits = similar * self.scale.exp() + self.bias
        return -F.logsigmoid(torch.where(same, logits, -logits)).sum() / len(x)


@dataclass(frozen=True)
class Captions:
    """Pictures with caption ids: uint8 [N, 3, S, S], int64 [N, LENGTH], float [N, LENGTH]."""

    pixels: Tensor
    ids: Tensor
    keep: Tensor


def main(config: SemanticConfig) -> None:
    """Train and write `out/vit.safetensors` and `out/tokenizer.json`."""
    steady_threads()
    train = read_conversations(config.prepared / "train" / "captions.jsonl")
    config.out.mkdir(parents=True, exist_ok=True)
    tokenizer = TextTokenizer.train(training_texts(config.prepared / "train"), config.text_tokens)
    tokenizer.save(config.out / "tokenizer.json")
    seen = load_captions(config, train, tokenizer)
    unseen = load_captions(config, read_conversations(config.prepared / "val" / "captions.jsonl"), tokenizer)
    torch.manual_seed(config.loop.seed)
    aligner = Aligner(demo_tokenizer().semantic_encoder.vit, tokenizer.size)

    def step(generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(seen.pixels), (config.loop.batch_size,), generator=generator)
        x = random_shift(to_float(seen.pixels[rows]), 4, generator)
        with torch.autocast("cpu", torch.bfloat16):
            return {"loss": aligner(x, seen.ids[rows], seen.keep[rows])}

    def evaluate() -> dict[str, float]:
        return {"train_top1": top1(aligner, seen, 256), "score": top1(aligner, unseen, 256)}

    fit(aligner, step, config.loop, config.out, evaluate)
    write_tensors(config.out / "vit.safetensors", aligner.vision.state_dict(), {})
    print({"train_top1": top1(aligner, seen, 256), "val_top1": top1(aligner, unseen, 256)})


def training_texts(folder: Path) -> list[str]:
    """What the text tokenizer learns from: every turn of every task, and the words that stand in every conversation."""
    turns = [
        turn for path in sorted(folder.glob("*.jsonl")) for item in read_conversations(path) for turn in item.turns
    ]
    return turns + FIXED_WORDS * len(turns)


def load_captions(config: SemanticConfig, conversations: list, tokenizer: TextTokenizer) -> Captions:
    """Pictures and caption ids of conversations that name a picture."""
    pictures = Pictures(config.data, [c.images[0] for c in conversations], config.size)
    ids = torch.zeros(len(conversations), LENGTH, dtype=torch.int64)
    keep = torch.zeros(len(conversations), LENGTH)
    for i, conversation in enumerate(conversations):
        tokens = tokenizer.encode(conversation.turns[1])[:LENGTH]
        ids[i, : len(tokens)], keep[i, : len(tokens)] = torch.tensor(tokens), 1.0
    return Captions(pictures.pixels[pictures.numbers([c.images[0] for c in conversations])], ids, keep)


@torch.inference_mode()
def top1(aligner: Aligner, captions: Captions, limit: int) -> float:
    """Share of pictures whose own caption is nearest among `limit` of them."""
    rows = torch.randperm(len(captions.pixels), generator=torch.Generator().manual_seed(0))[:limit]
    images = aligner.embed_images(to_float(captions.pixels[rows]))
    texts = aligner.embed_texts(captions.ids[rows], captions.keep[rows])
    best = (images @ texts.T).argmax(1)
    return float((captions.ids[rows][best] == captions.ids[rows]).all(-1).float().mean())
