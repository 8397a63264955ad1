"""The journal: `runs.jsonl`, one line an attempt whatever its outcome, appended and never rewritten.

Before an attempt a start mark is written, which is the line that will stand in the journal if the attempt never
comes back. The attempt holds a lock on its mark while it lives, so a mark whose lock is free is a lost attempt. An
attempt that the harness started leaves its finished line in the mark, and the command that started it files that line
together with what its own clock saw; should the command be killed, the next start files the line as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bench.storage.jsonl import JsonLines, replace_file
from bench.storage.schema import Batch, Run

# -----------------------------------------------------------------------------
# the file


class Journal(JsonLines[Run]):
    """The runs under one results folder."""

    def __init__(self, results: Path) -> None:
        super().__init__(results / "runs.jsonl", Run)
        self.results = results
        self.marks = results / "started"

    # -------------------------------------------------------------------------
    # start marks

    @contextmanager
    def attempt(self, lost: Run) -> Iterator["StartMark"]:
        """Stand a start mark while the attempt lives; `lost` is the line for when it does not come back."""
        mark = StartMark(self, self.marks / f"{lost.run_id}.json")
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
                    mark = StartMark(self, path)
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
                mark = StartMark(self, path)
                locks = [mark.alive] if run.batch is None else [self.supervisor(run.batch.id), mark.alive]
                with suppress(Timeout), hold_all(locks):
                    run = Run.model_validate_json(path.read_bytes())
                    if mark.file(run):
                        filed.append(run)
                    mark.forget_lock()
        for draft in self.marks.glob(".*.json.*"):  # of an attempt that never began
            with suppress(OSError):
                draft.unlink()
        return filed


class StartMark:
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
def hold_all(locks: list[FileLock]) -> Iterator[None]:
    """Hold all locks, or raise filelock.Timeout at once."""
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock.acquire(timeout=0))
        yield
