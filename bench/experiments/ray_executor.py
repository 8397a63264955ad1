"""The nodes of a Ray cluster as places: each attempt has all CPUs of a node, or one GPU, and comes home to one journal.

Ray carries the source to the nodes by the hash of its content, and the driver compares it with its own by ours. An
attempt runs on its node as it would here, with a journal of its own in a folder that goes away with it. While it is
under way its start mark stands here, so that whatever becomes of the node, or of the driver, one line is filed for it.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.cli import handle_interrupts, ignore_interrupts, option_value, without_option
from bench.config import merged_values
from bench.errors import UnavailableHere, UsageError
from bench.experiments.launcher import (
    PATIENCE_SECONDS,
    Contestant,
    Refusal,
    Task,
    resolve_contestant,
    resolve_contestants,
    run_attempt,
    stop_process,
)
from bench.machine.noise import NoiseMonitor
from bench.provenance import commit_and_dirty, files_sha256, harness_files, source_files
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.schema import Batch, Check, Run, new_id

ANSWER_SECONDS = 20.0  # after which somebody is told what is waited for; to start takes a few

Files = dict[str, bytes]  # by their names below the working folder
Answer = str | tuple[str, bool]  # the planned line as JSON, or why it is refused and whether only there


# -----------------------------------------------------------------------------
# on a node


class RayWorker:
    """Asks trainers and makes attempts. Ray has unpacked the source into the working folder."""

    def __init__(self) -> None:
        # Ray's guess of how many threads a worker may have; attempts choose theirs as they do anywhere else.
        os.environ.pop("OMP_NUM_THREADS", None)
        if hasattr(
            os, "setpriority"
        ):  # Ray's workers are nice to others; a timed attempt must be as it is anywhere else
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, 0)
        self.process: subprocess.Popen | None = None
        self.is_stopped = False

    def sha256(self) -> str:
        return carried_sha256(Path())

    def ask(self, script: str, arguments: Sequence[str], files: Files) -> Answer:
        write(files)
        try:
            return resolve_contestant(Path(script).resolve(), arguments).planned.line()
        except UsageError as problem:
            return str(problem), isinstance(problem, UnavailableHere)

    def ask_all(self, script: str, asked: Sequence[Sequence[str]], files: Files) -> list[Answer] | Answer:
        write(files)
        try:
            answers = resolve_contestants(Path(script).resolve(), asked)
        except UsageError as problem:
            return str(problem), False
        return [
            (answer.reason, answer.not_here) if isinstance(answer, Refusal) else answer.planned.line()
            for answer in answers
        ]

    def look(self, device: str, seconds: float) -> list[str]:
        return NoiseMonitor(torch.device(device)).look(seconds).reasons

    def make(
        self,
        script: str,
        arguments: Sequence[str],
        files: Files,
        planned: str,
        seed: int,
        batch: str,
        is_hopeless: Callable[[Check], bool] | None,
    ) -> tuple[str, bytes | None, bool]:
        """An attempt's line, its weights if it kept any, and whether it was interrupted."""
        write(files)
        contestant = Contestant(Path(script).resolve(), tuple(arguments), Run.model_validate_json(planned))
        task = Task(contestant, seed, Batch.model_validate_json(batch))
        with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
            run, interrupted = run_attempt(task, Journal(Path(folder)), True, is_hopeless, self.started)
            weights = None if run.weights is None else (Path(folder) / run.weights).read_bytes()
        return run.line(), weights, interrupted or self.is_stopped

    def started(self, process: subprocess.Popen) -> None:
        self.process = process
        if self.is_stopped:  # before there was anything to stop
            process.terminate()

    def stop(self) -> None:
        self.is_stopped = True
        if self.process is not None:
            stop_process(self.process)


def write(files: Files) -> None:
    """Put files that came with a request below the working folder."""
    for name, content in files.items():
        replace_file(Path(name), content)


# -----------------------------------------------------------------------------
# what travels


def carried_files(root: Path) -> list[Path]:
    """What an attempt needs of a source, and nothing else."""
    return [*source_files(root), *harness_files(root), *(root / "bench" / "configs").glob("*.toml")]


