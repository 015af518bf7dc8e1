"""The training loop of every stage: AdamW, cosine, clipping, an average of the weights, checkpoints, curves."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from illume_fast.training.curves import draw_curves
from illume_fast.training.progress import Progress
from illume_fast.training.state import Average, RunState, write_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 100
    final_fraction: float = 0.02
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    average: float = 0.999
    log_every: int = 20
    save_every: int = 200
    evaluate_every: int = 0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then cosine down to `final_fraction` of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        floor = self.final_fraction
        return self.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


Losses = Mapping[str, Tensor]
Step = Callable[[torch.Generator], Losses]
Evaluate = Callable[[], Mapping[str, float]]


def fit(module: nn.Module, step: Step, config: LoopConfig, out: Path, evaluate: Evaluate | None = None) -> None:
    """Train `module` for `config.steps`, or for what is left of them if `out` holds a checkpoint.

    `step(generator)` returns the losses of one batch, "loss" among them; all its choices come from `generator`, which
    depends on the seed and the step alone, so that a resumed run repeats what an unbroken one does. `evaluate` sees the
    averaged weights; where it returns "score", the best so far is kept in `out/best.safetensors`. At the end `module`
    holds the averaged weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(_groups(module, config.weight_decay), lr=config.learning_rate, betas=config.betas)
    state = RunState(module, optimizer, Average(module, config.average))
    if state.load(out):
        print(f"resuming {out} at step {state.step}", flush=True)
    log = RunLog(out / "log.jsonl", state.step)
    module.train()
    with Progress(out.name, config.steps, state.step) as progress:
        while state.step < config.steps:
            losses = _one_step(module, optimizer, step, config, state.step)
            state.step += 1
            state.average.update(module, state.step)
            log.add(losses)
            if state.step % config.log_every == 0 or state.step == config.steps:
                progress.show(state.step, log.write(state.step, config))
            last = state.step == config.steps
            if config.evaluate_every and evaluate and (last or state.step % config.evaluate_every == 0):
                _evaluate(state, evaluate, log, out)
            if last or state.step % config.save_every == 0:
                state.save(out)
                draw_curves(out)
    state.average.swap(module)
    module.eval()


def steady_threads() -> None:
    """Keep MKL from choosing its number of threads by load, so that a resumed run repeats what an unbroken one does."""
    torch.set_num_threads(torch.get_num_threads())


def _groups(module: nn.Module, weight_decay: float) -> list[dict]:
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() >= 2]
    vectors = [p for p in trained if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _one_step(
    module: nn.Module, optimizer: torch.optim.Optimizer, step: Step, config: LoopConfig, number: int
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
    torch.manual_seed(config.seed * 1_000_003 + number)  # dropout draws from the global generator
    for group in optimizer.param_groups:
        group["lr"] = config.rate(number)
    optimizer.zero_grad(set_to_none=True)
    losses = step(generator)
    losses["loss"].backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], config.clip)
    if not math.isfinite(float(norm)):
        raise FloatingPointError(f"step {number}: the gradient is {float(norm)}; the checkpoint before it is whole")
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()} | {"gradient": float(norm)}


def _evaluate(state: RunState, evaluate: Evaluate, log: "RunLog", out: Path) -> None:
    state.average.swap(state.module)
    state.module.eval()
    with torch.inference_mode():
        scores = dict(evaluate())
    log.record({"step": state.step, **scores})
    print(f"step {state.step}: " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()), flush=True)
    if "score" in scores and scores["score"] >= log.best:
        log.best = scores["score"]
        write_tensors(out / "best.safetensors", state.module.state_dict(), {"step": str(state.step)})
    state.module.train()
    state.average.swap(state.module)


class RunLog:
    """`log.jsonl`: a line per logged step or evaluation. Lines past the resumed step are dropped."""

    def __init__(self, path: Path, step: int):
        self.path, self.count, self.since = path, 0, time.monotonic()
        self.sums: dict[str, float] = {}
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        kept = [line for line in lines if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.best = max((line["score"] for line in kept if "score" in line), default=-math.inf)

    def add(self, losses: Mapping[str, float]) -> None:
        self.count += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def write(self, step: int, config: LoopConfig) -> dict[str, float]:
        """Log the means since the last call; returns them."""
        seconds = time.monotonic() - self.since
        means = {name: total / self.count for name, total in self.sums.items()}
        means |= {"rate": config.rate(step - 1), "samples_per_second": self.count * config.batch_size / seconds}
        self.record({"step": step, **means})
        self.sums, self.count, self.since = {}, 0, time.monotonic()
        return means

    def record(self, line: Mapping[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
