"""A request made into a plan: everything resolved, nothing begun."""

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import filelock
import torch
import tyro

from bench.config import (
    NotHere,
    WrongRequest,
    check_values,
    find_config,
    nearest,
    option_value,
    parse_arguments,
    read_config,
    read_search,
)
from bench.hardware import Missing, compiler_problem, cores_usable, device_lock, pick_device, pick_means
from bench.journal import Batch
from bench.provenance import ROOT, config_hash, first_seed, source_sha256
from bench.team import Team, read_team
from data import TRACKS, Track, controlled, get_track
from model import Transformer

# In the environment of an attempt that a command has started:
BATCH_VARIABLE = "ADDITION_SPEEDRUN_BATCH"  # its batch, as JSON
PIPE_VARIABLE = "ADDITION_SPEEDRUN_PIPE"  # the file descriptor to announce the clock's edges on


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


class Settings(Protocol):
    """What the harness reads of the trainer's settings (a frozen dataclass); the rest is the trainer's business."""

    track: str
    device: str
    precision: str
    compile: bool
    kernel: str
    kernel_problem: str | None  # why the C kernel cannot compute such a step
    threads: int
    max_seconds: float
    control: str

    def shared_among(self, processes: int) -> "Settings":
        """The same for so many processes that train together; raises ValueError where they cannot."""


class Trainer(Protocol):
    """The contestant: built in `setup`, warmed up in `warmup`, trained in `train`."""

    model: Transformer
    steps: int  # taken so far
    examples: int  # trained on so far
    step_flops: int  # of the matrix products of one step

    def warm_up(self) -> None:
        """Compile and capture on random tokens; leave weights, optimizer and random state as they were."""

    def step(self) -> None:
        """One optimizer step; called once more after the certificate, to count what it gives to torch."""

    def train(self, watch: Any) -> None:
        """From the first touch of training data to the decision to stop.

        `watch` is the harness's, `bench.attempt.Watch`: to be told of each step and each check.
        """


Build = Callable[[Settings, Track, torch.device, torch.dtype, int], Trainer]


@dataclasses.dataclass(frozen=True)
class Plan:
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
    team: Team  # this process among those that train together

    @property
    def settings_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    @property
    def config_hash(self) -> str:
        return config_hash(self.settings_dict)


