"""The file of a text: settings and journal know it by its hash. Imports neither torch nor NumPy."""

import functools
import hashlib
import os
import re
from pathlib import Path

from bench.processes import TEXT_VARIABLE

HASH = re.compile(r"sha256:[0-9a-f]{64}")
EXAMPLE_BYTES, EXAMPLE_LENGTH = 4096, 24  # bytes searched, characters
FILES: dict[str, Path] = {}  # the files that this process has read, by hash


def text_hash(content: bytes) -> str:
    """Return `sha256:` and the hash, by which the journal names a file."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def find_file(file: str) -> str:
    """Return the hash of the file that a setting names, by its path or by its hash; empty without a file.

    Raises ValueError if there is no such file, or it is not UTF-8 or empty.
    """
    if not file or HASH.fullmatch(file):
        return file
    path = Path(file).expanduser()
    digest = hash_of_file(path, *stamp(path))
    FILES[digest] = path
    return digest


def stamp(path: Path) -> tuple[int, int]:
    """Return the size and the time of the last change of a regular file; raises ValueError for others."""
    if path.is_dir():
        raise ValueError(f"track_settings.file: {path} is a folder; name a file of text")
    try:
        status = path.stat()
    except OSError as problem:
        reason = "there is no such file" if isinstance(problem, FileNotFoundError) else problem.strerror
        raise ValueError(f"track_settings.file: {path}: {reason}") from None
    if not path.is_file():
        raise ValueError(f"track_settings.file: {path} is not a regular file; write its content to a file first")
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=16)
def hash_of_file(path: Path, size: int, changed: int) -> str:
    """Return the hash of a text; a file with the same stamp is not read again."""
    return text_hash(read_file(path))


def read_file(path: Path) -> bytes:
    """Return the content of a file of text; raises ValueError if it cannot be read, is empty or is not UTF-8."""
    try:
        content = path.read_bytes()
        content.decode()
    except OSError as problem:
        raise ValueError(f"track_settings.file: {path}: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        where = f"{problem.reason} at byte {problem.start}"
        raise ValueError(f"track_settings.file: {path} is not UTF-8 ({where}); convert it to UTF-8") from None
    if not content:
        raise ValueError(f"track_settings.file: {path} is empty; name a file of text")
    return content


def file_problem(digest: str) -> str:
    """Return why the text with this hash cannot be read here, and what to do; empty if it can."""
    if not digest:
        return "track_settings.file is missing: name a file of text, as in track_settings.file=book.txt"
    if digest in FILES:
        return ""
    given, has_other = os.environ.get(TEXT_VARIABLE), ""
    if given:
        try:
            found = find_file(given)
        except ValueError as problem:
            return f"{TEXT_VARIABLE}: {problem}"
        if found == digest:
            return ""
        has_other = f"the file in {TEXT_VARIABLE} has {found}; "
    return (
        f"track_settings.file: {has_other}the text with {digest} is needed; name its file in the environment, "
        f"{TEXT_VARIABLE}=FILE"
    )


def load_text(digest: str) -> bytes:
    """Return the text with this hash; raises ValueError if it is missing or has changed."""
    if problem := file_problem(digest):
        raise ValueError(problem)
    path = FILES[digest]
    try:
        content = read_file(path)
    except ValueError:
        raise ValueError(f"track_settings.file: {path.name}, with {digest}, cannot be read any more") from None
    if text_hash(content) != digest:
        raise ValueError(f"track_settings.file: {path.name} has changed; the text with {digest} is needed")
    return content


@functools.lru_cache(maxsize=16)
def size_and_example(digest: str) -> tuple[int, str]:
    """Return the bytes of the text with this hash, and the start of its first line that is not blank."""
    content = load_text(digest)
    lines = content[:EXAMPLE_BYTES].decode(errors="ignore").split("\n")
    return len(content), next((line.strip()[:EXAMPLE_LENGTH] for line in lines if line.strip()), lines[0][:1])


@functools.lru_cache(maxsize=4)
def characters_of(digest: str) -> tuple[str, ...]:
    """Return the characters of the text with this hash in ascending order."""
    return tuple(sorted(set(load_text(digest).decode())))
