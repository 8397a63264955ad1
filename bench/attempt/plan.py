"""Reads the command line and the config of an attempt, and resolves what depends on the machine."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from bench.attempt.interface import Build, Settings, Trainer
from bench.cli import parse_arguments, split_option, with_current_option_names
from bench.config import SEARCH, check_values, find_config, knows_current_names, merged_values, read_config
from bench.distributed import World, read_world
from bench.errors import UnavailableHere, UsageError, nearest_hint
from bench.experiments.launcher import BATCH_VARIABLE
from bench.machine.devices import pick_device, pick_precision_and_kernel, torch_compile_problem
from bench.machine.hardware import usable_cores
from bench.provenance import ROOT, config_hash, first_seed, source_sha256
from bench.storage.schema import Batch
from data import TRACKS, Track, controlled, get_track


@dataclasses.dataclass(frozen=True)
class Request:
    """The options beside the settings. Only the seed has an effect on training."""

    config: str = "add3"
    """A name in bench/configs, or a TOML file; `add3` means `add3-cpu` or `add3-cuda`, by the device."""
    seed: int | None = None
    """Seed of all random numbers; by default the first 31 bits of sha256(config_hash + source_sha256)."""
    attempts: int | None = None
    """Run a batch of this many attempts, each in its own process; their seeds are derived from config and source."""
    results: Path = ROOT / "results"
    """Folder of the journal, the board and the weights."""
    journal: bool = True
    """File the attempt in the journal."""
    note: str | None = None
    """A remark to file with the run."""
    shared: bool = False
    """Do not wait for the device's lock; the run is marked not clean."""
    json: bool = False
    """Print the run as JSON, as the last line of standard output."""
    plan: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print, as JSON, the run that would be filed if the attempt were lost."""
    probe: Literal["seeds", "warmup"] | None = None
    """Run a check of `bench audit` instead of an attempt, and print its result as JSON."""


@dataclasses.dataclass(frozen=True)
class AttemptPlan:
    """One attempt, or a batch of them, that this machine can run."""

    request: Request
    settings: Settings
    config: str  # the resolved name
    track: Track
    device: torch.device
    dtype: torch.dtype  # of the matrix products
    remark: str  # which device, precision and kernel, and why
    seed: int
    batch: Batch | None  # to which this attempt belongs
    search: dict[str, Any] | None  # that found the config, with its cost
    world: World  # rank and number of the processes that train together

    @property
    def settings_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    @property
    def config_hash(self) -> str:
        return config_hash(self.settings_dict)

    def trainer(self, build: Build, seed: int | None = None) -> Trainer:
        """A trainer for this attempt, by default with its seed."""
        return build(self.settings, self.track, self.device, self.dtype, self.seed if seed is None else seed)


def make_plan(settings_type: type, arguments: Sequence[str], description: str) -> AttemptPlan:
    """Read the command line and the config, and resolve what depends on the machine.

    Raises:
        UsageError: the request is wrong; UnavailableHere if another machine could run it.
    """
    world = read_world()
    try:
        config, search, request, settings = read_request(settings_type, arguments, description)
        check_request(request)
        if world.size > 1:
            check_distributed(request, settings)
            settings = settings.shared_among(world.size)
        device = world.device(pick_device(settings.device))
        dtype, kernel, reasons = pick_precision_and_kernel(
            settings.precision, settings.kernel, device, settings.kernel_problem
        )
    except (ValueError, OSError) as problem:  # OSError: a file name that is too long
        raise UsageError(str(problem)) from None
    if settings.track not in TRACKS:
        raise UsageError(f"track: there is no track {settings.track!r}{nearest_hint(settings.track, TRACKS)}")
    if settings.compile and (reason := torch_compile_problem(device)):
        raise UnavailableHere(f"--compile: {reason}; or run with --no-compile")
    cores = len(usable_cores()) or 1
    if settings.threads > cores:
        raise UsageError(f"--threads {settings.threads}: there are {cores} cores; 0 uses all of them")
    threads = settings.threads or max(1, cores // world.local_size)
    processes = f"{world.size} processes, " if world.size > 1 else ""
    precision = str(dtype).removeprefix("torch.")
    settings = dataclasses.replace(settings, device=device.type, precision=precision, kernel=kernel, threads=threads)
    seed = request.seed
    if seed is None:
        seed = first_seed(config_hash(dataclasses.asdict(settings)), source_sha256())
    try:
        track = controlled(get_track(settings.track), settings.control, seed)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    return AttemptPlan(
        request=request,
        settings=settings,
        config=config,
        track=track,
        device=device,
        dtype=dtype,
        remark=f"{device.type}, {processes}{threads} threads, {reasons}",
        seed=seed,
        batch=Batch.model_validate_json(os.environ[BATCH_VARIABLE]) if BATCH_VARIABLE in os.environ else None,
        search=search,
        world=world,
    )


def read_request(
    settings_type: type, arguments: Sequence[str], description: str
) -> tuple[str, dict[str, Any] | None, Request, Settings]:
    """The config's resolved name, the search that found it, the request and the settings.

    Values on the command line override those of the config. The name of the config may depend on the device.
    """
    without_prefix: Any = tyro.conf.OmitArgPrefixes  # its type argument is known only at run time
    command_line = dataclasses.make_dataclass(
        "CommandLine", [("request", without_prefix[Request]), ("settings", without_prefix[settings_type])], frozen=True
    )
    if knows_current_names(settings_type):  # those of older records have the former ones
        arguments = with_current_option_names(arguments)
    if split_option(arguments, "--results")[0] == "":
        raise UsageError("--results: the folder's name is empty")
    name = split_option(arguments, "--config")[0] or Request.config
    device_name = split_option(arguments, "--device")[0] or "auto"
    check_values({"device": device_name}, settings_type, "the command line")
    config, path = find_config(name, pick_device(device_name).type)
    try:
        settings = settings_type(**read_config(path, settings_type))
    except ValueError as problem:
        raise UsageError(f"{path}: {problem}") from None
    parsed = parse_arguments(command_line, arguments, command_line(Request(config=name), settings), description)
    return config, merged_values(path).get(SEARCH), parsed.request, parsed.settings


def check_request(request: Request) -> None:
    """Raises UsageError: a value has the right type but is invalid."""
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise UsageError(f"--seed {request.seed}: a seed is a whole number from 0 to 2**63 - 1")
    try:
        (request.note or "").encode()
    except UnicodeEncodeError:
        raise UsageError("--note: this is not UTF-8") from None
    if request.results.exists() and not request.results.is_dir():
        raise UsageError(f"--results {request.results}: this is not a folder")
    if request.attempts is None:
        return
    if request.attempts < 1:
        raise UsageError(f"--attempts {request.attempts}: a batch has at least one attempt")
    if request.seed is not None:
        raise UsageError("--seed: the seeds of a batch are derived from config and source; leave the option out")
    if not request.journal:
        raise UsageError("--no-journal: every attempt of a batch is journalled; leave the option out")


def check_distributed(request: Request, settings: Settings) -> None:
    """Raises UsageError: the request is not possible with several processes."""
    if request.attempts is not None:
        raise UsageError("--attempts: not available with torchrun; start torchrun once for each attempt")
    if request.probe is not None:
        raise UsageError("--probe: not available with torchrun, because it probes a single process")
    if settings.control != "none":
        raise UsageError("--control: not available with torchrun, because it tests a single process")
