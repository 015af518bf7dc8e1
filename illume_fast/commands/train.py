"""`illume-fast train STAGE`: hand the rest of the command line to that stage of the training."""

import importlib
import sys
from collections.abc import Sequence

import tyro

from illume_fast.data.errors import InputError

# what a stage makes, in the order in which they are run
STAGES = {
    "prepare": "the pictures and names of a data set as ILLUME+'s jsonl",
    "semantic": "a semantic encoder that puts pictures and their names side by side",
    "tokenizer": "the dual vision tokenizer on top of it",
    "mllm": "the language model that names, draws and edits",
    "publish": "a checkpoint to ship, with its model card",
}


def train(arguments: Sequence[str]) -> None:
    """Run the stage that `arguments` begins with, on what follows it.

    Raises:
        InputError: there is no such stage.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: illume-fast train STAGE [options]; `illume-fast train STAGE --help` lists them\n\nstages:")
        for name, makes in STAGES.items():
            print(f"  {name:10} {makes}")
        sys.exit(0 if arguments else 2)
    stage, *rest = arguments
    if stage not in STAGES:
        raise InputError(f"unknown training stage {stage!r}; the stages are {', '.join(STAGES)}")
    module = importlib.import_module(f"illume_fast.training.{stage}")
    config = tyro.cli(getattr(module, f"{stage.capitalize()}Config"), prog=f"illume-fast train {stage}", args=rest)
    if stage == "mllm":
        # early stopping draws pictures, and training knows nothing of the engine that does
        from illume_fast.commands.judge import emoji_judge

        module.main(config, emoji_judge(config.data))
        return
    module.main(config)
