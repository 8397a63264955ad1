"""A request made into a plan: everything resolved, nothing begun."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from bench.attempt.interface import Settings
from bench.cli import option_value, parse_arguments, with_current_option_names
from bench.config import check_values, find_config, knows_current_names, read_config, read_search
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
    """What the command asks for beside the settings; of all this only the seed changes what is trained."""

    config: str = "add3"
    """A name in bench/configs (`add3` stands for the device's own), or a TOML file."""
    seed: int | None = None
    """Where everything random comes from; by default the first 31 bits of sha256(config_hash + source_sha256)."""
    attempts: int | None = None
    """Run a batch of so many attempts, each its own process; their seeds follow from config and source."""
    results: Path = ROOT / "results"
    """The folder of the journal, the board and the weights."""
    journal: bool = True
    """File the attempt in the journal."""
    note: str | None = None
    """A remark that is filed with the run."""
    shared: bool = False
    """Do not wait for the device's lock; the run is marked not clean."""
    json: bool = False
    """Print the journal's line as the last line of standard output."""
    plan: tyro.conf.FlagCreatePairsOff[bool] = False
    """Do nothing but print, as JSON, the line that would stand in the journal if the attempt never came back."""
    probe: Literal["seeds", "warmup"] | None = None
    """Carry out a check of `bench audit` instead of an attempt, and print what it finds as JSON."""


@dataclasses.dataclass(frozen=True)
class AttemptPlan:
    """One attempt, or a batch of them, that can be carried out on this machine."""

    request: Request
    settings: Settings
    config: str  # the resolved name
    track: Track
    device: torch.device
    dtype: torch.dtype  # of the matrix products
    remark: str  # which device, precision and kernel, and why
    seed: int
    batch: Batch | None  # that this attempt was started by
    search: dict[str, Any] | None  # that found the config, and what it took
    world: World  # this process among those that train together

    @property
    def settings_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    @property
    def config_hash(self) -> str:
        return config_hash(self.settings_dict)


def make_plan(settings_type: type, arguments: Sequence[str], description: str) -> AttemptPlan:
    """Read the command line and the config, and resolve whatever depends on the machine.

    Raises:
        UsageError: in one line, what is wrong and what to do; UnavailableHere where another machine could.
        SystemExit: after `--help`.
    """
    world = read_world()
    try:
        config, search, request, settings = read_request(settings_type, arguments, description)
        check_request(request)
        if world.size > 1:
            check_together(request, settings)
            settings = settings.shared_among(world.size)
        device = world.device(pick_device(settings.device))
        means = settings.precision, settings.kernel, device, settings.kernel_problem
        dtype, kernel, how = pick_precision_and_kernel(*means)
    except (ValueError, OSError) as problem:  # a file's name can be too long to look for
        raise UsageError(str(problem)) from None
    if settings.track not in TRACKS:
        raise UsageError(f"track: there is no track {settings.track!r}{nearest_hint(settings.track, TRACKS)}")
    if settings.compile and (problem := torch_compile_problem(device)):
        raise UnavailableHere(f"--compile: {problem}; or run with --no-compile")
    precision = str(dtype).removeprefix("torch.")
    cores = len(usable_cores()) or 1
    if settings.threads > cores:
        raise UsageError(f"--threads {settings.threads}: there are {cores} cores; 0 takes them all")
    threads = settings.threads or max(1, cores // world.local_size)
    together = f"{world.size} processes, " if world.size > 1 else ""
    plan = AttemptPlan(
        request=request,
        settings=dataclasses.replace(settings, device=device.type, precision=precision, kernel=kernel, threads=threads),
        config=config,
        track=get_track(settings.track),
        device=device,
        dtype=dtype,
        remark=f"{device.type}, {together}{threads} threads, {how}",
        seed=0,
        batch=Batch.model_validate_json(os.environ[BATCH_VARIABLE]) if BATCH_VARIABLE in os.environ else None,
        search=search,
        world=world,
    )
    seed = first_seed(plan.config_hash, source_sha256()) if request.seed is None else request.seed
    try:
        track = controlled(plan.track, settings.control, seed)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    return dataclasses.replace(plan, seed=seed, track=track)


def read_request(
    settings_type: type, arguments: Sequence[str], description: str
) -> tuple[str, dict[str, Any] | None, Request, Settings]:
    """The config's resolved name, the search that found it, the request and the settings.

    The command line's values stand over the config's; which config it is may depend on the device.

    Raises:
        UsageError, ValueError: see `make_plan`.
    """
    command_line = dataclasses.make_dataclass(
        "CommandLine",
        [("request", tyro.conf.OmitArgPrefixes[Request]), ("settings", tyro.conf.OmitArgPrefixes[settings_type])],
        frozen=True,
    )
    if knows_current_names(settings_type):  # those of older records have the former ones
        arguments = with_current_option_names(arguments)
    if option_value(arguments, "--results") == "":
        raise UsageError("--results: the folder's name is empty")
    name = option_value(arguments, "--config") or Request.config
    wanted_device = option_value(arguments, "--device") or "auto"
    check_values({"device": wanted_device}, settings_type, "the command line")
    config, path = find_config(name, pick_device(wanted_device).type)
    try:
        settings = settings_type(**read_config(path, settings_type))
    except ValueError as problem:
        raise UsageError(f"{path}: {problem}") from None
    parsed = parse_arguments(command_line, arguments, command_line(Request(config=name), settings), description)
    return config, read_search(path), parsed.request, parsed.settings


def check_request(request: Request) -> None:
    """Raises WrongRequest for values that are of the right type and still make no sense."""
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
        raise UsageError("--seed: the seeds of a batch follow from config and source; leave it out")
    if not request.journal:
        raise UsageError("--no-journal: every attempt of a batch is journalled; leave it out")


def check_together(request: Request, settings: Settings) -> None:
    """Raises WrongRequest for what several processes do not do together."""
    if request.attempts is not None:
        raise UsageError("--attempts: processes that train together make one attempt; start torchrun once for each")
    if request.probe is not None:
        raise UsageError("--probe: this is a question to one process; ask it without torchrun")
    if settings.control != "none":
        raise UsageError("--control: the trainer is tested as one process, without torchrun")
