"""A model for lmms-eval (tested with 0.7.3): `python -m lmms_eval --model illume_fast --model_args pretrained=DIR`.

| file           | topic                                                              |
|----------------|--------------------------------------------------------------------|
| `arguments.py` | `--model_args`: those of lmms-eval's own `illume_plus`, and ours   |
| `wording.py`   | a task's `generation_kwargs`                                       |
| `visuals.py`   | what a task shows, as pictures                                     |
| `questions.py` | questions and pictures through one stream of the pipeline          |
| `scoring.py`   | how likely given words are                                         |
| `thinking.py`  | visual chain of thought: draw, then answer with the drawing        |
| `rounds.py`    | tasks of several rounds                                            |
| `model.py`     | the class that lmms-eval loads; the one file that imports it       |

lmms-eval finds the model by the entry point `lmms_eval.models` of the installed package. `docs/evaluation.md` says how
it is used and where it differs from `illume_plus`.
"""

from typing import Any

NAME = "illume_fast"


def manifest() -> Any:
    """The `ModelManifest` by which lmms-eval finds the model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, simple_class_path=f"{__name__}.model.IllumeFast")
