"""Files of JSON lines: appended under a lock, forced to the disk, never rewritten."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock
from pydantic import ValidationError

from bench.storage.schema import SchemaModel

LineT = TypeVar("LineT", bound=SchemaModel)


class JsonLines(Generic[LineT]):
    """One file of lines that all have one shape.

    Args:
        path: the file; it and its folder are made when the first line is written.
        model: the shape of a line.
    """

    def __init__(self, path: Path, model: type[LineT]) -> None:
        self.path = path
        self.model = model

    def lock(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{self.path}.lock", is_singleton=True)  # may be taken again inside itself

    def append(self, line: LineT) -> None:
        """Add one line and force it to the disk.

        Raises:
            ValidationError: the line was put together wrongly.
            OSError: it could not be written whole; a torn line stays behind and readers pass over it.
        """
        text = self.model.model_validate(line.model_dump()).model_dump_json()
        with self.lock():
            is_new = not self.path.exists()
            with open(self.path, "ab+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # somebody was killed while writing
                        text = "\n" + text
                file.write(text.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                fsync_folder(self.path.parent)

    def read(self) -> tuple[list[LineT], list[str]]:
        """All lines in file order, and a sentence about each that is none."""
        lines, faults = [], []
        if not self.path.exists():
            return lines, faults
        with open(self.path, "rb") as file:
            for number, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    lines.append(self.model.model_validate_json(text))
                except ValidationError as problem:
                    first = problem.errors()[0]
                    where = ".".join(str(part) for part in first["loc"])
                    faults.append(f"{self.path.name}:{number}: skipped, {where and where + ': '}{first['msg']}")
        return lines, faults


def print_faults(faults: Iterable[str]) -> None:
    """Say on standard error which lines were passed over."""
    for fault in faults:
        print(fault, file=sys.stderr)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file whole and force it to the disk: a reader finds the old one or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
