"""The command line of an attempt: the request, the config and the settings. Imports no torch."""

import contextlib
import copy
import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import tyro

from bench.arguments import PathArgument, TextArgument, read_choice
from bench.attempt.option_names import spelling_help, split_track_settings, with_dashes
from bench.cli import check_seed, parse_arguments, split_option, with_current_option_names
from bench.config import (
    SEARCH,
    TRACK_SETTINGS,
    find_config,
    flat_settings,
    flat_values,
    is_track_setting,
    knows_current_names,
    merged_values,
    normal_settings,
    read_config,
)
from bench.errors import UsageError, nearest_hint
from bench.provenance import ROOT
from tracks.descriptions import TRACKS, default_track_settings, read_track_settings, resolve_track_settings

MAX_ATTEMPTS = 10_000  # of a batch


class Compilation(Protocol):
    """A C kernel that is being compiled in another process."""

    seconds: float | None  # that took; None until it has ended

    def library(self) -> object:
        """Wait for the compiler, and load the kernel; RuntimeError, with one line, if it does not compile or run."""


class Settings(Protocol):
    """The fields of the trainer's settings, a frozen dataclass, that the harness reads."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    track: str
    device: str
    precision: str
    compile: bool
    kernel: str
    kernel_problem: str | None  # why the C kernel cannot compute such a step
    threads: int
    max_seconds: float
    control: str

    def kernel_compilation(self, precision: str) -> "Compilation":
        """Start to compile the C kernel, unless that has been done; trainers of older records lack this method."""

    def shared_among(self, processes: int) -> "Settings":
        """The settings for processes that train together; ValueError if that is impossible with these settings."""


@dataclasses.dataclass(frozen=True)
class Request:
    """The options beside the settings. Only the seed has an effect on training."""

    config: str = "add3"
    """A name in bench/configs, or a TOML file; `add3` means `add3-cpu` or `add3-cuda`, by the device."""
    seed: int | None = None
    """Seed of all random numbers; by default the first 31 bits of sha256(config_hash + source_sha256)."""
    attempts: int | None = None
    """Run a batch of this many attempts, each in its own process; their seeds are drawn when it begins."""
    results: PathArgument = ROOT / "results"
    """Folder of the journal, the board and the weights."""
    journal: bool = True
    """File the attempt in the journal."""
    note: TextArgument = None
    """A remark to file with the run."""
    shared: bool = False
    """Do not wait for the device's lock; the run is marked not clean."""
    json: bool = False
    """Print the run as JSON, as the last line of standard output."""
    plan: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print, as JSON, the run that would be filed if the attempt were lost."""
    probe: Literal["machine", "seeds", "warmup"] | None = None
    """Run a check of `bench audit`, or the one of `bench hardware`, instead of an attempt; print its result as JSON."""


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A command line and the config that it names."""

    config: str  # the resolved name
    search: dict[str, Any] | None  # that found the config, with its cost
    request: Request
    settings: Settings
    overrides: dict[str, Any]  # settings with other values than the config's; not the device, which selects the config


def plain_arguments(settings_type: type, arguments: Sequence[str]) -> list[str]:
    """A command line with its options in one spelling, `--key`, under their present names; UsageError: see there."""
    arguments = with_dashes(arguments, settings_type, Request)
    if knows_current_names(settings_type):  # those of older records have the former ones
        return with_current_option_names(arguments)
    return arguments


def read_command_line(
    settings_type: type, arguments: Sequence[str], description: str, resolve_device: Callable[[str], str]
) -> CommandLine:
    """Read the command line and the config; values on the command line override those of the config.

    `resolve_device` turns the value of `--device` into the type of a device, on which the config's name may depend.
    Raises UsageError. A second call with the same arguments and type of device returns the same object.
    """
    arguments = plain_arguments(settings_type, arguments)
    device_name = split_option(arguments, "--device")[0] or "auto"
    try:
        check_device(settings_type, device_name)
        return parse_command_line(settings_type, tuple(arguments), description, resolve_device(device_name))
    except (ValueError, OSError) as problem:  # OSError: a file name that is too long
        raise UsageError(str(problem)) from None


def check_device(settings_type: type, name: str) -> None:
    """Raises UsageError: the trainer does not know a device; before the config is read, whose name depends on it."""
    try:
        read_choice(name, typing.get_args(typing.get_type_hints(settings_type)["device"]) or [name])
    except ValueError as problem:
        raise UsageError(f"--device: {problem}") from None


