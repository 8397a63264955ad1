"""Runs attempts on a Ray cluster: each attempt is placed on one node with all of its CPUs, or on one of its GPUs.

Ray distributes the source to the nodes, and the driver compares its hash with its own. A worker on the node runs the
attempt with a journal in a temporary folder and sends the run and the weights back. The start mark is written on the
driver's machine, so that exactly one run is filed whether the node or the driver is lost.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.cli import handle_interrupts, ignore_interrupts, print_progress, split_option
from bench.config import merged_values, with_current_names
from bench.errors import UnavailableHere, UsageError
from bench.experiments import launcher
from bench.experiments.launcher import PATIENCE_SECONDS, Contestant, Refusal, Task
from bench.machine.noise import NoiseMonitor
from bench.provenance import commit_and_dirty, files_sha256, harness_files, source_files
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.schema import Batch, Check, Run, new_id

ANSWER_SECONDS = 20.0  # a node that takes longer is reported as busy; starting a worker takes a few seconds

Files = dict[str, bytes]  # contents by path relative to the working directory
Answer = str | tuple[str, bool]  # the planned run as JSON, or a refusal: the reason and `not_here`


# -----------------------------------------------------------------------------
# on a node


class RayWorker:
    """Resolves contestants and runs attempts in the working directory, where Ray has unpacked the source."""

    def __init__(self) -> None:
        # Ray limits the threads of its workers; an attempt must choose its own, as on any other machine.
        os.environ.pop("OMP_NUM_THREADS", None)
        if hasattr(os, "setpriority"):  # Ray lowers the priority of its workers, which would slow a timed attempt
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, 0)
        self.process: subprocess.Popen[bytes] | None = None
        self.is_stopped = False

    def sha256(self) -> str:
        return carried_sha256(Path())

    def resolve(self, script: str, arguments: Sequence[str], files: Files) -> Answer:
        write_files(files)
        try:
            return launcher.resolve_contestant(Path(script).resolve(), arguments).planned.model_dump_json()
        except UsageError as problem:
            return str(problem), isinstance(problem, UnavailableHere)

    def resolve_all(self, script: str, command_lines: Sequence[Sequence[str]], files: Files) -> list[Answer] | Answer:
        write_files(files)
        try:
            resolved = launcher.resolve_contestants(Path(script).resolve(), command_lines)
        except UsageError as problem:
            return str(problem), False
        return [
            (answer.reason, answer.not_here) if isinstance(answer, Refusal) else answer.planned.model_dump_json()
            for answer in resolved
        ]

    def check_quiet(self, device: str, seconds: float) -> list[str]:
        return NoiseMonitor(torch.device(device)).observe(seconds).reasons

    def run_attempt(
        self,
        script: str,
        arguments: Sequence[str],
        files: Files,
        planned: str,
        seed: int,
        batch: str,
        is_hopeless: Callable[[Check], bool] | None,
    ) -> tuple[str, bytes | None, bool]:
        """The run as JSON, its weights if it kept any, and whether it was interrupted."""
        write_files(files)
        contestant = Contestant(Path(script).resolve(), tuple(arguments), Run.model_validate_json(planned))
        task = Task(contestant, seed, Batch.model_validate_json(batch))
        with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
            run, interrupted = launcher.run_attempt(task, Journal(Path(folder)), True, is_hopeless, self.on_started)
            weights = None if run.weights is None else (Path(folder) / run.weights).read_bytes()
        return run.model_dump_json(), weights, interrupted or self.is_stopped

    def on_started(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        if self.is_stopped:  # `stop` was called before there was a process
            process.terminate()

    def stop(self) -> None:
        self.is_stopped = True
        if self.process is not None:
            launcher.stop_process(self.process)


def write_files(files: Files) -> None:
    """Write files that were sent with a request below the working directory."""
    for name, content in files.items():
        replace_file(Path(name), content)


# -----------------------------------------------------------------------------
# files that are sent to the nodes


def carried_files(root: Path) -> list[Path]:
    """The files of a source tree that an attempt needs."""
    return [*source_files(root), *harness_files(root), *(root / "bench" / "configs").glob("*.toml")]


def carried_sha256(root: Path) -> str:
    return files_sha256(carried_files(root), root)


def make_portable(script: Path, arguments: Sequence[str], home: Path) -> tuple[str, list[str], Files]:
    """A command line with relative paths, and the files that have to be sent with it.

    These are the source tree of `script`, if it is not the one at `home`, and a config that is given as a file.

    Args:
        home: the root of the source tree that the nodes have.
    """
    root, portable_script, portable_arguments = script.parent, script.name, list(arguments)
    files: Files = {}
    if root != home:
        folder = f"carried/{carried_sha256(root)[:16]}"
        portable_script = f"{folder}/{script.name}"
        files = {f"{folder}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in carried_files(root)}
    config, other_arguments = split_option(arguments, "--config")
    if config is not None and config.endswith(".toml"):
        import tomli_w

        portable_config = f"carried/{Path(config).name}"
        prepare = with_current_names if root == home else lambda values, path: values  # a record's source has its own
        files[portable_config] = tomli_w.dumps(merged_values(Path(config), prepare)).encode()  # without a base
        portable_arguments = ["--config", portable_config, *other_arguments]
    return portable_script, portable_arguments, files


# -----------------------------------------------------------------------------
# on the driver


class RayExecutor:
    """An `Executor` for the CPUs of one node, or for one of its GPUs."""

    def __init__(self, worker: Any, name: str, home: Path) -> None:
        """Wraps the actor handle of a RayWorker; `home` is the root of the source tree that the node has."""
        self.worker, self.name, self.home = worker, name, home
        self.is_lost = self.is_stopped = False
        self.commit, self.dirty = commit_and_dirty()
        self.machine: dict[str, Any] = {}  # hardware and software of the node, from its latest answer

    def resolve(self, script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
        answer = self.get(self.worker.resolve.remote(*make_portable(script, arguments, self.home)))
        if not isinstance(answer, str):
            raise (UnavailableHere if answer[1] else UsageError)(f"{self.name}: {answer[0]}")
        return self.contestant(script, arguments, answer, commit)

    def resolve_all(self, script: Path, command_lines: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
        portable = [make_portable(script, arguments, self.home) for arguments in command_lines]
        files = {name: content for _, _, files in portable for name, content in files.items()}
        request = self.worker.resolve_all.remote(portable[0][0], [arguments for _, arguments, _ in portable], files)
        answers = self.get(request)
        if not isinstance(answers, list):
            raise UsageError(f"{self.name}: {answers[0]}")
        return [
            self.contestant(script, arguments, answer) if isinstance(answer, str) else Refusal(*answer)
            for arguments, answer in zip(command_lines, answers, strict=True)
        ]

    def contestant(self, script: Path, arguments: Sequence[str], line: str, commit: str | None = None) -> Contestant:
        """A contestant from the planned run of a node; the driver adds the commit, because a node has no checkout."""
        planned = Run.model_validate_json(line)
        self.machine = {"hardware": planned.hardware, "software": planned.software}
        if commit is None:
            planned = planned.model_copy(update={"commit": self.commit, "dirty": self.dirty})
        return Contestant(script, tuple(arguments), planned, commit)

    def check_quiet(self, device: str, seconds: float) -> list[str]:
        reasons: list[str] = self.get(self.worker.check_quiet.remote(device, seconds))
        return reasons

    def get(self, request: Any) -> Any:
        """The node's answer to a request.

        Raises:
            UsageError: the request failed, or the node was lost.
        """
        ready, _ = ray.wait([request], timeout=ANSWER_SECONDS)
        if not ready:
            print_progress(f"waiting for {self.name}: another command may be using it")
        try:
            return ray.get(request)
        except RayError as problem:
            self.is_lost = not isinstance(problem, RayTaskError)  # a node survives an exception in a task
            raise UsageError(f"{self.name}: {last_line(problem)}") from None

    def run_attempt(
        self,
        task: Task,
        journal: Journal,
        quietly: bool = True,
        is_hopeless: Callable[[Check], bool] | None = None,
    ) -> tuple[Run, bool]:
        """As `Executor.run_attempt`; progress is never shown, and the node evaluates a copy of `is_hopeless`."""
        if self.is_stopped:
            raise KeyboardInterrupt
        contestant = task.contestant
        command_line = make_portable(contestant.script, [*contestant.arguments, *task.arguments], self.home)
        lost = self.run_without_answer(task, outcome="lost", message=f"{self.name} was lost")
        with journal.attempt(lost) as mark:
            run, weights, interrupted = self.request_attempt(task, command_line, lost, is_hopeless)
            if weights is not None and run.weights is not None:
                replace_file(journal.results / run.weights, weights)
            mark.write(run)
            mark.file(run)
        return run, interrupted

    def request_attempt(
        self,
        task: Task,
        command_line: tuple[str, list[str], Files],
        lost: Run,
        is_hopeless: Callable[[Check], bool] | None,
    ) -> tuple[Run, bytes | None, bool]:
        """Run an attempt on the node: its run, its weights, and whether it was interrupted."""
        planned, batch = task.contestant.planned.model_dump_json(), task.batch.model_dump_json()
        request = self.worker.run_attempt.remote(*command_line, planned, task.seed, batch, is_hopeless)
        interrupted = False
        try:
            try:
                line, weights, interrupted = ray.get(request)
            except KeyboardInterrupt:
                interrupted = True
                ignore_interrupts()  # the run must still be filed
                self.stop()
                line, weights, _ = ray.get(request, timeout=2 * PATIENCE_SECONDS)
        except RayTaskError as problem:  # a node survives an exception in a task
            message = f"{self.name}: {last_line(problem)}"
            return self.run_without_answer(task, outcome="error", message=message), None, interrupted
        except RayError:
            self.is_lost = True
            return lost, None, interrupted
        return self.with_driver_values(Run.model_validate_json(line), task.contestant), weights, interrupted

    def run_without_answer(self, task: Task, outcome: str, message: str) -> Run:
        """The run of an attempt for which the node sent none."""
        planned = task.contestant.planned
        update = {
            "run_id": new_id(planned.config),
            "batch": task.batch,
            "seed": task.seed,
            "outcome": outcome,
            "message": message,
            "started_at": datetime.now(UTC),
        }
        return self.with_driver_values(planned.model_copy(update=self.machine | update), task.contestant)

    def with_driver_values(self, run: Run, contestant: Contestant) -> Run:
        """A run with the commit and the config's name, which are known on the driver but not on a node."""
        planned = contestant.planned
        update = {
            "engine": "ray",
            "commit": contestant.commit or planned.commit,
            "dirty": False if contestant.commit else planned.dirty,
            "config": planned.config,
        }
        return run.model_copy(update=update)

    def stop(self) -> None:
        self.is_stopped = True
        with contextlib.suppress(RayError):
            ray.get(self.worker.stop.remote(), timeout=2 * PATIENCE_SECONDS)


