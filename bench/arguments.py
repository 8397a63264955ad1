"""Types of command-line arguments, which are checked where they are read."""

import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)


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


def read_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def read_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def read_choice(text: str, choices: Sequence[str]) -> str:
    """One of the choices; ValueError, which lists them, for another text."""
    if text in choices:
        return text
    *first, last = choices
    raise ValueError(f"{text!r} is not allowed; choose {', '.join(first)}{' or ' * bool(first)}{last}")


def one_word(metavar: str, read: Callable[[str], object]) -> PrimitiveConstructorSpec[object]:
    """An argument of one word, which tyro passes to `read`. tyro alone would read the word `None` as no value."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, bool | int | float | str | Path),
        str_from_instance=lambda value: [str(value)],
    )


PathArgument = Annotated[Path, one_word("PATH", read_path)]
OptionalPathArgument = Annotated[Path | None, one_word("PATH", read_path)]
TextArgument = Annotated[str | None, one_word("TEXT", read_text)]

VALUES = ConstructorRegistry()  # how numbers and choices are read, with our messages in place of tyro's


@VALUES.primitive_rule
def value_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[object] | None:
    """An argument that is a number or one of several words, or None by default."""
    kind: Any = info.type
    if typing.get_origin(kind) in (Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(kind) if kind is not types.NoneType]
        kind = kinds[0] if len(kinds) == 1 else None
    if kind is int or kind is float:
        return one_word(kind.__name__.upper(), read_int if kind is int else read_float)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        return one_word(f"{{{','.join(choices)}}}", lambda text: read_choice(text, choices))
    return None


@VALUES.struct_rule
def mapping_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A mapping keeps its default: tyro offers no option for it."""
    default = info.default
    return StructConstructorSpec(lambda: default, fields=()) if isinstance(default, Mapping) else None
