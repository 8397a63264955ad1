"""A matrix file: a base config, axes of settings, and seeds; read into the cells that it stands for."""

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UsageError, nearest_hint
from bench.formatting import setting_text

MATRICES = Path(__file__).parent.parent / "matrices"
KEYS = ("base", "seeds", "axes", "exclude", "plot", "clock")

Value = bool | int | float | str
Choice = dict[str, Value]  # settings that change together


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Axes whose combinations are the cells."""

    path: Path
    base: str
    seeds: tuple[int, ...]
    axes: dict[str, tuple[Choice, ...]]  # in the file's order
    excluded: tuple[Choice, ...]
    plot: tuple[str, ...]  # one axis is drawn as a line, two as a map
    clock: str  # that ranks

    @property
    def name(self) -> str:
        return self.path.stem

    def cells(self) -> Iterator["Cell"]:
        """Every combination that is not excluded."""
        for choices in itertools.product(*self.axes.values()):
            cell = Cell(dict(zip(self.axes, choices, strict=True)))
            if not any(wanted.items() <= cell.settings.items() for wanted in self.excluded):
                yield cell


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination: of each axis, its choice."""

    choices: dict[str, Choice]

    @property
    def settings(self) -> Choice:
        return {key: value for choice in self.choices.values() for key, value in choice.items()}

    def labels(self) -> dict[str, str]:
        """Of each axis, its choice as text."""
        return {axis: label(axis, choice) for axis, choice in self.choices.items()}

    def __str__(self) -> str:
        return text_of(self.settings)


def options_of(settings: Choice) -> list[str]:
    """Settings as the trainer's command line takes them."""
    found: list[str] = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        found += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return found


def text_of(settings: Choice) -> str:
    return " ".join(f"{key}={setting_text(value)}" for key, value in settings.items()) or "the base"


def label(axis: str, choice: Choice) -> str:
    """`512` on the axis of a setting, `n_layer=2 n_embd=96` on one of settings that change together."""
    return setting_text(choice[axis]) if choice.keys() == {axis} else text_of(choice)


# -----------------------------------------------------------------------------
# the file


def find_file(name: str, folder: Path) -> Path:
    """The file of a path, or of a name among those that come with the project in a folder.

    Raises:
        UsageError: there is none.
    """
    if name.endswith(".toml"):
        return Path(name)
    known = {path.stem: path for path in folder.glob("*.toml")}
    if name not in known:
        raise UsageError(f"{name!r}: there is no such file in bench/{folder.name}{nearest_hint(name, known)}")
    return known[name]


