"""Where a result came from: hashes of the settings and the source, the commit, and the seed that follows from them."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def config_hash(settings: dict[str, Any]) -> str:
    """The sha256 of the resolved settings, which hold neither seed nor paths, as canonical JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """One sha256 over names and contents; line ends count as \\n, so that a Windows checkout agrees."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.relative_to(ROOT).as_posix()):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def source_sha256() -> str:
    """Of the contestant: the trainer, the model, the tracks and whatever of ours stands beside them."""
    return files_sha256(path for pattern in ("*.py", "tracks/**/*.py") for path in ROOT.glob(pattern))


def harness_sha256() -> str:
    """Of everything in `bench/` that runs or renders; configs are covered by the config hash."""
    return files_sha256(path for kind in ("*.py", "*.jinja") for path in (ROOT / "bench").rglob(kind))


def first_seed(config_hash: str, source_sha256: str) -> int:
    """The first 31 bits of sha256(config_hash + source_sha256), so that nobody chooses it."""
    return int.from_bytes(hashlib.sha256((config_hash + source_sha256).encode()).digest()[:4]) >> 1


def commit_and_dirty() -> tuple[str | None, bool | None]:
    """The commit of this checkout, and whether anything but `results/` differs from it; None when it is none."""

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
        except OSError:
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT:
        return None, None
    changes = git("status", "--porcelain", "--", ".", ":(exclude)results")
    return git("rev-parse", "HEAD"), None if changes is None else bool(changes)
