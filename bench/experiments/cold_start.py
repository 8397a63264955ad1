"""Cold starts: attempts of the default config with and without Python's files in the system's page cache."""

import contextlib
import math
import os
import statistics
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from bench.cli import print_progress
from bench.errors import UsageError
from bench.experiments.launcher import SCRIPT
from bench.formatting import seconds_text
from bench.processes import json_lines, last_error_line, run_python
from bench.storage.schema import ColdStart, Run

NUM_ATTEMPTS = 3  # of each kind; odd, so that the medians are measured values
BLOCK_BYTES = 512  # of the kernel's count of blocks that were read


def measure_cold_start(device: str) -> ColdStart:
    """Time attempts in turn, cold and warm, of one config and seed; nothing is journalled.

    Before a cold one, the files of Python and its packages are dropped from the page cache. No process may have them
    mapped, so this one must not have imported torch. Other files, such as the compiler's, stay in the cache, and so may
    all files in a cache of the disk or of the host of a virtual machine.

    Raises:
        UsageError: the system cannot drop files, an attempt did not end with a certificate, or dropping the files had
            no effect.
    """
    if not hasattr(os, "posix_fadvise"):
        raise UsageError("--measure-cold: this system cannot drop files from its page cache; Linux can")
    folders = [Path(folder) for folder in sys.path[1:] if os.path.isdir(folder)]  # sys.path[0]: the current folder
    timed_attempt(device)  # writes byte code, and reads everything once
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    read_bytes: dict[str, list[int]] = {"cold": [], "warm": []}
    num_clean = 0
    for _ in range(NUM_ATTEMPTS):
        for kind in seconds:
            if kind == "cold":
                drop_from_page_cache(folders)
            run, num_bytes = timed_attempt(device)
            seconds[kind].append(run.seconds.total or math.nan)
            read_bytes[kind].append(num_bytes)
            num_clean += run.machine.clean is True
            total = seconds_text(run.seconds.total)
            print_progress(f"{kind}: total {total}, {num_bytes / 2**20:,.0f} MiB read from disk")
    if run.machine.class_ is None:
        raise UsageError("--measure-cold: the machine class is unknown, because the CPU could not be identified")
    if statistics.median(read_bytes["cold"]) <= statistics.median(read_bytes["warm"]):
        raise UsageError(
            "--measure-cold: dropping the files of Python had no effect: cold attempts read no more from the disk than "
            "warm ones; end other processes that use torch"
        )
    return ColdStart(
        machine_class=run.machine.class_,
        config=run.config,
        source_sha256=run.source_sha256,
        attempts=NUM_ATTEMPTS,
        clean=num_clean,
        cold_total_seconds=statistics.median(seconds["cold"]),
        warm_total_seconds=statistics.median(seconds["warm"]),
        cold_read_bytes=round(statistics.median(read_bytes["cold"])),
        warm_read_bytes=round(statistics.median(read_bytes["warm"])),
        measured_at=datetime.now(UTC),
    )


def drop_from_page_cache(folders: Iterable[Path]) -> None:
    """Drop all files below some folders from the page cache, except for pages that are mapped or not yet written."""
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for path in filter(os.path.isfile, (os.path.join(parent, name) for name in names)):
                with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed_attempt(device: str) -> tuple[Run, int]:
    """An attempt that is not journalled, and the bytes that its processes read from disk."""
    import resource  # not on Windows

    begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock
    process = run_python([str(SCRIPT), "--device", device, "--no-journal", "--json"])
    if process.returncode not in (0, 1):
        raise UsageError(f"--measure-cold: {last_error_line(process.stderr)}")
    run = Run.model_validate_json(*json_lines(process.stdout))
    if run.certificate is None:
        raise UsageError(f"--measure-cold: the attempt ended without a certificate ({run.outcome}: {run.message})")
    return run, BLOCK_BYTES * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock - begin)
