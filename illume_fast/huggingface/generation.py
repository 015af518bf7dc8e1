"""`generate`: padded ids in, ids with the answers behind them out, drawn by our engine."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from illume_fast.engine import Engine, SamplingParams, Segment
from illume_fast.huggingface.adapters import require_plain, state_of
from illume_fast.huggingface.inputs import Pictures, deal_pictures, one_of, pad_rows, rows_of
from illume_fast.huggingface.interleaving import Interleaving
from illume_fast.huggingface.requests import SETTINGS, Drawing, Painting, Prompt, Sampling, Writing
from illume_fast.seeds import Generators, Seeds, seeds_of_answers
from illume_fast.tasks import Tasks

MODES = ("text", "image", "interleaved")


class Generating:
    """The half of the model class that draws; what it draws with belongs to the other."""

    if TYPE_CHECKING:
        core: Any
        checkpoint: Any
        engine_config: Any

    _made: tuple[Hashable, Engine] | None = None
    _tools: Tasks | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the engine, whose cache cannot be copied; a copy of the model makes its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_made"}

    @property
    def engine(self) -> Engine:
        """The engine over the weights as they are now: a new one where they were moved, cast, replaced or switched."""
        require_plain(self.core)
        key = tuple(map(_place, self.core.parameters())), state_of(self.core), self.engine_config
        if self._made is None or self._made[0] != key:
            self.__dict__["_made"] = made = key, Engine(self.core, self.engine_config)
            return made[1]
        return self._made[1]

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Pictures | None = None,
        *,
        images: Pictures | None = None,
        generation_mode: str = "text",
        max_new_tokens: int | None = None,
        num_return_sequences: int = 1,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance_scale: float | None = None,
        negative_image_prompt_ids: Tensor | None = None,
        negative_image_prompt_attention_mask: Tensor | None = None,
        target_image_resolution: tuple[int, int] | None = None,
        image_semantic_temperature: float | None = None,
        image_semantic_top_k: int | None = None,
        image_semantic_top_p: float | None = None,
        image_pixel_temperature: float | None = None,
        image_pixel_top_k: int | None = None,
        image_pixel_top_p: float | None = None,
        seed: Seeds = None,
        generator: Generators = None,
    ) -> Tensor:
        """Prompts int64 [B, T] -> prompts with their answers int64 [B * num_return_sequences, T + S].

        Prompts are padded on one side where `attention_mask` is 0, and hold -200 where a picture of `pixel_values` (or
        `images`; see `forward`) is read. They come back padded to the left, so that answers begin at T; behind an
        answer stands the padding id. Rows share the engine's batches and do not depend on each other.

        `generation_mode="text"`: words, at most `max_new_tokens`, greedily unless `temperature` is above 0 or
        `do_sample` is True. "image": one picture a row, of the size `target_image_resolution` (height, width), or of
        the size tag that the prompt ends with, or of the model's default; where the prompt lacks the tag, it is written
        first. "interleaved": words as in "text", and up to four pictures where the model begins one, of
        `target_image_resolution` or of a size that it chooses.

        Guidance leads pictures away from `negative_image_prompt_ids` ([1 or B, T'], with the same pictures), or from
        the model's own empty prompt. `temperature`, `top_k` and `top_p` are those of words, and in the mode "image"
        those of a picture's codes where `image_semantic_...` or `image_pixel_...` does not say otherwise. What is None
        is the model's default.

        `seed` is one for all rows or a list of one for each; sample k of a row draws with `sample_seed(seed, k)`.
        `generator` gives each row a seed or, as a list, each of the B * num_return_sequences answers; without either,
        torch's global generator does.

        Raises:
            ValueError: an argument is out of range or does nothing in this mode; a list has another length than the
                batch. TypeError for an argument that is not known.
            RequestError: the model broke on a prompt.
        """
        if input_ids is None:
            raise ValueError("generate: input_ids are needed")
        if num_return_sequences < 1:
            raise ValueError(f"num_return_sequences must be at least 1, got {num_return_sequences}")
        if generation_mode not in MODES:
            allowed = ", ".join(map(repr, MODES))
            raise ValueError(f"generation_mode {generation_mode!r} is not known; allowed are {allowed}")
        of_pictures = {
            "guidance_scale": guidance_scale,
            "negative_image_prompt_ids": negative_image_prompt_ids,
            "negative_image_prompt_attention_mask": negative_image_prompt_attention_mask,
            "target_image_resolution": target_image_resolution,
            "image_semantic_temperature": image_semantic_temperature,
            "image_semantic_top_k": image_semantic_top_k,
            "image_semantic_top_p": image_semantic_top_p,
            "image_pixel_temperature": image_pixel_temperature,
            "image_pixel_top_k": image_pixel_top_k,
            "image_pixel_top_p": image_pixel_top_p,
        }
        _refuse(generation_mode, of_pictures if generation_mode == "text" else {})
        _refuse(generation_mode, {"max_new_tokens": max_new_tokens} if generation_mode == "image" else {})
        tasks = self._tasks()
        prompts = self._prompts(input_ids, attention_mask, one_of(pixel_values, images))
        seeds = seeds_of_answers(seed, generator, len(prompts), num_return_sequences)
        sampling = Sampling(do_sample, temperature, top_k, top_p)
        away = _negatives(negative_image_prompt_ids, negative_image_prompt_attention_mask, len(prompts))
        levels = [{name: of_pictures[f"image_{level}_{name}"] for name in SETTINGS} for level in ("semantic", "pixel")]
        rows = [row for row in range(len(prompts)) for _ in range(num_return_sequences)]
        asked = [prompts[row] for row in rows]
        if generation_mode == "interleaved":
            words = SamplingParams((sampling.set(tasks.generation.text, greedy=True),))
            painting = Painting(tasks, Sampling(), levels, guidance_scale, away)
            kind = Interleaving(words, painting, target_image_resolution, max_new_tokens)
            answers = kind.ids(self.engine, asked, rows, seeds)
        elif generation_mode == "image":
            painting = Painting(tasks, sampling, levels, guidance_scale, away)
            answers = self._answers(Drawing(painting, target_image_resolution), asked, rows, seeds)
        else:
            answers = self._answers(Writing(tasks, sampling, max_new_tokens), asked, rows, seeds)
        before = pad_rows([torch.tensor(p.ids) for p in asked], tasks.vocab.pad, left=True, width=input_ids.shape[1])
        return torch.cat([before, pad_rows(answers, tasks.vocab.pad, left=False)], dim=1).to(input_ids.device)

    def _tasks(self) -> Tasks:
        """Chat, sizes and plans; kept, since reading a text tokenizer takes a while."""
        here, made = self.checkpoint, self._tools
        if made is None or (made.checkpoint.config, made.checkpoint.tokenizer) != (here.config, here.tokenizer):
            self.__dict__["_tools"] = made = Tasks(here)
        return made

    def _prompts(self, input_ids: Tensor, mask: Tensor | None, pictures: Pictures | None) -> list[Prompt]:
        ids = [row[where] for row, where in zip(input_ids, rows_of(input_ids, mask), strict=True)]
        read: dict[str, Segment] = {}
        prompts = []
        for row, mine in zip(ids, deal_pictures(ids, pictures), strict=True):
            seen = tuple(self._read(picture, read) for picture in mine)
            prompts.append(Prompt(row.tolist(), seen))
        return prompts

    def _read(self, picture: Tensor, read: dict[str, Segment]) -> Segment:
        """Features of a picture; pictures are read one at a time, so that they do not depend on their company."""
        content = picture.detach().cpu().float().contiguous()
        key = hashlib.sha256(repr(tuple(content.shape)).encode() + content.numpy().tobytes()).hexdigest()
        if key not in read:
            features = self.core.image_embeds([picture.to(self.core.head_weight)])[0]
            read[key] = Segment(features=features, key=key)
        return read[key]

    def _answers(
        self, kind: Drawing | Writing, prompts: Sequence[Prompt], rows: Sequence[int], seeds: Sequence[int]
    ) -> list[Tensor]:
        asked = [kind.request(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        requests = [replace(request, seed=seeds[i], tag=i) for i, (_, request) in enumerate(asked)]
        found: dict[int, Tensor] = {}
        for result in self.engine.generate(requests):
            if result.error is not None:
                raise result.error
            lead = torch.tensor(asked[result.request.tag][0], dtype=torch.int64)
            found[result.request.tag] = torch.cat([lead, result.ids])
        return [found[i] for i in range(len(requests))]


def _place(weight: Tensor) -> Hashable:
    """Where a weight lies; recorded steps hold addresses. One of torchao's has none, and counts as itself."""
    return weight.data_ptr() if type(weight.data) is Tensor else id(weight), weight.device, weight.dtype, weight.shape


def _negatives(ids: Tensor | None, mask: Tensor | None, batch: int) -> list[Prompt] | None:
    if ids is None:
        _refuse("no negative_image_prompt_ids", {"negative_image_prompt_attention_mask": mask})
        return None
    if len(ids) not in (1, batch):
        raise ValueError(f"negative_image_prompt_ids: {len(ids)} rows for {batch} prompts; give one, or one for each")
    return [Prompt(row[where].tolist()) for row, where in zip(ids, rows_of(ids, mask), strict=True)]


def _refuse(where: str, arguments: Mapping[str, Any]) -> None:
    if given := [name for name, value in arguments.items() if value is not None]:
        raise ValueError(f"generate: {', '.join(given)} would do nothing with {where}")
