"""first_engine.py FOLDER MODEL TASKS BATCH decoded|codes: pictures drawn by the `illume_fast` that is on the path.

TASKS is a JSON list of (prompt, seed). The result is the codes of all pictures drawn greedily, [N, codes]; a turn draws
all of them, `decoded` to pixels or not.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from illume_fast.engine import EngineConfig
from illume_fast.pipeline import Draw, IllumePipeline


def main(folder: Path, model: str, tasks: str, batch: str, output: str) -> None:
    """Serve turns until the input ends."""
    wanted = json.loads(Path(tasks).read_text(encoding="utf-8"))
    pipeline = IllumePipeline.from_pretrained(model, engine=EngineConfig(max_batch=int(batch)))

    def draw(decode: bool, temperature: float | None = None) -> list:
        draws = (Draw(prompt=p, seed=s, tag=i, temperature=temperature) for i, (p, s) in enumerate(wanted))
        done = list(pipeline.generate_stream(draws, decode=decode))
        for d in done:
            if d.error is not None:
                raise d.error
        return sorted(done, key=lambda d: d.task.tag)

    greedy = [torch.cat([d.codes.semantic.flatten(), d.codes.pixel.flatten()]) for d in draw(False, 0.0)]
    np.save(folder / "result.npy", torch.stack(greedy).numpy())
    print("[]", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        draw(output == "decoded")
        print(json.dumps([time.perf_counter() - start]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
