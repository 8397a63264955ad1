"""JSON Lines files: appended under a lock and fsynced, never rewritten; and atomic replacement of other files."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from filelock import FileLock
from pydantic import ValidationError

from bench.storage.schema import SchemaModel

LineT = TypeVar("LineT", bound=SchemaModel)


class JsonLines(Generic[LineT]):
    """One JSON Lines file of lines of one type; it and its folder are created with the first line."""

    def __init__(self, path: Path, model: type[LineT]) -> None:
        self.path, self.model = path, model

    def lock(self) -> FileLock:
        """The lock for writing; reentrant."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{self.path}.lock", is_singleton=True)

    def append(self, line: LineT) -> None:
        """Append one line and fsync it; an OSError may leave an incomplete line, which readers skip."""
        text = self.model.model_validate(line.model_dump()).model_dump_json()
        with self.lock():
            is_new = not self.path.exists()
            with open(self.path, "ab+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a process was killed while writing
                        text = "\n" + text
                write_durably(file, text.encode() + b"\n")
            if is_new:
                fsync_folder(self.path.parent)

    def read(self) -> tuple[list[LineT], list[str]]:
        """All lines in file order, and a message about each invalid line."""
        lines: list[LineT] = []
        faults: list[str] = []
        content = self.path.read_bytes() if self.path.exists() else b""
        for number, text in enumerate(content.split(b"\n"), start=1):
            try:
                if text.strip():
                    lines.append(self.model.model_validate_json(text))
            except ValidationError as problem:
                faults.append(f"{self.path.name}:{number}: skipped, {describe_invalid(problem)}")
        return lines, faults


def describe_invalid(problem: ValidationError) -> str:
    """The first invalid key and the reason, in one line."""
    first = problem.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}" if key else first["msg"]


def print_faults(faults: Iterable[str]) -> None:
    """Print the messages about skipped lines on standard error."""
    for fault in faults:
        print(fault, file=sys.stderr)


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically and fsync it: a reader finds the old or the new content, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "wb") as file:
        write_durably(file, content.encode() if isinstance(content, str) else content)
    os.replace(draft, path)
    fsync_folder(path.parent)


def write_durably(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Make a new file name in `folder` durable; no effect where the system cannot."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