def last_line(problem: RayError) -> str:
    """The message of an error without Ray's traceback."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[-1]


# -----------------------------------------------------------------------------
# the cluster


@contextlib.contextmanager
def open_cluster(address: str | None, home: Path) -> Iterator[list[RayExecutor]]:
    """Connect to a cluster, or start one that ends with the context, and create its executors.

    Args:
        address: of a running cluster, as for `ray.init`; None starts a cluster of this machine.
        home: the root of the source tree.

    Raises:
        UsageError: no cluster answers, it has no CPU, or a node received a different source.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
        for path in carried_files(home):
            target = Path(folder) / path.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        options: dict[str, Any] = {"include_dashboard": False}
        if address:
            options = {"address": address}
            check_reachable(address)
        try:
            ray.init(
                **options,
                runtime_env={"working_dir": folder},
                log_to_driver=False,
                logging_level="error",
            )
        except (ConnectionError, RuntimeError, ValueError) as problem:
            where = f"--address {address}" if address else "--engine ray"
            raise UsageError(f"{where}: no Ray cluster answers ({problem})") from None
        try:
            handle_interrupts()  # replaces Ray's signal handler
            yield find_executors(home)
        finally:
            ray.shutdown()


def check_reachable(address: str) -> None:
    """Raises UsageError if no server listens at an address; Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except OSError as problem:
            raise UsageError(f"--address {address}: no Ray cluster answers ({problem})") from None


def find_executors(home: Path) -> list[RayExecutor]:
    """All executors of the cluster.

    Raises:
        UsageError: no node has a CPU, or a node received a different source.
    """
    executors = [executor for node in ray.nodes() if node["Alive"] for executor in executors_of(node, home)]
    if not executors:
        raise UsageError("the Ray cluster has no node with a CPU")
    expected = carried_sha256(home)
    for executor in executors:
        if executor.get(executor.worker.sha256.remote()) != expected:
            raise UsageError(f"{executor.name} has a different source than this checkout")
    return executors


def executors_of(node: Mapping[str, Any], home: Path) -> list[RayExecutor]:
    """One executor for each GPU of a node, or one for all of its CPUs; it reserves them until the cluster is closed."""
    num_cpus, num_gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
    if not num_cpus:
        return []
    resources = {"num_cpus": num_cpus // num_gpus, "num_gpus": 1} if num_gpus else {"num_cpus": num_cpus}
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    executors = []
    for index in range(num_gpus or 1):
        # Two concurrent calls: `run_attempt`, and `stop`, which interrupts it.
        options = {**resources, "scheduling_strategy": strategy, "max_restarts": 0, "max_concurrency": 2}
        name = f"node {node['NodeID'][:8]}" + (f", GPU {index}" if num_gpus else "")
        executors.append(RayExecutor(ray.remote(RayWorker).options(**options).remote(), name, home))
    return executors
