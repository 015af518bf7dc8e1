"""Loss curves of a run as a picture."""

import json
from pathlib import Path


def draw_curves(folder: Path) -> Path | None:
    """Draws every series of `folder/log.jsonl` against the step into `folder/curves.png`.

    Returns None when matplotlib (extra `train`) is not installed: the numbers stay in the log.
    """
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = sorted({name for line in lines for name in line} - {"step", "samples_per_second"})
    if not names:
        return None
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axis.plot(*zip(*points, strict=True), linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=80)
    plt.close(figure)
    return folder / "curves.png"
