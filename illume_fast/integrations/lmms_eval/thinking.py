"""Visual chain of thought: a picture is drawn that should help, then the question is asked with it.

As in lmms-eval's `illume_plus`: the picture is an edit of the one that the question shows, or is drawn from words where
it shows none. A prompt may say what to draw and what to ask between marks; otherwise a template makes the one from the
other.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from illume_fast.data.chat import IMAGE_MARK
from illume_fast.data.errors import InputError
from illume_fast.data.files import write_atomically
from illume_fast.data.picture import upright_size
from illume_fast.data.png import write_png
from illume_fast.data.prompts import parse_size
from illume_fast.data.sizes import Size, nearest_size
from illume_fast.data.turns import Turn
from illume_fast.integrations.lmms_eval.arguments import Arguments
from illume_fast.integrations.lmms_eval.questions import (
    OnFailure,
    Question,
    answers,
    drawings,
    without_leading_marks,
)
from illume_fast.integrations.lmms_eval.wording import Wording
from illume_fast.pipeline import IllumePipeline
from illume_fast.tasks import Converse, Draw

_DRAW = re.compile(r"\[GEN_PROMPT\](.*?)\[/GEN_PROMPT\]", re.DOTALL)
_ASK = re.compile(r"\[QUESTION\](.*?)\[/QUESTION\]", re.DOTALL)


@dataclass(frozen=True, eq=False, kw_only=True)
class Thought:
    """A question to be thought about with a picture; `name` and `task` name its files."""

    name: str
    task: str
    question: Question
    context: str


def is_marked(context: str) -> bool:
    """Whether a prompt says what to draw and what to ask."""
    return bool(_DRAW.search(context) and _ASK.search(context))


def taken_apart(context: str, template: str) -> tuple[str, str]:
    """What to draw and what to ask."""
    draw, ask = _DRAW.search(context), _ASK.search(context)
    if draw is None or ask is None:
        return template.format(question=context), context
    question = ask[1].strip()
    asked = context.replace(draw[0], "").replace(ask[0], ask[1])
    return draw[1].strip().replace("{question}", question), asked


class Thinker:
    """Draws and answers as `arguments` say."""

    def __init__(self, pipeline: IllumePipeline, arguments: Arguments) -> None:
        self.pipeline, self.arguments = pipeline, arguments
        size = arguments.stage1_size
        self._size: Size | None = None if size is None else parse_size(size, "model_args: stage1_size")
        if self._size is not None:
            pipeline.tasks.grid(self._size)
        self._wording = Wording(
            max_new_tokens=arguments.stage2_max_new_tokens,
            temperature=arguments.stage2_temperature,
            top_p=arguments.stage2_top_p,
        )

    def check(self) -> None:
        """Raise what would keep every picture from being drawn; InputError where drawing is forbidden."""
        if not self.arguments.enable_image_decoding:
            raise InputError("model_args: enable_image_decoding=False, and a picture is to be drawn")
        self.pipeline.pictures.check()

    def answers(
        self,
        thoughts: Sequence[Callable[[], Thought]],
        on_failure: OnFailure,
        advance: Callable[[], object] = lambda: None,
    ) -> list[str]:
        """The answer to each; "" where drawing or answering failed and `on_failure` returned.

        Pictures of all of them are in memory at once.
        """
        made: list[Thought | None] = [None] * len(thoughts)

        def drawn(number: int) -> Draw | Converse:
            made[number] = thought = thoughts[number]()
            return self._draw(thought)

        pictures = drawings(self.pipeline, [partial(drawn, n) for n in range(len(thoughts))], on_failure)
        whole = [
            (n, thought, picture)
            for n, (thought, picture) in enumerate(zip(made, pictures, strict=True))
            if thought is not None and picture is not None
        ]
        for _ in range(len(thoughts) - len(whole)):
            advance()
        for _, thought, picture in whole:
            self._save(thought, picture)
        asked = [partial(self._asked, thought, picture) for _, thought, picture in whole]
        found = answers(self.pipeline, asked, on_failure, advance)
        for (_, thought, _), answer in zip(whole, found, strict=True):
            self._note(thought, answer)
        said = {n: answer for (n, _, _), answer in zip(whole, found, strict=True)}
        return [said.get(n, "") for n in range(len(thoughts))]

    def _draw(self, thought: Thought) -> Draw | Converse:
        """The picture to think with: drawn from words, or an edit of what is shown, the first giving the size."""
        shown, arguments = thought.question.pictures, self.arguments
        words, _ = taken_apart(thought.context, arguments.generation_prompt_template)
        prompt = words.replace(IMAGE_MARK, "").strip() if shown else words
        how: dict[str, Any] = {
            "size": self._size_of(shown),
            "guidance": arguments.stage1_guidance,
            "restore": False,
            "seed": thought.question.seed,
            "id": thought.name,
        }
        temperature, top_p = arguments.stage1_temperature, arguments.stage1_top_p
        if len(shown) > 1:
            turn = Turn.user(*shown, prompt)
            return Converse(
                messages=(turn,),
                answer="image",
                keep=False,
                picture_temperature=temperature,
                picture_top_p=top_p,
                **how,
            )
        return Draw(prompt=prompt, image=shown[0] if shown else None, temperature=temperature, top_p=top_p, **how)

    def _size_of(self, shown: Sequence[Image.Image]) -> Size | None:
        size = self._size
        if size is None and shown:
            size = nearest_size(upright_size(shown[0]), self.pipeline.sizes)
        grid, most = self.pipeline.tasks.grid(size), self.arguments.stage1_max_new_tokens
        if (steps := len(self.pipeline.tasks.plan(grid))) > most:
            raise InputError(
                f"model_args: stage1_max_new_tokens={most}: a picture of {grid.height}x{grid.width} has {steps} tokens"
            )
        return size

    def _asked(self, thought: Thought, picture: Image.Image) -> Question:
        """The question, with the drawing behind the pictures that it shows."""
        question = thought.question
        _, words = taken_apart(thought.context, self.arguments.generation_prompt_template)
        if question.pictures and IMAGE_MARK in without_leading_marks(words):
            words = f"{words}\n{IMAGE_MARK}"
        elif question.pictures:
            words = without_leading_marks(words)
        return replace(question, words=words, pictures=(*question.pictures, picture), wording=self._wording)

    def _save(self, thought: Thought, picture: Image.Image) -> None:
        path = self._path(thought)
        path.parent.mkdir(parents=True, exist_ok=True)
        prompt, _ = taken_apart(thought.context, self.arguments.generation_prompt_template)
        write_png(path, picture, {"prompt": prompt, "seed": thought.question.seed, "model": self.arguments.pretrained})

    def _note(self, thought: Thought, answer: str) -> None:
        folder = self.arguments.artifacts
        if folder is None:
            return
        prompt, words = taken_apart(thought.context, self.arguments.generation_prompt_template)
        note = {
            "doc_id": thought.name,
            "task": thought.task,
            "generation_prompt": prompt,
            "generated_images": [str(self._path(thought))],
            "question": words,
            "stage2_answer": answer,
        }
        (folder / thought.task).mkdir(parents=True, exist_ok=True)
        text = json.dumps(note, ensure_ascii=False, indent=2)
        write_atomically(
            folder / thought.task / f"{thought.name}_metadata.json", lambda file: file.write(text.encode())
        )

    def _path(self, thought: Thought) -> Path:
        return Path(self.arguments.output_dir) / "generated_images" / thought.task / f"{thought.name}_gen.png"
