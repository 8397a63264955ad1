"""Spellings of options on the command line of `python speedrun.py`.

`n_layer=2` and `model.n_layer=2` mean `--n-layer 2`. A setting of the track is `--track-settings.p 97`, also with an
equals sign, or `track_settings.p=97`.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence

from bench.config import RENAMED_SETTINGS, TRACK_SETTINGS, is_track_setting, knows_current_names
from bench.errors import UsageError, nearest_hint
from tracks.descriptions import TRACKS, TRUTH, default_track_settings

REQUEST_GROUP = "run"  # of the options that are no settings
ASSIGNMENT = re.compile(r"(?:([a-zA-Z_]\w*)\.)?([a-zA-Z_][\w-]*)=(.*)", re.DOTALL)  # group, key, value


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of the command line."""

    group: str  # empty if the trainer has no groups
    is_flag: bool  # it takes no value
    has_negation: bool  # of a flag: there is also `--no-KEY`


def options_by_key(settings_type: type, request_type: type) -> dict[str, Option]:
    """The options: a request's and a trainer's fields, these also under former names, but not those of tracks."""
    group_of_first = {first: group for group, first in getattr(settings_type, "GROUPS", ())}
    options: dict[str, Option] = {}
    for schema, group in ((request_type, REQUEST_GROUP if group_of_first else ""), (settings_type, "")):
        hints = typing.get_type_hints(schema, include_extras=True)
        for field in dataclasses.fields(schema):
            group, hint = group_of_first.get(field.name, group), hints[field.name]
            options[field.name] = Option(group, bool in (hint, *typing.get_args(hint)[:1]), has_negation=hint is bool)
    options.pop(TRACK_SETTINGS, None)
    if knows_current_names(settings_type):
        options |= {former: options[present] for former, present in RENAMED_SETTINGS.items() if present in options}
    return options


def with_dashes(arguments: Sequence[str], settings_type: type, request_type: type) -> list[str]:
    """A command line whose options all begin with `--`; a setting of the track is one argument, with `=`.

    Raises UsageError for an unknown name, a wrong group, or a setting of the track without a value.
    """
    options = options_by_key(settings_type, request_type)
    flags = {"help", "plans", *(key for key, option in options.items() if option.is_flag)}
    spelled: list[str] = []
    before = ""  # the option without a value that comes before
    for argument in arguments:
        if before and not argument.startswith("--"):  # its value
            spelled += [argument] if not is_track_setting(before[2:]) else [f"{spelled.pop()}={argument}"]
            before = ""
            continue
        check_has_value(before)
        before, assignment = "", ASSIGNMENT.fullmatch(argument)
        if argument.partition("=")[0].removeprefix("--").replace("-", "_") == TRACK_SETTINGS:
            raise UsageError(f"{argument}: write {TRACK_SETTINGS}.KEY, as in {TRACK_SETTINGS}.p=97")
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            key = name[2:].replace("-", "_")
            name = f"--{key}" if is_track_setting(key) else name
            spelled.append(f"{name}{equals}{value}")
            before = "" if equals or key.removeprefix("no_") in flags else name
        elif assignment is not None:
            spelled += assigned(options, *assignment.groups())
        else:
            spelled.append(argument)
    check_has_value(before)
    return spelled


def check_has_value(option: str) -> None:
    """Raise UsageError for a setting of the track; tyro finds out whether another option lacks its value."""
    if is_track_setting(option[2:]):
        raise UsageError(f"{option.replace('_', '-')}: a value is missing")


def assigned(options: Mapping[str, Option], group: str | None, key: str, value: str) -> list[str]:
    """The option that `group.key=value` means, as one argument or none; raises UsageError for a wrong name."""
    key = key.replace("-", "_")
    if group == TRACK_SETTINGS:
        return [f"--{group}.{key}={value}"]
    option = options.get(key)
    if option is None or group not in (None, option.group):
        name = key if group is None else f"{group}.{key}"
        raise UsageError(f"{name!r} is not an option{name_hint(options, group, key)}")
    name = f"--{key.replace('_', '-')}"
    if not option.is_flag:
        return [f"{name}={value}"]
    if value.lower() not in TRUTH:
        raise UsageError(f"{key} must be true or false, got {value!r}")
    if TRUTH[value.lower()]:
        return [name]
    return [f"--no-{name[2:]}"] if option.has_negation else []


def name_hint(options: Mapping[str, Option], group: str | None, key: str) -> str:
    """The end of a message about a wrong name: what to write in its place."""
    if any(key in default_track_settings(track) for track in TRACKS):
        return f"; write {TRACK_SETTINGS}.{key}"
    if key in options:
        return f"; write {options[key].group}.{key}".replace(" .", " ")
    names = [key if group is None else f"{option.group}.{key}" for key, option in options.items()]
    return nearest_hint(key if group is None else f"{group}.{key}", names, "`python speedrun.py --help`")


def split_track_settings(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The settings of the track on a command line with dashes, by their short names, and the other arguments."""
    given, others = {}, []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.startswith("--") and is_track_setting(name[2:]):
            given[name.partition(".")[2]] = value
        else:
            others.append(argument)
    return given, others


def spelling_help(settings_type: type) -> str:
    """A paragraph about the spellings, for `--help`."""
    *groups, last = [group for group, _ in getattr(settings_type, "GROUPS", ())] or [""]
    if not last:
        return ""
    return (
        f"`model.n_layer=2` and `n_layer=2` are other spellings of `--n-layer 2`; the groups are {', '.join(groups)} "
        f"and {last}. A setting of the track is `{TRACK_SETTINGS}.p=97` or `--track-settings.p 97`; "
        "`python -m bench tracks` shows the tracks with their settings."
    )
