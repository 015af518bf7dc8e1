"""Which errors are the user's to mend, and the line that tells them how."""

import sys

from illume_fast.data.errors import InputError


def explain(error: Exception) -> str | None:
    """One line for an error that something given by the user caused; None for one that is a fault of the program."""
    if isinstance(error, InputError) or _is_ours(error):
        return " ".join(str(error).split())
    return None


def _is_ours(error: Exception) -> bool:
    # looked up, not imported: a command that failed before torch was loaded has not raised any of these
    names = (
        ("illume_fast.model.checkpoint", "CheckpointError"),
        ("illume_fast.model.strict", "ConfigError"),
        ("illume_fast.engine.request", "RequestError"),
        ("illume_fast.jobs.supervisor", "WorkerError"),
    )
    known = [getattr(sys.modules[module], name) for module, name in names if module in sys.modules]
    return isinstance(error, tuple(known))
