"""Pictures from prompts, and edits, as requests of the engine."""

from collections.abc import Sequence
from dataclasses import replace

from illume_fast.data.picture import upright_size
from illume_fast.data.sizes import ImageGrid, nearest_size
from illume_fast.engine import Request, Segment, sample_seed
from illume_fast.tasks.asked import Draw, name_of
from illume_fast.tasks.checks import check_stretch, guidance_of
from illume_fast.tasks.plans import segments
from illume_fast.tasks.sampling import default_guidance, picture_sampling
from illume_fast.tasks.tools import Tools
from illume_fast.tasks.wanted import Wanted


def drawn(tools: Tools, task: Draw) -> list[Request]:
    """A request for each sample of a picture from a prompt."""
    grid = tools.grid(task.size)
    size = grid.height, grid.width
    guidance = guidance_of(task, tools.generation, default_guidance(task, tools.generation))
    away = task.negative_prompt
    free = tools.chat.generate_anything(size) if away is None else tools.chat.generate(away, size)
    return _samples(tools, task, grid, guidance, [], tools.chat.generate(task.prompt, size), free)


def edited(tools: Tools, task: Draw) -> list[Request]:
    """A request for each sample of an edit of `task.image`."""
    assert task.image is not None
    grid = tools.grid(task.size or nearest_size(upright_size(task.image), tools.generation.sizes))
    size = grid.height, grid.width
    guidance = guidance_of(task, tools.generation, default_guidance(task, tools.generation))
    picture = tools.eyes.framed(task.image, size)
    away = task.negative_prompt
    free = tools.chat.edit_nothing(size) if away is None else tools.chat.edit(away, size)
    return _samples(tools, task, grid, guidance, [picture], tools.chat.edit(task.prompt, size), free)


def _samples(
    tools: Tools,
    task: Draw,
    grid: ImageGrid,
    guidance: float,
    pictures: Sequence[Segment],
    prompt: list[int],
    free: list[int],
) -> list[Request]:
    generation = tools.generation
    request = Request(
        id=name_of(task),
        prompt=segments(prompt, pictures),
        unconditional=segments(free, pictures) if generation.has_unconditional else None,
        plan=tools.plan(grid),
        sampling=picture_sampling(task, generation, guidance),
    )
    check_stretch(task, request)
    return [
        replace(request, seed=sample_seed(task.seed, sample), tag=Wanted(task, sample, grid)) for sample in task.samples
    ]
