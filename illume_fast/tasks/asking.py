"""Questions as requests of the engine."""

from illume_fast.engine import Plan, Request
from illume_fast.tasks.asked import Ask, name_of
from illume_fast.tasks.plans import segments
from illume_fast.tasks.sampling import answer_sampling
from illume_fast.tasks.tools import Tools
from illume_fast.tasks.wanted import Wanted


def asked(tools: Tools, task: Ask) -> Request:
    """The request of an answer in words."""
    most = tools.generation.max_answer if task.max_new_tokens is None else task.max_new_tokens
    pictures = [tools.eyes.understood(image, task.max_pixels) for image in task.images]
    return Request(
        id=name_of(task),
        prompt=segments(tools.chat.ask(task.prompt, len(pictures)), pictures),
        plan=Plan.text([(0, tools.vocab.text_size)], most, tools.vocab.eos),
        sampling=answer_sampling(task, tools.generation),
        seed=task.seed,
        tag=Wanted(task),
    )
