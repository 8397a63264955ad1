"""The journal: `runs.jsonl`, one line an attempt whatever its outcome, appended and never rewritten.

Before an attempt a start mark is written, which is the line that will stand in the journal if the attempt never
comes back. The attempt holds a lock on its mark while it lives, so a mark whose lock is free is a lost attempt.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from bench.hardware import Hardware, Software

SCHEMA = 1

Outcome = Literal["solved", "missed", "diverged", "timeout", "interrupted", "error", "lost", "pruned"]
NonNegativeSeconds = Annotated[FiniteFloat, Field(ge=0)] | None


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)


class Batch(Section):
    """The command that started this attempt together with others."""

    id: str
    command: str
    planned: int = Field(ge=1)  # attempts, fixed before the first one
    index: int = Field(ge=0)


class Seconds(Section):
    """The clock's phases; null for a phase that the attempt did not reach."""

    import_: NonNegativeSeconds = Field(alias="import")
    setup: NonNegativeSeconds
    warmup: NonNegativeSeconds
    train: NonNegativeSeconds
    certify: NonNegativeSeconds
    total: NonNegativeSeconds


class Check(Section):
    """One sparse evaluation, on training problems only."""

    step: int
    train_seconds: FiniteFloat
    loss: FiniteFloat | None  # nats a character; null when it is not finite
    errors: int | None


class Count(Section):
    problems: NonNegativeInt
    errors: NonNegativeInt


class Certificate(Section):
    """The verdict on the weights that training ended with."""

    problems: NonNegativeInt
    errors: NonNegativeInt
    heldout_problems: NonNegativeInt
    heldout_errors: NonNegativeInt
    groups: dict[str, Count]
    samples: dict[str, Count]
    exhaustive: bool  # every problem of the track was decoded
    error_rate_upper_95: FiniteFloat  # the rate itself when exhaustive


class Machine(Section):
    class_: str | None = Field(alias="class")
    clean: bool | None  # null: nobody looked
    reasons: list[str]


class Run(Section):
    """One line of the journal. Units stand in the key; what is not known is null."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str
    batch: Batch | None
    track: str
    config: str
    settings: dict[str, bool | int | FiniteFloat | str | None]
    config_hash: str  # of the settings, seed and paths aside
    seed: int
    outcome: Outcome
    message: str | None
    note: str | None
    device: str
    precision: str
    compiled: bool
    threads: int | None
    seconds: Seconds
    clock_resolution_seconds: FiniteFloat | None  # of the process's start
    display_seconds: FiniteFloat | None  # processor time that the display took during `train`
    steps: int | None
    examples: int | None
    parameters: int | None
    train_flops: FiniteFloat | None
    checks: list[Check]
    reached: dict[str, FiniteFloat | None]  # target -> train seconds
    certificate: Certificate | None
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    energy_joules: FiniteFloat | None
    machine: Machine
    hardware: Hardware | None
    software: Software | None
    source_sha256: str
    harness_sha256: str
    data_sha256: dict[str, str] | None
    commit: str | None
    dirty: bool | None
    weights: str | None
    weights_sha256: str | None
    search: dict[str, Any] | None
    started_at: datetime

    def line(self) -> str:
        return self.model_dump_json()


def new_id(config: str) -> str:
    """The name of a run or a batch; sorts by time and is unique: `20260131-235959-add3-cpu-1a2b3c`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config}-{uuid.uuid4().hex[:6]}"


# -----------------------------------------------------------------------------
# the file


class Journal:
    """The runs under one results folder.

    Args:
        results: the folder; it is made when the first line is written.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self.path = results / "runs.jsonl"
        self.marks = results / "started"

    def lock(self) -> FileLock:
        self.results.mkdir(parents=True, exist_ok=True)
        return FileLock(self.results / "runs.jsonl.lock")

    def append(self, run: Run) -> None:
        """Add one line and force it to the disk.

        Raises:
            ValidationError: the run was put together wrongly.
            OSError: the line could not be written whole; a torn line stays behind and readers pass over it.
        """
        line = Run.model_validate(run.model_dump()).line()
        with self.lock():
            self._append(line)

    def _append(self, line: str) -> None:
        is_new = not self.path.exists()
        with open(self.path, "ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # somebody was killed while writing
                    line = "\n" + line
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            fsync_folder(self.results)

    def read(self) -> tuple[list[Run], list[str]]:
        """All runs in file order, and a sentence about each line that is none."""
        runs, faults = [], []
        if not self.path.exists():
            return runs, faults
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    runs.append(Run.model_validate_json(line))
                except ValidationError as problem:
                    first = problem.errors()[0]
                    where = ".".join(str(part) for part in first["loc"])
                    faults.append(f"{self.path.name}:{number}: skipped, {where and where + ': '}{first['msg']}")
        return runs, faults

    # -------------------------------------------------------------------------
    # start marks

    @contextmanager
    def attempt(self, lost: Run) -> Iterator[None]:
        """Stand a start mark while the attempt lives; `lost` is the line for when it does not come back.

        The caller appends the attempt's real line before the context ends.
        """
        self.marks.mkdir(parents=True, exist_ok=True)
        mark = self.marks / f"{lost.run_id}.json"
        alive = FileLock(mark.with_suffix(".lock"))
        with alive:
            draft = mark.with_suffix(".draft")
            with open(draft, "w") as file:
                file.write(lost.line() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, mark)
            fsync_folder(self.marks)
            yield
            mark.unlink(missing_ok=True)
        with suppress(OSError):
            Path(alive.lock_file).unlink(missing_ok=True)

    def recover(self) -> list[Run]:
        """Append a `lost` line for every mark whose attempt is dead, and take the mark away."""
        lost = []
        if not self.marks.is_dir():
            return lost
        with self.lock():
            known = {run.run_id for run in self.read()[0]}
            for mark in sorted([*self.marks.glob("*.json"), *self.marks.glob("*.draft")]):
                alive = FileLock(mark.with_suffix(".lock"))
                try:
                    alive.acquire(timeout=0)
                except Timeout:
                    continue
                try:
                    if mark.suffix == ".json":  # a draft is the mark of an attempt that never began
                        run = Run.model_validate_json(mark.read_bytes())
                        if run.run_id not in known:
                            self._append(run.line())
                            lost.append(run)
                    mark.unlink()
                except (ValidationError, FileNotFoundError):
                    pass  # a foreign file, or its attempt has just ended: not ours to judge
                finally:
                    alive.release()
                with suppress(OSError):
                    Path(alive.lock_file).unlink(missing_ok=True)
        return lost


def fsync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
