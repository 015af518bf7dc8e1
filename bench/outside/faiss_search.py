"""faiss_search.py FOLDER [THRESHOLD]: faiss's exact search of codes 1.npy for vectors 0.npy.

A THRESHOLD of 20 lets faiss use matrix products for few vectors too, which its default does not.
"""

import json
import sys
import time
from pathlib import Path

import faiss
import numpy as np

TURN_SECONDS = 0.02


def main(folder: Path, threshold: str | None = None) -> None:
    """Serve turns until the input ends."""
    x, codes = (np.load(folder / f"{i}.npy") for i in range(2))
    if threshold is not None:
        faiss.cvar.distance_compute_blas_threshold = int(threshold)
    index = faiss.IndexFlatL2(codes.shape[1])
    index.add(codes)
    np.save(folder / "result.npy", index.search(x, 1)[1][:, 0])
    print("[]", flush=True)
    for _ in sys.stdin:
        index.search(x, 1)
        times: list[float] = []
        while sum(times) < TURN_SECONDS:
            start = time.perf_counter()
            index.search(x, 1)
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
