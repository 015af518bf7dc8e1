"""The one kind of error a user can cause and mend."""


class InputError(ValueError):
    """Something given by the user is not usable.

    The message is one line that names the thing, says what is wrong with it and what is allowed; the command line
    prints it as it is and exits with code 2.
    """


def shorten(text: object, limit: int = 60) -> str:
    """`text` in quotes on one line, at most `limit` characters of it, for messages and captions."""
    shown = repr(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}...{shown[0]}"
