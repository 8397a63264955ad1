"""The log of a search: Optuna's journal in a file, a JSON object a line, that several processes append to.

It reads like `optuna.storages.journal.JournalFileBackend` with two differences. Damaged lines are skipped and named,
where Optuna's backend would refuse the whole file. The operating system releases the lock when its process dies, while
a stale lock of Optuna's backend costs 30 seconds.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

from bench.cli import print_progress
from bench.storage.jsonl import append_durably, file_lock, hold

SILENT_SECONDS = 1.0  # of waiting for a lock, before a line says what is waited for


@contextlib.contextmanager
def held(lock: filelock.FileLock) -> Iterator[None]:
    """Hold a lock; a process that has to wait for it says so."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(lock, SILENT_SECONDS))
        except filelock.Timeout:
            print_progress(f"waiting for another process, which holds {lock.lock_file}")
            stack.enter_context(hold(lock))
        yield


class SearchLog:
    """A backend of `optuna.storages.JournalStorage`; the number of a log is its place among the valid lines."""

    def __init__(self, path: Path) -> None:
        """Creates the file, or prints a line on standard error about each line that is skipped."""
        self.path = path
        self.lock = file_lock(path.with_name(f"{path.name}-append.lock"))  # Optuna's own lock was PATH.lock
        self.offsets = [0]  # of each valid line that has been read, bytes, and of the line after the last one
        with held(self.lock):  # nobody is writing: a line without its end is damaged
            path.touch()
            lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if line.strip() and parse_log(line) is None:
                print_progress(f"{path}:{number}: skipped, because the line is damaged; the other lines count")

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """All logs from a number on."""
        start = min(log_number_from, len(self.offsets) - 1)
        with open(self.path, "rb") as file:
            file.seek(self.offsets[start])
            number = start
            for line in file:
                if not line.endswith(b"\n"):  # another process is still writing it
                    return
                log = parse_log(line)
                if log is None:
                    continue
                number += 1
                if number == len(self.offsets):
                    self.offsets.append(file.tell())
                if number > log_number_from:
                    yield log

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with held(self.lock):
            append_durably(self.path, text.encode())


def parse_log(line: bytes) -> dict[str, Any] | None:
    """One log of Optuna's; None for a damaged line."""
    try:
        log = json.loads(line)
    except ValueError:
        return None
    return log if isinstance(log, dict) and "op_code" in log else None
