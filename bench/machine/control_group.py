"""The control groups of this process: on Linux, they limit its processor time and its memory. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def read_words(path: Path) -> list[str]:
    """The words in a file; none if it cannot be read."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def group_folders(controller: str = "") -> Iterator[Path]:
    """The folders of this process's control group and of those that contain it, the own one first.

    Without `controller` they are those of version 2; `memory` gives those of that controller of version 1. In a
    container, some may be out of sight.
    """
    for line in read_words(Path("/proc/self/cgroup")):
        number, _, rest = line.partition(":")
        names, _, own = rest.partition(":")
        if controller in names.split(",") if controller else number == "0" and not names:
            root = ROOT / controller
            folder = root / own.lstrip("/")
            while folder != root and root in folder.parents:
                yield folder
                folder = folder.parent
            yield root
            return
