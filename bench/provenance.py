"""Provenance of a result: hashes of settings and source, the commit, and the seed derived from the hashes."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.config import former_names
from bench.git import Checkout, GitProblem, is_checkout, read_checkout
from bench.streams import print_error

ROOT = Path(__file__).resolve().parent.parent


def config_hash(settings: dict[str, Any]) -> str:
    """The sha256 of the resolved settings, under their first names, as canonical JSON; no seed and no path is in it."""
    canonical = json.dumps(former_names(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def source_files(root: Path = ROOT) -> list[Path]:
    """The files of the contestant: the trainer and all project modules that it imports from outside `bench/`."""
    return [path for pattern in ("*.py", "*.c", "tracks/**/*.py") for path in root.glob(pattern)]


def harness_files(root: Path = ROOT) -> list[Path]:
    """The code and templates in `bench/`; configs are covered by the config hash."""
    return [path for kind in ("*.py", "*.jinja") for path in (root / "bench").rglob(kind)]


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
    """The first 31 bits of the sha256 of `parts`, so that nobody can choose a seed; for a batch, of its two hashes."""
    return int.from_bytes(hashlib.sha256("".join(parts).encode()).digest()[:4]) >> 1


def commit_and_dirty() -> tuple[str | None, bool | None]:
    """The commit of this checkout, and whether any file outside `results/` differs; None where there is no git.

    Prints a line if this is a checkout and git does not answer.
    """
    if not is_checkout(ROOT):
        return None, None
    try:
        checkout = source_checkout()
    except GitProblem as problem:
        print_error(f"the commit is not known; git says: {problem}")
        return None, None
    return checkout.commit, bool(checkout.changes)


def source_checkout() -> Checkout:
    """This checkout with its changes outside `results/`, among them source files that git ignores; or GitProblem."""
    checkout = read_checkout(ROOT)
    files = {path.relative_to(ROOT).as_posix() for path in (*source_files(ROOT), *harness_files(ROOT))}
    changes = {*checkout.changes, *(files - checkout.tracked)}
    return dataclasses.replace(checkout, changes=sorted(path for path in changes if not path.startswith("results/")))