@functools.lru_cache(maxsize=1)
def parse_command_line(
    settings_type: type, arguments: tuple[str, ...], description: str, device_type: str
) -> CommandLine:
    without_prefix: Any = tyro.conf.OmitArgPrefixes  # its type argument is known only at run time
    schema = dataclasses.make_dataclass(
        "CommandLine", [("request", without_prefix[Request]), ("settings", without_prefix[settings_type])], frozen=True
    )
    name = split_option(arguments, "--config")[0]
    name = Request.config if name is None else name
    config, path = find_config(name, device_type)
    values = read_config(path, settings_type, device_type)
    try:
        config_settings = settings_type(**values)
    except ValueError as problem:
        raise UsageError(f"{path}: {problem}") from None
    check_num_steps(values.get("num_steps"), config_settings, f"{path}: num_steps")
    others: Sequence[str] = arguments
    default, before = copy.copy(config_settings), flat_settings(config_settings)
    if hasattr(config_settings, TRACK_SETTINGS):  # trainers of older records have none
        given, others = split_track_settings(arguments)
        track = split_option(others, "--track")[0] or config_settings.track
        known = default_track_settings(track)
        kept = {key: value for key, value in values.get(TRACK_SETTINGS, {}).items() if key in known}
        before = {key: value for key, value in before.items() if not is_track_setting(key)}
        resolved = known | kept
        with contextlib.suppress(KeyError, ValueError):  # tyro finds out what is wrong
            resolved = resolve_track_settings(track, kept)
        before |= flat_values({TRACK_SETTINGS: resolved})
        # tyro checks them together with the track on the command line
        object.__setattr__(default, TRACK_SETTINGS, kept | read_track_settings(track, given))
    description = "\n\n".join(filter(None, (description.strip(), spelling_help(settings_type))))
    parsed = parse_arguments(schema, others, schema(Request(config=name), default), description)
    check_request(parsed.request)
    settings = normal_settings(parsed.settings)
    for option in ("--num-steps", "--num_steps"):
        check_num_steps(split_option(others, option)[0], settings, option)
    if settings.track not in TRACKS:
        hint = nearest_hint(settings.track, TRACKS, "`python -m bench tracks`")
        raise UsageError(f"track: there is no track {settings.track!r}{hint}")
    changed = {key: value for key, value in flat_settings(settings).items() if value != before[key]}
    changed.pop("device", None)
    return CommandLine(
        config, merged_values(path, device_type=device_type).get(SEARCH), parsed.request, settings, changed
    )


def check_num_steps(given: str | int | None, settings: Any, name: str) -> None:
    """Raises UsageError: a number of steps is given beside `num_epochs`, and is not that of the epochs."""
    num_epochs = getattr(settings, "num_epochs", 0.0)  # trainers of older records have none
    if given is not None and num_epochs and float(given) != settings.num_steps:
        raise UsageError(
            f"{name} {given}: num_epochs = {num_epochs:g} sets the number of steps, {settings.num_steps:,}; "
            "leave one of the two out, or set num_epochs to 0"
        )


def check_settings_only(settings_type: type, arguments: Sequence[str]) -> None:
    """Raises UsageError: an option is neither a setting nor the config, for example in an axis of a matrix."""
    settings = {field.name for field in dataclasses.fields(settings_type)}
    options = {field.name for field in dataclasses.fields(Request)} | {"help"}
    for argument in plain_arguments(settings_type, arguments):
        key = argument.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        is_of_track = TRACK_SETTINGS in settings and is_track_setting(key)
        if argument.startswith("--") and not is_of_track and key not in settings | {"config"}:
            hint = " but an option of speedrun.py" if key in options else nearest_hint(key, settings)
            raise UsageError(f"{key!r} is not a setting{hint}")


def check_request(request: Request) -> None:
    """Raises UsageError: a value has the right type but is invalid."""
    if request.seed is not None:
        check_seed(request.seed)
    if request.results.exists() and not request.results.is_dir():
        raise UsageError(f"--results {request.results}: this is not a folder")
    if request.attempts is None:
        return
    if not 1 <= request.attempts <= MAX_ATTEMPTS:
        raise UsageError(f"--attempts {request.attempts}: a batch has 1 to {MAX_ATTEMPTS:,} attempts")
    if request.seed is not None:
        raise UsageError("--seed: nobody chooses the seeds of a batch, they are drawn at random; leave the option out")
    if not request.journal:
        raise UsageError("--no-journal: every attempt of a batch is journalled; leave the option out")
