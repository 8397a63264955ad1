"""Errors that a command reports in one line, and the wording of their messages."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """An invalid request. The message is one line that says how to correct it. Exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UnavailableHere(UsageError):
    """A request that this machine cannot carry out, although another machine may."""


def describe_os_error(problem: OSError) -> str:
    """The file's name and the reason, without the error number."""
    reason = "there is no such file" if isinstance(problem, FileNotFoundError) else problem.strerror or str(problem)
    return f"{problem.filename}: {reason}" if problem.filename else reason


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, by Python or by torch; this module does not import torch."""
    is_torch_allocator = isinstance(problem, RuntimeError) and "can't allocate memory" in str(problem)  # on a CPU
    return isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError" or is_torch_allocator


MOST_LISTED = 24  # words in a message


def nearest_hint(word: str, valid: Iterable[str], listing: str = "", similarity: float = 0.5) -> str:
    """The end of a message about an unknown word: `; the nearest is 'x'`, or all valid words when none is similar.

    Too many words are not listed; `listing` is the command that lists them, if there is one. `similarity`, 0..1, is
    the least of a nearest word.
    """
    choices = sorted(valid)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=similarity)
    if close:
        return f"; the nearest is {close[0]!r}"
    if len(choices) > MOST_LISTED:
        return f"; {listing} lists all {len(choices)}" if listing else ""
    return f"; there are {', '.join(choices)}" if choices else ""
