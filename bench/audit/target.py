"""The run or record under audit, with its weights and its source."""

import contextlib
import dataclasses
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from bench.errors import UsageError
from bench.provenance import ROOT, source_sha256
from bench.storage.journal import Journal
from bench.storage.records import find_record, is_record, read_records, unpack_source
from bench.storage.results import find_run, is_weights_path
from bench.storage.schema import Run

NUM_PERMUTATIONS, MUST_SOLVE = 5, 3  # attempts with the vocabulary's ids permuted


@dataclasses.dataclass(frozen=True)
class AuditTarget:
    """What is audited."""

    name: str
    run: Run  # of a record the median attempt
    weights: Path
    weights_sha256: str
    solve_rate: float | None  # of its batch, 0..1; None for fewer attempts than are made with permuted ids
    source: Path  # the contestant's tree


# -----------------------------------------------------------------------------
# who is audited


def find_target(wanted: str, results: Path, stack: contextlib.ExitStack) -> AuditTarget:
    """The run or the record of that name; its source lies in a folder that goes when `stack` closes.

    Raises:
        UsageError: there is none (names the nearest), it kept no weights, or its source is not to be had.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="addition-speedrun-")))
    runs, _ = Journal(results).read()
    if is_record(wanted, results):
        filed = find_record(wanted, results)
        record = filed.record
        run = next((run for run in runs if run.run_id == record.median_run), None)
        if run is None:
            raise UsageError(f"{record.name}: the journal has no run {record.median_run}, whose weights it holds")
        rate = record.result.solved / record.result.attempts
        return AuditTarget(
            record.name, run, filed.weights, record.weights_sha256, rate, unpack_source(filed, folder).parent
        )
    run = wanted_run(wanted, runs, results)
    if not run.is_contest:
        raise UsageError(f"{run.run_id} was made to test a trainer or a machine; there is nothing to audit")
    weights = Path(wanted) if is_weights_path(wanted) else results / run.weights
    if not weights.is_file():
        raise UsageError(f"{run.run_id}: its weights are gone ({run.weights})")
    return AuditTarget(run.run_id, run, weights, run.weights_sha256, solve_rate(run, runs), source_of(run, folder))


def wanted_run(wanted: str, runs: Sequence[Run], results: Path) -> Run:
    """The run of an id, at a path to weights, or the latest that stands for itself.

    Raises:
        UsageError: there is none, or it kept no weights.
    """
    if is_weights_path(wanted):
        return find_run(wanted, results, with_weights=True)
    candidates = [run for run in runs if run.weights is not None and run.is_contest]
    if wanted == "latest" and candidates:
        return max(candidates, key=lambda run: run.started_at)
    found = next((run for run in runs if run.run_id == wanted), None)
    if found is None:
        known = [run.run_id for run in candidates] + [filed.record.name for filed in read_records(results)[0]]
        near = get_close_matches(wanted, known, n=1, cutoff=0.0)
        raise UsageError(
            f"there is no run or record {wanted!r} in {results}"
            + "".join(f"; the nearest is {name!r}" for name in near)
        )
    if found.weights is None:
        raise UsageError(f"{wanted} kept no weights ({found.outcome}): there is nothing to audit")
    return found


def solve_rate(run: Run, runs: Sequence[Run]) -> float | None:
    """How many of the run's batch solved the track, 0..1; None when the batch is too small to say."""
    if run.batch is None:
        return None
    batch = run.batch.id, run.batch.command, run.batch.side
    together = [
        other.outcome == "solved"
        for other in runs
        if other.batch is not None and (other.batch.id, other.batch.command, other.batch.side) == batch
    ]
    return sum(together) / len(together) if len(together) >= NUM_PERMUTATIONS else None


def source_of(run: Run, folder: Path, root: Path = ROOT) -> Path:
    """The tree that a run was made from: this checkout, or the run's commit brought back into an empty folder.

    Raises:
        UsageError: neither is.
    """
    if source_sha256(root) == run.source_sha256:
        return root
    why = "the journal names no commit"
    if run.commit is not None:
        why = f"the commit {run.commit} is not in this checkout"
        with contextlib.suppress(OSError):  # there is no git here
            packed = subprocess.run(["git", "-C", root, "archive", run.commit], capture_output=True)
            if packed.returncode == 0:
                with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
                    archive.extractall(folder, filter="data")
                if source_sha256(folder) == run.source_sha256:
                    return folder
                why = f"its source had changes that the commit {run.commit} does not hold"
    raise UsageError(f"{run.run_id} was made from another source than this checkout's, and {why}")


def track_interface(source: Path) -> int:
    """Which `data.INTERFACE` a source has; the first one had no number."""
    found = re.search(r"^INTERFACE = (\d+)$", (source / "data.py").read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) if found else 1
