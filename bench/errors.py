"""The errors that a command reports in one line."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """What was asked for cannot be done; the message is one line that says what to do. Exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UnavailableHere(UsageError):
    """It cannot be done on this machine; on another it could."""


def describe_os_error(problem: OSError) -> str:
    """What went wrong with which file, without the number that the system has for it."""
    return f"{problem.filename}: {problem.strerror}" if problem.filename and problem.strerror else str(problem)


def nearest_hint(word: str, valid: Iterable[str]) -> str:
    """`; the nearest is 'x'`, or a list when nothing is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; the nearest is {close[0]!r}" if close else f"; there are {', '.join(valid)}"
