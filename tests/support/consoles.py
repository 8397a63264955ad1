"""Consoles that write into a string."""

import io

from rich.console import Console


def plain_console(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)


def written(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()
