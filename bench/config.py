"""Configs: TOML files that may extend one another, checked against the trainer's settings."""

import dataclasses
import hashlib
import math
import re
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.errors import UsageError, describe_os_error, nearest_hint

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SettingsT = TypeVar("SettingsT", bound="DataclassInstance")

CONFIGS = Path(__file__).parent / "configs"
CONFIG_NAME = re.compile(r"[\w.-]+")  # it becomes part of file names and of the board
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
REMOVED_SETTINGS = {"evaluation_max_loss"}  # present names of settings that trainers no longer have
# Settings that trainers did not have before 2026-11-29, each with the value that trains as those trainers did. Settings
# with this value are equal to settings without the key: no config changes its hash by a setting that it does not use.
# A new setting of the trainer is entered here, with the value that changes nothing.
ADDED_SETTINGS: dict[str, bool | int | float | str] = {
    "norm_position": "pre",
    "bias": "none",
    "position_encoding": "learned",
    "attention_window": 0,
    "bigrams": False,
    "shared_dropout": 0.0,
    "level_until": 1.0,
    "earlier_loss": 0.0,
    "order": "left-to-right",
    "window": 0,
    "evaluation_max_error_rate": 0.0,
    "initial_states": 1,
    "init_from": "",
    "num_epochs": 0.0,
    "sampling": "independent",
    "checkpoint": "last",
    "checkpoint_every": 0,
    "curves": False,
    "adam_epsilon": 1e-8,
    "decay_on": "matrices",
    "grad_scaler": False,
    "grokfast_lambda": 0.0,
    "grokfast_alpha": 0.98,
    "max_row_norm": 0.0,
    "decay_steps": 0,
    "schedule_unit": "step",
}

MAX_LABEL_VALUE = 60  # characters; longer texts are shortened in labels
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

SEARCH = "search"  # the table in which a config describes the search that found it
TRACK_SETTINGS = "track_settings"  # the field, and the table of a config, that holds the settings of the track
PEER = "peer"  # the table in which a config describes the published trainer that it reproduces
PEER_KEYS = {  # of that table: the fields of `bench.report.peer_configs.Peer`, without its config
    *("what", "source", "track", "reference", "published", "published_score", "published_validation_loss"),
    *("published_steps", "compared_configs"),
}


def find_config(name: str, device_type: str) -> tuple[str, Path]:
    """The resolved name and the file of a config, given by name (`add3-cpu`, or `add3` on a device) or by path.

    A name resolves to its `-cuda` config on CUDA and to its `-cpu` config on other devices, where there is one. Raises
    UsageError if there is no such config.
    """
    if not name:
        raise UsageError("the name of the config is empty")
    if is_toml_file(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"{name}: there is no such file")
        if not CONFIG_NAME.fullmatch(path.stem):
            raise UsageError(f"{name!r}: a config's name consists of letters, digits, '.', '-' and '_'")
        return path.stem, path
    if Path(name).name != name:
        raise UsageError(f"{name!r} is no config: a config is a file that ends in .toml, or a name in bench/configs")
    paths = config_files()
    for resolved in (f"{name}-{'cuda' if device_type == 'cuda' else 'cpu'}", name):
        if resolved in paths:
            return resolved, paths[resolved]
    hint = nearest_hint(name, config_names(), "the folder bench/configs")
    raise UsageError(f"there is no config {name!r}{hint}")


def config_files() -> dict[str, Path]:
    """The configs of the project, by name."""
    return {path.stem: path for path in CONFIGS.glob("*.toml")}


def config_names() -> set[str]:
    """The names of the project's configs, and the short names that stand for one on each device."""
    names = config_files().keys()
    return {*names, *(name.rpartition("-")[0] for name in names if name.endswith(("-cpu", "-cuda")))}


def is_toml_file(name: str) -> bool:
    """Whether a name is that of a TOML file, rather than that of a config, a matrix or a search space in `bench/`."""
    return name.lower().endswith(".toml")


