"""What all commands share: exit codes, signals, command-line parsing, progress lines."""

import contextlib
import dataclasses
import io
import itertools
import re
import signal
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from bench.errors import UsageError, nearest_hint

EXIT_SOLVED, EXIT_NOT_SOLVED = 0, 1

EXIT_WRONG_REQUEST, EXIT_INTERRUPTED = 2, 130


# -----------------------------------------------------------------------------
# signals


def interrupt(signal_number: int, _: object) -> NoReturn:
    """Raise KeyboardInterrupt once; a second signal must not disturb the filing of the first."""
    ignore_interrupts()
    raise KeyboardInterrupt(signal.Signals(signal_number).name)


def ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def handle_interrupts() -> None:
    """Let Ctrl-C and SIGTERM come as KeyboardInterrupt."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


# -----------------------------------------------------------------------------
# what is said of it


def print_progress(line: str) -> None:
    """A line of progress, on standard error and at once."""
    print(line, file=sys.stderr, flush=True)


T = TypeVar("T")


# -----------------------------------------------------------------------------
# the command line


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """The value that the command line gives to one option, the last time it does, before all else is understood."""
    found = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name == option:
            found = value if equals else following
    return found


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """The command line less one option and its value."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept


def parse_arguments(
    schema: type[T],
    arguments: Sequence[str],
    default: T | None = None,
    description: str = "",
    program: str | None = None,
) -> T:
    """Let tyro fill `schema` from the command line, with its panels of several lines made one.

    Raises:
        UsageError: an unknown option, or a value of the wrong type.
        SystemExit: after `--help`.
    """
    panel = io.StringIO()
    try:
        with contextlib.redirect_stderr(panel):
            value, unknown = tyro.cli(
                schema,
                prog=program,
                args=list(arguments),
                default=tyro.MISSING_NONPROP if default is None else default,
                description=description,
                return_unknown_args=True,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(first_words(panel.getvalue()).removeprefix("Error parsing settings: ")) from None
    if unknown:
        options = (f"--{name.replace('_', '-')}" for name in option_names(schema))
        if not unknown[0].startswith("--"):
            raise UsageError(f"{unknown[0]!r}: this command takes nothing here")
        raise UsageError(f"{unknown[0]}: unknown option{nearest_hint(unknown[0].replace('_', '-'), options)}")
    return value


def first_words(panel: str) -> str:
    """The message of one of tyro's error panels in one line: what stands between the title and the next ruled line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", panel).splitlines()[1:]
    rows = [re.sub(r"^[│|]|[│|]$", "", line).strip() for line in plain]

    def is_rule(row: str) -> bool:
        return not row.strip("─-")

    return " ".join(itertools.takewhile(lambda row: not is_rule(row), itertools.dropwhile(is_rule, rows)))


def option_names(schema: type) -> list[str]:
    """The fields of a dataclass, those of a field that is one itself in its place."""
    names = []
    for field in dataclasses.fields(schema):
        kind = typing.get_args(field.type)[0] if typing.get_origin(field.type) is Annotated else field.type
        names += option_names(kind) if dataclasses.is_dataclass(kind) else [field.name]
    return names


def check_positive(arguments: Any, *names: str) -> None:
    """Raises WrongRequest when one of a command's options was given a number that is not above 0."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be above 0")


@contextlib.contextmanager
def reject_unwritable(results: Path) -> Iterator[None]:
    """Make a folder that cannot be written to a wrong request, while nothing has begun yet."""
    try:
        yield
    except OSError as problem:
        raise UsageError(f"--results {results}: cannot be written to ({problem})") from None
