"""Configs: TOML files that may extend one another, checked against the trainer's settings, and the command line."""

import dataclasses
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.errors import UsageError, nearest_hint

CONFIGS = Path(__file__).parent / "configs"
SEARCH = "search"  # the table of a config that a search has found: what that took


# -----------------------------------------------------------------------------
# files


def find_config(name: str, device_type: str) -> tuple[str, Path]:
    """The resolved name and the file of `add3-cpu`, of `add3` on a device, or of a path.

    A name stands for its `-cuda` config on CUDA and for its `-cpu` config elsewhere.

    Raises:
        UsageError: there is no such config.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"{name!r}: there is no such config file")
        if not re.fullmatch(r"[\w.-]+", path.stem):  # it becomes part of file names and of the board
            raise UsageError(f"{name!r}: a config's name is made of letters, digits, '.', '-' and '_'")
        return path.stem, path
    known = {path.stem: path for path in CONFIGS.glob("*.toml")}
    for resolved in (name, f"{name}-{'cuda' if device_type == 'cuda' else 'cpu'}"):
        if resolved in known:
            return resolved, known[resolved]
    short = {stem.rpartition("-")[0] for stem in known if stem.endswith(("-cpu", "-cuda"))}
    raise UsageError(f"--config {name!r}: there is no such config{nearest_hint(name, {*known, *short})}")


def read_config(path: Path, schema: type) -> dict[str, Any]:
    """The values that a file sets, its bases' under its own, all of them fields of `schema`.

    Raises:
        UsageError: not TOML, an unknown key, a value of the wrong type, or bases that go round in a circle.
    """
    valid = {field.name for field in dataclasses.fields(schema)}

    def check(values: dict[str, Any], path: Path) -> None:
        if not isinstance(values.pop(SEARCH, {}), dict):
            raise UsageError(f"{path}: {SEARCH}: must be a table")
        for key in sorted(values.keys() - valid):
            raise UsageError(f"{path}: unknown key {key!r}{nearest_hint(key, valid | {'base'})}")
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
        UsageError: not TOML, no such base, or bases that go round in a circle.
    """
    if path.resolve() in seen:
        raise UsageError(f"{path}: base: the configs extend one another in a circle")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise UsageError(f"{path}: {problem}") from None
    base = values.pop("base", None)
    check(values, path)
    if base is None:
        return values
    places = path.parent / f"{base}.toml", path.parent / str(base), CONFIGS / f"{base}.toml"
    base_path = next((place for place in places if place.is_file()), None)
    if base_path is None:
        raise UsageError(f"{path}: base: there is no config {base!r}")
    return merged_values(base_path, check, (*seen, path.resolve())) | values


def read_search(path: Path) -> dict[str, Any] | None:
    """What a config says of the search that found it; its bases' too, as a config that extends a found one owes to it.

    Raises:
        UsageError: see `merged_values`.
    """
    return merged_values(path).get(SEARCH)


def check_values(values: dict[str, Any], schema: type, where: str) -> None:
    """Check the types of some of a dataclass's fields, strictly.

    Raises:
        UsageError: names the key and what it should be.
    """
    try:
        # A partial dataclass cannot be built, so each value is checked against its own field's type.
        types = {field.name: field.type for field in dataclasses.fields(schema)}
        for key, value in values.items():
            TypeAdapter(types[key], config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as problem:
        reason = problem.errors()[0]["msg"]
        raise UsageError(f"{where}: {key}: {reason[0].lower() + reason[1:]}, got {value!r}") from None
