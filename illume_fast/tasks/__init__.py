"""What ILLUME can be asked, as requests of the engine: prompts with pictures to segments, sizes to plans.

Sequences and prompts are those of ILLUME+ (Huang et al., arXiv 2504.01934); see `data.chat` and `model.image_block`.
"""

from illume_fast.tasks.asked import Ask, Draw, Task, Wanted, name_of
from illume_fast.tasks.plans import picture_plan, segments
from illume_fast.tasks.tasks import Tasks

__all__ = ["Ask", "Draw", "Task", "Tasks", "Wanted", "name_of", "picture_plan", "segments"]
