"""A matrix file: a base config, axes of settings, and seeds. Every combination of the axes is a cell."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.clock import ClockName
from bench.errors import nearest_hint
from bench.experiments.toml_file import SettingValue, TomlFile
from bench.formatting import setting_text

MATRICES = Path(__file__).parent.parent / "matrices"
KEYS = ("base", "seeds", "axes", "exclude", "plot", "clock")
RESERVED_OPTIONS = ("seed", "config", "results")  # set by the command for every attempt

Choice = dict[str, SettingValue]  # settings that change together
Axes = dict[str, tuple[Choice, ...]]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """The content of a matrix file."""

    path: Path
    base: str  # config
    seeds: tuple[int, ...]
    axes: Axes  # in the file's order
    excluded: tuple[Choice, ...]
    plot: tuple[str, ...]  # one axis is drawn as a line, two as a map
    clock: ClockName  # that ranks the cells

    @property
    def name(self) -> str:
        return self.path.stem

    def cells(self) -> Iterator["Cell"]:
        """Every combination that is not excluded."""
        for choices in itertools.product(*self.axes.values()):
            cell = Cell(dict(zip(self.axes, choices, strict=True)))
            if not any(excluded.items() <= cell.settings.items() for excluded in self.excluded):
                yield cell


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination: a choice for each axis."""

    choices: dict[str, Choice]

    @property
    def settings(self) -> Choice:
        return {key: value for choice in self.choices.values() for key, value in choice.items()}

    def labels(self) -> dict[str, str]:
        """The label of the choice on each axis."""
        return {axis: label(axis, choice) for axis, choice in self.choices.items()}

    def __str__(self) -> str:
        return settings_text(self.settings)


def options_of(settings: Choice) -> list[str]:
    """Settings as options of the trainer's command line."""
    options: list[str] = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        options += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return options


def settings_text(settings: Choice) -> str:
    """`n_layer=2 compile=true`; "the base" without settings."""
    return " ".join(f"{key}={setting_text(value)}" for key, value in settings.items()) or "the base"


def label(axis: str, choice: Choice) -> str:
    """`512` on the axis of a single setting, `n_layer=2 n_embd=96` on an axis of settings that change together."""
    return setting_text(choice[axis]) if choice.keys() == {axis} else settings_text(choice)


# -----------------------------------------------------------------------------
# reading the file


def read_matrix(path: Path) -> Matrix:
    """Read a matrix file.

    Raises:
        UsageError: names the file, the line, the key, and the problem.
    """
    file = TomlFile(path, KEYS)
    base = file.read_base()
    axes = read_axes(file)
    return Matrix(
        path=path,
        base=base,
        seeds=read_seeds(file),
        axes=axes,
        excluded=read_exclusions(file, axes),
        plot=read_plot(file, axes),
        clock=file.read_clock(),
    )


def read_seeds(file: TomlFile) -> tuple[int, ...]:
    seeds = file.values.get("seeds")
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)):
        raise file.error("must be a list of whole numbers from 0 on", "seeds")
    if len(set(seeds)) < len(seeds):
        raise file.error("a seed is listed twice", "seeds")
    return tuple(seeds)


def read_axes(file: TomlFile) -> Axes:
    tables = file.values.get("axes")
    if not isinstance(tables, dict):
        raise file.error(f"must be a table of lists{file.missing('axes')}", "axes")
    axes = {axis: tuple(read_choices(file, axis, values)) for axis, values in tables.items()}
    axis_of: dict[str, str] = {}
    for axis, choices in axes.items():
        for key in choices[0]:
            if key in RESERVED_OPTIONS:
                raise file.error(f"{key} cannot be a setting of a cell", "axes", axis)
            if key in axis_of:
                raise file.error(f"{key} is on the axis {axis_of[key]!r} already", "axes", axis)
            axis_of[key] = axis
    return axes


def read_choices(file: TomlFile, axis: str, values: Any) -> Iterator[Choice]:
    """The choices on an axis: values of the setting of that name, or tables of settings that change together."""
    if not isinstance(values, list) or not values:
        raise file.error(f"must be a list of values, got {values!r}", "axes", axis)
    choices = [value if isinstance(value, dict) else {axis: value} for value in values]
    for i, choice in enumerate(choices):
        if values[i] in values[:i]:
            raise file.error(f"{values[i]!r} is listed twice", "axes", axis)
        for key, value in choice.items():
            if not isinstance(value, bool | int | float | str):
                raise file.error(f"{value!r} is not a value of the setting {key!r}", "axes", axis)
        if choice.keys() != choices[0].keys():
            raise file.error("all values must give the same settings", "axes", axis)
        yield choice


def read_exclusions(file: TomlFile, axes: Mapping[str, Sequence[Choice]]) -> tuple[Choice, ...]:
    """The combinations that no cell may have: one or more settings of the axes, with values that occur there."""
    exclusions = file.values.get("exclude", [])
    if not isinstance(exclusions, list) or not all(isinstance(table, dict) and table for table in exclusions):
        raise file.error("must be a list of tables of settings", "exclude")
    possible = {key: [choice[key] for choice in choices] for choices in axes.values() for key in choices[0]}
    for exclusion in exclusions:
        for key, value in exclusion.items():
            if key not in possible:
                hint = nearest_hint(key, possible) if possible else ""
                raise file.error(f"no axis has {key!r}{hint}", "exclude", key)
            if value not in possible[key]:
                raise file.error(f"the axis has no {value!r}", "exclude", key)
    return tuple(exclusions)


def read_plot(file: TomlFile, axes: Mapping[str, Sequence[Choice]]) -> tuple[str, ...]:
    """The axes to draw; by default the first two with more than one value."""
    plot = file.values.get("plot", [axis for axis, choices in axes.items() if len(choices) > 1][:2])
    if not isinstance(plot, list) or len(plot) > 2 or len(set(map(str, plot))) < len(plot):
        raise file.error("must be a list of one or two axes", "plot")
    for axis in plot:
        if not isinstance(axis, str) or axis not in axes:
            raise file.error(f"there is no axis {axis!r}{nearest_hint(str(axis), axes)}", "plot")
    return tuple(plot)
