"""The progress bar: pictures per second where somebody watches, nothing where nobody does."""

import io
import sys

from illume_fast.commands.progress import Bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with Bar("drawing", 3) as bar:
        for _ in range(3):
            bar.advance()
    return bar, stream.getvalue()


def test_a_terminal_sees_the_count_and_the_rate(monkeypatch):
    bar, shown = run(Terminal(), monkeypatch)
    assert "drawing" in shown
    assert "3/3" in shown
    assert "pictures/s" in shown
    assert bar.done == 3


def test_a_file_sees_nothing(monkeypatch):
    bar, shown = run(io.StringIO(), monkeypatch)
    assert shown == ""
    assert bar.rate > 0
    assert bar.seconds == bar.seconds
