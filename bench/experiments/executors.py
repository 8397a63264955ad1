"""Executors run attempts: this machine, or the nodes of a Ray cluster (ray_executor.py), one attempt at a time each."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from bench.cli import print_progress
from bench.errors import UnavailableHere, UsageError
from bench.experiments import launcher
from bench.experiments.launcher import Contestant, Refusal, Task
from bench.storage.journal import Journal
from bench.storage.schema import Check, Run

EXIT_UNFINISHED = 1  # attempts are left, but no executor can run them
JobT = TypeVar("JobT")
PreparedT = TypeVar("PreparedT")


class ExecutorLost(Exception):
    """The executor can run no more attempts; its current one is filed as `lost`."""


class Executor:
    """Runs attempts on one device, one at a time: on this machine, where the device lock keeps other commands away.

    A subclass runs them elsewhere. The methods correspond to the functions of `launcher`.
    """

    name = "this machine"
    is_lost = False

    def resolve(self, script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
        return launcher.resolve_contestant(script, arguments, commit)

    def resolve_all(self, script: Path, command_lines: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
        return launcher.resolve_contestants(script, command_lines)

    def check_quiet(self, device: str, seconds: float) -> list[str]:
        """Measure for some seconds whether the machine is quiet; a sentence for each reason why it is not."""
        import torch  # here, because commands that only read need no torch

        from bench.machine.noise import NoiseMonitor

        return NoiseMonitor(torch.device(device)).observe(seconds).reasons

    def run_attempt(
        self, task: Task, journal: Journal, quietly: bool = True, is_hopeless: Callable[[Check], bool] | None = None
    ) -> tuple[Run, bool]:
        """The run, which is `lost` if the executor was lost, and whether it was interrupted.

        Raises KeyboardInterrupt if the attempt was interrupted, or the executor stopped, before the attempt began.
        """
        return launcher.run_attempt(task, journal, quietly, is_hopeless)

    def stop(self) -> None:
        """Interrupt the current attempt, from another thread; here the main thread receives the interrupt itself."""


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
    jobs: Mapping[Executor, Iterator[JobT]], run_job: Callable[[Executor, JobT], bool], report: Callable[[str], None]
) -> bool:
    """Let each executor take jobs from its iterator until it is empty; executors may share an iterator.

    Args:
        run_job: runs one job on an executor; returns whether it was interrupted, which ends all of them.
        report: called with a sentence about each executor that was lost.

    Returns whether a job or this process was interrupted.
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
        except BaseException as problem:
            stopped.set()
            if not isinstance(problem, KeyboardInterrupt):
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
