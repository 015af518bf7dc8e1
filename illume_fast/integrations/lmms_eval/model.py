"""`IllumeFast`: what lmms-eval loads for `--model illume_fast`."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from tqdm import tqdm

from illume_fast.data.errors import InputError
from illume_fast.engine import EngineConfig
from illume_fast.integrations.lmms_eval import NAME
from illume_fast.integrations.lmms_eval.arguments import DTYPES, Arguments
from illume_fast.integrations.lmms_eval.questions import Question, answers, seed_of
from illume_fast.integrations.lmms_eval.rounds import Game, play
from illume_fast.integrations.lmms_eval.scoring import losses
from illume_fast.integrations.lmms_eval.thinking import Thinker, Thought, is_marked
from illume_fast.integrations.lmms_eval.visuals import pictures_of
from illume_fast.integrations.lmms_eval.wording import Wording
from illume_fast.pipeline import IllumePipeline
from illume_fast.tasks import Ask, Converse

# questions that are drawn together before any is answered, in batches
_THOUGHTS_TOGETHER = 4


@register_model(NAME)
class IllumeFast(lmms):
    """Answers the requests of lmms-eval's tasks on the engine; see `docs/evaluation.md`.

    An answer depends on its question alone: not on `batch_size`, the order of requests or the number of ranks.

    Raises:
        InputError: an argument, a task's `generation_kwargs` or a document cannot be used.
        CheckpointError: the model is missing or damaged.
    """

    is_simple = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = Arguments.of(arguments)
        self._world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self._rank = int(os.environ.get("RANK", "0"))
        self._device = _device(self.arguments.device, self._world_size)
        if self._world_size > 1:
            from accelerate import Accelerator

            # joins the ranks; the model needs no wrapper, as each rank has its own whole
            self.accelerator = Accelerator(cpu=self._device.type == "cpu")
        self.pipeline = _load(self.arguments, self._device)
        self.thinker = Thinker(self.pipeline, self.arguments)
        if self.arguments.thinks:
            self.thinker.check()

    @property
    def batch_size(self) -> int:
        """Answers made together."""
        return self.arguments.batch_size

    @property
    def device(self) -> torch.device:
        """Where this rank's model lies."""
        return self._device

    def clean(self) -> None:
        """Let go of the model; called by lmms-eval when all answers are there."""
        self.__dict__.pop("thinker", None)
        self.__dict__.pop("pipeline", None)
        super().clean()

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answer to each request; those that are to be thought about with a picture are drawn first."""
        for request in requests:
            Wording.of(request.args[1])
        repeats = _repeats(requests)
        drawn = [n for n, r in enumerate(requests) if self.arguments.thinks or is_marked(r.args[0])]
        if drawn:
            # rather now than when everything else is answered
            self.thinker.check()
        plain = sorted(set(range(len(requests))) - set(drawn))
        found: dict[int, str] = {}
        with self._progress(len(requests)) as bar:
            asked = [partial(self._question, requests[n], repeats[n]) for n in plain]
            found |= zip(plain, answers(self.pipeline, asked, self._failed, bar.update), strict=True)
            together = _THOUGHTS_TOGETHER * self.batch_size
            for start in range(0, len(drawn), together):
                some = drawn[start : start + together]
                thoughts = [partial(self._thought, requests[n], repeats[n]) for n in some]
                found |= zip(some, self.thinker.answers(thoughts, self._failed, bar.update), strict=True)
        for number, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args[:2], found[number])
        return [found[number] for number in range(len(requests))]

    def generate_visual_cot(self, requests: Sequence[Instance]) -> list[str]:
        """As `generate_until`: the requests' marks, or `enable_visual_cot`, say what is drawn."""
        return self.generate_until(requests)

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """The answers of each request, round by round; all that go on are asked together."""
        games, known = [], {}
        for request, repeat in zip(requests, _repeats(requests), strict=True):
            context, kwargs, doc_to_visual, doc_to_text, *place = request.args
            document, name = self._document(*place), _name(*place)
            visuals = None if doc_to_visual is None else doc_to_visual(document)
            game = Game(document=document, next_round=doc_to_text, visuals=visuals, context=context)
            games.append(game)
            known[id(game)] = name, repeat, Wording.of(kwargs)

        def question(game: Game, number: int) -> Question:
            name, repeat, wording = known[id(game)]
            seed = self._seed(wording, f"{name} {number}", repeat)
            asked = self._asked(game.context, game.visuals, f"{name} round {number}")
            return replace(asked, wording=wording, seed=seed)

        def answer(going: Sequence[Game], number: int) -> list[str]:
            asked = [partial(question, game, number) for game in going]
            with self._progress(len(going)) as bar:
                return answers(self.pipeline, asked, self._failed, bar.update)

        return play(games, answer)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The loss of each request's answer (mean cross entropy, lower is likelier), and whether it is the greedy one.

        The loss and not the log probability, because lmms-eval takes the answer with the least (as its own models
        return it). Each pair is wrapped, because the evaluator of 0.7.3 makes a text of a bare one.
        """
        asked = map(self._scored, requests)
        return [GenerationResult(text=pair) for pair in losses(self.pipeline, asked, self.batch_size)]

    def _scored(self, request: Instance) -> tuple[Ask | Converse, str]:
        context, target, doc_to_visual, *place = request.args
        document, name = self._document(*place), _name(*place)
        answer = target if isinstance(target, str) else target(document)
        if not isinstance(answer, str):
            raise InputError(f"{name}: the answer to be scored must be a text, got {answer!r}")
        question = self._asked(context, None if doc_to_visual is None else doc_to_visual(document), name)
        return question.task(self.pipeline), answer

    def _question(self, request: Instance, repeat: int) -> Question:
        context, kwargs, doc_to_visual, *place = request.args
        name, wording = _name(*place), Wording.of(kwargs)
        visuals = None if doc_to_visual is None else doc_to_visual(self._document(*place))
        return replace(self._asked(context, visuals, name), wording=wording, seed=self._seed(wording, name, repeat))

    def _asked(self, context: str, visuals: Any, name: str) -> Question:
        pictures = pictures_of(visuals, name)
        return Question(id=name, words=context, pictures=pictures, max_pixels=self.arguments.max_pixels)

    def _thought(self, request: Instance, repeat: int) -> Thought:
        doc_id, task = request.args[3], request.args[4]
        name = f"{doc_id}_{repeat}" if repeat else str(doc_id)
        return Thought(name=name, task=task, question=self._question(request, repeat), context=request.args[0])

    def _seed(self, wording: Wording, name: str, repeat: int) -> int:
        return seed_of(self.arguments.seed + wording.seed, name, repeat)

    def _document(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _failed(self, error: Exception) -> None:
        if not self.arguments.fail_gracefully:
            raise error
        print(f"{NAME}: answered with nothing: {error}", file=sys.stderr, flush=True)

    def _progress(self, total: int) -> Any:
        return tqdm(total=total, disable=self.rank != 0, desc=NAME)


def _device(given: str | None, ranks: int) -> torch.device:
    """This rank's device: its own GPU where there are several ranks and no CPU is asked for."""
    try:
        device = torch.device(given or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"device {given}: {str(error).splitlines()[0]}") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise InputError(f"device {given}: this machine or this torch has no GPU; allowed is cpu")
    if ranks > 1 and device.index is not None:
        raise InputError(f"device {given}: {ranks} ranks have a GPU each; give cuda, or nothing")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if ranks > 1 else device.index or 0)


def _load(arguments: Arguments, device: torch.device) -> IllumePipeline:
    own = torch.bfloat16 if device.type == "cuda" else torch.float32
    return IllumePipeline.from_pretrained(
        arguments.pretrained,
        dtype=own if arguments.dtype is None else DTYPES[arguments.dtype],
        device=device,
        engine=EngineConfig(max_batch=arguments.batch_size, cache_tokens=arguments.cache_tokens),
        quantize=arguments.quantize,
        vision_tokenizer=arguments.tokenizer_config_path,
        decoder=arguments.diffusion_decoder_path,
    )


def _name(doc_id: int, task: str, split: str) -> str:
    return f"{task}/{split}/{doc_id}"


def _repeats(requests: Sequence[Instance]) -> list[int]:
    """How often each request came before in the list, which is how lmms-eval asks for several answers."""
    seen: Counter[int] = Counter()
    found = []
    for request in requests:
        found.append(seen[id(request)])
        seen[id(request)] += 1
    return found
