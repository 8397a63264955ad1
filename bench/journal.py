"""The journal: `runs.jsonl`, one line an attempt whatever its outcome, appended and never rewritten.

Before an attempt a start mark is written, which is the line that will stand in the journal if the attempt never
comes back. The attempt holds a lock on its mark while it lives, so a mark whose lock is free is a lost attempt. An
attempt that the harness started leaves its finished line in the mark, and the command that started it files that line
together with what its own clock saw; should the command be killed, the next start files the line as it is.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field, FiniteFloat, NonNegativeInt, ValidationError

from bench.hardware import Hardware, Software
from bench.lines import Lines, Section, replace_file

SCHEMA = 1
YARDSTICK, AUDIT = "yardstick", "audit"  # commands of batches that test a machine, and a trainer
MATRIX, TUNE = "matrix", "tune"  # and of those that look for settings
SWEEPS = (MATRIX, TUNE)

Outcome = Literal["solved", "missed", "diverged", "timeout", "interrupted", "error", "lost", "pruned"]
NonNegativeSeconds = Annotated[FiniteFloat, Field(ge=0)] | None


class Batch(Section):
    """The command that started this attempt together with others."""

    id: str
    command: str
    planned: int = Field(ge=1)  # attempts, of each side; fixed before the first one
    index: int = Field(ge=0)
    side: Literal["a", "b"] | None = None  # of a comparison; the attempts of one index are a pair


class Seconds(Section):
    """The clock's phases; null for a phase that the attempt did not reach."""

    import_: NonNegativeSeconds = Field(alias="import")
    setup: NonNegativeSeconds
    warmup: NonNegativeSeconds
    train: NonNegativeSeconds
    certify: NonNegativeSeconds
    total: NonNegativeSeconds


class Check(Section):
    """One sparse evaluation: its errors are of training problems, and so is all that can end training."""

    step: int
    train_seconds: FiniteFloat
    loss: FiniteFloat | None  # nats a character; null when it is not finite
    errors: int | None
    asked: int | None = None  # problems; a survey asks more than a check, and with it those it climbed to


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
    reasons: list[str]  # why it is not clean
    others_before: FiniteFloat | None = None  # share of the cores that other processes took before the start, 0..1
    others_train: FiniteFloat | None = None  # and during `train`


class Run(Section):
    """One line of the journal. Units stand in the key; what is not known is null."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str
    batch: Batch | None
    engine: Literal["ray"] | None = None  # that carried it to another process or machine; null for one started here
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
    threads: int | None  # of each process
    processes: int = 1  # that trained together
    seconds: Seconds
    outer_seconds: Seconds | None = None  # by the clock of the command that started it; null when none did
    clock_resolution_seconds: FiniteFloat | None  # of the process's start
    display_seconds: FiniteFloat | None  # processor time that the display took during `train`
    steps: int | None
    examples: int | None
    parameters: int | None
    train_flops: FiniteFloat | None  # of the matrix products of all optimizer steps
    matmul_flops_per_second: FiniteFloat | None = None  # the machine's measured peak, in the same precision
    step_launches: int | None = None  # operations that a step gives to torch; null where they are not counted
    launch_seconds: FiniteFloat | None = None  # of one such operation on a single number, measured
    checks: list[Check]
    reached: dict[str, FiniteFloat | None]  # target -> train seconds
    certificate: Certificate | None
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    energy_joules: FiniteFloat | None  # during `train`
    energy_method: str | None = None  # whose counter it is
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
    initial_weights_sha256: str | None = None  # of the tensors as training began from them, before the warm-up
    warmed_weights_sha256: str | None = None  # and after it; the same when the warm-up trained nothing
    search: dict[str, Any] | None
    started_at: datetime

    def line(self) -> str:
        return self.model_dump_json()

    @property
    def is_contest(self) -> bool:
        """Whether it was made for its own sake, not to test a trainer or a machine, nor to look for settings."""
        command = None if self.batch is None else self.batch.command
        return command not in (YARDSTICK, AUDIT, *SWEEPS) and self.settings.get("control", "none") == "none"


def new_id(config: str) -> str:
    """The name of a run or a batch; sorts by time and is unique: `20260131-235959-add3-cpu-1a2b3c`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config}-{uuid.uuid4().hex[:6]}"


