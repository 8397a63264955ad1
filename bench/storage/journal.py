"""The journal: `runs.jsonl`, one line for each attempt whatever its outcome, appended and never rewritten.

Before an attempt starts, its judge writes a start mark: a file with the line to be filed if the judge's process dies.
Another command files that line once that process has provably ended; see `StartMark.final_line`. A single attempt is
its own judge. An attempt of a batch that no other process can judge leaves its finished line in the mark; the command
that started the batch completes the line and files it. If that command was killed, the next command files the line as
it is.

Whatever others have concluded, the line of a finished attempt is filed. So two lines of one run are possible; readers
take the one with more evidence.
"""

import json
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bench.cli import print_progress
from bench.clock import MAX_WARMUP_SECONDS
from bench.process_identity import ProcessIdentity, current_process, has_ended
from bench.storage.disputes import RunStatus
from bench.storage.jsonl import JsonLines, file_lock, hold, line_number, places, replace_file
from bench.storage.schema import Batch, Run, SchemaModel

GRACE_SECONDS = 600.0  # beyond its limit, before an attempt that cannot be checked is taken for dead
UNKNOWN_LIMIT_SECONDS = 86_400.0  # of an attempt whose settings have no limit
DRAFT_SECONDS = 600.0  # a draft this old is left over from a killed process
POLL_SECONDS = 0.5
RESERVED_BYTES = 2**16  # for a finished line, of a few kilobytes, and the draft of a mark
ASSUMED_LOST = "nothing was filed until ten minutes after its limit; its process could not be checked"


