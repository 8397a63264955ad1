"""Consoles that write into a string."""

import io

from rich.console import Console

from bench.console import PlainTextConsole


def plain_console(width: int = 120) -> Console:
    return PlainTextConsole(file=io.StringIO(), width=width)


def terminal(width: int = 80) -> Console:
    return PlainTextConsole(file=io.StringIO(), width=width, force_terminal=True)


def text_of(console: Console) -> str:
    """Everything that a console of this module was sent."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def written(console: Console) -> list[str]:
    return text_of(console).splitlines()
