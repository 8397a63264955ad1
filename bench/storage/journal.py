"""The journal: `runs.jsonl`, one line for each attempt whatever its outcome, appended and never rewritten.

Before an attempt starts, it writes a start mark: a file with the line to be filed if its process dies. The attempt
holds a lock on its mark while it runs, so a mark whose lock is free belongs to a dead attempt. An attempt of a batch
leaves its finished line in the mark; the command that started the batch adds the times of the outer clock and files
it. If that command was killed, the next command files the line as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bench.storage.jsonl import JsonLines, replace_file
from bench.storage.schema import Batch, Run


class Journal(JsonLines[Run]):
    """The journal of one results folder."""

    def __init__(self, results: Path) -> None:
        super().__init__(results / "runs.jsonl", Run)
        self.results, self.marks = results, results / "started"

    @contextmanager
    def attempt(self, lost_run: Run) -> Iterator["StartMark"]:
        """Hold a start mark for the `with` block; `lost_run` is the line to file if the process dies."""
        mark = StartMark(self, self.marks / f"{lost_run.run_id}.json")
        with mark.lock:
            mark.write(lost_run)
            yield mark
        remove_lock_file(mark.lock)

    @contextmanager
    def supervise(self, batch_id: str) -> Iterator[None]:
        """Hold the lock of a batch, so that no other command recovers its attempts; raises Timeout if one holds it."""
        lock = self.batch_lock(batch_id)
        with lock.acquire(timeout=0):
            try:
                yield
            finally:
                remove_lock_file(lock)

    def batch_lock(self, batch_id: str) -> FileLock:
        """The lock held by the command that runs a batch."""
        self.marks.mkdir(parents=True, exist_ok=True)
        return FileLock(self.marks / f"{batch_id}.lock", is_singleton=True)

    def collect(self, batch: Batch, finish: Callable[[Run], Run]) -> Run | None:
        """Wait for one attempt of a batch to end and file its line, completed by `finish`; None without such a mark."""
        for mark, run in self.read_marks():
            if run.batch == batch:
                with mark.lock:
                    run_at_end = mark.read()
                    if run_at_end is None:  # another process filed it meanwhile
                        continue
                    finished = finish(run_at_end)
                    mark.file(finished)
                remove_lock_file(mark.lock)
                return finished
        return None

    def collect_orphans(self, command: str) -> None:
        """File the attempts of all batches of a command that are not supervised; waits for those still running."""
        for _, run in self.read_marks():
            batch = run.batch_of(command)
            if batch is not None:
                with suppress(Timeout), self.supervise(batch.id):
                    self.collect(batch, lambda run: run)

    def recover(self) -> list[Run]:
        """File the line of every mark whose attempt is dead and whose batch is not supervised; returns these runs."""
        recovered = []
        for mark, run in self.read_marks():
            with suppress(Timeout), ExitStack() as locks:
                if run.batch is not None:
                    locks.enter_context(self.batch_lock(run.batch.id).acquire(timeout=0))
                locks.enter_context(mark.lock.acquire(timeout=0))
                run_at_end = mark.read()
                if run_at_end is not None and mark.file(run_at_end):
                    recovered.append(run_at_end)
                remove_lock_file(mark.lock)
        for draft in self.marks.glob(".*.json.*"):  # of an attempt that was killed while it wrote its mark
            with suppress(OSError):
                draft.unlink()
        return recovered

    def read_marks(self) -> Iterator[tuple["StartMark", Run]]:
        """All start marks, each with its line; other files are skipped."""
        for path in sorted(self.marks.glob("*.json")):
            mark = StartMark(self, path)
            if (run := mark.read()) is not None:
                yield mark, run


class StartMark:
    """The file that represents a running attempt; `lock` is held as long as its line may change."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self.journal, self.path = journal, path
        journal.marks.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.path.with_suffix(".lock"))

    def write(self, run: Run) -> None:
        """Replace the line in the mark."""
        replace_file(self.path, Run.model_validate(run.model_dump()).model_dump_json() + "\n")

    def read(self) -> Run | None:
        """The line in the mark; None if the mark is gone, or the file is not a mark."""
        with suppress(ValidationError, FileNotFoundError):
            return Run.model_validate_json(self.path.read_bytes())
        return None

    def file(self, run: Run) -> bool:
        """Append the line to the journal and remove the mark; False if the journal has the run already."""
        with self.journal.lock():
            is_new = all(filed.run_id != run.run_id for filed in self.journal.read()[0])
            if is_new:
                self.journal.append(run)
            self.path.unlink(missing_ok=True)
        return is_new


def remove_lock_file(lock: FileLock) -> None:
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
