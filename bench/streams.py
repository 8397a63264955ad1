"""Standard input, output and error: a display that nobody reads must never end a command or change what it files.

Text for people keeps the encoding of their terminal, and characters that it lacks are replaced. Text for programs
(JSON, TOML, CSV) is UTF-8 everywhere. Imports nothing that takes time, because it comes before all other imports.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import sys
from typing import Any, TextIO

# Control characters except tabs and line ends, and the marks that reorder text: with them, one text can hide another.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class LenientOutput(io.RawIOBase):
    """A raw output that discards what cannot be written, as when the reader has gone or the disk is full."""

    def __init__(self, raw: Any) -> None:
        """`raw` is a raw binary stream."""
        self.raw = raw
        self.problem: OSError | None = None  # the latest one

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def write(self, data: Any, /) -> int:
        try:
            while (count := self.raw.write(data)) is None:  # another program has made the pipe non-blocking
                select.select([], [self.raw], [])
        except OSError as problem:
            self.problem = problem
            if isinstance(problem, BrokenPipeError):  # for child processes, which inherit the descriptor
                with contextlib.suppress(OSError):
                    redirect_to_devnull(self.raw.fileno())
            return len(data)
        return count


def redirect_to_devnull(descriptor: int) -> None:
    """Let a file descriptor that child processes inherit stand for the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)


def prepare_streams() -> None:
    """Make the standard streams safe to use; called once, before other imports.

    A stream that was closed when the process started (`>&-`) is opened on the null device: otherwise the next file that
    is opened would take its descriptor, and receive what others write to it.
    """
    if sys.stdin is None:
        redirect_to_devnull(0)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = lenient(sys.stdout, 1, "replace")
    sys.stderr = lenient(sys.stderr, 2, "backslashreplace")


def lenient(stream: TextIO | None, descriptor: int, errors: str) -> TextIO:
    """A text stream in place of a standard one that never fails; `errors` replaces what its encoding lacks."""
    if isinstance(stream, io.TextIOWrapper):
        raw = getattr(stream.buffer, "raw", stream.buffer)  # `python -u` has no buffer
        encoding, by_line = stream.encoding, stream.line_buffering or stream.write_through
    else:
        redirect_to_devnull(descriptor)
        raw, encoding, by_line = io.FileIO(descriptor, "w", closefd=False), "utf-8", False
    return io.TextIOWrapper(
        io.BufferedWriter(LenientOutput(raw)), encoding=encoding, errors=errors, line_buffering=by_line
    )


def lost_output() -> OSError | None:
    """Why standard output could not be written; None if it was, or if its reader had seen enough, as `head` does."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    problem = raw.problem if isinstance(raw, LenientOutput) else None
    return None if isinstance(problem, BrokenPipeError) else problem


def printable(text: str) -> str:
    """Text with control characters written as `\\u001b`, as in JSON and TOML strings; tabs and line ends are kept."""
    return CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def print_line(line: str) -> None:
    """Print a line for people on standard output."""
    print(printable(line))


def print_error(line: str) -> None:
    """Print a line on standard error and flush it."""
    print(printable(line), file=sys.stderr, flush=True)


def print_data(text: str) -> None:
    """Print JSON, TOML or other text for programs: a line in UTF-8, whatever the encoding of standard output."""
    sys.stdout.flush()
    sys.stdout.buffer.write(printable(text).encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()
