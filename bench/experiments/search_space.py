"""A search space file: the settings that a search may choose, their ranges, and the conditions between them."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.clock import ClockName
from bench.errors import UsageError, nearest_hint
from bench.experiments.toml_file import SettingValue, TomlFile

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SPACES = Path(__file__).parent.parent / "spaces"
KEYS = ("base", "clock", "attempts", "space")
MAX_ATTEMPTS = 1000

Condition = tuple[tuple[str, tuple[SettingValue, ...]], ...]  # earlier settings, and the values that fulfil it


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One setting and its possible values: a list of choices, or a range that includes both ends."""

    name: str
    choices: tuple[SettingValue, ...] | None
    low: int | float = 0
    high: int | float = 0
    log: bool = False  # sample on a logarithmic scale
    step: int | float | None = None
    when: Condition = ()

    def suggest(self, trial: "BaseTrial") -> SettingValue:
        if self.choices is not None:
            return trial.suggest_categorical(self.name, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def is_active(self, values: Mapping[str, SettingValue]) -> bool:
        """Whether the values of the earlier settings fulfil the condition."""
        return all(values.get(name) in allowed for name, allowed in self.when)


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The content of a search space file."""

    path: Path
    base: str  # config
    clock: ClockName  # whose ERT is minimised
    attempts: int  # of a trial that is not pruned
    dimensions: tuple[Dimension, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    def suggest(self, trial: "BaseTrial") -> dict[str, SettingValue]:
        """Settings for one trial; a setting whose condition is not met keeps the base's value."""
        values: dict[str, SettingValue] = {}
        for dimension in self.dimensions:
            if dimension.is_active(values):
                values[dimension.name] = dimension.suggest(trial)
        return values


# -----------------------------------------------------------------------------
# reading the file


def read_search_space(path: Path) -> SearchSpace:
    """Read a search space.

    Raises:
        UsageError: names the file, the line, the key, and the problem.
    """
    file = TomlFile(path, KEYS)
    base = file.read_base()
    attempts = file.values.get("attempts")
    if type(attempts) is not int or not 0 < attempts <= MAX_ATTEMPTS:
        raise file.error(f"must be the number of attempts of a trial, 1 to {MAX_ATTEMPTS}", "attempts")
    space = file.values.get("space")
    if not isinstance(space, dict) or not space:
        raise file.error(f"must be a table of settings{file.missing('space')}", "space")
    dimensions: dict[str, Dimension] = {}
    for name, table in space.items():
        dimensions[name] = read_dimension(file, name, table, dimensions)
    return SearchSpace(path, base, file.read_clock(), attempts, tuple(dimensions.values()))


def read_dimension(file: TomlFile, name: str, table: Any, earlier: Mapping[str, Dimension]) -> Dimension:
    def error(reason: str) -> UsageError:
        return file.error(reason, "space", name)

    if not isinstance(table, dict):
        raise error("must be a table: { choices = [...] } or { low = ..., high = ... }")
    valid = {"choices", "when"} if "choices" in table else {"low", "high", "log", "step", "when"}
    for key in table:
        if key not in valid:
            raise error(f"unknown key {key!r}{nearest_hint(key, valid)}")
    when = read_condition(table.get("when", {}), earlier, error)
    return read_choices(name, table, when, error) if "choices" in table else read_range(name, table, when, error)


def read_choices(name: str, table: Mapping[str, Any], when: Condition, error: Callable[[str], UsageError]) -> Dimension:
    choices = table["choices"]
    if not isinstance(choices, list) or not choices:
        raise error("choices must be a list of values")
    if not all(isinstance(choice, bool | int | float | str) for choice in choices):
        raise error("choices must be numbers, strings, or true and false")
    return Dimension(name, tuple(choices), when=when)


def read_range(name: str, table: Mapping[str, Any], when: Condition, error: Callable[[str], UsageError]) -> Dimension:
    def end(key: str) -> int | float:
        value = table.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise error(f"{key} must be a number" + ("" if key in table else ", but it is missing"))
        return value

    low, high, log, step = end("low"), end("high"), table.get("log", False), table.get("step")
    if not low < high:
        raise error(f"low must be below high, got {low} and {high}")
    if not isinstance(log, bool):
        raise error("log must be true or false")
    if log and not low > 0:
        raise error("the low end of a logarithmic range must be above 0")
    if step is not None and (type(step) not in (int, float) or not step > 0 or log):
        raise error("step must be a number above 0, and cannot be used with a logarithmic range")
    if step is not None and type(low) is type(high) is int and type(step) is not int:
        raise error("the step of a range of whole numbers must be a whole number")
    return Dimension(name, None, low, high, log, step, when)


def read_condition(table: Any, earlier: Mapping[str, Dimension], error: Callable[[str], UsageError]) -> Condition:
    """`when = { matrix_optimizer = "muon" }`; a list allows several values."""
    if not isinstance(table, dict):
        raise error("when must be a table of settings and their values")
    condition: list[tuple[str, tuple[SettingValue, ...]]] = []
    for name, value in table.items():
        if name not in earlier:
            raise error(f"when: {name!r} must come first{nearest_hint(name, earlier) if earlier else ''}")
        allowed = tuple(value) if isinstance(value, list) else (value,)
        choices = earlier[name].choices
        for allowed_value in allowed:
            if choices is not None and allowed_value not in choices:
                raise error(f"when: {name} is never {allowed_value!r}")
        condition.append((name, allowed))
    return tuple(condition)