# -----------------------------------------------------------------------------
# the file


class Journal(Lines[Run]):
    """The runs under one results folder."""

    def __init__(self, results: Path) -> None:
        super().__init__(results / "runs.jsonl", Run)
        self.results = results
        self.marks = results / "started"

    # -------------------------------------------------------------------------
    # start marks

    @contextmanager
    def attempt(self, lost: Run) -> Iterator["Mark"]:
        """Stand a start mark while the attempt lives; `lost` is the line for when it does not come back."""
        mark = Mark(self, self.marks / f"{lost.run_id}.json")
        with mark.alive:
            mark.leave(lost)
            yield mark
        mark.forget_lock()

    @contextmanager
    def supervise(self, batch_id: str) -> Iterator[None]:
        """Keep the marks of one batch's attempts from being recovered by others: its command will collect them.

        Raises:
            filelock.Timeout: another process supervises this batch.
        """
        lock = self.supervisor(batch_id)
        with lock.acquire(timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):
                    Path(lock.lock_file).unlink(missing_ok=True)

    def supervisor(self, batch_id: str) -> FileLock:
        self.marks.mkdir(parents=True, exist_ok=True)
        return FileLock(self.marks / f"{batch_id}.lock", is_singleton=True)

    def collect(self, batch: Batch, finish: Callable[[Run], Run]) -> Run | None:
        """File what one attempt of a batch has left in its mark, after `finish` has added to it.

        Waits for an attempt that is still alive. None when there is no such mark.
        """
        for path in sorted(self.marks.glob("*.json")):
            with suppress(ValidationError, FileNotFoundError):
                left = Run.model_validate_json(path.read_bytes())
                if left.batch == batch:
                    mark = Mark(self, path)
                    with mark.alive:
                        run = finish(Run.model_validate_json(path.read_bytes()))
                        mark.file(run)
                    mark.forget_lock()
                    return run
        return None

    def collect_left(self, command: str) -> None:
        """File what a command's attempts have left whose supervisor is gone; waits for those that are still alive."""
        for path in sorted(self.marks.glob("*.json")):
            with suppress(ValidationError, FileNotFoundError):  # a foreign file, or somebody has collected it
                batch = Run.model_validate_json(path.read_bytes()).batch
                if batch is not None and batch.command == command:
                    with suppress(Timeout), self.supervise(batch.id):
                        self.collect(batch, lambda left: left)

    def recover(self) -> list[Run]:
        """File the line in every mark whose attempt is dead and whose batch has nobody to collect it."""
        filed = []
        for path in sorted(self.marks.glob("*.json")):
            with suppress(ValidationError, FileNotFoundError):  # a foreign file, or its attempt has just ended
                run = Run.model_validate_json(path.read_bytes())
                mark = Mark(self, path)
                locks = [mark.alive] if run.batch is None else [self.supervisor(run.batch.id), mark.alive]
                with suppress(Timeout), all_of(locks):
                    run = Run.model_validate_json(path.read_bytes())
                    if mark.file(run):
                        filed.append(run)
                    mark.forget_lock()
        for draft in self.marks.glob(".*.json.*"):  # of an attempt that never began
            with suppress(OSError):
                draft.unlink()
        return filed


class Mark:
    """The line that stands for an attempt until the journal has it; `alive` is held while it may still change."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self.journal, self.path = journal, path
        journal.marks.mkdir(parents=True, exist_ok=True)
        self.alive = FileLock(self.path.with_suffix(".lock"))

    def leave(self, run: Run) -> None:
        """Put this line into the mark, for whoever finds it."""
        replace_file(self.path, Run.model_validate(run.model_dump()).model_dump_json() + "\n")

    def file(self, run: Run) -> bool:
        """Move the line into the journal, unless it is there already: then False."""
        with self.journal.lock():
            is_new = all(known.run_id != run.run_id for known in self.journal.read()[0])
            if is_new:
                self.journal.append(run)
            self.path.unlink(missing_ok=True)
        return is_new

    def forget_lock(self) -> None:
        with suppress(OSError):
            Path(self.alive.lock_file).unlink(missing_ok=True)


@contextmanager
def all_of(locks: list[FileLock]) -> Iterator[None]:
    """Hold all locks, or raise filelock.Timeout at once."""
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock.acquire(timeout=0))
        yield
