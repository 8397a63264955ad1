"""Types of command-line arguments: paths and texts, which are checked where they are read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec


def read_path(text: str) -> Path:
    """A path with `~` expanded; ValueError for one that is empty, `-`, or not UTF-8."""
    if not text:
        raise ValueError("the path is empty")
    if Path(text) == Path("-"):
        raise ValueError("'-' is no file or folder; write a path")
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"the path {text!a} is not UTF-8") from None
    return Path(text).expanduser()


def read_text(text: str) -> str:
    """A text as it was typed, also `None`; ValueError for one that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not UTF-8") from None
    return text


def one_word(metavar: str, read: Callable[[str], object]) -> PrimitiveConstructorSpec[object]:
    """An argument of one word, which tyro passes to `read`. tyro alone would read the word `None` as no value."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, str | Path),
        str_from_instance=lambda value: [str(value)],
    )


PathArgument = Annotated[Path, one_word("PATH", read_path)]
OptionalPathArgument = Annotated[Path | None, one_word("PATH", read_path)]
TextArgument = Annotated[str | None, one_word("TEXT", read_text)]
