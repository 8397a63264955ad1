"""Where attempts are made: here, one after the other, or on the nodes of a Ray cluster, one at a time on each."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch

from bench.errors import UsageError
from bench.experiments.launcher import Contestant, Refusal, Task, resolve_contestant, resolve_contestants, run_attempt
from bench.machine.noise import NoiseMonitor
from bench.storage.journal import Journal
from bench.storage.schema import Check, Run

EngineName = Literal["local", "ray"]
EXIT_UNFINISHED = 1  # no place is left that could go on
JobT = TypeVar("JobT")


class ExecutorLost(Exception):
    """The place makes no more attempts, and has filed the one that it was at as `lost`."""


class Executor(Protocol):
    """One device that makes attempts, one at a time."""

    name: str
    is_lost: bool

    def ask(self, script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
        """What a trainer would do there; see `ask_contestant`."""

    def ask_all(self, script: Path, asked: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
        """What a trainer would do there with each command line; see `ask_contestants`."""

    def look(self, device: str, seconds: float) -> list[str]:
        """Why it is not quiet there, a sentence each."""

    def make(
        self,
        task: Task,
        journal: Journal,
        quietly: bool = True,
        is_hopeless: Callable[[Check], bool] | None = None,
    ) -> tuple[Run, bool]:
        """Make one attempt and file it here, as `lost` if the place is; and whether somebody interrupted it.

        Raises:
            KeyboardInterrupt: the place was told to stop before the attempt began.
        """

    def stop(self) -> None:
        """Interrupt the attempt under way, from another thread."""


class LocalExecutor:
    """This machine, whose device lock keeps timed attempts apart."""

    name = "this machine"
    is_lost = False

    def ask(self, script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
        return resolve_contestant(script, arguments, commit)

    def ask_all(self, script: Path, asked: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
        return resolve_contestants(script, asked)

    def look(self, device: str, seconds: float) -> list[str]:
        return NoiseMonitor(torch.device(device)).look(seconds).reasons

    def make(
        self,
        task: Task,
        journal: Journal,
        quietly: bool = True,
        is_hopeless: Callable[[Check], bool] | None = None,
    ) -> tuple[Run, bool]:
        return run_attempt(task, journal, quietly, is_hopeless)

    def stop(self) -> None:
        """Nothing: it is the only place, so that the thread that is interrupted is the one that makes the attempt."""


@contextlib.contextmanager
def open_executors(engine: EngineName, address: str | None, script: Path) -> Iterator[Sequence[Executor]]:
    """The places of an engine, as long as the context lasts.

    Args:
        address: of a running Ray cluster, as `ray.init` takes it; by default a new one of this machine alone.
        script: the trainer's.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address}: goes with --engine ray")
        yield [LocalExecutor()]
        return
    try:
        import ray  # noqa: F401, an extra
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install '.[ray]'") from None
    from bench.experiments.ray_executor import open_cluster

    with open_cluster(address, script.parent) as places:
        yield places


def by_machine_class(classes: Mapping[Executor, str | None]) -> list[list[Executor]]:
    """Places of one machine class together, in the order of the classes' names."""
    groups: dict[str, list[Executor]] = {}
    for place, name in classes.items():
        groups.setdefault(name or "", []).append(place)
    return [groups[name] for name in sorted(groups)]


def run_jobs(
    jobs: Mapping[Executor, Iterator[JobT]], make: Callable[[Executor, JobT], bool], say: Callable[[str], None]
) -> bool:
    """Let each place take jobs from its iterator, which several may share, until there are none.

    Args:
        make: does one job at a place; whether it was interrupted, which ends everything.
        say: is told which places were lost.

    Returns:
        Whether it was interrupted.
    """
    taking, stopped = threading.Lock(), threading.Event()

    def next_job(place: Executor) -> JobT | None:
        with taking:
            return None if stopped.is_set() or place.is_lost else next(jobs[place], None)

    def work(place: Executor) -> None:
        try:
            while (job := next_job(place)) is not None:
                if make(place, job):
                    stopped.set()
        except ExecutorLost:
            pass
        except KeyboardInterrupt:
            stopped.set()
        except BaseException:
            stopped.set()
            raise
        if place.is_lost:
            say(f"{place.name} was lost, and with it the attempt that it was at")

    if len(jobs) == 1:
        work(next(iter(jobs)))
        return stopped.is_set()
    with ThreadPoolExecutor(len(jobs)) as pool:
        working = [pool.submit(work, place) for place in jobs]
        try:
            wait(working)
        except KeyboardInterrupt:
            stopped.set()
            for place in jobs:
                place.stop()
            wait(working)
    for each in working:
        each.result()
    return stopped.is_set()