# -----------------------------------------------------------------------------
# settings of the track: one flat key each, `track_settings.p`, in the journal, in hashes and on command lines


def flat_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with a key `track_settings.p` in place of the key `p` in a table `track_settings`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_table = key == TRACK_SETTINGS and isinstance(value, Mapping)
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if is_table else {key: value}
    return flat


def nested_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flat_values`; without a table if it would be empty."""
    nested = {key: value for key, value in values.items() if not is_track_setting(key)}
    table = track_settings_of(values)
    return nested | {TRACK_SETTINGS: table} if table else nested


def flat_settings(settings: "DataclassInstance") -> dict[str, Any]:
    """A trainer's settings as they are journalled, hashed and compared."""
    return flat_values(dataclasses.asdict(settings))


def is_track_setting(key: str) -> bool:
    """Whether a flat key is that of a setting of the track."""
    return key.startswith(f"{TRACK_SETTINGS}.")


def track_settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the track among flat settings, by their short names."""
    return {key.partition(".")[2]: value for key, value in settings.items() if is_track_setting(key)}


def lacks_target(settings: Mapping[str, Any]) -> bool:
    """Whether flat settings are those of a text without a target: it is measured, and there is nothing to solve."""
    return settings.get(f"{TRACK_SETTINGS}.bits_per_byte") == 0


def track_of(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The track in flat settings and its settings: the arguments of `describe_track`."""
    return settings["track"], track_settings_of(settings)


def config_toml(values: Mapping[str, Any]) -> str:
    """Settings, and tables such as `[search]`, as the text of a config; unknown values are left out."""
    import tomli_w

    return tomli_w.dumps(nested_values({key: value for key, value in values.items() if value is not None}))


# -----------------------------------------------------------------------------
# names


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their present names."""
    return renamed(settings, RENAMED_SETTINGS, RENAMED_VALUES)


def current_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a trainer of today takes them.

    Before 2026-11-30 training stopped by the largest loss of an answer, `evaluation_max_loss`. An answer with at most
    this loss has at least a certain margin, which takes its place.
    """
    named = current_names(settings)
    loss = named.pop("evaluation_max_loss", None)
    if loss is not None:
        margin = round(-math.log(math.expm1(loss)), 2) if 0 < loss < math.log(2) else 0.0
        named.setdefault("evaluation_min_margin", margin)
    return named


def former_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their first names, over which config hashes are taken."""
    names = {new: old for old, new in RENAMED_SETTINGS.items()}
    values = {key: {new: old for old, new in words.items()} for key, words in RENAMED_VALUES.items()}
    return renamed(settings, names, values)


def renamed(
    settings: Mapping[str, Any], names: Mapping[str, str], values: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    result = dict(settings)  # most settings have present names; the board asks for thousands of them
    if not names.keys().isdisjoint(settings):
        result = {names.get(key, key): value for key, value in settings.items()}
    for key, words in values.items():
        if isinstance(value := result.get(key), str):
            result[key] = words.get(value, value)
    return result


def knows_current_names(schema: type) -> bool:
    """Whether a trainer's settings have the present names; those of older records have the former ones."""
    return {field.name for field in dataclasses.fields(schema)}.issuperset(
        {*RENAMED_SETTINGS.values()} - REMOVED_SETTINGS
    )


def read_config(path: Path, schema: type, device_type: str = "cpu") -> dict[str, Any]:
    """The settings in a config file and in its bases, which must be fields of the dataclass `schema`, of its types.

    The settings of the track are in a dict of their own; the dataclass checks them.
    """
    valid = {field.name for field in dataclasses.fields(schema)}

    def prepare(values: dict[str, Any], path: Path) -> dict[str, Any]:
        for table in (SEARCH, PEER):
            described = values.pop(table, {})
            if not isinstance(described, dict):
                raise UsageError(f"{path}: {table}: must be a table")
            for key in sorted(described.keys() - PEER_KEYS) if table == PEER else ():
                raise UsageError(f"{path}: {table}: unknown key {key!r}{nearest_hint(key, PEER_KEYS)}")
        if knows_current_names(schema):
            values = with_current_names(values, path)
        has_track_settings = TRACK_SETTINGS in valid  # older trainers have none
        others = {key: value for key, value in values.items() if not (has_track_settings and is_track_setting(key))}
        for key in sorted(others.keys() - valid):
            raise UsageError(f"{path}: unknown key {key!r}{nearest_hint(key, valid | {'base'})}")
        check_values(others, schema, str(path))
        return values | normal_values(others, schema)

    return nested_values(merged_values(path, prepare, device_type))


def with_current_names(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values of one config file under their present names; raises UsageError where both names of one are used."""
    for former, present in RENAMED_SETTINGS.items():
        if former in values and present in values:
            raise UsageError(f"{path}: {former} is the former name of {present}, which is set too; keep {present}")
    check_loss_limit(values, path)
    return current_settings(values)


def check_loss_limit(values: Mapping[str, Any], path: Path) -> None:
    """Raises UsageError: the former limit of the loss is no number."""
    loss = current_names(values).get("evaluation_max_loss", 0.0)
    if isinstance(loss, bool) or not isinstance(loss, (int, float)):
        raise UsageError(f"{path}: evaluation_max_loss must be a number, got {loss!r}")


def merged_values(
    path: Path,
    prepare: Callable[[dict[str, Any], Path], dict[str, Any]] = lambda values, path: values,
    device_type: str = "cpu",
    extended_by: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """The values in a config file, with flat keys; those of its bases apply where it sets none.

    A file that sets another track than its base does not get the base's `track_settings`, and a file that sets
    `num_epochs` does not get the base's `num_steps`.

    A base is a file relative to the one that names it, with or without `.toml`, or a name in bench/configs; a short
    name means the config of `device_type`. `prepare` checks or changes the values of one file; it is called for the
    file, then for each base. `extended_by` are the files that extend this one. Raises UsageError if a file is not TOML,
    a base is missing, or the bases form a cycle.
    """
    if path.resolve() in extended_by:
        raise UsageError(f"{path}: base: the configs extend one another in a circle")
    values = flat_values(read_toml(path)[0])
    base = values.pop("base", None)
    values = prepare(values, path)
    values.pop(PEER, None)  # describes this file, not the configs that extend it
    if base is None:
        return values
    extended = base_beside(path, str(base)) or find_base(path, str(base), device_type)
    inherited = merged_values(extended, prepare, device_type, (*extended_by, path.resolve()))
    if values.get("track", inherited.get("track")) != inherited.get("track"):
        inherited = {key: value for key, value in inherited.items() if not is_track_setting(key)}
    if values.get("num_epochs"):
        inherited.pop("num_steps", None)
    return inherited | values


def find_base(path: Path, base: str, device_type: str) -> Path:
    """The project's config that the `base` of a config file names.

    The config of exactly this name comes first, so that a new default of one device changes no config based on it.
    """
    try:
        if is_toml_file(base):
            raise UsageError(f"{base}: there is no such file")
        if base in (files := config_files()):
            return files[base]
        return find_config(base, device_type)[1]
    except UsageError as problem:
        raise UsageError(f"{path}: base: {problem}") from None


def base_beside(path: Path, base: str) -> Path | None:
    """The file that the `base` of a TOML file names, with or without `.toml`, relative to that file; None without."""
    candidates = path.parent / f"{base}.toml", path.parent / base
    return next((file for file in candidates if is_toml_file(file.name) and file.is_file()), None)


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """The values of a TOML file, and its text; UsageError, with the line, if it cannot be read or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text), text
    except OSError as problem:
        raise UsageError(describe_os_error(problem)) from None
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: this is not UTF-8 ({problem.reason} at byte {problem.start})") from None
    except tomllib.TOMLDecodeError as problem:
        reason = str(problem)
        if reason.startswith(("Illegal character '\\n'", "Unterminated string")):
            reason = f"a quote is not closed{reason[reason.find(' (at ') :]}"
        raise UsageError(f"{path}: {reason}") from None


# -----------------------------------------------------------------------------
# values: equal settings have one form, in which they are hashed, printed and written


def normal_values(values: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """Values of fields of the dataclass `schema` in normal form; see `normal_value`."""
    hints = typing.get_type_hints(schema)
    floats = {key for key in values if float in (hints[key], *typing.get_args(hints[key]))}
    return {key: normal_value(value, key in floats) for key, value in values.items()}


def normal_value(value: Any, is_float: bool) -> Any:
    """A whole number as a float where the setting is one, and 0.0 for -0.0."""
    return float(value) + 0.0 if is_float and type(value) in (int, float) else value


def normal_settings(settings: SettingsT) -> SettingsT:
    """A trainer's settings, a dataclass, with all values in normal form."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    changed = {key: value for key, value in normal_values(values, type(settings)).items() if value is not values[key]}
    return dataclasses.replace(settings, **changed) if changed else settings


def values_like(values: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values in normal form, by the types of the same settings as a trainer resolved them.

    Raises UsageError, which begins with `where`, for a name that is no setting, or a value of another type.
    """
    normal = {}
    for key, value in values.items():
        name = RENAMED_SETTINGS.get(key, key)
        if name not in settings and is_track_setting(name):  # of another track: the trainer has accepted it
            normal[key] = value
            continue
        if name not in settings:
            raise UsageError(f"{where}: {key!r} is not a setting{nearest_hint(key, settings)}")
        kind = type(settings[name])
        normal[key] = normal_value(value, kind is float)
        if type(normal[key]) is not kind:
            raise UsageError(f"{where}: {key} must be {TYPE_NAMES.get(kind, 'null')}, got {value!r}")
    return normal


def without_added_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that have their value in ADDED_SETTINGS."""
    return {key: value for key, value in settings.items() if key not in ADDED_SETTINGS or value != ADDED_SETTINGS[key]}


def settings_key(settings: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """A key that equal settings share.

    It is the same for former and present names, for 600 and 600.0, for 0.0 and -0.0, and whether or not the settings in
    ADDED_SETTINGS are given with their values there.
    """
    return frozenset(current_settings(settings).items()).difference(ADDED_SETTINGS.items())


def setting_text(value: bool | int | float | str | None) -> str:
    """The value of a setting as TOML writes it, strings without quotes; an em dash for an unknown value."""
    return "—" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def short_text(value: bool | int | float | str | None) -> str:
    """As `setting_text`, for labels: of a long text its beginning, and a hash that tells it from other texts."""
    text = setting_text(value)
    return text if len(text) <= MAX_LABEL_VALUE else f"{text[:24]}… {hashlib.sha256(text.encode()).hexdigest()[:6]}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """`n_layer=2 compile=true`; "the base" without settings."""
    return " ".join(f"{key}={short_text(value)}" for key, value in settings.items()) or "the base"


def config_label(config: str, overrides: Mapping[str, Any] | None) -> str:
    """`add3-cpu`, or `add3-cpu + batch_size=192` for a config that the command line changed."""
    return f"{config} + {settings_text(overrides)}" if overrides else config


def check_values(values: dict[str, Any], schema: type, where: str) -> None:
    """Raise UsageError if a value is not of the type of its field, without conversions; `where` begins the message."""
    types = typing.get_type_hints(schema, include_extras=True)
    for key, value in values.items():
        try:
            TypeAdapter(types[key], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as problem:
            reason = problem.errors()[0]["msg"]
            raise UsageError(f"{where}: {key}: {reason[0].lower() + reason[1:]}, got {value!r}") from None
