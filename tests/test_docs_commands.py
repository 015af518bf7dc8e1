"""Every `illume-fast` command in docs/ is one that the command line understands."""

import re
import shlex

import pytest
import tyro
from support import ROOT
from tyro.conf import DisallowNone

from illume_fast.cli import COMMANDS, Command

SHELL = re.compile(r"^```sh\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        for block in SHELL.findall(page.read_text(encoding="utf-8")):
            found += [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("illume-fast ")]
    # these two have parsers of their own, tested in their own files
    return [line for line in found if line.split()[1] not in ("train", "bench")]


def test_there_are_commands():
    assert {line.split()[1] for line in commands()} >= {"generate", "edit", "chat", "convert"}


@pytest.mark.parametrize("line", commands())
def test_the_command_line_understands(line):
    arguments = shlex.split(re.split(r" [<>] ", line)[0], comments=True)[1:]
    options = tyro.cli(Command, prog="illume-fast", args=arguments, config=(DisallowNone,))
    assert type(options) in COMMANDS
