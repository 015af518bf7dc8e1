"""`illume-fast`: parse the command line into one options object and call the function that belongs to it."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import DisallowNone, subcommand

from illume_fast import __version__
from illume_fast.commands.assemble import Assemble, assemble
from illume_fast.commands.bench import bench
from illume_fast.commands.chat import Chat, chat
from illume_fast.commands.convert import Convert, convert
from illume_fast.commands.edit import Edit, edit
from illume_fast.commands.evaluate import Evaluate, evaluate
from illume_fast.commands.failures import explain
from illume_fast.commands.generate import Generate, generate
from illume_fast.commands.info import Info, info
from illume_fast.commands.train import train

Command = (
    Annotated[Generate, subcommand("generate")]
    | Annotated[Edit, subcommand("edit")]
    | Annotated[Chat, subcommand("chat")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Assemble, subcommand("assemble")]
    | Annotated[Info, subcommand("info")]
)
COMMANDS: dict[type, Callable[[Any], int | None]] = {
    Generate: generate,
    Edit: edit,
    Chat: chat,
    Evaluate: evaluate,
    Convert: convert,
    Assemble: assemble,
    Info: info,
}
DESCRIPTION = f"""illume_fast {__version__}: draw, edit and describe pictures with ILLUME models.

Train one with `illume-fast train STAGE`, time the kernels with `illume-fast bench`; both have their own --help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0; 1 when part of the work failed; 2 for something the user can mend; 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # read when torch is loaded: a thread without work spins for a moment, as small ops follow each other, then sleeps,
    # so that other processes get its core
    if arguments[:1] == ["bench"] and arguments[1:2] != ["engine"]:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # who waits must not slow down the next contestant
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        if arguments[:1] == ["train"]:
            train(arguments[1:])
        elif arguments[:1] == ["bench"]:
            return bench(arguments[1:])
        else:
            options = tyro.cli(
                Command, prog="illume-fast", args=arguments, description=DESCRIPTION, config=(DisallowNone,)
            )
            return COMMANDS[type(options)](options) or 0
    except KeyboardInterrupt:
        print("illume-fast: interrupted; what was done is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output (`| head`) has seen enough; what is still buffered must go somewhere at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"illume-fast: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
