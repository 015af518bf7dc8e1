"""Conversations of the command line: one with whoever types, or many from a file."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from illume_fast.commands.chat import Chat
from illume_fast.commands.failures import explain
from illume_fast.commands.progress import Bar
from illume_fast.data.errors import InputError
from illume_fast.data.picture import load_picture
from illume_fast.data.prompts import parse_size
from illume_fast.data.talks import Talk, read_talks
from illume_fast.data.turns import Turn
from illume_fast.engine import sample_seed
from illume_fast.pipeline import Converse, Done, IllumePipeline

_SHOW = "/image "


class Session:
    """One conversation, a turn after the other."""

    def __init__(self, pipeline: IllumePipeline, options: Chat) -> None:
        self._pipeline, self._options = pipeline, options
        self._talk = _Talking(Talk("", []), options)
        self._pictures = [load_picture(path) for path in options.image]

    def say(self, words: str) -> None:
        """Ask, with the pictures that were shown, and print the answer."""
        self._talk.turns.append(Turn.user(*self._pictures, words))
        try:
            (done,) = self._pipeline.generate_stream([self._talk.task()])
            if done.error is not None:
                raise done.error
        except BaseException:
            self._talk.turns.pop()
            raise
        self._pictures = []
        for part in self._talk.answered(done):
            print(part["text"] if part["type"] == "text" else part["image"])
        sys.stdout.flush()

    def of_lines(self, lines: Iterable[str]) -> None:
        """Ask each line that has words."""
        asked = False
        for line in lines:
            if line.strip():
                self.say(line.strip())
                asked = True
        if not asked:
            raise InputError("there is no question; give one in quotes, lines on stdin, or --turns FILE")

    def on_terminal(self) -> None:
        """Ask what is typed, until the end of the input; what cannot be used is said, and the talk goes on."""
        print(
            'ask something; "/image FILE" shows a picture with the next question, the end of input ends',
            file=sys.stderr,
        )
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                return
            try:
                if line.startswith(_SHOW):
                    self._pictures.append(load_picture(Path(line.removeprefix(_SHOW).strip())))
                elif line:
                    self.say(line)
            except Exception as error:
                reason = explain(error)
                if reason is None:
                    raise
                print(reason, file=sys.stderr)


def answer_file(pipeline: IllumePipeline, options: Chat) -> int:
    """Answer every conversation of a file, all side by side, and print them in its order; the exit code."""
    assert options.turns is not None
    size = None if options.size is None else parse_size(options.size)
    talks = [_Talking(talk, options, number) for number, talk in enumerate(read_talks(options.turns, size))]
    if not talks:
        raise InputError(f"{options.turns} holds no conversations")
    for talk in talks:
        if not talk.left:
            raise InputError(f"{talk.where}: every turn of the user has an answer; end with one that has none")
    with Bar("answering", sum(talk.left for talk in talks), "answers") as bar:
        while asked := [talk for talk in talks if talk.left]:
            for done in pipeline.generate_stream(talk.task() for talk in asked):
                done.task.tag.answered(done)
                bar.advance()
    for talk in talks:
        print(json.dumps(talk.line(), ensure_ascii=False))
    failed = sum(talk.error is not None for talk in talks)
    if failed:
        print(f"illume-fast: {failed} of {len(talks)} conversations failed; their lines say why", file=sys.stderr)
    return 1 if failed else 0


class _Talking:
    """A conversation in which turns of the user get answers one after the other."""

    def __init__(self, talk: Talk, options: Chat, number: int = 0) -> None:
        self.where, self.turns, self._as_is = talk.where, talk.turns, talk.as_is
        self._options, self._number = options, number
        self.error: str | None = None
        self.messages: list[dict[str, Any]] = []
        self._count = 0

    @property
    def left(self) -> int:
        """Turns of the user that still want an answer."""
        return 0 if self.error is not None else len(self._unanswered())

    def task(self) -> Converse:
        """The conversation up to the first turn without an answer."""
        options = self._options
        return Converse(
            messages=tuple(self.turns[: self._unanswered()[0] + 1]),
            answer=options.kind,
            size=None if options.size is None else parse_size(options.size),
            max_new_tokens=options.max_tokens,
            max_pixels=options.max_pixels,
            temperature=options.temperature,
            guidance=options.guidance,
            as_is=self._as_is,
            seed=sample_seed(options.seed, self._count),
            id=self.where,
            tag=self,
        )

    def answered(self, done: Done) -> list[dict[str, str]]:
        """Take in an answer; its parts as JSON, its pictures written to files."""
        if done.error is not None:
            self.error = explain(done.error) or f"{type(done.error).__name__}: {done.error}"
            return []
        paths = iter(self._save(done))
        parts = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": str(next(paths))}
            for part in done.parts
        ]
        self.turns.insert(self._unanswered()[0] + 1, done.turn)
        self.messages.append({"role": "assistant", "content": parts})
        self._count += 1
        return parts

    def line(self) -> dict[str, Any]:
        """What is printed of a conversation of a file."""
        return {"conversation": self._number, "answers": self.messages} | ({"error": self.error} if self.error else {})

    def _save(self, done: Done) -> list[Path]:
        out = self._options.out
        if out is None:
            return []
        try:
            return done.save(out, f"{self._number:04d}_{self._count}")
        except OSError as error:
            raise InputError(f"output folder {out} cannot be written: {error.strerror or error}") from None

    def _unanswered(self) -> list[int]:
        turns = self.turns
        return [
            i
            for i, turn in enumerate(turns)
            if turn.role == "user" and (i + 1 == len(turns) or turns[i + 1].role == "user")
        ]
