"""A search space in TOML: which settings a search may choose, from where, and on what condition."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.clock import ClockName
from bench.errors import UsageError, nearest_hint
from bench.experiments.matrix_file import FileErrors, Value, read_clock, read_toml

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SPACES = Path(__file__).parent.parent / "spaces"
KEYS = ("base", "clock", "attempts", "space")
MOST_ATTEMPTS = 1000


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One setting, and where its values come from: a list of choices, or a range whose ends may both be taken."""

    name: str
    choices: tuple[Value, ...] | None
    low: int | float = 0
    high: int | float = 0
    log: bool = False  # drawn evenly by size, not by difference
    step: int | float | None = None
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()  # settings before it, and the values that make it matter

    def suggest(self, trial: "BaseTrial") -> Value:
        if self.choices is not None:
            return trial.suggest_categorical(self.name, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def matters(self, values: Mapping[str, Value]) -> bool:
        return all(values.get(name) in wanted for name, wanted in self.when)


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """What a search chooses from, and how it judges."""

    path: Path
    base: str
    clock: ClockName  # whose ERT is to be small
    attempts: int  # of a trial that is worth all of them
    dimensions: tuple[Dimension, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    def suggest(self, trial: "BaseTrial") -> dict[str, Value]:
        """Settings for one trial; those whose condition is not met keep the base's."""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.matters(values):
                values[dimension.name] = dimension.suggest(trial)
        return values


# -----------------------------------------------------------------------------
# the file


def read_search_space(path: Path) -> SearchSpace:
    """Read a search space.

    Raises:
        UsageError: names the file, the line, the key, and what is wrong.
    """
    values, faulty = read_toml(path)
    for key in values:
        if key not in KEYS:
            raise faulty(f"unknown key{nearest_hint(key, KEYS)}", key)
    if not isinstance(values.get("base"), str):
        raise faulty("must be the name of a config" + ("" if "base" in values else ", and is not there"), "base")
    attempts = values.get("attempts")
    if type(attempts) is not int or not 0 < attempts <= MOST_ATTEMPTS:
        raise faulty(f"must be the attempts of a trial, 1 to {MOST_ATTEMPTS}", "attempts")
    given = values.get("space")
    if not isinstance(given, dict) or not given:
        raise faulty("must be a table of settings" + ("" if "space" in values else ", and is not there"), "space")
    dimensions: dict[str, Dimension] = {}
    for name, table in given.items():
        dimensions[name] = read_dimension(name, table, dimensions, faulty)
    return SearchSpace(path, values["base"], read_clock(values, faulty), attempts, tuple(dimensions.values()))


def read_dimension(name: str, table: Any, before: Mapping[str, Dimension], faulty: FileErrors) -> Dimension:
    def wrong(reason: str) -> UsageError:
        return faulty(reason, "space", name)

    if not isinstance(table, dict):
        raise wrong("must be a table: { choices = [...] } or { low = ..., high = ... }")
    known = {"choices", "when"} if "choices" in table else {"low", "high", "log", "step", "when"}
    for key in table:
        if key not in known:
            raise wrong(f"unknown key {key!r}{nearest_hint(key, known)}")
    when = read_condition(table.get("when", {}), before, wrong)
    if "choices" in table:
        choices = table["choices"]
        if not isinstance(choices, list) or not choices:
            raise wrong("choices must be a list of values")
        if not all(isinstance(choice, bool | int | float | str) for choice in choices):
            raise wrong("choices must be numbers, texts, or true and false")
        return Dimension(name, tuple(choices), when=when)
    low, high, log, step = (table.get(key) for key in ("low", "high", "log", "step"))
    for key, value in (("low", low), ("high", high)):
        if type(value) not in (int, float):
            raise wrong(f"{key} must be a number" + ("" if key in table else ", and is not there"))
    if not low < high:
        raise wrong(f"low must be below high, got {low} and {high}")
    if not isinstance(log, bool | None):
        raise wrong("log must be true or false")
    if log and not low > 0:
        raise wrong("a logarithmic range begins above 0")
    if step is not None and (type(step) not in (int, float) or not step > 0 or log):
        raise wrong("step must be a number above 0, and goes with no logarithmic range")
    if step is not None and type(low) is type(high) is int and type(step) is not int:
        raise wrong("the step of whole numbers must be one")
    return Dimension(name, None, low, high, bool(log), step, when)


def read_condition(
    given: Any, before: Mapping[str, Dimension], wrong: Any
) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    """`when = { matrix_optimizer = "muon" }`, or several values as a list."""
    if not isinstance(given, dict):
        raise wrong("when must be a table of settings and their values")
    found = []
    for name, value in given.items():
        if name not in before:
            raise wrong(f"when: {name!r} must stand before it{nearest_hint(name, before) if before else ''}")
        wanted = tuple(value) if isinstance(value, list) else (value,)
        choices = before[name].choices
        for each in wanted:
            if choices is not None and each not in choices:
                raise wrong(f"when: {name} is never {each!r}")
        found.append((name, wanted))
    return tuple(found)
