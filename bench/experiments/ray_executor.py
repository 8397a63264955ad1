"""Runs attempts on a Ray cluster: each attempt is placed on one node with all of its CPUs, or on one of its GPUs.

Ray distributes the source to the nodes, and the driver compares its hash with its own. A worker on the node runs the
attempt with a journal in a temporary folder and sends the run and the weights back. The start mark is written on the
driver's machine, so that exactly one run is filed whether the node or the driver is lost.
"""

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.cli import handle_interrupts, ignore_interrupts, print_progress, split_option
from bench.config import config_toml, is_toml_file, merged_values, with_current_names
from bench.errors import UnavailableHere, UsageError
from bench.experiments import launcher
from bench.experiments.executors import Executor
from bench.experiments.launcher import PATIENCE_SECONDS, Contestant, Refusal, Task
from bench.processes import RunningProcess
from bench.provenance import commit_and_dirty, copy_files, files_sha256, harness_files, source_files
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.schema import Check, Run

ANSWER_SECONDS = 20.0  # a node that takes longer is reported as busy; starting a worker takes a few seconds

Files = dict[str, bytes]  # contents by path relative to the working directory


# -----------------------------------------------------------------------------
# on a node


class RayWorker:
    """Resolves contestants and runs attempts in the working directory, where Ray has unpacked the source.

    Paths are relative to it; `files` are written there first. An exception is raised on the driver.
    """

    def __init__(self) -> None:
        # Ray limits the threads of its workers; an attempt must choose its own, as on any other machine.
        os.environ.pop("OMP_NUM_THREADS", None)
        if hasattr(os, "setpriority"):  # Ray lowers the priority of its workers, which would slow a timed attempt
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, 0)
        self.process: RunningProcess | None = None
        self.is_stopped = False

    def sha256(self) -> str:
        return carried_sha256(Path())

    def resolve(self, files: Files, script: Path, arguments: Sequence[str]) -> Contestant:
        write_files(files)
        return launcher.resolve_contestant(script, arguments)

    def resolve_all(
        self, files: Files, script: Path, command_lines: Sequence[Sequence[str]]
    ) -> list[Contestant | Refusal]:
        write_files(files)
        return launcher.resolve_contestants(script, command_lines)

    def check_quiet(self, device: str, seconds: float) -> list[str]:
        return Executor().check_quiet(device, seconds)

    def run_attempt(
        self, files: Files, task: Task, is_hopeless: Callable[[Check], bool] | None
    ) -> tuple[Run | None, bytes | None, bool]:
        """The run, its weights if it kept any, and whether it was interrupted; no run if that was before it began."""
        write_files(files)
        with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
            try:
                run, interrupted = launcher.run_attempt(task, Journal(Path(folder)), True, is_hopeless, self.on_started)
            except launcher.NotBegun:
                return None, None, True
            weights = None if run.weights is None else (Path(folder) / run.weights).read_bytes()
        return run, weights, interrupted or self.is_stopped

    def on_started(self, process: RunningProcess) -> None:
        self.process = process
        if self.is_stopped:  # `stop` was called before there was a process
            process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        self.is_stopped = True
        if self.process is not None:
            launcher.stop_process(self.process)


def write_files(files: Files) -> None:
    for name, content in files.items():
        replace_file(Path(name), content)


# -----------------------------------------------------------------------------
# files that are sent to the nodes


def carried_files(root: Path) -> list[Path]:
    """The files of a source tree that an attempt needs."""
    return [*source_files(root), *harness_files(root), *(root / "bench" / "configs").glob("*.toml")]


def carried_sha256(root: Path) -> str:
    return files_sha256(carried_files(root), root)


