"""Provenance of a result: hashes of settings and source, the commit, and the seed derived from the hashes."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.config import former_names, without_added_defaults
from bench.git import Checkout, GitProblem, is_checkout, read_checkout
from bench.streams import print_error

ROOT = Path(__file__).resolve().parent.parent


def config_hash(settings: dict[str, Any]) -> str:
    """The sha256 of the resolved settings as canonical JSON; no seed and no path is in it.

    Under their first names, and without settings that were added later and have no effect, it is the hash of the
    journal's older lines, too.
    """
    hashed = former_names(without_added_defaults(settings))
    canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


# Folder -> suffixes of the files in and below it that decide what an attempt does, without those of the other side.
# Configs are covered by the config hash. The judge's part of the tracks belongs to the harness.
Kinds = Mapping[str, tuple[str, ...]]
SOURCE: Kinds = {"": (".py", ".c"), "tracks/batches": (".py",), "recipes": (".py",)}
HARNESS: Kinds = {"bench": (".py", ".jinja"), "tracks": (".py",)}
# Snapshots without the folder tracks/batches are older than the judge; there, all tracks belonged to the contestant.
FORMER_SOURCE: Kinds = {"": (".py", ".c"), "tracks": (".py",), "recipes": (".py",)}
FORMER_HARNESS: Kinds = {"bench": (".py", ".jinja")}


def kinds(root: Path) -> tuple[Kinds, Kinds]:
    """The files of contestant and harness in a source tree."""
    return (SOURCE, HARNESS) if (root / "tracks" / "batches").is_dir() else (FORMER_SOURCE, FORMER_HARNESS)


def source_files(root: Path = ROOT) -> list[Path]:
    """The files of the contestant: the trainer and all project modules that it alone needs."""
    source, _ = kinds(root)
    return files_of(source, root)


def harness_files(root: Path = ROOT) -> list[Path]:
    """The code and templates in `bench/`, and the judge's part of the tracks."""
    source, harness = kinds(root)
    theirs = set(files_of(source, root))
    return [path for path in files_of(harness, root) if path not in theirs]


def files_of(kinds: Kinds, root: Path) -> list[Path]:
    return [
        path
        for folder, suffixes in kinds.items()
        for suffix in suffixes
        for path in (root / folder).glob(f"**/*{suffix}" if folder else f"*{suffix}")
    ]


def is_source(path: str) -> bool:
    """Whether a path relative to the root names a file of contestant or harness, even one that has been deleted."""
    return path.endswith({**SOURCE, **HARNESS}.get(path.split("/")[0] if "/" in path else "", ()))


def copy_files(paths: Iterable[Path], root: Path, folder: Path) -> None:
    """Copy files of a source tree to the same places in a folder."""
    for path in paths:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def files_sha256(paths: Iterable[Path], root: Path) -> str:
    """One sha256 over names and contents. Line ends count as \\n, so that a Windows checkout has the same hash."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def source_sha256(root: Path = ROOT) -> str:
    return files_sha256(source_files(root), root)


def harness_sha256(root: Path = ROOT) -> str:
    return files_sha256(harness_files(root), root)


def first_seed(*parts: str) -> int:
    """The first 31 bits of the sha256 of `parts`: the default seed of a single attempt, from its two hashes."""
    return int.from_bytes(hashlib.sha256("".join(parts).encode()).digest()[:4]) >> 1


def commit_and_dirty() -> tuple[str | None, bool | None]:
    """The commit of this checkout, and whether its source differs from it; None where there is no git.

    The source is the files that the hashes of contestant and harness cover; generated pages, other configs and notes
    do not count. Prints a line if this is a checkout and git does not answer.
    """
    if not is_checkout(ROOT):
        return None, None
    try:
        checkout = read_checkout(ROOT)
    except GitProblem as problem:
        print_error(f"the commit is not known; git says: {problem}")
        return None, None
    return checkout.commit, bool(source_changes(checkout))


def source_changes(checkout: Checkout, root: Path | None = None) -> list[str]:
    """The sorted paths of source files that differ from the commit, among them those that git ignores."""
    root = root or ROOT
    files = {path.relative_to(root).as_posix() for path in (*source_files(root), *harness_files(root))}
    changed = set(filter(is_source, checkout.changes))
    return sorted(changed | (files - checkout.tracked))
