"""TOML files that describe a matrix or a search space: lookup, the keys they share, and errors that name the line."""

import re
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from bench.clock import ClockName
from bench.errors import UsageError, nearest_hint
from bench.stats.ranking import CLOCKS

SettingValue = bool | int | float | str


def find_file(name: str, folder: Path) -> Path:
    """The file at a path, or one of the project's files by its name.

    Args:
        name: a path that ends in `.toml`, or the stem of a file in `folder`.

    Raises:
        UsageError: the folder has no such file.
    """
    if name.endswith(".toml"):
        return Path(name)
    files = {path.stem: path for path in folder.glob("*.toml")}
    if name not in files:
        raise UsageError(f"{name!r}: there is no such file in bench/{folder.name}{nearest_hint(name, files)}")
    return files[name]


class TomlFile:
    """The values of a TOML file, and its text, in which errors look up the line of a key.

    Raises:
        UsageError: the file does not exist, is not TOML, or has a top-level key that is not in `keys`.
    """

    def __init__(self, path: Path, keys: Collection[str]) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")
            self.values: dict[str, Any] = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:  # the last names the line
            raise UsageError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from None
        self.lines = text.splitlines()
        for key in self.values:
            if key not in keys:
                raise self.error(f"unknown key{nearest_hint(key, keys)}", key)

    def read_base(self) -> str:
        """The name of the config from which the file starts."""
        base = self.values.get("base")
        if not isinstance(base, str):
            raise self.error(f"must be the name of a config{self.missing('base')}", "base")
        return base

    def read_clock(self) -> ClockName:
        """The clock that ranks; `train` by default."""
        clock = self.values.get("clock", "train")
        for name in CLOCKS:
            if clock == name:
                return name
        raise self.error("must be 'train' or 'total'", "clock")

    def missing(self, key: str) -> str:
        """The end of an error message about a required key."""
        return "" if key in self.values else ", but it is missing"

    def error(self, reason: str, *keys: str) -> UsageError:
        """An error about a key, or about a key within tables."""
        line = self.line_of(keys)
        where = f"{self.path}" + (f", line {line}" if line else "")
        return UsageError(f"{where}: {'.'.join(keys)}: {reason}" if keys else f"{where}: {reason}")

    def line_of(self, keys: Sequence[str]) -> int | None:
        """The line of the innermost key that can be found, counted from 1; each key is searched after its table."""
        start, line = 0, None
        for key in keys:
            name = rf"[\"']?{re.escape(key)}[\"']?"
            pattern = re.compile(rf"^\s*(\[+\s*(\w+\.)*{name}\s*\]+|{name}\s*[=.])|[{{,]\s*{name}\s*=")
            line = next((i for i in range(start, len(self.lines)) if pattern.search(self.lines[i])), None)
            if line is None:
                return None
            start = line
        return None if line is None else line + 1