class Journal(JsonLines[Run]):
    """The journal of one results folder."""

    def __init__(self, results: Path) -> None:
        super().__init__(results / "runs.jsonl", Run)
        self.results, self.marks = results, results / "started"

    def parser(self) -> Callable[[bytes], Run]:
        """A function that parses one line, and says whether the run is disputed, and whether its line is old."""
        status, parse = RunStatus(self.results), super().parser()
        return lambda text: status.apply(parse(text), text)

    def read_by_start(self, *patterns: re.Pattern[bytes] | bytes) -> tuple[dict[int, Run], dict[int, str]]:
        """One line for each run; a message about each line that is invalid or passed over."""
        lines, faults = super().read_by_start(*patterns)
        taken: dict[str, int] = {}  # run id -> start of the line
        for start, run in lines.items():
            other = taken.setdefault(run.run_id, start)
            if evidence(run) > evidence(lines[other]):
                taken[run.run_id] = start
        for start, run in lines.items():
            if (other := taken[run.run_id]) != start:
                number, kept = (line_number(self.content(), each) for each in (start, other))
                faults[start] = f"{self.path.name}:{number}: passed over for line {kept}, which is of the same run"
        return {start: lines[start] for start in sorted(taken.values())}, dict(sorted(faults.items()))

    def count_singles(self, track: str) -> int:
        """The number of lines about single attempts of a track, without parsing them."""
        single = re.compile(rb'"batch":\s*null.*?"track":\s*%b,\s*"config"' % quoted(track))
        content = self.content()
        ends = [*places(content, b"\n"), len(content)]
        starts = [0, *(end + 1 for end in ends[:-1])]
        # the key stands near the start of each line, where it is found faster than in the whole file
        keys = (content.find(b'"batch"', start, end) for start, end in zip(starts, ends, strict=True))
        return sum(1 for key in keys if key >= 0 and single.match(content, key))

    def read_batches(self, commands: Collection[str]) -> list[Run]:
        """The runs in batches of these commands; other lines are not parsed."""
        return self.read(batch_pattern(commands))[0]

    def read_category(self, track: str, machine_class: str | None, commands: Collection[str]) -> list[Run]:
        """The runs of a track and machine class in batches of these commands; other lines are not parsed."""
        on_track = re.compile(rb'"track":\s*%b,\s*"config"' % quoted(track))
        return self.read(*on_class(machine_class), on_track, batch_pattern(commands))[0]

    def read_machine_classes(self, machine_classes: Iterable[str | None]) -> list[Run]:
        """The runs on these machine classes; other lines are not parsed."""
        return self.read(re.compile(rb'"class":\s*(?:%b)' % b"|".join(map(quoted, machine_classes))))[0]

    @contextmanager
    def attempt(self, lost_run: Run) -> Iterator["StartMark"]:
        """Hold a start mark for the `with` block; `lost_run` is the line to file if the process dies.

        Raises OSError, before the block, if no line could be appended to the journal.
        """
        self.check_writable()
        mark = StartMark(self, self.marks / f"{lost_run.run_id}.json")
        with hold(mark.lock):
            mark.write(lost_run)
            mark.reserve()
            try:
                yield mark
            finally:
                mark.release()
        remove_lock_file(mark.lock)

    @contextmanager
    def supervise(self, batch_id: str) -> Iterator[None]:
        """Hold the lock of a batch, so that no other command recovers its attempts; raises Timeout if one holds it."""
        lock = self.batch_lock(batch_id)
        with hold(lock, timeout=0):
            try:
                yield
            finally:
                remove_lock_file(lock)

    def batch_lock(self, batch_id: str) -> FileLock:
        """The lock held by the command that runs a batch."""
        self.marks.mkdir(parents=True, exist_ok=True)
        return file_lock(self.marks / f"{batch_id}.lock", is_singleton=True)

    def collect(self, batch: Batch, finish: Callable[[Run], Run], ended: bool = False) -> Run | None:
        """Wait for one attempt of a batch to end and file its line, completed by `finish`; None without such a mark.

        Args:
            ended: the caller has seen the process of the attempt end.
        """
        for mark, run in self.read_marks():
            if run.batch == batch and (run_at_end := mark.wait_and_file(finish, ended)) is not None:
                return run_at_end
        # Another command may have filed the line as it was, where locks have no effect.
        filed = next((run for run in self.read()[0] if run.batch == batch), None) if ended else None
        if filed is None:
            return None
        finished = finish(filed)
        if evidence(finished) <= evidence(filed):
            return filed
        self.append(finished)
        return finished

    def collect_orphans(self, command: str) -> None:
        """File the attempts of all batches of a command that are not supervised; waits for those still running."""
        for _, run in self.read_marks():
            batch = run.batch_of(command)
            if batch is not None:
                with suppress(Timeout), self.supervise(batch.id):
                    self.collect(batch, lambda run: run)

    def recover(self) -> list[Run]:
        """File the line of every mark whose attempt has ended and whose batch is not supervised; returns these runs."""
        recovered = []
        for mark, run in self.read_marks():
            with suppress(Timeout, PermissionError), ExitStack() as locks:  # another user's lock cannot be checked
                if run.batch is not None:
                    locks.enter_context(hold(self.batch_lock(run.batch.id), timeout=0))
                locks.enter_context(hold(mark.lock, timeout=0))
                content = mark.read_content()
                if content is not None:
                    final_line = mark.final_line(content)
                    if final_line is None:
                        continue
                    if mark.file(final_line):
                        recovered.append(final_line)
                remove_lock_file(mark.lock)
        for reserved in self.marks.glob("*.reserved"):
            if not reserved.with_suffix(".json").exists():
                with suppress(OSError):
                    reserved.unlink()
        for draft in self.marks.glob(".*.json.*"):  # of an attempt that was killed while it wrote its mark
            with suppress(OSError):
                if seconds_since_change(draft) > DRAFT_SECONDS:
                    draft.unlink()
        return recovered

    def read_marks(self) -> Iterator[tuple["StartMark", Run]]:
        """All start marks, each with its line; other files are skipped."""
        for path in sorted(self.marks.glob("*.json")):
            mark = StartMark(self, path)
            if (run := mark.read()) is not None:
                yield mark, run


def evidence(run: Run) -> tuple[bool, bool]:
    """The order of two lines of one run: what the attempt filed beats `lost`, and a completed line one that is not."""
    return run.outcome != "lost", run.outer_seconds is not None or run.judge == "harness"


# -----------------------------------------------------------------------------
# start marks


class MarkContent(SchemaModel):
    """What a start mark holds."""

    run: Run  # the line to file if the attempt ends without another word
    process: ProcessIdentity | None  # of the attempt; null if unknown


