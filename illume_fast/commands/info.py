"""`illume-fast info`: versions, backends, what is missing and why."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what this installation has: versions, processor, backends and why any is missing."""


def info(options: Info) -> None:
    """Print it."""
    from illume_fast.info import report

    print(report())
