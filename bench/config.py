"""Configs: TOML files that may extend one another, checked against the trainer's settings, and the command line."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import ConfigDict, TypeAdapter, ValidationError

CONFIGS = Path(__file__).parent / "configs"
SEARCH = "search"  # the table of a config that a search has found: what that took

T = TypeVar("T")


class WrongRequest(Exception):
    """What was asked for cannot be done; the message is one line that says what to do. Exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class NotHere(WrongRequest):
    """It cannot be done on this machine; on another it could."""


def in_words(problem: OSError) -> str:
    """What went wrong with which file, without the number that the system has for it."""
    return f"{problem.filename}: {problem.strerror}" if problem.filename and problem.strerror else str(problem)


def nearest(word: str, valid: Iterable[str]) -> str:
    """`; the nearest is 'x'`, or a list when nothing is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; the nearest is {close[0]!r}" if close else f"; there are {', '.join(valid)}"


# -----------------------------------------------------------------------------
# files


def find_config(name: str, device_type: str) -> tuple[str, Path]:
    """The resolved name and the file of `add3-cpu`, of `add3` on a device, or of a path.

    A name stands for its `-cuda` config on CUDA and for its `-cpu` config elsewhere.

    Raises:
        WrongRequest: there is no such config.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise WrongRequest(f"{name!r}: there is no such config file")
        if not re.fullmatch(r"[\w.-]+", path.stem):  # it becomes part of file names and of the board
            raise WrongRequest(f"{name!r}: a config's name is made of letters, digits, '.', '-' and '_'")
        return path.stem, path
    known = {path.stem: path for path in CONFIGS.glob("*.toml")}
    for resolved in (name, f"{name}-{'cuda' if device_type == 'cuda' else 'cpu'}"):
        if resolved in known:
            return resolved, known[resolved]
    short = {stem.rpartition("-")[0] for stem in known if stem.endswith(("-cpu", "-cuda"))}
    raise WrongRequest(f"--config {name!r}: there is no such config{nearest(name, {*known, *short})}")


def read_config(path: Path, schema: type) -> dict[str, Any]:
    """The values that a file sets, its bases' under its own, all of them fields of `schema`.

    Raises:
        WrongRequest: not TOML, an unknown key, a value of the wrong type, or bases that go round in a circle.
    """
    valid = {field.name for field in dataclasses.fields(schema)}

    def check(values: dict[str, Any], path: Path) -> None:
        if not isinstance(values.pop(SEARCH, {}), dict):
            raise WrongRequest(f"{path}: {SEARCH}: must be a table")
        for key in sorted(values.keys() - valid):
            raise WrongRequest(f"{path}: unknown key {key!r}{nearest(key, valid | {'base'})}")
        check_values(values, schema, str(path))

    return merged_values(path, check)


def merged_values(
    path: Path,
    check: Callable[[dict[str, Any], Path], None] = lambda values, path: None,
    seen: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """The values that a file sets, its bases' under its own.

    A base is a file beside the one that names it, with or without `.toml`, or one of the names in bench/configs.

    Args:
        check: raises WrongRequest for values that a file may not set; called for the file, then for its bases.
        seen: the files that extend this one.

    Raises:
        WrongRequest: not TOML, no such base, or bases that go round in a circle.
    """
    if path.resolve() in seen:
        raise WrongRequest(f"{path}: base: the configs extend one another in a circle")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise WrongRequest(f"{path}: {problem}") from None
    base = values.pop("base", None)
    check(values, path)
    if base is None:
        return values
    places = path.parent / f"{base}.toml", path.parent / str(base), CONFIGS / f"{base}.toml"
    base_path = next((place for place in places if place.is_file()), None)
    if base_path is None:
        raise WrongRequest(f"{path}: base: there is no config {base!r}")
    return merged_values(base_path, check, (*seen, path.resolve())) | values


def read_search(path: Path) -> dict[str, Any] | None:
    """What a config says of the search that found it; its bases' too, as a config that extends a found one owes to it.

    Raises:
        WrongRequest: see `merged_values`.
    """
    return merged_values(path).get(SEARCH)


def check_values(values: dict[str, Any], schema: type, where: str) -> None:
    """Check the types of some of a dataclass's fields, strictly.

    Raises:
        WrongRequest: names the key and what it should be.
    """
    try:
        # A partial dataclass cannot be built, so each value is checked against its own field's type.
        types = {field.name: field.type for field in dataclasses.fields(schema)}
        for key, value in values.items():
            TypeAdapter(types[key], config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as problem:
        reason = problem.errors()[0]["msg"]
        raise WrongRequest(f"{where}: {key}: {reason[0].lower() + reason[1:]}, got {value!r}") from None


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
        WrongRequest: an unknown option, or a value of the wrong type.
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
        raise WrongRequest(first_words(panel.getvalue()).removeprefix("Error parsing settings: ")) from None
    if unknown:
        options = (f"--{name.replace('_', '-')}" for name in option_names(schema))
        if not unknown[0].startswith("--"):
            raise WrongRequest(f"{unknown[0]!r}: this command takes nothing here")
        raise WrongRequest(f"{unknown[0]}: unknown option{nearest(unknown[0].replace('_', '-'), options)}")
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
            raise WrongRequest(f"--{name.replace('_', '-')} {value:g}: must be above 0")
