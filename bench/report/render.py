"""Jinja templates, and writing or checking rendered pages."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.storage.jsonl import replace_file


def template_environment() -> Environment:
    """The templates beside this file."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; what others have typed goes through `plain`
    )


def write_or_check(
    texts: Mapping[Path, str], pictures: Mapping[Path, Callable[[], str | bytes]], check: bool, command: str
) -> int:
    """Write what a command has rendered, or check what lies there.

    A picture's bytes depend on the version that drew it, so that the check asks only whether it is there.

    Args:
        texts: what each file should say.
        pictures: what draws each picture.
        check: write nothing.
        command: whose name the check's advice gives.

    Returns:
        The exit status: 1 when the check finds a file that says something else; a line on standard error for each.

    Raises:
        OSError: a file could not be written.
    """
    if not check:
        for path, draw in pictures.items():
            replace_file(path, draw())
        for path, text in texts.items():
            replace_file(path, text)
        return 0
    stale = [path.name for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    stale += [path.name for path in pictures if not path.exists()]
    for name in stale:
        print(f"{name} does not say what the journal says; run `python -m bench {command}`", file=sys.stderr)
    return 1 if stale else 0
