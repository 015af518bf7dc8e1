"""`generate_batch`: a whole job from one call."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from illume_fast.data.errors import InputError
from illume_fast.data.prompt_files import is_prompt_file
from illume_fast.data.prompts import Prompt, one_prompt
from illume_fast.jobs.config import SHEET_PICTURES, DType, Format, JobConfig
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.sizes import at_sizes
from illume_fast.jobs.source import Given, PromptFile, Prompts, Row, Source, Spool
from illume_fast.jobs.tally import Progress, Tally

if TYPE_CHECKING:
    from illume_fast.jobs.summary import Merged
    from illume_fast.pipeline import IllumePipeline


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of the pictures of a job: `drawn` now, `kept` from before, `failed` (see `failures.jsonl`)."""

    drawn: int
    kept: int
    failed: int
    seconds: float
    folder: Path


def generate_batch(
    source: str | Path | Iterable[Given],
    out: str | Path,
    model: "str | Path | IllumePipeline" = "demo",
    *,
    vision_tokenizer: str | None = None,
    dtype: DType = "float32",
    num_images: int = 1,
    seed: int = 0,
    guidance: float | None = None,
    negative_prompt: str | None = None,
    guidance_from: int = 0,
    guidance_until: int | None = None,
    size: str | None = None,
    sampling: str | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    decoder: str | None = None,
    diffusion_steps: int | None = None,
    diffusion_scheduler: str | None = None,
    diffusion_guidance: float | None = None,
    batch_size: int = 64,
    format: Format = "png",
    per_file: int = 1000,
    shard: str = "1/1",
    devices: str = "cpu",
    workers: int = 1,
    strict: bool = False,
    backend: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Summary:
    """Draw pictures of many prompts into a folder; called again after it was stopped, it draws what is missing.

    The same job as `illume-fast generate`, whose options of the same names say what each means;
    `docs/batch_jobs.md` describes the files.

    Args:
        source: a prompt file, or prompts: each a text, a dict like a row of a prompt file, or a `Prompt`. What a row
            says itself (`illume_fast.data.prompts.KEYS`) wins over the settings here. A generator is read as it is
            needed.
        out: the folder; made if it does not exist.
        model: "demo", the folder of a checkpoint, or a loaded pipeline, which then says batch size and device.
        on_progress: called after every picture.

    Raises:
        InputError: something given cannot be used, the folder cannot be written, or with `strict` a picture failed.
        CheckpointError: the model is missing or damaged.
        WorkerError: one of several workers died again and again.
    """
    loaded = None if isinstance(model, str | Path) else model
    config = JobConfig(
        out=Path(out),
        model=str(model) if loaded is None else loaded.checkpoint.tokenizer.parent.name,
        vision_tokenizer=vision_tokenizer,
        dtype=dtype,
        backend=backend,
        num_images=num_images,
        seed=seed,
        guidance=guidance,
        negative_prompt=negative_prompt,
        guidance_from=guidance_from,
        guidance_until=guidance_until,
        size=size,
        sampling=sampling,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        decoder=decoder,
        diffusion_steps=diffusion_steps,
        diffusion_scheduler=diffusion_scheduler,
        diffusion_guidance=diffusion_guidance,
        batch_size=batch_size,
        format=format,
        per_file=per_file,
        shard=shard,
        devices=devices,
        workers=workers,
        strict=strict,
    )
    config.check()
    if loaded is not None and (workers, devices) != (1, "cpu"):
        raise InputError("a loaded pipeline is one worker on its own device; give workers and devices a model's name")
    said = (decoder, diffusion_steps, diffusion_scheduler, diffusion_guidance, vision_tokenizer)
    if loaded is not None and (any(value is not None for value in said) or dtype != "float32"):
        raise InputError(
            "a loaded pipeline has its decoder, vision tokenizer and dtype; give these and diffusion settings to"
            " from_pretrained"
        )
    return run_job(_source(source), config, on_progress, loaded)


def run_job(
    source: Source,
    config: JobConfig,
    on_progress: Callable[[Progress], object] | None = None,
    pipeline: "IllumePipeline | None" = None,
    arrange: "Callable[[Merged], object] | None" = None,
) -> Summary:
    """Run a job whose config was checked; see `generate_batch`. Lists and the sheet are written when it ends.

    `arrange` is called then with all ledgers, by the last to end of several that draw parts of the job.
    """
    start = time.perf_counter()
    source, config = at_sizes(source, config, pipeline)
    survey = Survey(config)
    if source.total_known:
        for _ in survey.passing(source.rows()):
            pass
    from illume_fast.jobs.supervisor import Crew, local_devices

    devices = local_devices(config.devices, config.workers) if pipeline is None else ["loaded"]
    tally = Tally(survey.total if source.total_known else None, on_progress)
    shards = Shard.parse(config.shard).count * len(devices)
    try:
        if len(devices) > 1:
            Crew(_file(source, config), config, devices, tally).run()
        else:
            from illume_fast.jobs.worker import run_worker

            rows = source.rows() if source.total_known else survey.passing(source.rows())
            run_worker(rows, config, Shard.parse(config.shard), devices[0], tally, pipeline)
    except BaseException:
        # the lists tell what was done; what went wrong is told by the error
        with suppress(Exception):
            _write_lists(config.out, shards)
        raise
    _write_lists(config.out, shards, survey, arrange)
    progress, seconds = tally.progress, time.perf_counter() - start
    return Summary(drawn=progress.drawn, kept=progress.kept, failed=progress.failed, seconds=seconds, folder=config.out)


class Survey:
    """Counts the pictures that rows ask of this part of the job, and remembers the first rows for the sheet."""

    def __init__(self, config: JobConfig) -> None:
        self._default, self._shard = config.num_images, Shard.parse(config.shard)
        self.total = self.rows = self.shown = 0
        self.first: list[tuple[Prompt, int]] = []

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield `rows` and count them."""
        for row in rows:
            count = (row.num_images or self._default) if isinstance(row, Prompt) else 1
            self.rows += 1
            self.total += sum(self._shard.owns(row.id, k) for k in range(count)) if self._shard.count > 1 else count
            if isinstance(row, Prompt) and (not self.first or self.shown + count <= SHEET_PICTURES):
                self.first.append((row, count))
                self.shown += count
            elif isinstance(row, Prompt):
                self.shown = SHEET_PICTURES
            yield row


def _write_lists(
    folder: Path, shards: int, survey: Survey | None = None, arrange: "Callable[[Merged], object] | None" = None
) -> None:
    from illume_fast.jobs.summary import Merged, write_lists, write_sheet

    with Merged(folder, shards) as merged:
        if merged is None:
            print(f"other workers are still drawing into {folder}; the last to end writes the lists", file=sys.stderr)
            return
        write_lists(merged)
        if survey is None:
            return
        write_sheet(merged, survey.first)
        if arrange is not None:
            arrange(merged)
    if len(survey.first) < survey.rows and survey.shown >= SHEET_PICTURES:
        print(f"the contact sheet shows the first {len(survey.first)} of {survey.rows} prompts", file=sys.stderr)


def _source(given: str | Path | Iterable[Given]) -> Source:
    if isinstance(given, Path) or (isinstance(given, str) and is_prompt_file(given)):
        return PromptFile(given)
    if isinstance(given, str):
        return Prompts([one_prompt(given)])
    return Prompts(given)


def _file(source: Source, config: JobConfig) -> Source:
    """A source that other processes can read."""
    if isinstance(source, PromptFile):
        return source
    from illume_fast.jobs.ledger import writing

    with writing(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        return Spool.of(source, config.out / ".prompts.jsonl")