class FileErrors:
    """Raises WrongRequest about a key of a file, with the line that has it."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.lines = path, text.splitlines()

    def line_of(self, *keys: str) -> int | None:
        """The line of a key within tables, each looked for after the one before it."""
        at, found = 0, None
        for key in keys:
            name = rf"[\"']?{re.escape(key)}[\"']?"
            pattern = re.compile(rf"^\s*(\[+\s*(\w+\.)*{name}\s*\]+|{name}\s*[=.])|[{{,]\s*{name}\s*=")
            found = next((i for i in range(at, len(self.lines)) if pattern.search(self.lines[i])), None)
            if found is None:
                break
            at = found
        return None if found is None else found + 1

    def __call__(self, reason: str, *keys: str) -> UsageError:
        number = self.line_of(*keys)
        where = f"{self.path}" + (f", line {number}" if number else "")
        return UsageError(f"{where}: {'.'.join(keys)}: {reason}" if keys else f"{where}: {reason}")


def read_toml(path: Path) -> tuple[dict[str, Any], FileErrors]:
    """A TOML file's values, and what speaks of its faults.

    Raises:
        UsageError: no such file, or not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text), FileErrors(path, text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:  # the latter names the line
        raise UsageError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from None


def read_matrix(path: Path) -> Matrix:
    """Read a matrix file.

    Raises:
        UsageError: names the file, the line, the key, and what is wrong.
    """
    values, faulty = read_toml(path)
    for key in values:
        if key not in KEYS:
            raise faulty(f"unknown key{nearest_hint(key, KEYS)}", key)
    for key, kind, kind_name in (("base", str, "the name of a config"), ("axes", dict, "a table of lists")):
        if not isinstance(values.get(key), kind):
            raise faulty(f"must be {kind_name}" + ("" if key in values else ", and is not there"), key)
    axes = {axis: tuple(read_choices(axis, given, faulty)) for axis, given in values["axes"].items()}
    check_apart(axes, faulty)
    return Matrix(
        path=path,
        base=values["base"],
        seeds=read_seeds(values, faulty),
        axes=axes,
        excluded=tuple(read_exclusions(values, axes, faulty)),
        plot=read_plot(values, axes, faulty),
        clock=read_clock(values, faulty),
    )


def read_seeds(values: Mapping[str, Any], faulty: FileErrors) -> tuple[int, ...]:
    seeds = values.get("seeds")
    is_list = isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
    if not is_list:
        raise faulty("must be a list of whole numbers from 0 on", "seeds")
    if len(set(seeds)) < len(seeds):
        raise faulty("a seed is there twice", "seeds")
    return tuple(seeds)


def read_choices(axis: str, given: Any, faulty: FileErrors) -> Iterator[Choice]:
    """An axis's values: those of its own setting, or tables of settings that change together."""
    if not isinstance(given, list) or not given:
        raise faulty(f"must be a list of values, got {given!r}", "axes", axis)
    for i, value in enumerate(given):
        if value in given[:i]:
            raise faulty(f"{value!r} is there twice", "axes", axis)
        choice = value if isinstance(value, dict) else {axis: value}
        for key, each in choice.items():
            if not isinstance(each, bool | int | float | str):
                raise faulty(f"{each!r} is no value of the setting {key!r}", "axes", axis)
        if choice.keys() != (given[0] if isinstance(given[0], dict) else {axis: 0}).keys():
            raise faulty("all of its values must give the same settings", "axes", axis)
        yield choice


def check_apart(axes: Mapping[str, Sequence[Choice]], faulty: FileErrors) -> None:
    """Raises WrongRequest for a setting that two axes give, or one that the command has to give."""
    seen: dict[str, str] = {}
    for axis, choices in axes.items():
        for key in choices[0]:
            if key in ("seed", "config", "results"):
                raise faulty(f"{key} is no setting of a cell", "axes", axis)
            if key in seen:
                raise faulty(f"{key} is on the axis {seen[key]!r} already", "axes", axis)
            seen[key] = axis


def read_exclusions(
    values: Mapping[str, Any], axes: Mapping[str, Sequence[Choice]], faulty: FileErrors
) -> Iterator[Choice]:
    """What no cell may have; each is one or more settings of the axes, with values that these have."""
    given = values.get("exclude", [])
    if not isinstance(given, list) or not all(isinstance(each, dict) and each for each in given):
        raise faulty("must be a list of tables of settings", "exclude")
    possible: dict[str, list[Value]] = {}
    for choices in axes.values():
        for key in choices[0]:
            possible[key] = [choice[key] for choice in choices]
    for each in given:
        for key, value in each.items():
            if key not in possible:
                raise faulty(f"{key!r} is on no axis{nearest_hint(key, possible) if possible else ''}", "exclude", key)
            if value not in possible[key]:
                raise faulty(f"the axis has no {value!r}", "exclude", key)
        yield each


def read_plot(values: Mapping[str, Any], axes: Mapping[str, Any], faulty: FileErrors) -> tuple[str, ...]:
    """The axes to draw; by default the first two that have several values."""
    plot = values.get("plot", [axis for axis, choices in axes.items() if len(choices) > 1][:2])
    if not isinstance(plot, list) or len(plot) > 2 or len(set(map(str, plot))) < len(plot):
        raise faulty("must be a list of one or two axes", "plot")
    for axis in plot:
        if not isinstance(axis, str) or axis not in axes:
            raise faulty(f"there is no axis {axis!r}{nearest_hint(str(axis), axes)}", "plot")
    return tuple(plot)


def read_clock(values: Mapping[str, Any], faulty: FileErrors) -> str:
    clock = values.get("clock", "train")
    if clock not in ("train", "total"):
        raise faulty("must be 'train' or 'total'", "clock")
    return clock
