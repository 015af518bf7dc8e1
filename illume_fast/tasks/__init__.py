"""What ILLUME can be asked, as requests of the engine: prompts with pictures to segments, sizes to plans.

Sequences and prompts are those of ILLUME+ (Huang et al., arXiv 2504.01934); see `data.chat` and `model.image_block`.
"""

from illume_fast.tasks.answer import Answer
from illume_fast.tasks.asked import AnswerKind, Ask, Converse, Draw, Task, name_of
from illume_fast.tasks.plans import picture_plan, segments
from illume_fast.tasks.tasks import Tasks
from illume_fast.tasks.wanted import Wanted

__all__ = [
    "Answer",
    "AnswerKind",
    "Ask",
    "Converse",
    "Draw",
    "Task",
    "Tasks",
    "Wanted",
    "name_of",
    "picture_plan",
    "segments",
]
