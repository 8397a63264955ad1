"""Types of command-line arguments: paths and texts, which are checked where they are read."""

import os
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


PathArgument = Annotated[
    Path,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda arguments: read_path(arguments[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    ),
]
TextArgument = Annotated[  # plain `str | None` would read the text "None" as the value
    str | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="TEXT",
        instance_from_str=lambda arguments: read_text(arguments[0]),
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda text: [str(text)],
    ),
]
