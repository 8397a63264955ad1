"""What `record` asks of the checkout before it begins, and what it leaves there to be committed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.config import merged_values
from bench.errors import UsageError
from bench.git import Checkout, GitProblem, is_checkout, read_checkout
from bench.provenance import source_changes
from bench.storage.schema import Run
from bench.streams import print_line


def check_committed(planned: Run, config: Path, root: Path) -> None:
    """Raises UsageError, which names the files, unless the source at `root` and the config are committed.

    Generated pages, results, notes and other configs do not count, nor does a config outside the checkout.
    """
    changes: list[str] = []
    reason = "this source is not a git checkout"
    if is_checkout(root):
        try:
            checkout = read_checkout(root)
        except GitProblem as problem:
            reason = f"git says: {problem}"
        else:
            changes = source_changes(checkout, root) + config_changes(checkout, config, root, planned.device)
            reason = "git could not tell whether it is"
    if changes:
        raise UsageError(f"a record needs committed source and config; commit these files first: {', '.join(changes)}")
    if planned.dirty is not False:
        problem_text = "it has changes that are not committed" if planned.dirty else reason
        raise UsageError(f"a record needs committed source; {problem_text}")


def config_changes(checkout: Checkout, config: Path, root: Path, device_type: str) -> list[str]:
    """The files of a config and its bases, relative to the root, that are not committed."""
    files: list[Path] = []

    def collect(values: dict[str, Any], path: Path) -> dict[str, Any]:
        files.append(path.resolve())
        return values

    merged_values(config, collect, device_type)
    names = [path.relative_to(root.resolve()).as_posix() for path in files if path.is_relative_to(root.resolve())]
    return [
        name
        for name in names
        if not name.startswith("results/") and (name in checkout.changes or name not in checkout.tracked)
    ]


def print_files_to_commit(root: Path, results: Path, others: Iterable[Path]) -> None:
    """Print the files in the results folder, and others, that differ from the commit; nothing outside a checkout."""
    places = [path.resolve() for path in (results, *others)]
    inside = [path.relative_to(root.resolve()).as_posix() for path in places if path.is_relative_to(root.resolve())]
    if results.resolve() != (root / "results").resolve() or not is_checkout(root):
        return
    try:
        changes = read_checkout(root).changes
    except GitProblem:
        return
    written = [name for name in changes if any(name == place or name.startswith(f"{place}/") for place in inside)]
    if written:
        print_line("please commit these files:")
        for name in written:
            print_line(f"  {name}")
