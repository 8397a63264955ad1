"""Jinja templates, and writing or checking rendered pages."""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.storage.jsonl import replace_file


@functools.cache  # compiling a template takes longer than rendering it
def template_environment() -> Environment:
    """The templates in the folder beside this file."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; text typed by users goes through `escape_markdown`
    )


def write_or_check(
    texts: Mapping[Path, str],
    pictures: Mapping[Path, Callable[[], str | bytes]],
    check: bool,
    command: str,
    stale: Iterable[Path] = (),
) -> int:
    """Write rendered files, or check the files on disk against them.

    The bytes of a picture depend on the version of the library that drew it; the check only requires that it exists.

    Args:
        texts: path -> text.
        pictures: path -> function that draws the picture.
        check: write nothing.
        command: name of the command that the message of a failed check recommends.
        stale: generated files that should no longer exist; deleted when writing.

    Returns:
        The exit status: 1 when the check fails; one line on standard error for each file.

    Raises:
        OSError: a file could not be written.
    """
    if not check:
        for path, draw in pictures.items():
            replace_file(path, draw())
        for path, text in texts.items():
            replace_file(path, text)
        for path in stale:
            path.unlink()
        return 0
    differing = [path.name for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    differing += [path.name for path in pictures if not path.exists()]
    differing += [path.name for path in stale]
    for name in differing:
        print(f"{name} does not agree with the journal; run `python -m bench {command}`", file=sys.stderr)
    return 1 if differing else 0
