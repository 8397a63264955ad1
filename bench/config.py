"""Configs: TOML files that may extend one another, checked against the trainer's settings."""

import dataclasses
import re
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.errors import UsageError, nearest_hint

CONFIGS = Path(__file__).parent / "configs"
# Settings that were renamed, former name -> present name, and values of settings likewise. Old configs, journal lines
# and command lines use the former ones. Config hashes are taken over them, so that no old run changes its identity.
RENAMED_SETTINGS = {
    "survey_problems": "evaluation_problems",
    "survey_as_exam": "evaluation_uniform",
    "survey_climbs": "hard_search_steps",
    "survey_loss": "evaluation_max_loss",
    "drill_problems": "replay_problems",
    "drill_share": "replay_share",
}
RENAMED_VALUES = {"stop_at": {"survey": "evaluation"}}

SEARCH = "search"  # the table in which a config describes the search that found it
PEER = "peer"  # the table in which a config describes the published trainer that it reproduces


def find_config(name: str, device_type: str) -> tuple[str, Path]:
    """The resolved name and the file of a config, given by name (`add3-cpu`, or `add3` on a device) or by path.

    A short name resolves to its `-cuda` config on CUDA and to its `-cpu` config on other devices. Raises UsageError if
    there is no such config.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"{name!r}: there is no such config file")
        if not re.fullmatch(r"[\w.-]+", path.stem):  # it becomes part of file names and of the board
            raise UsageError(f"{name!r}: a config's name consists of letters, digits, '.', '-' and '_'")
        return path.stem, path
    paths = {path.stem: path for path in CONFIGS.glob("*.toml")}
    for resolved in (name, f"{name}-{'cuda' if device_type == 'cuda' else 'cpu'}"):
        if resolved in paths:
            return resolved, paths[resolved]
    short_names = {stem.rpartition("-")[0] for stem in paths if stem.endswith(("-cpu", "-cuda"))}
    raise UsageError(f"--config {name!r}: there is no such config{nearest_hint(name, {*paths, *short_names})}")


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their present names."""
    return renamed(settings, RENAMED_SETTINGS, RENAMED_VALUES)


def former_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their first names, over which config hashes are taken."""
    names = {new: old for old, new in RENAMED_SETTINGS.items()}
    values = {key: {new: old for old, new in words.items()} for key, words in RENAMED_VALUES.items()}
    return renamed(settings, names, values)


def renamed(
    settings: Mapping[str, Any], names: Mapping[str, str], values: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    return {
        names.get(key, key): values.get(key, {}).get(value, value) if isinstance(value, str) else value
        for key, value in settings.items()
    }


def knows_current_names(schema: type) -> bool:
    """Whether a trainer's settings have the present names; those of older records have the former ones."""
    return {field.name for field in dataclasses.fields(schema)}.issuperset(RENAMED_SETTINGS.values())


def read_config(path: Path, schema: type) -> dict[str, Any]:
    """The settings in a config file and in its bases, which must be fields of the dataclass `schema`, of its types."""
    valid = {field.name for field in dataclasses.fields(schema)}

    def prepare(values: dict[str, Any], path: Path) -> dict[str, Any]:
        for table in (SEARCH, PEER):
            if not isinstance(values.pop(table, {}), dict):
                raise UsageError(f"{path}: {table}: must be a table")
        if knows_current_names(schema):
            values = with_current_names(values, path)
        for key in sorted(values.keys() - valid):
            raise UsageError(f"{path}: unknown key {key!r}{nearest_hint(key, valid | {'base'})}")
        check_values(values, schema, str(path))
        return values

    return merged_values(path, prepare)


def with_current_names(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values of one config file under their present names; raises UsageError where both names of one are used."""
    for former, present in RENAMED_SETTINGS.items():
        if former in values and present in values:
            raise UsageError(f"{path}: {former} is the former name of {present}, which is set too; keep {present}")
    return current_names(values)


def merged_values(
    path: Path,
    prepare: Callable[[dict[str, Any], Path], dict[str, Any]] = lambda values, path: values,
    extended_by: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """The values in a config file; those of its bases apply where it sets none.

    A base is a file relative to the one that names it, with or without `.toml`, or a name in bench/configs. `prepare`
    checks or changes the values of one file; it is called for the file, then for each base. `extended_by` are the files
    that extend this one. Raises UsageError if a file is not TOML, a base is missing, or the bases form a cycle.
    """
    if path.resolve() in extended_by:
        raise UsageError(f"{path}: base: the configs extend one another in a circle")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise UsageError(f"{path}: {problem}") from None
    base = values.pop("base", None)
    values = prepare(values, path)
    values.pop(PEER, None)  # describes this file, not the configs that extend it
    if base is None:
        return values
    candidates = path.parent / f"{base}.toml", path.parent / str(base), CONFIGS / f"{base}.toml"
    base_path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if base_path is None:
        raise UsageError(f"{path}: base: there is no config {base!r}")
    return merged_values(base_path, prepare, (*extended_by, path.resolve())) | values


def check_values(values: dict[str, Any], schema: type, where: str) -> None:
    """Raise UsageError if a value is not of the type of its field, without conversions; `where` begins the message."""
    types = typing.get_type_hints(schema, include_extras=True)
    for key, value in values.items():
        try:
            TypeAdapter(types[key], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as problem:
            reason = problem.errors()[0]["msg"]
            raise UsageError(f"{where}: {key}: {reason[0].lower() + reason[1:]}, got {value!r}") from None
