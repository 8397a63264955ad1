"""The list of tracks, and their settings. Imports neither torch nor NumPy."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import nearest_hint
from tracks.describe_addition import ADDITION_OMNIVAULT, ADDITION_STREAM, describe_addition
from tracks.describe_lines import ACTIONS, ADDTEXT
from tracks.describe_memorize import describe_memorize
from tracks.describe_modular import MODULAR_SIGNS, describe_modular
from tracks.describe_sumeq import describe_sumeq
from tracks.describe_text import describe_text
from tracks.describe_words import WORDS
from tracks.description import BatchOptions, TrackDescription

__all__ = [
    "DESCRIBE",
    "TRACKS",
    "BatchOptions",
    "TrackDescription",
    "TrackSettings",
    "default_track_settings",
    "describe_track",
    "read_track_settings",
    "resolve_track_settings",
]

TRUTH = {"true": True, "false": False}
TrackSettings = Mapping[str, bool | int | float | str]

Describe = Callable[..., TrackDescription]
DESCRIBE: dict[str, Describe] = {
    **{name: functools.partial(describe_modular, name) for name in MODULAR_SIGNS},
    "memorize": describe_memorize,
    "sumeq": describe_sumeq,
    "text": describe_text,
}

TRACKS: dict[str, TrackDescription] = {
    **{
        description.name: description
        for description in (
            *(describe_addition(digits, reverse) for reverse in (False, True) for digits in range(1, 21)),
            describe_addition(3, reverse=True, signs=False, name="add3-mingpt"),
            ADDITION_STREAM,
            ADDITION_OMNIVAULT,
            WORDS,
            ADDTEXT,
            ACTIONS,
        )
    },
    **{name: describe() for name, describe in DESCRIBE.items()},
}


def default_track_settings(name: str) -> dict[str, Any]:
    """Return the settings of a track with their defaults; empty for a track without settings."""
    if name not in DESCRIBE:
        return {}
    parameters = inspect.signature(DESCRIBE[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def read_track_settings(track: str, texts: Mapping[str, str]) -> dict[str, bool | int | float | str]:
    """Return the values of track settings that are written as texts, by the types of their defaults.

    A text that has not the right type stays a text; `describe_track` refuses it.
    """
    defaults, values = default_track_settings(track), {}
    for key, text in texts.items():
        kind = type(defaults.get(key, ""))
        try:
            values[key] = TRUTH.get(text.lower(), text) if kind is bool else kind(text)
        except ValueError:
            values[key] = text
    return values


def describe_track(name: str, settings: TrackSettings | None = None) -> TrackDescription:
    """Describe a track with the given settings, and the defaults of the others.

    Raises KeyError for a track that TRACKS lacks, ValueError for a setting that the track lacks or a wrong value.
    """
    if name not in TRACKS:
        raise KeyError(name)
    defaults = default_track_settings(name)
    for key, value in (settings or {}).items():
        if key not in defaults:
            known = nearest_hint(key, defaults) if defaults else ", as it has none"
            raise ValueError(f"track_settings.{key} is not a setting of the track {name}{known}")
        kind = type(defaults[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"track_settings.{key} must be {KIND_NAMES[kind]}, got {value!r}")
    return DESCRIBE[name](**(settings or {})) if defaults else TRACKS[name]


def resolve_track_settings(name: str, settings: TrackSettings) -> dict[str, Any]:
    """Return all settings of a track as they are filed: with the defaults, 1 as 1.0, and a file by its hash.

    Raises as `describe_track`.
    """
    defaults, filed = default_track_settings(name), describe_track(name, settings).settings
    return defaults | {key: type(defaults[key])(value) for key, value in settings.items()} | dict(filed)


KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