def make_portable(script: Path, arguments: Sequence[str], home: Path) -> tuple[Files, Path, list[str]]:
    """A command line with relative paths, and the files that have to be sent with it.

    These are the source tree of `script`, if it is not the one at `home`, which the nodes have, and a config that is
    given as a file.
    """
    root, folder, portable_arguments = script.parent, Path(), list(arguments)
    files: Files = {}
    if root != home:
        folder = Path("carried", carried_sha256(root)[:16])
        files = {(folder / path.relative_to(root)).as_posix(): path.read_bytes() for path in carried_files(root)}
    config, other_arguments = split_option(arguments, "--config")
    if config is not None and is_toml_file(config):
        portable_config = f"carried/{Path(config).name}"
        prepare = with_current_names if root == home else lambda values, path: values  # a record's source has its own
        device_type = split_option(arguments, "--device")[0] or "cpu"
        values = merged_values(Path(config), prepare, device_type)  # without a base
        files[portable_config] = config_toml(values).encode()
        portable_arguments = ["--config", portable_config, *other_arguments]
    return files, folder / script.name, portable_arguments


# -----------------------------------------------------------------------------
# on the driver


class RayExecutor(Executor):
    """An executor for the CPUs of one node, or for one of its GPUs."""

    def __init__(self, worker: Any, name: str, home: Path) -> None:
        """Wraps the actor handle of a RayWorker; `home` is the root of the source tree that the node has."""
        self.worker, self.name, self.home = worker, name, home
        self.is_stopped = False
        self.commit, self.dirty = commit_and_dirty()
        self.machine: dict[str, Any] = {}  # hardware and software of the node, from its latest answer

    def resolve(self, script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
        answer = self.get(self.worker.resolve.remote(*make_portable(script, arguments, self.home)))
        return self.contestant(script, arguments, answer.planned, commit)

    def resolve_all(self, script: Path, command_lines: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
        portable = [make_portable(script, arguments, self.home) for arguments in command_lines]
        files = {name: content for files, _, _ in portable for name, content in files.items()}
        request = self.worker.resolve_all.remote(files, portable[0][1], [arguments for _, _, arguments in portable])
        return [
            answer if isinstance(answer, Refusal) else self.contestant(script, arguments, answer.planned)
            for arguments, answer in zip(command_lines, self.get(request), strict=True)
        ]

    def contestant(self, script: Path, arguments: Sequence[str], planned: Run, commit: str | None = None) -> Contestant:
        """A contestant from the planned run of a node; the driver adds the commit, because a node has no checkout."""
        self.machine = {"hardware": planned.hardware, "software": planned.software}
        update = {"commit": commit or self.commit, "dirty": False if commit else self.dirty}
        return Contestant(script, tuple(arguments), planned.model_copy(update=update), commit)

    def check_quiet(self, device: str, seconds: float) -> list[str]:
        reasons: list[str] = self.get(self.worker.check_quiet.remote(device, seconds))
        return reasons

    def get(self, request: Any) -> Any:
        """The node's answer to a request; UsageError if it failed, or if the node was lost."""
        ready, _ = ray.wait([request], timeout=ANSWER_SECONDS)
        if not ready:
            print_progress(f"waiting for {self.name}: another command may be using it")
        try:
            return ray.get(request)
        except RayError as problem:
            self.is_lost = not isinstance(problem, RayTaskError)  # a node survives an exception in a task
            kind = UnavailableHere if isinstance(problem, UnavailableHere) else UsageError
            raise kind(f"{self.name}: {last_line(problem)}") from None

    def run_attempt(
        self, task: Task, journal: Journal, quietly: bool = True, is_hopeless: Callable[[Check], bool] | None = None
    ) -> tuple[Run, bool]:
        """As `Executor.run_attempt`; progress is never shown, and the node evaluates a copy of `is_hopeless`."""
        if self.is_stopped:
            raise KeyboardInterrupt
        contestant = task.contestant
        command_line = [*contestant.arguments, *task.arguments]
        files, script, arguments = make_portable(contestant.script, command_line, self.home)
        portable = Task(Contestant(script, tuple(arguments), contestant.planned), task.seed, task.batch)
        lost = launcher.run_without_answer(task, "lost", f"{self.name} was lost").model_copy(update=self.machine)
        with journal.attempt(self.with_driver_values(lost, contestant.planned)) as mark:
            run, weights, interrupted = None, None, False
            try:
                request = self.worker.run_attempt.remote(files, portable, is_hopeless)
                try:
                    run, weights, interrupted = ray.get(request)
                except KeyboardInterrupt:
                    interrupted = True
                    ignore_interrupts()  # the run must still be filed
                    self.stop()
                    run, weights, _ = ray.get(request, timeout=2 * PATIENCE_SECONDS)
            except RayTaskError as problem:  # a node survives an exception in a task
                run = lost.model_copy(update={"outcome": "error", "message": f"{self.name}: {last_line(problem)}"})
            except RayError:
                self.is_lost = True
                run = lost
            if run is None:
                mark.path.unlink()
                raise launcher.NotBegun
            run = self.with_driver_values(run, contestant.planned)
            if weights is not None and run.weights is not None:
                replace_file(journal.results / run.weights, weights)
            mark.write(run)
            mark.file(run)
        return run, interrupted

    @staticmethod
    def with_driver_values(run: Run, planned: Run) -> Run:
        """A run with the commit and the config's name, which are known on the driver but not on a node."""
        update = {name: getattr(planned, name) for name in ("commit", "dirty", "config")}
        return run.model_copy(update=update | {"engine": "ray"})

    def stop(self) -> None:
        self.is_stopped = True
        with contextlib.suppress(RayError):
            ray.get(self.worker.stop.remote(), timeout=2 * PATIENCE_SECONDS)


def last_line(problem: Any) -> str:
    """The message of a RayError without Ray's traceback."""
    message = getattr(problem, "cause", problem) if isinstance(problem, UsageError) else problem
    return (str(message).strip().splitlines() or [type(problem).__name__])[-1]


# -----------------------------------------------------------------------------
# the cluster


@contextlib.contextmanager
def open_cluster(address: str | None, home: Path) -> Iterator[list[RayExecutor]]:
    """Connect to a cluster, or start one of this machine if there is no address, and create its executors.

    `home` is the root of the source tree. UsageError if no cluster answers, if it has no CPU, or if a node received a
    different source.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
        copy_files(carried_files(home), home, Path(folder))
        options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        try:
            if host and port.isdecimal():  # does a server listen there? Ray itself would retry for minutes
                socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
            ray.init(**options, runtime_env={"working_dir": folder}, log_to_driver=False, logging_level="error")
        except (OSError, RuntimeError, ValueError) as problem:
            where = f"--address {address}" if address else "--engine ray"
            raise UsageError(f"{where}: no Ray cluster answers ({problem})") from None
        try:
            handle_interrupts()  # replaces Ray's signal handler
            executors = [executor for node in ray.nodes() if node["Alive"] for executor in executors_of(node, home)]
            if not executors:
                raise UsageError("the Ray cluster has no node with a CPU")
            expected = carried_sha256(home)
            for executor in executors:
                if executor.get(executor.worker.sha256.remote()) != expected:
                    raise UsageError(f"{executor.name} has a different source than this checkout")
            yield executors
        finally:
            ray.shutdown()


def executors_of(node: Mapping[str, Any], home: Path) -> list[RayExecutor]:
    """One executor for each GPU of a node, or one for all of its CPUs; it reserves them until the cluster is closed."""
    num_cpus, num_gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
    if not num_cpus:
        return []
    resources = {"num_cpus": num_cpus // num_gpus, "num_gpus": 1} if num_gpus else {"num_cpus": num_cpus}
    # Two concurrent calls: `run_attempt`, and `stop`, which interrupts it.
    options = {**resources, "max_restarts": 0, "max_concurrency": 2}
    options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    executors = []
    for index in range(num_gpus or 1):
        name = f"node {node['NodeID'][:8]}" + (f", GPU {index}" if num_gpus else "")
        executors.append(RayExecutor(ray.remote(RayWorker).options(**options).remote(), name, home))
    return executors
