"""The run or record under audit, with its weights and its source."""

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UsageError, nearest_hint
from bench.git import GitProblem, unpack_commit
from bench.provenance import ROOT, source_sha256
from bench.storage.journal import Journal
from bench.storage.records import RecordFolder, find_record, is_record, record_names, unpack_source
from bench.storage.results import find_run, is_weights_path
from bench.storage.schema import Run


@dataclasses.dataclass(frozen=True)
class AuditTarget:
    """A run or a record, with its weights and its source."""

    name: str
    run: Run  # the median attempt of a record
    weights: Path
    weights_sha256: str
    source: Path  # root of the contestant's source tree
    record_folder: RecordFolder | None = None  # of a record


def find_target(name: str, results: Path, stack: contextlib.ExitStack) -> AuditTarget:
    """Find a run or a record to audit.

    Args:
        name: a run id, a path to weights, `latest`, or a record's name or folder.
        stack: deletes the unpacked source when it closes.

    Raises:
        UsageError: no such run or record exists (names the nearest), or its weights or its source are missing.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="addition-speedrun-")))
    runs, _ = Journal(results).read()
    if is_record(name, results):
        record_folder = find_record(name, results)
        return record_target(record_folder, [*runs, *Journal(record_folder.results).read()[0]], folder)
    run = find_run_with_weights(name, runs, results)
    if run.weights is None or run.weights_sha256 is None:
        raise UsageError(f"{name} kept no weights ({run.outcome}): there is nothing to audit")
    if not run.is_regular:
        raise UsageError(f"{run.run_id} was made to test a trainer or a machine; there is nothing to audit")
    if run.settings.get("init_from"):
        first = run.init_from or "the run whose weights it had"
        raise UsageError(f"{run.run_id} started from the weights of another run; audit {first}, which is a fresh start")
    weights = Path(name) if is_weights_path(name) else results / run.weights
    if not weights.is_file():
        raise UsageError(f"{run.run_id}: its weights are missing ({run.weights})")
    return AuditTarget(run.run_id, run, weights, run.weights_sha256, find_source(run, folder))


def record_target(record_folder: RecordFolder, runs: Sequence[Run], folder: Path) -> AuditTarget:
    """The median attempt of a record, whose source is unpacked into a folder."""
    record = record_folder.record
    run = next((run for run in runs if run.run_id == record.median_run), None)
    if run is None:
        raise UsageError(f"{record.name}: the journal has no run {record.median_run}, whose weights it holds")
    return AuditTarget(
        name=record.name,
        run=run,
        weights=record_folder.weights,
        weights_sha256=record.weights_sha256,
        source=unpack_source(record_folder, folder).parent,
        record_folder=record_folder,
    )


def find_run_with_weights(name: str, runs: Sequence[Run], results: Path) -> Run:
    """The run with an id or with a path to weights, or the latest run that can be audited; UsageError if none."""
    if is_weights_path(name):
        return find_run(name, results, with_weights=True)
    candidates = [run for run in runs if run.weights is not None and run.is_regular]
    if name == "latest" and candidates:
        return max(candidates, key=lambda run: run.started_at)
    if found := [run for run in runs if run.run_id == name]:
        return found[0]
    names = {"latest", *(run.run_id for run in candidates), *record_names(results)}
    hint = nearest_hint(name, names, "`python -m bench export`")
    raise UsageError(f"there is no run or record {name!r} in {results}{hint}")


def find_source(run: Run, folder: Path, root: Path = ROOT) -> Path:
    """The source tree of a run: this checkout, or the run's commit, unpacked into an empty folder; else UsageError."""
    if source_sha256(root) == run.source_sha256:
        return root
    reason = "the journal names no commit"
    if run.commit is not None:
        try:
            unpack_commit(root, run.commit, folder)
        except GitProblem as problem:
            reason = f"git does not give its commit: {problem}"
        else:
            if source_sha256(folder) == run.source_sha256:
                return folder
            reason = f"its source had changes that the commit {run.commit} does not hold"
    raise UsageError(f"{run.run_id} was made from another source than this checkout's, and {reason}")


def track_interface(source: Path) -> int:
    """The `data.INTERFACE` of a source tree; 1 if it has none."""
    match = re.search(r"^INTERFACE = (\d+)$", (source / "data.py").read_text(encoding="utf-8"), re.MULTILINE)
    return int(match[1]) if match else 1