def carried_sha256(root: Path) -> str:
    return files_sha256(carried_files(root), root)


def make_portable(script: Path, arguments: Sequence[str], home: Path) -> tuple[str, list[str], Files]:
    """A command line that can be carried out on a node: another source, and a config that is a file, go with it.

    Args:
        home: the root of the source that the nodes have.
    """
    root, there, files = script.parent, script.name, {}
    if root != home:
        folder = f"carried/{carried_sha256(root)[:16]}"
        there = f"{folder}/{script.name}"
        files = {f"{folder}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in carried_files(root)}
    kept, name = list(arguments), option_value(arguments, "--config")
    if name is not None and name.endswith(".toml"):
        import tomli_w

        given = f"carried/{Path(name).name}"
        files[given] = tomli_w.dumps(merged_values(Path(name))).encode()  # whose bases may not be there
        kept = ["--config", given, *without_option(arguments, "--config")]
    return there, kept, files


# -----------------------------------------------------------------------------
# on the driver


class RayExecutor:
    """A place (`bench.places.Place`): the CPUs of one node, or one of its GPUs."""

    def __init__(self, runner: Any, name: str, home: Path) -> None:
        self.runner, self.name, self.home = runner, name, home
        self.is_lost = self.is_stopped = False
        self.commit, self.dirty = commit_and_dirty()
        self.machine: dict[str, Any] = {}  # hardware and software of the node, once it has answered

    def ask(self, script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
        answer = self.get(self.runner.ask.remote(*make_portable(script, arguments, self.home)))
        if not isinstance(answer, str):
            raise (UnavailableHere if answer[1] else UsageError)(f"{self.name}: {answer[0]}")
        return self.contestant(script, arguments, answer, commit)

    def ask_all(self, script: Path, asked: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
        taken = [make_portable(script, arguments, self.home) for arguments in asked]
        files = {name: content for _, _, each in taken for name, content in each.items()}
        answers = self.get(self.runner.ask_all.remote(taken[0][0], [arguments for _, arguments, _ in taken], files))
        if not isinstance(answers, list):
            raise UsageError(f"{self.name}: {answers[0]}")
        return [
            self.contestant(script, arguments, answer) if isinstance(answer, str) else Refusal(*answer)
            for arguments, answer in zip(asked, answers, strict=True)
        ]

    def contestant(self, script: Path, arguments: Sequence[str], line: str, commit: str | None = None) -> Contestant:
        """Of this checkout's source the node knows no commit, but the driver does."""
        planned = Run.model_validate_json(line)
        self.machine = {"hardware": planned.hardware, "software": planned.software}
        if commit is None:
            planned = planned.model_copy(update={"commit": self.commit, "dirty": self.dirty})
        return Contestant(script, tuple(arguments), planned, commit)

    def look(self, device: str, seconds: float) -> list[str]:
        return self.get(self.runner.look.remote(device, seconds))

    def get(self, wanted: Any) -> Any:
        """What the node answers; raises WrongRequest when it does not."""
        ready, _ = ray.wait([wanted], timeout=ANSWER_SECONDS)
        if not ready:
            print(f"waiting for {self.name}: others may be using it", file=sys.stderr, flush=True)
        try:
            return ray.get(wanted)
        except RayError as problem:
            self.is_lost = not isinstance(problem, RayTaskError)  # in which case the node goes on
            raise UsageError(f"{self.name}: {last_line(problem)}") from None

    def make(
        self,
        task: Task,
        journal: Journal,
        quietly: bool = True,
        is_hopeless: Callable[[Check], bool] | None = None,
    ) -> tuple[Run, bool]:
        """As `Place.make`; its progress stays on the node, and `is_hopeless` is asked there, as it is now."""
        if self.is_stopped:
            raise KeyboardInterrupt
        there = make_portable(task.contestant.script, [*task.contestant.arguments, *task.arguments], self.home)
        planned, batch = task.contestant.planned, task.batch.model_dump_json()
        lost = self.line(task, outcome="lost", message=f"{self.name} was lost")
        interrupted = False
        with journal.attempt(lost) as mark:
            wanted = self.runner.make.remote(*there, planned.line(), task.seed, batch, is_hopeless)
            try:
                try:
                    line, weights, interrupted = ray.get(wanted)
                except KeyboardInterrupt:
                    interrupted = True
                    ignore_interrupts()  # what is left takes a moment, and must be filed
                    self.stop()
                    line, weights, _ = ray.get(wanted, timeout=2 * PATIENCE_SECONDS)
            except RayTaskError as problem:  # the node goes on
                run = self.line(task, outcome="error", message=f"{self.name}: {last_line(problem)}")
            except RayError:
                self.is_lost, run = True, lost
            else:
                run = self.at_home(Run.model_validate_json(line), task.contestant)
                if weights is not None:
                    replace_file(journal.results / run.weights, weights)
            mark.leave(run)
            mark.file(run)
        return run, interrupted

    def line(self, task: Task, **found: str) -> Run:
        """The line for an attempt that brought none."""
        planned = task.contestant.planned
        told = {"run_id": new_id(planned.config), "batch": task.batch, "seed": task.seed, **self.machine, **found}
        run = planned.model_copy(update=told | {"started_at": datetime.now(UTC)})
        return self.at_home(run, task.contestant)

    def at_home(self, run: Run, contestant: Contestant) -> Run:
        """A run as it is filed here: a node has no checkout, and knows a config by the file that came with it."""
        planned = contestant.planned
        dirty = False if contestant.commit else planned.dirty
        known = {"commit": contestant.commit or planned.commit, "dirty": dirty, "config": planned.config}
        return run.model_copy(update=known | {"engine": "ray"})

    def stop(self) -> None:
        self.is_stopped = True
        with contextlib.suppress(RayError):
            ray.get(self.runner.stop.remote(), timeout=2 * PATIENCE_SECONDS)


def last_line(problem: RayError) -> str:
    """What it was, without Ray's account of where it went through."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[-1]


@contextlib.contextmanager
def open_cluster(address: str | None, home: Path) -> Iterator[list[RayExecutor]]:
    """All places of a cluster; one that was started for this is taken down again.

    Args:
        address: of one that runs, as `ray.init` takes it; None starts one of this machine alone.
        home: the root of the source.

    Raises:
        UsageError: no cluster answers, it has no CPU, or a node got other source.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
        for path in carried_files(home):
            target = Path(folder) / path.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        options = {"include_dashboard": False}
        if address:
            options = {"address": address}
            check_answers(address)
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
            handle_interrupts()  # Ray has its own way to be stopped
            yield find_executors(home)
        finally:
            ray.shutdown()


def check_answers(address: str) -> None:
    """Raises WrongRequest where nobody listens: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except OSError as problem:
            raise UsageError(f"--address {address}: no Ray cluster answers ({problem})") from None


def find_executors(home: Path) -> list[RayExecutor]:
    """Raises UsageError: there is none, or one that got other source."""
    places = [place for node in ray.nodes() if node["Alive"] for place in executors_of(node, home)]
    if not places:
        raise UsageError("the Ray cluster has no node with a CPU")
    wanted = carried_sha256(home)
    for place in places:
        if place.get(place.runner.sha256.remote()) != wanted:
            raise UsageError(f"{place.name} has other source than this checkout")
    return places


def executors_of(node: Mapping[str, Any], home: Path) -> list[RayExecutor]:
    """One for each GPU of a node, or one of all its CPUs, which nobody else gets as long as it is there."""
    cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
    if not cpus:
        return []
    share = {"num_cpus": cpus // gpus, "num_gpus": 1} if gpus else {"num_cpus": cpus}
    where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    found = []
    for number in range(gpus or 1):
        # Two at a time: an attempt, and the word to stop it.
        options = {**share, "scheduling_strategy": where, "max_restarts": 0, "max_concurrency": 2}
        name = f"node {node['NodeID'][:8]}" + (f", GPU {number}" if gpus else "")
        found.append(RayExecutor(ray.remote(RayWorker).options(**options).remote(), name, home))
    return found
