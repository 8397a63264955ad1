"""A search space file: the settings that a search may choose, their ranges, and the conditions between them."""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.clock import ClockName
from bench.config import RENAMED_SETTINGS, flat_values, settings_text, values_like
from bench.errors import UnavailableHere, UsageError, nearest_hint
from bench.experiments.launcher import Contestant, Refusal, check_may_rank
from bench.experiments.matrix_file import Choice
from bench.experiments.toml_file import SettingValue, TomlFile
from bench.storage.schema import Run

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SPACES = Path(__file__).parent.parent / "spaces"
KEYS = ("base", "clock", "attempts", "space")
MAX_ATTEMPTS = 1000

DRAWN_CHOICES = 12  # in which a value is tried that is refused beside the values of the base

Answer = Contestant | Refusal
Require = Callable[[bool, str], None]  # raises an error with this reason unless something is true
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

    def like(self, settings: Mapping[str, Any], where: str) -> "Dimension":
        """This dimension with its values in normal form, by the types of settings as the trainer resolved them.

        Raises UsageError, which begins with `where`, for an unknown setting or for a value of another type.
        """

        def normal(name: str, values: Sequence[SettingValue]) -> tuple[Any, ...]:
            return tuple(values_like({name: value}, settings, where)[name] for value in values)

        when = tuple((name, normal(name, allowed)) for name, allowed in self.when)
        if self.choices is not None:
            return dataclasses.replace(self, choices=normal(self.name, self.choices), when=when)
        low, high = normal(self.name, (self.low, self.high))
        step = None if self.step is None else normal(self.name, (self.step,))[0]
        return dataclasses.replace(self, low=low, high=high, step=step, when=when)

    def examples(self) -> Sequence[SettingValue]:
        """All choices, or both ends of the range."""
        return (self.low, self.high) if self.choices is None else self.choices

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

    def draw(self, generator: random.Random, fixed: Choice) -> Choice:
        """A random choice among the examples of all settings, except for those in `fixed`."""
        values: Choice = {}
        for dimension in self.dimensions:
            if dimension.name in fixed:
                values[dimension.name] = fixed[dimension.name]
            elif dimension.is_active(values):
                values[dimension.name] = generator.choice(dimension.examples())
        return values


# -----------------------------------------------------------------------------
# checks by the trainer


def check_space(space: SearchSpace, ask: Callable[[Sequence[Choice]], list[Answer]]) -> tuple[SearchSpace, Run]:
    """The space with its values in normal form, and the run of its base; before the first trial.

    `ask` returns the trainer's answers. Raises UsageError for the base, a setting, a choice or an end of a range that
    the trainer refuses or whose runs never rank; one that it refuses beside the base's values may still be valid beside
    others.
    """
    singles = [(dimension.name, value) for dimension in space.dimensions for value in dimension.examples()]
    base, *answers = ask([{}, *({name: value} for name, value in singles)])
    planned = accepted(base, space, {}).planned
    for (name, value), answer in zip(singles, answers, strict=True):
        if isinstance(answer, Contestant):
            check_may_rank(answer.planned, f"{space.path}: {settings_text({name: value})}")
        if RENAMED_SETTINGS.get(name, name) not in planned.settings and isinstance(answer, Refusal):
            accepted(answer, space, {name: value})  # it says whether the name is unknown or that of an option
    dimensions = tuple(dimension.like(planned.settings, str(space.path)) for dimension in space.dimensions)
    space = dataclasses.replace(space, dimensions=dimensions)
    generator = random.Random(0)
    for (name, value), answer in zip(singles, answers, strict=True):
        if isinstance(answer, Refusal) and not answer.not_here:
            drawn = [space.draw(generator, {name: value}) for _ in range(DRAWN_CHOICES)]
            if all(isinstance(other, Refusal) for other in ask(drawn)):
                accepted(answer, space, {name: value})
    return space, planned


