"""TOML files that describe a matrix or a search space: lookup, the keys they share, and errors that name the line."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from bench.clock import ClockName
from bench.config import base_beside, is_toml_file, read_toml
from bench.errors import UsageError, nearest_hint
from bench.stats.ranking import CLOCKS

EXPERIMENT_KEYS = {"axes", "space"}  # of a matrix and a search space, which are no configs

SettingValue = bool | int | float | str


def find_file(name: str, folder: Path) -> Path:
    """The file at a path that ends in `.toml`, or the file in `folder` with this stem, or a UsageError."""
    if not name:
        raise UsageError(f"the name is empty; give a file that ends in .toml, or one in bench/{folder.name}")
    if is_toml_file(name):
        return Path(name).expanduser()
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
        self.values, text = read_toml(path)
        self.lines = text.splitlines()
        for key in self.values:
            self.require(key in keys, f"unknown key{nearest_hint(key, keys)}", key)

    def read_base(self) -> str:
        """The config from which the file starts: a config file relative to this one, or a name in bench/configs."""
        base: Any = self.values.get("base")
        self.require(isinstance(base, str) and base != "", "must be the name of a config", "base")
        beside = base_beside(self.path, base)
        is_config = beside is not None and not EXPERIMENT_KEYS & read_toml(beside)[0].keys()
        return str(beside) if is_config else base

    def read_clock(self) -> ClockName:
        """The clock that ranks; `train` by default."""
        clock: ClockName = self.values.get("clock", "train")
        self.require(clock in CLOCKS, "must be 'train' or 'total'", "clock")
        return clock

    def require(self, is_valid: bool, reason: str, *keys: str) -> None:
        """Raise a UsageError about a key, or about a key within tables, unless the file is valid in this respect."""
        if not is_valid:
            line = self.line_of(keys)
            missing = "" if keys[0] in self.values else ", but it is missing"
            where = f"{self.path}" + (f", line {line}" if line else "")
            raise UsageError(f"{where}: {'.'.join(keys)}: {reason}{missing}")

    def line_of(self, keys: Sequence[str]) -> int | None:
        """The line of the innermost key that can be found, counted from 1; each key is searched after its table.

        A key `track_settings.p` may also be `p` in a table.
        """
        start, line = 0, None
        for key in keys:
            name = rf"[\"']?{re.escape(key)}[\"']?"
            pattern = re.compile(rf"^\s*(\[+\s*(\w+\.)*{name}\s*(\.\s*\w+\s*)*\]+|{name}\s*[=.])|[{{,]\s*{name}\s*=")
            line = next((i for i in range(start, len(self.lines)) if pattern.search(self.lines[i])), None)
            if line is None:
                parts = [part for key in keys for part in key.split(".")]
                return None if parts == list(keys) else self.line_of(parts)
            start = line
        return None if line is None else line + 1
