"""Cold starts: attempts of the default config with and without Python's files in the system's page cache."""

import contextlib
import math
import os
import statistics
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

from bench.cli import print_progress
from bench.errors import UsageError
from bench.experiments.launcher import SCRIPT
from bench.formatting import seconds_text
from bench.processes import json_lines, last_error_line, run_python
from bench.storage.schema import ColdStart, Run

NUM_ATTEMPTS = 3  # of each kind


def measure_cold_start(device: str) -> ColdStart:
    """Time attempts in turn, cold and warm, of one config and seed; nothing is journalled.

    Before a cold one, the files of Python and its packages are dropped from the page cache. No process may have them
    mapped, so this one must not have imported torch. Other files, such as the compiler's, stay in the cache, and so may
    all files in a cache of the disk or of the host of a virtual machine.

    Raises:
        UsageError: the files cannot be dropped, or an attempt was not clean or did not end with a certificate.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        raise UsageError("--measure-cold: this system cannot drop files from its page cache; Linux can")
    folders = [folder for folder in sys.path[1:] if os.path.isdir(folder)]  # sys.path[0]: the current folder
    timed_attempt(device)  # writes byte code, and reads everything once
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(NUM_ATTEMPTS):
        for kind in seconds:
            if kind == "cold":
                drop_from_page_cache(folders)
            run = timed_attempt(device)
            seconds[kind].append(run.seconds.total or math.nan)
            print_progress(f"{kind}: total {seconds_text(run.seconds.total)}")
    if run.machine.class_ is None:
        raise UsageError("--measure-cold: the machine class is unknown, because the CPU could not be identified")
    return ColdStart(
        machine_class=run.machine.class_,
        config=run.config,
        source_sha256=run.source_sha256,
        attempts=NUM_ATTEMPTS,
        cold_total_seconds=statistics.median(seconds["cold"]),
        warm_total_seconds=statistics.median(seconds["warm"]),
        measured_at=datetime.now(UTC),
    )


def drop_from_page_cache(folders: Iterable[str]) -> None:
    """Drop all files below some folders from the page cache, except for pages that are mapped or not yet written.

    Raises UsageError if the largest of them, one of torch's libraries, is still there.
    """
    sizes: dict[str, int] = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for path in filter(os.path.isfile, (os.path.join(parent, name) for name in names)):
                with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    sizes[path] = os.fstat(file.fileno()).st_size
    if is_cached(largest := max(sizes, key=sizes.__getitem__)):
        raise UsageError(
            f"--measure-cold: {os.path.basename(largest)} stays in the page cache, because another process uses it; "
            "end that process first"
        )


def is_cached(path: str | os.PathLike[str]) -> bool:
    """Whether the first bytes of a file can be read without waiting for the disk."""
    with open(path, "rb", buffering=0) as file:
        try:
            return os.preadv(file.fileno(), [bytearray(16)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False


def timed_attempt(device: str) -> Run:
    """An attempt that is not journalled."""
    process = run_python([str(SCRIPT), "--device", device, "--no-journal", "--json"])
    if process.returncode not in (0, 1):
        raise UsageError(f"--measure-cold: {last_error_line(process.stderr)}")
    run = Run.model_validate_json(*json_lines(process.stdout))
    if run.certificate is None:
        raise UsageError(f"--measure-cold: the attempt ended without a certificate ({run.outcome}: {run.message})")
    if run.machine.clean is False:
        raise UsageError(f"--measure-cold: the attempt was not clean ({'; '.join(run.machine.reasons)})")
    return run
