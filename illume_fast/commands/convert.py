"""`illume-fast convert`: published weights as a folder that this package reads, written once and checked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from illume_fast.commands.options import NONE
from illume_fast.data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Turn the published vision tokenizer into safetensors with checksums, or join it with a published language model.

    Nothing is run that a file holds: one that needs pickle is refused.
    """

    source: Annotated[Positional[Path | None], arg(metavar="SOURCE", help_behavior_hint=NONE)] = None
    """The tokenizer's pytorch_model.bin (or .pt, .ckpt), or the folder of a published language model."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint=NONE)] = None
    """Folder to write; a second run finds it done."""
    vision_tokenizer: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint=NONE)] = None
    """With the folder of a language model: that of the converted tokenizer to join it with."""
    config: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the published sizes)")] = None
    """JSON with the sizes of a tokenizer that has other than those, in the official code's words or in ours."""
    ema: bool = False
    """Take the moving average of the weights that some training files hold."""
    verify: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint=NONE)] = None
    """Compare every file of a converted folder with its checksum, and do nothing else."""

    def check(self) -> None:
        """Raise InputError for options that do not go together."""
        if self.verify is not None:
            if (self.source, self.out, self.vision_tokenizer, self.config, self.ema) != (None, None, None, None, False):
                raise InputError("--verify DIR stands alone; leave out the other options")
            return
        if self.source is None or self.out is None:
            raise InputError("give what to convert and --out DIR, or --verify DIR")
        if not self.source.exists():
            raise InputError(f"{self.source} does not exist")
        if self.source.resolve() == self.out.resolve():
            raise InputError("--out must be another folder than what is converted")
        if not self.source.is_dir():
            if self.vision_tokenizer is not None:
                raise InputError("--vision-tokenizer goes with the folder of a language model, not with a file")
        elif self.config is not None or self.ema:
            raise InputError("--config and --ema go with a tokenizer's file, not with a folder")
        elif self.vision_tokenizer is None:
            raise InputError("a language model is joined with a tokenizer: give --vision-tokenizer DIR")


def convert(options: Convert) -> None:
    """Do it, and say what was done."""
    options.check()
    from illume_fast.convert import convert_model, convert_tokenizer, read_sizes
    from illume_fast.model.checksums import verify

    if options.verify is not None:
        with _bar("checking", _size(options.verify)) as advance:
            count = verify(options.verify, advance)
        print(f"{options.verify}: {count} files are as they were written")
        return
    assert options.source is not None
    assert options.out is not None
    # read, hash and write
    with _bar("converting", 2 * _size(options.source)) as advance:
        if options.vision_tokenizer is not None:
            new = convert_model(options.source, options.out, options.vision_tokenizer, advance)
        else:
            sizes = None if options.config is None else read_sizes(options.config)
            new = convert_tokenizer(options.source, options.out, ema=options.ema, sizes=sizes, advance=advance)
    print(f"{options.out}: {'written' if new else 'was converted before and is whole; nothing to do'}")


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) if path.exists() else 0


@contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    from illume_fast.commands.progress import Bar

    mega = 2**20
    with Bar(label, -(-total // mega), unit="MiB") as bar:
        seen = 0

        def advance(count: int) -> None:
            nonlocal seen
            seen += count
            bar.show(seen // mega, seen // mega)

        yield advance
