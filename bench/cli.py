"""Shared by all commands: exit codes, signals, progress lines and command-line parsing."""

import contextlib
import dataclasses
import io
import itertools
import re
import signal
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import tyro

from bench.config import RENAMED_SETTINGS, RENAMED_VALUES
from bench.errors import UsageError, nearest_hint

EXIT_SOLVED, EXIT_NOT_SOLVED, EXIT_WRONG_REQUEST, EXIT_INTERRUPTED = 0, 1, 2, 130

T = TypeVar("T")


# -----------------------------------------------------------------------------
# signals and progress


def interrupt(signal_number: int, _: object) -> NoReturn:
    """Raise KeyboardInterrupt once; a second signal must not disturb the filing that the first one started."""
    ignore_interrupts()
    raise KeyboardInterrupt(signal.Signals(signal_number).name)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C and SIGTERM from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def handle_interrupts() -> None:
    """Raise KeyboardInterrupt on Ctrl-C and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def print_progress(line: str) -> None:
    """Print a line on standard error and flush it."""
    print(line, file=sys.stderr, flush=True)


# -----------------------------------------------------------------------------
# the command line


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """The value of one option, read before the command line is parsed; the last one if it is given several times."""
    last = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name == option:
            last = value if equals else following
    return last


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """The command line without one option and its value."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept


def with_current_option_names(arguments: Sequence[str]) -> list[str]:
    """The command line with options and values of renamed settings under their present names."""
    current: list[str] = []
    renamed_values: Mapping[str, str] = {}  # of the option before, whose value may be the next argument
    for argument in arguments:
        name, equals, value = argument.partition("=")
        negation = "no-" if name.startswith("--no-") else ""
        key = name.removeprefix("--").removeprefix(negation).replace("-", "_")
        if name.startswith("--"):
            renamed = RENAMED_SETTINGS.get(key)
            name = name if renamed is None else f"--{negation}{renamed.replace('_', '-')}"
            renamed_values = RENAMED_VALUES.get(key, {})
            current.append(f"{name}={renamed_values.get(value, value)}" if equals else name)
        else:
            current.append(renamed_values.get(argument, argument))
            renamed_values = {}
    return current


def parse_arguments(
    schema: type[T],
    arguments: Sequence[str],
    default: T | None = None,
    description: str = "",
    program: str | None = None,
) -> T:
    """Parse a command line into the dataclass `schema` with tyro, whose error panels are reduced to one line.

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
        raise UsageError(panel_message(panel.getvalue()).removeprefix("Error parsing settings: ")) from None
    if unknown:
        options = (f"--{name.replace('_', '-')}" for name in option_names(schema))
        if not unknown[0].startswith("--"):
            raise UsageError(f"{unknown[0]!r}: unexpected argument")
        raise UsageError(f"{unknown[0]}: unknown option{nearest_hint(unknown[0].replace('_', '-'), options)}")
    return value


def panel_message(panel: str) -> str:
    """The message of one of tyro's error panels in one line: the text between the title and the next ruled line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", panel).splitlines()[1:]
    rows = [re.sub(r"^[│|]|[│|]$", "", line).strip() for line in plain]

    def is_rule(row: str) -> bool:
        return not row.strip("─-")

    return " ".join(itertools.takewhile(lambda row: not is_rule(row), itertools.dropwhile(is_rule, rows)))


def option_names(schema: type) -> list[str]:
    """The field names of a dataclass; a field that is a dataclass is replaced by the fields of that one."""
    names = []
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        names += option_names(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else [name]
    return names


def check_positive(arguments: object, *names: str) -> None:
    """Raise UsageError when one of the named options is given and not above 0."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be above 0")


@contextlib.contextmanager
def reject_unwritable(results: Path) -> Iterator[None]:
    """Turn an OSError, while nothing has been started yet, into a UsageError about `--results`."""
    try:
        yield
    except OSError as problem:
        raise UsageError(f"--results {results}: cannot be written to ({problem})") from None
