"""The plan of an attempt: its command line, with everything resolved that depends on the machine."""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from bench.attempt.interface import Build, Trainer
from bench.attempt.request import Request, Settings, check_settings_only, read_command_line
from bench.distributed import World, read_world
from bench.errors import UnavailableHere, UsageError, nearest_hint
from bench.machine.device_lock import check_device_lock
from bench.machine.devices import pick_device, pick_precision_and_kernel, torch_compile_problem
from bench.machine.hardware import usable_cores
from bench.processes import BATCH_VARIABLE
from bench.provenance import config_hash, first_seed, source_sha256
from bench.storage.schema import Batch
from data import TRACKS, Track, controlled, get_track

TRACKS_COMMAND = "`python -m bench tracks`"  # lists the tracks


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


def make_plan(
    settings_type: type, arguments: Sequence[str], description: str, settings_only: bool = False
) -> AttemptPlan:
    """Read the command line and the config, and resolve what depends on the machine.

    With `settings_only`, the command line may hold a config and settings, but no other option.

    Raises:
        UsageError: the request is wrong; UnavailableHere if another machine could run it.
    """
    world = read_world()
    check_temporary_folder()
    if settings_only:
        check_settings_only(settings_type, arguments)
    try:
        command_line = read_command_line(settings_type, arguments, description, lambda name: pick_device(name).type)
        request, settings = command_line.request, command_line.settings
        if world.size > 1:
            check_distributed(request, settings)
            settings = settings.shared_among(world.size)
        device = world.device(pick_device(settings.device))
        dtype, kernel, reasons = pick_precision_and_kernel(
            settings.precision, settings.kernel, device, settings.kernel_problem
        )
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    if settings.track not in TRACKS:
        raise UsageError(
            f"track: there is no track {settings.track!r}{nearest_hint(settings.track, TRACKS, TRACKS_COMMAND)}"
        )
    if settings.compile and (reason := torch_compile_problem(device)):
        raise UnavailableHere(f"--compile: {reason}; or run with --no-compile")
    if not request.shared:
        check_device_lock(device)  # now, as a batch would file this refusal once for each attempt
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
        config=command_line.config,
        track=track,
        device=device,
        dtype=dtype,
        remark=f"{device.type}, {processes}{threads} threads, {reasons}",
        seed=seed,
        batch=Batch.model_validate_json(os.environ[BATCH_VARIABLE]) if BATCH_VARIABLE in os.environ else None,
        search=command_line.search,
        world=world,
    )


def check_temporary_folder() -> None:
    """Raises UsageError where there is no folder for temporary files, which every attempt needs."""
    try:
        tempfile.gettempdir()
    except OSError:
        raise UsageError("no folder for temporary files can be written to; set TMPDIR to one that can") from None


def check_distributed(request: Request, settings: Settings) -> None:
    """Raises UsageError: the request is not possible with several processes."""
    if request.attempts is not None:
        raise UsageError("--attempts: not available with torchrun; start torchrun once for each attempt")
    if request.probe is not None:
        raise UsageError("--probe: not available with torchrun, because it probes a single process")
    if settings.control != "none":
        raise UsageError("--control: not available with torchrun, because it tests a single process")
