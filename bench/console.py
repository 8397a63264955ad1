"""The rich console that all commands print on."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from bench.streams import printable

DEFAULT_WIDTH = 80  # columns


class PlainTextConsole(Console):
    """A console that shows text as it is typed: without markup, and with control characters as escapes.

    Notes, names and messages may hold any characters; only the console itself may send control sequences to the
    terminal.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False} | options)
        if self.width < 1:  # COLUMNS=0, as some programs say that they do not know; nothing would be printed
            self.width = DEFAULT_WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def output_console(piped_width: int | None = None) -> Console:
    """Standard output, `piped_width` columns wide where it is not a terminal."""
    width = None if sys.stdout.isatty() else piped_width
    return PlainTextConsole(width=width)


def error_console() -> Console:
    """Standard error, for progress and summaries. A line is updated in place only if it `is_interactive`."""
    return PlainTextConsole(stderr=True)