def make_plan(settings_type: type, arguments: Sequence[str], description: str) -> Plan:
    """Read the command line and the config, and resolve whatever depends on the machine.

    Raises:
        WrongRequest: in one line, what is wrong and what to do; NotHere where another machine could.
        SystemExit: after `--help`.
    """
    team = read_team()
    try:
        config, search, request, settings = read_request(settings_type, arguments, description)
        check_request(request)
        if team.size > 1:
            check_together(request, settings)
            settings = settings.shared_among(team.size)
        device = team.device(pick_device(settings.device))
        means = settings.precision, settings.kernel, device, settings.kernel_problem
        dtype, kernel, how = pick_means(*means)
    except Missing as problem:
        raise NotHere(str(problem)) from None
    except (ValueError, OSError) as problem:  # a file's name can be too long to look for
        raise WrongRequest(str(problem)) from None
    if settings.track not in TRACKS:
        raise WrongRequest(f"track: there is no track {settings.track!r}{nearest(settings.track, TRACKS)}")
    if settings.compile and (problem := compiler_problem(device)):
        raise NotHere(f"--compile: {problem}; or run with --no-compile")
    precision = str(dtype).removeprefix("torch.")
    cores = cores_usable() or 1
    if settings.threads > cores:
        raise WrongRequest(f"--threads {settings.threads}: there are {cores} cores; 0 takes them all")
    threads = settings.threads or max(1, cores // team.local_size)
    together = f"{team.size} processes, " if team.size > 1 else ""
    plan = Plan(
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
        team=team,
    )
    seed = first_seed(plan.config_hash, source_sha256()) if request.seed is None else request.seed
    try:
        track = controlled(plan.track, settings.control, seed)
    except ValueError as problem:
        raise WrongRequest(str(problem)) from None
    return dataclasses.replace(plan, seed=seed, track=track)


def read_request(
    settings_type: type, arguments: Sequence[str], description: str
) -> tuple[str, dict[str, Any] | None, Request, Settings]:
    """The config's resolved name, the search that found it, the request and the settings.

    The command line's values stand over the config's; which config it is may depend on the device.

    Raises:
        WrongRequest, ValueError: see `make_plan`.
    """
    command_line = dataclasses.make_dataclass(
        "CommandLine",
        [("request", tyro.conf.OmitArgPrefixes[Request]), ("settings", tyro.conf.OmitArgPrefixes[settings_type])],
        frozen=True,
    )
    if option_value(arguments, "--results") == "":
        raise WrongRequest("--results: the folder's name is empty")
    name = option_value(arguments, "--config") or Request.config
    wanted_device = option_value(arguments, "--device") or "auto"
    check_values({"device": wanted_device}, settings_type, "the command line")
    config, path = find_config(name, pick_device(wanted_device).type)
    try:
        settings = settings_type(**read_config(path, settings_type))
    except ValueError as problem:
        raise WrongRequest(f"{path}: {problem}") from None
    parsed = parse_arguments(command_line, arguments, command_line(Request(config=name), settings), description)
    return config, read_search(path), parsed.request, parsed.settings


def check_request(request: Request) -> None:
    """Raises WrongRequest for values that are of the right type and still make no sense."""
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise WrongRequest(f"--seed {request.seed}: a seed is a whole number from 0 to 2**63 - 1")
    try:
        (request.note or "").encode()
    except UnicodeEncodeError:
        raise WrongRequest("--note: this is not UTF-8") from None
    if request.results.exists() and not request.results.is_dir():
        raise WrongRequest(f"--results {request.results}: this is not a folder")
    if request.attempts is None:
        return
    if request.attempts < 1:
        raise WrongRequest(f"--attempts {request.attempts}: a batch has at least one attempt")
    if request.seed is not None:
        raise WrongRequest("--seed: the seeds of a batch follow from config and source; leave it out")
    if not request.journal:
        raise WrongRequest("--no-journal: every attempt of a batch is journalled; leave it out")


def check_together(request: Request, settings: Settings) -> None:
    """Raises WrongRequest for what several processes do not do together."""
    if request.attempts is not None:
        raise WrongRequest("--attempts: processes that train together make one attempt; start torchrun once for each")
    if request.probe is not None:
        raise WrongRequest("--probe: this is a question to one process; ask it without torchrun")
    if settings.control != "none":
        raise WrongRequest("--control: the trainer is tested as one process, without torchrun")


@contextlib.contextmanager
def device_turn(plan: Plan) -> Iterator[None]:
    """Hold the device's lock, or those of all GPUs that are trained on together; says so when it has to wait.

    Of a team, one process on each machine takes the locks, always in the same order: no two teams on it wait for each
    other.
    """
    if plan.request.shared or plan.team.local_rank:
        yield
        return
    devices = [plan.device]
    if plan.team.size > 1 and plan.device.type == "cuda":
        devices = [torch.device("cuda", index) for index in range(plan.team.local_size)]
    with contextlib.ExitStack() as held:
        for lock in sorted(map(device_lock, devices), key=lambda lock: lock.lock_file):
            try:
                held.enter_context(lock.acquire(timeout=0))
            except filelock.Timeout:
                waiting = f"waiting for the {plan.device.type} device: another attempt holds it"
                print(waiting, file=sys.stderr, flush=True)
                held.enter_context(lock.acquire())
        yield


@contextlib.contextmanager
def empty_compile_caches(plan: Plan) -> Iterator[None]:
    """Hide from torch.compile what an earlier attempt has compiled: its time belongs to the `total` of each."""
    if not plan.settings.compile:
        yield
        return
    names = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
    before = {name: os.environ.pop(name, None) for name in names}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            os.environ |= {name: str(Path(folder, name)) for name in names}
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def refusing_unwritable(results: Path) -> Iterator[None]:
    """Make a folder that cannot be written to a wrong request, while nothing has begun yet."""
    try:
        yield
    except OSError as problem:
        raise WrongRequest(f"--results {results}: cannot be written to ({problem})") from None
