"""A matrix file: a base config, axes of settings, and seeds. Every combination of the axes is a cell."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.clock import ClockName
from bench.config import (
    current_names,
    flat_values,
    is_track_setting,
    setting_text,
    settings_text,
    short_text,
    values_like,
)
from bench.errors import nearest_hint
from bench.experiments.toml_file import SettingValue, TomlFile
from bench.stats.learning_curves import MILESTONES

MATRICES = Path(__file__).parent.parent / "matrices"
KEYS = ("base", "seeds", "axes", "exclude", "plot", "clock", "steps")

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
    clock: ClockName  # that ranks the cells, unless steps do
    steps: tuple[str, ...] = ()  # one or two milestones: cells are ranked by the steps to it, or between them
    description: str = ""  # the comment at the beginning of the file

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def base_name(self) -> str:
        """The name of the config; on a device it may be that of its own config, `add3-cpu` for `add3`."""
        return Path(self.base).name.removesuffix(".toml")

    @property
    def keys(self) -> frozenset[str]:
        """All settings that any cell gives, under their present names."""
        keys = (key for choices in self.axes.values() for choice in choices for key in choice)
        return frozenset(current_names(dict.fromkeys(keys)))

    def cells(self) -> Iterator["Cell"]:
        """Every combination that is not excluded."""
        for choices in itertools.product(*self.axes.values()):
            cell = Cell(dict(zip(self.axes, choices, strict=True)))
            if not any(excluded.items() <= cell.settings.items() for excluded in self.excluded):
                yield cell

    def like(self, settings: Mapping[str, Any]) -> "Matrix":
        """This matrix with all values in normal form, by the types of settings as the trainer resolved them.

        Raises UsageError for an axis that is no setting, or for a value of another type.
        """

        def normal(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
            return tuple(values_like(choice, settings, str(self.path)) for choice in choices)

        axes = {axis: normal(choices) for axis, choices in self.axes.items()}
        return dataclasses.replace(self, axes=axes, excluded=normal(self.excluded))


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
        if is_track_setting(key):  # its text may begin with a dash
            options.append(f"--{name}={setting_text(value)}")
            continue
        options += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return options


def label(axis: str, choice: Choice) -> str:
    """`512` on the axis of a single setting, `n_layer=2 n_embd=96` on an axis of settings that change together."""
    return short_text(choice[axis]) if choice.keys() == {axis} else settings_text(choice)


def read_matrix(path: Path) -> Matrix:
    """Read a matrix file; a UsageError names the file, the line, the key, and the problem."""
    file = TomlFile(path, KEYS)
    base, seeds, axes = file.read_base(), read_seeds(file), read_axes(file)
    plot, clock, steps = read_plot(file, axes), file.read_clock(), read_steps(file)
    comment = itertools.takewhile(lambda line: line.startswith("#"), file.lines)
    description = " ".join(line.lstrip("# ") for line in comment)
    return Matrix(path, base, seeds, axes, read_exclusions(file, axes), plot, clock, steps, description)


def read_seeds(file: TomlFile) -> tuple[int, ...]:
    seeds: list[int] = file.values.get("seeds", [])
    are_numbers = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
    file.require(are_numbers and seeds != [], "must be a list of whole numbers from 0 to 2**63 - 1", "seeds")
    file.require(len(set(seeds)) == len(seeds), "a seed is listed twice", "seeds")
    return tuple(seeds)


def read_axes(file: TomlFile) -> Axes:
    tables: Any = file.values.get("axes")
    file.require(isinstance(tables, dict), "must be a table of lists", "axes")
    axes = {axis: tuple(read_choices(file, axis, values)) for axis, values in flat_values(tables).items()}
    axis_of: dict[str, str] = {}
    for axis, choices in axes.items():
        for key in dict.fromkeys(key for choice in choices for key in choice):
            other_axis = axis_of.setdefault(key, axis)
            file.require(other_axis == axis, f"{key} is on the axis {other_axis!r} already", "axes", axis)
    return axes


def read_choices(file: TomlFile, axis: str, values: Any) -> Iterator[Choice]:
    """The choices on an axis: values of the setting of that name, or tables of settings that change together.

    What a table does not give has the value of the base.
    """
    file.require(isinstance(values, list) and values != [], f"must be a list of values, got {values!r}", "axes", axis)
    choices = [flat_values(value) if isinstance(value, dict) else {axis: value} for value in values]
    for i, choice in enumerate(choices):
        file.require(values[i] not in values[:i], f"{values[i]!r} is listed twice", "axes", axis)
        for key, value in choice.items():
            is_value = isinstance(value, bool | int | float | str)
            file.require(is_value, f"{value!r} is not a value of the setting {key!r}", "axes", axis)
        yield choice


def read_exclusions(file: TomlFile, axes: Mapping[str, Sequence[Choice]]) -> tuple[Choice, ...]:
    """The combinations that no cell may have: one or more settings of the axes, with values that occur there."""
    exclusions = file.values.get("exclude", [])
    are_tables = isinstance(exclusions, list) and all(isinstance(table, dict) and table for table in exclusions)
    file.require(are_tables, "must be a list of tables of settings", "exclude")
    possible: dict[str, list[SettingValue]] = {}
    for choice in itertools.chain.from_iterable(axes.values()):
        for key, value in choice.items():
            possible.setdefault(key, []).append(value)
    exclusions = list(map(flat_values, exclusions))
    for exclusion in exclusions:
        for key, value in exclusion.items():
            hint = nearest_hint(key, possible) if possible else ""
            file.require(key in possible, f"no axis has {key!r}{hint}", "exclude", key)
            file.require(value in possible[key], f"the axis has no {value!r}", "exclude", key)
    return tuple(exclusions)


def read_plot(file: TomlFile, axes: Mapping[str, Sequence[Choice]]) -> tuple[str, ...]:
    """The axes to draw; by default the first two with more than one value."""
    plot = file.values.get("plot", [axis for axis, choices in axes.items() if len(choices) > 1][:2])
    are_two = isinstance(plot, list) and len(set(map(str, plot))) == len(plot) <= 2
    file.require(are_two, "must be a list of one or two axes", "plot")
    for axis in plot:
        is_axis = isinstance(axis, str) and axis in axes
        file.require(is_axis, f"there is no axis {axis!r}{nearest_hint(str(axis), axes)}", "plot")
    return tuple(plot)


def read_steps(file: TomlFile) -> tuple[str, ...]:
    """The milestones by whose steps cells are ranked; by default none."""
    steps = file.values.get("steps", [])
    are_milestones = isinstance(steps, list) and len(steps) <= 2 and all(step in MILESTONES for step in steps)
    file.require(are_milestones, f"must be a list of one or two of {', '.join(MILESTONES)}", "steps")
    return tuple(steps)
