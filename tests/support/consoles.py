"""Consoles that write into a string."""

import io

from rich.console import Console

from bench.console import PlainTextConsole


def plain_console(width: int = 120) -> Console:
    return PlainTextConsole(file=io.StringIO(), width=width)


def terminal(width: int = 80) -> Console:
    return PlainTextConsole(file=io.StringIO(), width=width, force_terminal=True)


def written(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()
