"""Executors run attempts: this machine, or the nodes of a Ray cluster (ray_executor.py), one attempt at a time each."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from bench.cli import EngineName, print_progress
from bench.errors import UnavailableHere, UsageError
from bench.experiments import launcher
from bench.experiments.launcher import Contestant, Refusal, Task
from bench.machine.noise import NoiseMonitor
from bench.storage.journal import Journal
from bench.storage.schema import Check, Run

EXIT_UNFINISHED = 1  # attempts are left, but no executor can run them
JobT = TypeVar("JobT")
PreparedT = TypeVar("PreparedT")


class ExecutorLost(Exception):
    """The executor can run no more attempts; its current one is filed as `lost`."""


class Executor(Protocol):
    """One device that runs attempts, one at a time."""

    name: str
    is_lost: bool

    def resolve(self, script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
        """What a trainer would run on this device; see `launcher.resolve_contestant`."""

    def resolve_all(self, script: Path, command_lines: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
        """What a trainer would run on this device for each command line; see `launcher.resolve_contestants`."""

    def check_quiet(self, device: str, seconds: float) -> list[str]:
        """Measure for some seconds whether the machine is quiet; a sentence for each reason why it is not."""

    def run_attempt(
        self,
        task: Task,
        journal: Journal,
        quietly: bool = True,
        is_hopeless: Callable[[Check], bool] | None = None,
    ) -> tuple[Run, bool]:
        """Run one attempt and file it here; see `launcher.run_attempt`.

        Returns:
            The run, which is `lost` if the executor was lost, and whether it was interrupted.

        Raises:
            KeyboardInterrupt: the executor was stopped before the attempt began.
        """

    def stop(self) -> None:
        """Interrupt the current attempt; called from another thread."""


class LocalExecutor:
    """This machine. Timed attempts of other commands are kept apart by the device lock."""

    name = "this machine"
    is_lost = False

    def resolve(self, script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
        return launcher.resolve_contestant(script, arguments, commit)

    def resolve_all(self, script: Path, command_lines: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
        return launcher.resolve_contestants(script, command_lines)

    def check_quiet(self, device: str, seconds: float) -> list[str]:
        return NoiseMonitor(torch.device(device)).observe(seconds).reasons

    def run_attempt(
        self,
        task: Task,
        journal: Journal,
        quietly: bool = True,
        is_hopeless: Callable[[Check], bool] | None = None,
    ) -> tuple[Run, bool]:
        return launcher.run_attempt(task, journal, quietly, is_hopeless)

    def stop(self) -> None:
        """Do nothing: as the only executor it runs in the main thread, which receives the interrupt itself."""


@contextlib.contextmanager
def open_executors(engine: EngineName, address: str | None, script: Path) -> Iterator[Sequence[Executor]]:
    """The executors of an engine, valid inside the context.

    Args:
        address: of a running Ray cluster, as for `ray.init`; by default a cluster of this machine is started.
        script: the trainer's.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address}: needs --engine ray")
        yield [LocalExecutor()]
        return
    try:
        import ray  # noqa: F401, an extra
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install '.[ray]'") from None
    from bench.experiments.ray_executor import open_cluster

    with open_cluster(address, script.parent) as executors:
        yield executors


def prepare_each(executors: Sequence[Executor], prepare: Callable[[Executor], PreparedT]) -> dict[Executor, PreparedT]:
    """What `prepare` returns for each executor; one that is lost or cannot run the request is left out with a message.

    Raises:
        UsageError: all executors are left out, or the request is wrong on every machine.
    """
    prepared, problems = {}, []
    for executor in executors:
        try:
            prepared[executor] = prepare(executor)
        except (UnavailableHere, ExecutorLost) as problem:
            problems.append(f"{executor.name} is left out: {problem or 'it was lost'}")
    if not prepared:
        raise UsageError("; ".join(problems))
    for line in problems:
        print_progress(line)
    return prepared


def group_by_machine_class(classes: Mapping[Executor, str | None]) -> list[list[Executor]]:
    """Executors grouped by their machine class, in the order of the classes' names."""
    groups: dict[str, list[Executor]] = {}
    for executor, machine_class in classes.items():
        groups.setdefault(machine_class or "", []).append(executor)
    return [groups[machine_class] for machine_class in sorted(groups)]


def run_jobs(
    jobs: Mapping[Executor, Iterator[JobT]],
    run_job: Callable[[Executor, JobT], bool],
    report: Callable[[str], None],
) -> bool:
    """Let each executor take jobs from its iterator until it is empty; executors may share an iterator.

    Args:
        run_job: runs one job on an executor; returns whether it was interrupted, which ends all of them.
        report: called with a sentence about each executor that was lost.

    Returns:
        Whether a job or this process was interrupted.
    """
    iterator_lock, stopped = threading.Lock(), threading.Event()

    def next_job(executor: Executor) -> JobT | None:
        with iterator_lock:
            return None if stopped.is_set() or executor.is_lost else next(jobs[executor], None)

    def work(executor: Executor) -> None:
        try:
            while (job := next_job(executor)) is not None:
                if run_job(executor, job):
                    stopped.set()
        except ExecutorLost:
            pass
        except KeyboardInterrupt:
            stopped.set()
        except BaseException:
            stopped.set()
            raise
        if executor.is_lost:
            report(f"{executor.name} was lost, and its current attempt with it")

    if len(jobs) == 1:
        work(next(iter(jobs)))
        return stopped.is_set()
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(work, executor) for executor in jobs]
        try:
            wait(futures)
        except KeyboardInterrupt:
            stopped.set()
            for executor in jobs:
                executor.stop()
            wait(futures)
    for future in futures:
        future.result()
    return stopped.is_set()