class StartMark:
    """The file that represents a running attempt; `lock` is held as long as its line may change."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self.journal, self.path = journal, path
        journal.marks.mkdir(parents=True, exist_ok=True)
        self.lock = file_lock(self.path.parent / f"{self.path.stem}.lock")
        self.reserved = self.path.parent / f"{self.path.stem}.reserved"

    def write(self, run: Run) -> None:
        """Replace the line in the mark, and name this process as that of the attempt."""
        content = MarkContent(run=Run.model_validate(run.model_dump()), process=current_process())
        replace_file(self.path, content.model_dump_json() + "\n")

    def read(self) -> Run | None:
        """The line in the mark; None if the mark is gone, or the file is not a mark."""
        content = self.read_content()
        return None if content is None else content.run

    def read_content(self) -> MarkContent | None:
        """The content of the mark; None if the mark is gone, or the file is not a mark.

        The harness in the snapshot of an older record writes the line alone.
        """
        with suppress(FileNotFoundError, PermissionError):
            text = self.path.read_bytes()
            with suppress(ValidationError):
                return MarkContent.model_validate_json(text)
            with suppress(ValidationError):
                return MarkContent(run=Run.model_validate_json(text), process=None)
        return None

    def final_line(self, content: MarkContent) -> Run | None:
        """The line to file if the attempt has ended: it left its finished line, or its process provably ended.

        The caller holds the lock, which alone proves nothing: on some file systems every lock is free. A process of
        another boot, container or machine cannot be checked. It is taken for dead when the mark has not changed for
        the limit of the attempt and GRACE_SECONDS more.
        """
        run = content.run
        if run.outcome != "lost":
            return run
        ended = None if content.process is None else has_ended(content.process)
        if ended is None and self.seconds_left(run) < 0:
            return run.model_copy(update={"message": ASSUMED_LOST})
        return run if ended else None

    def seconds_left(self, run: Run) -> float:
        """Seconds until the attempt is taken for dead if it cannot be checked."""
        try:
            return patience_seconds(run) - seconds_since_change(self.path)
        except FileNotFoundError:
            return 0.0

    def wait_and_file(self, finish: Callable[[Run], Run], ended: bool) -> Run | None:
        """Wait for the attempt to end, and file its line, completed by `finish`; None if another process filed it."""
        is_announced = False
        while True:
            with hold(self.lock):
                content = self.read_content()
                if content is None:
                    return None
                run = content.run if ended else self.final_line(content)
                if run is not None:
                    finished = finish(run)
                    self.file(finished)
                    break
            if not is_announced:
                minutes = max(1, math.ceil(self.seconds_left(content.run) / 60))
                print_progress(
                    f"waiting for the attempt {content.run.run_id}; if it was started on another machine or before a "
                    f"restart, it counts as lost in {minutes} minute{'s' if minutes > 1 else ''}"
                    if content.process is None or has_ended(content.process) is None
                    else f"waiting for the attempt {content.run.run_id}, which is still running"
                )
                is_announced = True
            time.sleep(POLL_SECONDS)
        remove_lock_file(self.lock)
        return finished

    def reserve(self) -> None:
        """Occupy room on the disk for the finished line, in case the disk fills during the attempt."""
        self.reserved.write_bytes(bytes(RESERVED_BYTES))

    def release(self) -> None:
        with suppress(OSError):
            self.reserved.unlink(missing_ok=True)

    def finish(self, run: Run) -> None:
        """Replace the line in the mark by the finished one, in the reserved room if the disk is full."""
        try:
            self.write(run)
        except OSError:
            self.release()
            self.write(run)

    def file(self, run: Run) -> bool:
        """Append the line to the journal and remove the mark; False if the journal has a line at least as good.

        If the disk is full, the line takes the reserved room; if even that fails, it stays in the mark, from which the
        next command files it.
        """
        try:
            return self.append(run)
        except OSError:
            self.release()
        try:
            return self.append(run)
        except OSError:
            self.write(run)
            raise

    def append(self, run: Run) -> bool:
        with self.journal.lock():
            filed, _ = self.journal.read(re.compile(re.escape(run.run_id.encode())))
            is_new = all(evidence(line) < evidence(run) for line in filed if line.run_id == run.run_id)
            if is_new:
                self.journal.append(run)
            self.path.unlink(missing_ok=True)
        return is_new


def patience_seconds(run: Run) -> float:
    """Seconds after which an attempt is taken for dead if its process cannot be checked."""
    return float(run.settings.get("max_seconds") or UNKNOWN_LIMIT_SECONDS) + MAX_WARMUP_SECONDS + GRACE_SECONDS


def batch_pattern(commands: Collection[str]) -> re.Pattern[bytes]:
    """Matches lines about attempts in batches of these commands."""
    return re.compile(rb'"batch":\s*\{[^}]*"command":\s*(?:%b)' % b"|".join(map(quoted, commands)))


def on_class(machine_class: str | None) -> tuple[bytes, re.Pattern[bytes]]:
    """Patterns of lines about attempts on a machine class."""
    return as_json(machine_class), re.compile(rb'"class":\s*%b' % quoted(machine_class))


def quoted(value: str | None) -> bytes:
    """A value as JSON, in a regular expression."""
    return re.escape(as_json(value))


def as_json(value: str | None) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def seconds_since_change(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def remove_lock_file(lock: FileLock) -> None:
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
