"""JSON Lines files: appended under a lock and fsynced, never rewritten; and atomic replacement of other files."""

import errno
import mmap
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bench.storage.schema import SchemaModel
from bench.streams import print_error

Content = bytes | mmap.mmap
LineT = TypeVar("LineT", bound=SchemaModel)

# What a file system without locks answers, for example one mounted by NFS with `nolock`.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def file_lock(path: Path | str, is_singleton: bool = False) -> FileLock:
    """An advisory lock; hold it with `hold`. On a file system without locks its file does not become the lock."""
    return FileLock(path, is_singleton=is_singleton, fallback_to_soft=False)


@contextmanager
def hold(lock: FileLock, timeout: float = -1.0) -> Iterator[None]:
    """Hold a lock for the `with` block; without effect on a file system that has no locks.

    So a lock only prevents what is wasteful or confusing: no line is lost or damaged without one. Raises Timeout after
    `timeout` seconds; a negative number waits for ever.
    """
    try:
        lock.acquire(timeout=timeout)
    except OSError as problem:
        if problem.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


class JsonLines(Generic[LineT]):
    """One JSON Lines file of lines of one type; it and its folder are created with the first line."""

    def __init__(self, path: Path, model: type[LineT]) -> None:
        self.path, self.model = path, model

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock for writing; reentrant."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return hold(file_lock(f"{self.path}.lock", is_singleton=True))

    def check_writable(self) -> None:
        """Raise OSError if no line could be appended, for example because another user owns the file or its lock."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout), hold(file_lock(f"{self.path}.lock", is_singleton=True), timeout=0):
            if self.path.exists():
                open(self.path, "ab").close()

    def append(self, line: LineT) -> None:
        """Append one line and fsync it; an OSError may leave an incomplete line, which readers skip.

        The line is written by one call, so that lines stay whole even where another process writes without the lock.
        """
        text = self.model.model_validate(line.model_dump()).model_dump_json()
        with self.lock():
            append_durably(self.path, text.encode() + b"\n")

    def content(self) -> Content:
        """The file, mapped into memory rather than copied: the prompt waits for searches in megabytes."""
        if not self.path.exists() or not self.path.stat().st_size:  # an empty file cannot be mapped
            return b""
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, *patterns: re.Pattern[bytes] | bytes) -> tuple[list[LineT], list[str]]:
        """The lines in which all patterns are found, in file order, and a message about each one that is invalid.

        A pattern that is not a regular expression stands for itself; as the first one it is found several times faster.
        """
        lines, faults = self.read_by_start(*patterns)
        return list(lines.values()), list(faults.values())

    def parser(self) -> Callable[[bytes], LineT]:
        """A function that parses one line; requested anew for each reading of the file."""
        return self.model.model_validate_json

    def read_by_start(self, *patterns: re.Pattern[bytes] | bytes) -> tuple[dict[int, LineT], dict[int, str]]:
        """As `read`, by the position of the line's first byte."""
        lines: dict[int, LineT] = {}
        faults: dict[int, str] = {}
        content, parse = self.content(), self.parser()
        for start, text in matching_lines(content, patterns):
            try:
                if text.strip():
                    lines[start] = parse(text)
            except ValidationError as problem:
                number = line_number(content, start)
                faults[start] = f"{self.path.name}:{number}: skipped, {describe_invalid(problem)}"
        return lines, faults


def line_number(content: Content, start: int) -> int:
    """The number, from 1, of the line that starts at a byte; counted on use, as most readers name no line."""
    return content[:start].count(b"\n") + 1


def matching_lines(content: Content, patterns: Sequence[re.Pattern[bytes] | bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines in which all patterns are found, each with its start; fast if the first pattern is rare."""
    if not patterns:
        start = 0
        for text in bytes(content).split(b"\n"):
            yield start, text
            start += len(text) + 1
        return
    end = -1
    for place in places(content, patterns[0]):
        if place < end:
            continue  # another match in the same line
        start, end = content.rfind(b"\n", 0, place) + 1, content.find(b"\n", place)
        end = len(content) if end < 0 else end
        text = content[start:end]
        if all(next(places(text, pattern), None) is not None for pattern in patterns[1:]):
            yield start, text


def places(content: Content, pattern: re.Pattern[bytes] | bytes) -> Iterator[int]:
    """The starts of a pattern's matches."""
    if isinstance(pattern, re.Pattern):
        yield from (match.start() for match in pattern.finditer(content))
        return
    place = content.find(pattern)
    while place >= 0:
        yield place
        place = content.find(pattern, place + 1)


def describe_invalid(problem: ValidationError) -> str:
    """The first invalid key and the reason, in one line."""
    first = problem.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}" if key else first["msg"]


def print_faults(faults: Iterable[str]) -> None:
    """Print the messages about skipped lines on standard error."""
    for fault in faults:
        print_error(fault)


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically and fsync it: a reader finds the old or the new content, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")  # process ids repeat on other machines
    with open(draft, "wb") as file:
        write_durably(file, content.encode() if isinstance(content, str) else content)
    os.replace(draft, path)
    fsync_folder(path.parent)


def append_durably(path: Path, lines: bytes) -> None:
    """Append whole lines to a file and fsync it; the file is created with the first line."""
    is_new = not path.exists()
    with open(path, "ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a process was killed while writing
                lines = b"\n" + lines
        write_durably(file, lines)
    if is_new:
        fsync_folder(path.parent)


def write_durably(file: BinaryIO, content: bytes) -> None:
    while content:  # an unbuffered file on a full disk writes a part and fails at the next call
        content = content[file.write(content) :]
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
