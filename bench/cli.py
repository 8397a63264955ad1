"""Shared by all commands: exit codes, progress lines, command-line parsing, and the report of an internal error."""

import contextlib
import dataclasses
import io
import itertools
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from bench.arguments import VALUES
from bench.config import RENAMED_SETTINGS, RENAMED_VALUES
from bench.errors import UsageError, nearest_hint
from bench.interrupts import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from bench.interrupts import handle_interrupts as handle_interrupts
from bench.interrupts import ignore_interrupts as ignore_interrupts
from bench.streams import print_error

EXIT_SOLVED, EXIT_NOT_SOLVED, EXIT_WRONG_REQUEST = 0, 1, 2

T = TypeVar("T")


def print_progress(line: str) -> None:
    """Print a line on standard error and flush it."""
    print_error(line)


def split_option(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The last value of one option, None without one, and the command line without the option; before any parsing."""
    last, others, remaining = None, [], iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name == option:
            last = value if equals else next(remaining, None)
        else:
            others.append(argument)
    return last, others


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
    """Parse a command line into the dataclass `schema` with tyro; an error is a UsageError of one line."""
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
                registry=VALUES,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(error_message(panel_message(panel.getvalue()))) from None
    if unknown:
        if not unknown[0].startswith("--"):
            flag = flag_before(unknown[0], arguments)
            if flag is not None:
                raise UsageError(f"{flag}: takes no value, got {unknown[0]!r}")
            raise UsageError(f"{unknown[0]!r}: unexpected argument")
        options = (f"--{name.replace('_', '-')}" for name in option_names(schema))
        raise UsageError(f"{unknown[0]}: unknown option{nearest_hint(unknown[0].replace('_', '-'), options)}")
    return value


def panel_message(panel: str) -> str:
    """The message of one of tyro's error panels in one line: the text between the title and the next ruled line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", panel).splitlines()[1:]
    rows = [re.sub(r"^[│|]|[│|]$", "", line).strip() for line in plain]
    is_rule = re.compile("[─-]*").fullmatch
    return " ".join(itertools.takewhile(lambda row: not is_rule(row), itertools.dropwhile(is_rule, rows)))


def error_message(panel: str) -> str:
    """The message of a panel in our words."""
    program, missing, needed = panel.partition(": ") if panel.startswith("Missing from ") else ("", "", "")
    if missing:  # `B The config or record. (required)`, once for each missing argument
        items = [re.fullmatch(r"(--\S+ \S+|\S+) (.*?)\.?", item.strip()) for item in needed.split("(required)")]
        named = [f"{item[1]}: {item[2][:1].lower()}{item[2][1:]}" for item in items if item]
        return f"{program.rpartition(' ')[2]} needs {', and '.join(named)}"
    without_value = re.match(r"Missing value for argument '(.*?)'", panel)
    if without_value:
        hint = "" if without_value[1].startswith("-") else "; write -- before one that begins with a dash"
        return f"{without_value[1]}: a value is missing{hint}"
    return re.sub(r"^Error parsing (settings: |(?=--))", "", panel)


def with_option_names(message: str, arguments: Sequence[str]) -> str:
    """A message that begins with the name of a setting, with the names of those on the command line as options.

    For example `--n-embd (33) must be divisible by n_head (8)`.
    """
    first = re.split(r"\W", message)[0]
    options = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    names = {option[2:].replace("-", "_"): option.replace("_", "-") for option in options}
    if first not in names and "_" not in first:
        return message
    named = names.get(first, first) + message[len(first) :]
    return re.sub(r"(?<!-)\b\w+_\w+", lambda word: names.get(word[0], word[0]), named)


def flag_before(value: str, arguments: Sequence[str]) -> str | None:
    """The option that stands before a value, or has it after an equals sign, on a command line."""
    for before, argument in itertools.pairwise(["", *arguments]):
        name, _, given = argument.partition("=")
        if argument == value and before.startswith("--"):
            return before
        if name.startswith("--") and given == value:
            return name
    return None


def option_names(schema: type) -> list[str]:
    """The field names of the options of a dataclass; a field that is a dataclass is replaced by the options of that."""
    names = []
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        kind, *marks = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        if tyro.conf.Positional in marks:
            continue
        names += option_names(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else [name]
    return names


def check_positive(arguments: object, *names: str) -> None:
    """Raise UsageError when one of the named options is given and not above 0."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be above 0")


def check_seed(seed: int) -> None:
    """Raise UsageError for a seed that torch's generators cannot take."""
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed {seed}: a seed is a whole number from 0 to 2**63 - 1")


@contextlib.contextmanager
def reject_unwritable(results: Path) -> Iterator[None]:
    """Turn an OSError, while nothing has been started yet, into a UsageError about `--results`."""
    try:
        yield
    except OSError as problem:
        raise UsageError(f"--results {results}: cannot be written to ({problem})") from None