def accepted(answer: Answer, space: SearchSpace, values: Choice) -> Contestant:
    """The answer about a choice of settings; raises UsageError, or UnavailableHere, for a refusal.

    Also raises UsageError for settings whose runs are never ranked.
    """
    where = f"{space.path}: {settings_text(values)}"
    if isinstance(answer, Contestant):
        check_may_rank(answer.planned, where)
        return answer
    message = f"{where}: {answer.reason}"
    raise UnavailableHere(message) if answer.not_here else UsageError(message)


# -----------------------------------------------------------------------------
# reading


def read_search_space(path: Path) -> SearchSpace:
    """Read a search space; a UsageError names the file, the line, the key, and the problem."""
    file = TomlFile(path, KEYS)
    base, attempts, space = file.read_base(), file.values.get("attempts", 0), file.values.get("space", {})
    is_number = type(attempts) is int and 0 < attempts <= MAX_ATTEMPTS
    file.require(is_number, f"must be the number of attempts of a trial, 1 to {MAX_ATTEMPTS}", "attempts")
    file.require(isinstance(space, dict) and space != {}, "must be a table of settings", "space")
    dimensions: dict[str, Dimension] = {}
    for name, table in flat_values(space).items():
        dimensions[name] = read_dimension(file, name, table, dimensions)
    return SearchSpace(path, base, file.read_clock(), attempts, tuple(dimensions.values()))


def read_dimension(file: TomlFile, name: str, table: Any, earlier: Mapping[str, Dimension]) -> Dimension:
    def require(is_valid: bool, reason: str) -> None:
        file.require(is_valid, reason, "space", name)

    require(isinstance(table, dict), "must be a table: { choices = [...] } or { low = ..., high = ... }")
    valid = {"choices", "when"} if "choices" in table else {"low", "high", "log", "step", "when"}
    for key in table:
        require(key in valid, f"unknown key {key!r}{nearest_hint(key, valid)}")
    when = read_condition(table.get("when", {}), earlier, require)
    if "choices" not in table:
        return read_range(name, table, when, require)
    choices = table["choices"]
    require(isinstance(choices, list) and choices != [], "choices must be a list of values")
    are_values = all(isinstance(choice, bool | int | float | str) for choice in choices)
    require(are_values, "choices must be numbers, strings, or true and false")
    return Dimension(name, tuple(choices), when=when)


def read_range(name: str, table: Mapping[str, Any], when: Condition, require: Require) -> Dimension:
    for key in ("low", "high"):
        missing = "" if key in table else ", but it is missing"
        require(type(table.get(key)) in (int, float), f"{key} must be a number{missing}")
    low, high, log, step = table["low"], table["high"], table.get("log", False), table.get("step")
    require(low < high, f"low must be below high, got {low} and {high}")
    require(isinstance(log, bool), "log must be true or false")
    require(low > 0 or not log, "the low end of a logarithmic range must be above 0")
    if step is not None:
        is_step = type(step) in (int, float) and step > 0 and not log
        require(is_step, "step must be a number above 0, and cannot be used with a logarithmic range")
        is_whole = type(step) is int or not type(low) is type(high) is int
        require(is_whole, "the step of a range of whole numbers must be a whole number")
    return Dimension(name, None, low, high, log, step, when)


def read_condition(table: Any, earlier: Mapping[str, Dimension], require: Require) -> Condition:
    """`when = { matrix_optimizer = "muon" }`; a list allows several values."""
    require(isinstance(table, dict), "when must be a table of settings and their values")
    condition: list[tuple[str, tuple[SettingValue, ...]]] = []
    for name, value in flat_values(table).items():
        require(name in earlier, f"when: {name!r} must come first{nearest_hint(name, earlier) if earlier else ''}")
        allowed, choices = tuple(value) if isinstance(value, list) else (value,), earlier[name].choices
        for allowed_value in allowed:
            require(choices is None or allowed_value in choices, f"when: {name} is never {allowed_value!r}")
        condition.append((name, allowed))
    return tuple(condition)
