"""`illume-fast generate`: pictures for a prompt, for every row of a prompt file, or for a benchmark's scorer."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from illume_fast.commands.drawing import draw, slug
from illume_fast.commands.options import NONE, DrawOptions
from illume_fast.data.benchmarks import BenchmarkName
from illume_fast.data.prompt_files import is_prompt_file
from illume_fast.data.prompts import one_prompt
from illume_fast.jobs.source import PromptFile, Prompts

if TYPE_CHECKING:
    from illume_fast.jobs.summary import Merged


@dataclass(frozen=True, kw_only=True)
class Generate(DrawOptions):
    """Draw pictures for a prompt or a prompt file.

    Writes OUT/images/ID_K.png, OUT/results.jsonl and OUT/contact_sheet.png. Started again after it was stopped, it
    draws only what is missing, and tries again what failed. Exits with 1 when rows failed: OUT/failures.jsonl says why.
    """

    prompts: Annotated[Positional[str], arg(metavar="PROMPTS")]
    """A prompt in quotes, or a prompt file: .txt with a prompt a line, or .jsonl, .csv, .tsv or .parquet.
    Rows of these have a prompt and, if wished, an id, a seed, a size, num_images, an image to edit, guidance,
    a negative_prompt, guidance_from and guidance_until. What a row says wins over the options."""
    layout: Annotated[BenchmarkName | None, arg(metavar="geneval|dpg|genai", help_behavior_hint=NONE)] = None
    """Take PROMPTS as the prompt set of this benchmark, and write OUT/LAYOUT as its scorer reads it.
    Without --num-images it is 4 pictures for each prompt of geneval and dpg, and 1 of genai."""


def generate(options: Generate) -> int:
    """Draw what `options` asks for; the exit code."""
    if options.layout is not None:
        return _draw_benchmark(options, options.layout)
    if is_prompt_file(options.prompts):
        return draw(PromptFile(options.prompts), options)
    # a prompt file numbers its rows; a lone prompt is better found under its words
    prompt = one_prompt(options.prompts)
    return draw(Prompts([replace(prompt, id=slug(prompt.prompt), origin="")]), replace(options, strict=True))


def _draw_benchmark(options: Generate, name: BenchmarkName) -> int:
    from illume_fast.jobs.layouts import DEFAULT_COUNTS, Benchmark

    if options.num_images is None:
        options = replace(options, num_images=DEFAULT_COUNTS[name])
    options.check()
    benchmark = Benchmark.read(name, options.prompts)
    benchmark.check(options.job())

    def arrange(merged: "Merged") -> None:
        folder, whole = benchmark.arrange(options.job(), merged)
        print(f"{folder}: {whole} of {len(benchmark.rows)} prompts as the scorer of {name} reads them")

    return draw(Prompts([row.prompt for row in benchmark.rows]), options, arrange)
