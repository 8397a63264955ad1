"""Archives of the weights of batches that may rank, `results/evidence/<batch id>.zip`, which are committed.

With them anyone can certify a batch again. The archive of small models has the weights of every solved attempt, that of
larger ones those of the attempt with the smallest margin and of the median attempt. The journal has the sha256 of all.
"""

import hashlib
import io
import math
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from bench.storage.jsonl import replace_file
from bench.storage.schema import Run

MOST_BYTES = 1_000_000  # of an archive, unless the weights of one attempt alone take more
BYTES_PER_PARAMETER = 4  # weights are float32
HEADER_BYTES = 4096  # of a weights file beside the numbers: names, shapes, settings


def batches_that_may_rank(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Batch id -> its runs that may rank, without those that are older than the checks.

    Small and unfinished batches are among them, because they count in an entry, too.
    """
    batches: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.batch is not None and run.may_rank and not run.is_old:
            batches[run.batch.id].append(run)
    return dict(batches)


def kept_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs of a batch whose weights its archive holds; it depends on their lines alone."""
    solved = [run for run in runs if run.outcome == "solved"]
    if not solved:
        return []
    weakest = min(solved, key=smallest_margin)
    by_time = sorted(solved, key=lambda run: run.seconds.train or 0.0)
    median = by_time[(len(by_time) - 1) // 2]  # the lower of the two for an even number
    both = [weakest] if median is weakest else [weakest, median]
    fitting = (chosen for chosen in (solved, both) if sum(map(estimated_bytes, chosen)) <= MOST_BYTES)
    return next(fitting, [weakest])


def smallest_margin(run: Run) -> float:
    """The smallest margin of a run; infinite without one."""
    margin = None if run.certificate is None else run.certificate.smallest_margin
    return math.inf if margin is None else margin


def estimated_bytes(run: Run) -> int:
    return BYTES_PER_PARAMETER * (run.parameters or 0) + HEADER_BYTES


def archive_path(results: Path, batch_id: str) -> Path | None:
    """The archive of a batch; None for an id that is not the name of a file, which this project never makes."""
    name = f"{batch_id}.zip"
    return results / "evidence" / name if Path(name).name == name else None


def write_evidence(results: Path, runs: Iterable[Run]) -> None:
    """Pack the weights of every batch among the runs that may rank, unless its archive has them.

    Call it when a batch has ended, also when it was interrupted. Weights files that are missing, or not the journalled
    ones, are left out.
    """
    for batch_id, batch_runs in batches_that_may_rank(runs).items():
        path, archived = archive_path(results, batch_id), read_evidence(results, batch_id) or {}
        contents = {}
        for run in kept_runs(batch_runs):
            for content in (archived.get(run.run_id), weights_on_disk(results, run)):
                if content is not None and is_journalled(content, run):
                    contents[run.run_id] = content
                    break
        if path is not None and contents and contents != archived:
            replace_file(path, packed(contents))


def is_journalled(content: bytes, run: Run) -> bool:
    """Whether the content of a weights file has the sha256 in the line of the run."""
    return hashlib.sha256(content).hexdigest() == run.weights_sha256


def weights_on_disk(results: Path, run: Run) -> bytes | None:
    """The content of a run's weights file; None if it is missing."""
    with suppress(OSError):
        return (results / (run.weights or "")).read_bytes()
    return None


def packed(contents: dict[str, bytes]) -> bytes:
    """A zip archive of weights by run id; equal contents give an equal archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for run_id, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(f"{run_id}.safetensors"), content, zipfile.ZIP_DEFLATED)  # dated 1980
    return stream.getvalue()


def read_evidence(results: Path, batch_id: str) -> dict[str, bytes] | None:
    """Run id -> weights, from the archive of a batch; None if it is missing or damaged."""
    path = archive_path(results, batch_id)
    if path is None:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".safetensors"): archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):  # or encrypted, say
        return None
