"""Stage 3: the language model, on captioning, text-to-image and editing together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from illume_fast.data.chat import Chat, random_image, reconstruct_image, written_image
from illume_fast.data.errors import InputError
from illume_fast.data.jsonl import Conversation, Pictures, read_conversations
from illume_fast.data.sizes import image_grid
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.illume import IllumeModel, build_illume
from illume_fast.model.presets import demo
from illume_fast.model.vision_folder import require_vision_tokenizer
from illume_fast.training.encodings import Encodings, Variant, encode_pictures
from illume_fast.training.loop import LoopConfig, fit, steady_threads
from illume_fast.training.templates import READ_SLOTS, Template, TemplateMaker, fill

TASKS = ("text_to_image", "editing", "captions")

# Moves of up to two pixels; mirrored ones serve editing alone, since names tell left from right.
_MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (2, -1))
UPRIGHT = tuple(Variant(rows, columns) for rows, columns in _MOVES)
MIRRORED = tuple(replace(variant, mirrored=True) for variant in UPRIGHT[:4])
MOVED = ", moved"


@dataclass(frozen=True, kw_only=True)
class MllmConfig:
    """`semantic` and `tokenizer` are the folders of stages 1 and 2. A checkpoint `start` (its folder, or "demo") takes
    their place: training goes on with its language model and its tokenizers.

    `sequences` are those of one step, by task; `weights` those of the tasks' losses. `drop_prompt` is the share of
    prompts dropped for guidance, `noise` the share of codes fed in wrong, `moved` the share of moved pictures.
    """

    data: Path
    prepared: Path
    out: Path
    semantic: Path | None = None
    tokenizer: Path | None = None
    start: Path | None = None
    size: int = 64
    sequences: tuple[int, int, int] = (24, 16, 16)
    weights: tuple[float, float, float] = (1.0, 1.0, 0.3)
    drop_prompt: float = 0.1
    noise: float = 0.1
    moved: float = 0.5
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=4000, batch_size=56, learning_rate=2e-3, weight_decay=0.1, evaluate_every=250, save_every=250
        )
    )


Judge = Callable[[Path], Mapping[str, float]]
# templates, and the variant that the pictures of each come in
Drawn = tuple[Sequence[Template], Sequence[int]]


def main(config: MllmConfig, judge: Judge | None = None) -> None:
    """Train and write a checkpoint folder `out/checkpoint`.

    `judge` scores a checkpoint folder; it is shown the averaged weights now and then, and those with the best "score"
    are kept. Without it the score is the negative loss on the split `val_combo`.
    """
    steady_threads()
    stage = Stage(config)

    def evaluate() -> Mapping[str, float]:
        unseen = stage.unseen_losses()
        if judge is None:
            return {**unseen, "score": -sum(unseen.values())}
        stage.save(config.out / "candidate")
        return {**unseen, **judge(config.out / "candidate")}

    fit(stage.model, stage.step, config.loop, config.out, evaluate)
    best = config.out / "best.safetensors"
    if best.exists():
        stage.model.load_state_dict(load_file(best), strict=True)
    stage.save(config.out / "checkpoint")


class TaskData:
    """A task's conversations as templates, made when first asked for: as they are, about a moved picture, or with the
    prompt dropped."""

    def __init__(self, maker: TemplateMaker, conversations: Sequence[Conversation], pictures: Pictures):
        self.maker, self.conversations, self.pictures = maker, conversations, pictures
        self.plain, self.moved, self.unprompted = cache(self._plain), cache(self._moved), cache(self._unprompted)

    def __len__(self) -> int:
        return len(self.conversations)

    def _plain(self, row: int) -> Template:
        return self._template(self.conversations[row])

    def _moved(self, row: int) -> Template:
        conversation = self.conversations[row]
        template = self.plain(row)
        if template.read or not template.written:
            return template
        prompt = conversation.turns[0].rstrip("\n") + MOVED + "\n"
        return self._template(replace(conversation, turns=(prompt, *conversation.turns[1:])))

    def _unprompted(self, row: int) -> Template:
        """The same without the words: draw anything; or write again the picture that was read."""
        template = self.plain(row)
        size, answer = self.maker.size, written_image(self.maker.blank())
        if not template.written:
            return template
        if not template.read:
            return self.maker.encode([random_image(size), answer], (), template.written)
        return self.maker.encode([reconstruct_image(size), answer], template.read, template.read)

    def _template(self, conversation: Conversation) -> Template:
        return self.maker.of(conversation, [self.pictures.number[path] for path in conversation.images])


class Stage:
    """Everything one step needs."""

    def __init__(self, config: MllmConfig) -> None:
        """Read the earlier stages' results and the conversations, and encode every picture."""
        self.config = config
        start = load_checkpoint(config.start) if config.start is not None else self._untrained()
        self.settings, self.model = start.config, start.model
        self.tokenizer = require_vision_tokenizer(start.vision_tokenizer)
        self.model.model.vision_tower.requires_grad_(False)
        self.text = TextTokenizer.from_file(start.tokenizer)
        self.vocab = self.settings.model.vocab
        grid = image_grid((config.size, config.size), self.settings.vision_tokenizer)
        maker = TemplateMaker(Chat(self.text, self.vocab), grid)
        seen, unseen = (read_tasks(config.prepared / split) for split in ("train", "val_combo"))
        paths = (path for tasks in (seen, unseen) for items in tasks.values() for c in items for path in c.images)
        pictures = Pictures(config.data, paths, config.size)
        cache_file = config.out / "encodings.safetensors"
        self.encodings: Encodings = encode_pictures(self.tokenizer, pictures.pixels, UPRIGHT + MIRRORED, cache_file)
        self.seen = {task: TaskData(maker, items, pictures) for task, items in seen.items()}
        self.unseen = {task: TaskData(maker, items, pictures) for task, items in unseen.items()}

    def _untrained(self) -> Checkpoint:
        """The tokenizers of stages 1 and 2 with a fresh language model."""
        semantic, tokenizer = self.config.semantic, self.config.tokenizer
        if semantic is None or tokenizer is None:
            raise InputError("train mllm: give --semantic and --tokenizer, the folders of stages 1 and 2, or --start")
        text = semantic / "tokenizer.json"
        settings = demo(TextTokenizer.from_file(text).size)
        vision = DualViTok(settings.vision_tokenizer).eval()
        vision.load_state_dict(load_file(tokenizer / "vision_tokenizer.safetensors"), strict=True)
        model = with_eyes(build_illume(settings.model, self.config.loop.seed), vision)
        return Checkpoint(settings, model, vision, text)

    def step(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of one step: one batch of each task."""
        counts = zip(TASKS, self.config.sequences, strict=True)
        batches = {task: self.draw(task, count, generator) for task, count in counts if count}
        losses = dict(zip(batches, self.losses(batches.values(), generator), strict=True))
        weights = dict(zip(TASKS, self.config.weights, strict=True))
        return {"loss": torch.stack([weights[task] * loss for task, loss in losses.items()]).sum(), **losses}

    def draw(self, task: str, count: int, generator: torch.Generator) -> Drawn:
        """Random templates of a task, each with the variant its pictures come in."""
        data, config = self.seen[task], self.config
        rows = torch.randint(len(data), (count,), generator=generator).tolist()
        move, drop = torch.rand(2, count, generator=generator).tolist()
        among = len(UPRIGHT) + (len(MIRRORED) if task == "editing" else 0)
        other = torch.randint(1, among, (count,), generator=generator).tolist()
        templates, variants = [], []
        for row, m, d, variant in zip(rows, move, drop, other, strict=True):
            moves, drops = m < config.moved, d < config.drop_prompt
            templates.append((data.unprompted if drops else data.moved if moves else data.plain)(row))
            variants.append(variant if moves else 0)
        return templates, variants

    def losses(self, batches: Iterable[Drawn], generator: torch.Generator | None) -> list[Tensor]:
        """Of each batch the mean cross entropy of what the assistant says; with a generator some codes are fed in
        wrong."""
        embeds, labels = [], []
        with torch.autocast("cpu", torch.bfloat16):
            for drawn in batches:
                filled = fill(drawn[0], self.codes(*drawn), [lo for lo, _ in self.vocab.levels])
                ids = filled.ids if generator is None else self.spoilt(filled.ids, filled.labels, generator)
                embeds.append(self.embed(ids, *self.features(*drawn)))
                labels.append(filled.labels)
            return self.model.losses(self.model.hidden_of(embeds), labels)

    def embed(self, ids: Tensor, semantic: Tensor, pixel: Tensor) -> Tensor:
        """Ids [B, T] with slots, features [n, h * w, D0] and [n, p * q, D1] -> embeddings [B, T, H]."""
        embeds = self.model.embed(ids.clamp(min=0))
        if len(semantic):
            project: Any = self.model.model.mm_projector
            projected = project(semantic, pixel)
            for slot, features in zip(READ_SLOTS, projected, strict=True):
                embeds = embeds.masked_scatter((ids == slot)[..., None], features.to(embeds.dtype))
        return embeds

    def spoilt(self, ids: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Ids with a share of the written codes replaced by random ones of their level."""
        for lo, hi in self.vocab.levels:
            wrong = torch.rand(ids.shape, generator=generator) < self.config.noise
            wrong &= (labels >= lo) & (labels < hi)
            ids = torch.where(wrong, torch.randint(lo, hi, ids.shape, generator=generator), ids)
        return ids

    def codes(self, templates: Sequence[Template], variants: Sequence[int]) -> tuple[Tensor, Tensor]:
        where = [(v, n) for t, v in zip(templates, variants, strict=True) for n in t.written]
        return self._look_up(where, self.encodings.semantic_codes, self.encodings.pixel_codes)

    def features(self, templates: Sequence[Template], variants: Sequence[int]) -> tuple[Tensor, Tensor]:
        where = [(v, n) for t, v in zip(templates, variants, strict=True) for n in t.read]
        return self._look_up(where, self.encodings.semantic, self.encodings.pixel)

    @staticmethod
    def _look_up(where: Sequence[tuple[int, int]], *tables: Tensor) -> tuple[Tensor, Tensor]:
        variant, number = torch.tensor(where, dtype=torch.int64).reshape(-1, 2).unbind(1)
        first, second = (table[variant, number] for table in tables)
        return first, second

    def unseen_losses(self) -> dict[str, float]:
        """Loss of each task on unseen combinations."""
        losses = {}
        for task, data in self.unseen.items():
            templates = [data.plain(row) for row in range(min(96, len(data)))]
            losses[f"unseen_{task}"] = float(self.losses([(templates, [0] * len(templates))], None)[0])
        return losses

    def save(self, folder: Path) -> None:
        """Write the checkpoint folder that `IllumePipeline.from_pretrained` reads."""
        save_checkpoint(folder, self.settings, self.model, self.tokenizer, self.text.to_json(), torch.bfloat16)


def read_tasks(folder: Path) -> dict[str, list[Conversation]]:
    """The conversations of every task in a folder that `train prepare` wrote."""
    return {task: read_conversations(folder / f"{task}.jsonl") for task in TASKS}


def with_eyes(model: IllumeModel, tokenizer: DualViTok) -> IllumeModel:
    """The model with the tokenizer's two encoders as its vision tower."""
    tower = model.model.vision_tower
    tower.semantic_encoder.load_state_dict(tokenizer.semantic_encoder.model.state_dict(), strict=True)
    tower.pixel_encoder.load_state_dict(tokenizer.pixel_encoder.state_dict(), strict=True)
    return model
