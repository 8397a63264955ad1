"""Estimates of the duration of attempts, whole processes, from earlier runs."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from bench.config import settings_key
from bench.storage.schema import Run

NEWEST = 20  # runs that an estimate is made of
MOST_IDLE_SECONDS = 30.0  # between two attempts of a batch; a longer gap was a pause of the batch
USUAL_OVERHEAD = 1.0  # seconds of a process beside `total`, where no batch has shown them


def paces(runs: Sequence[Run]) -> Iterator[tuple[Run, float]]:
    """Attempts of batches, each with the seconds from its start to the start of the next one.

    Attempts that overlapped the next one or were interrupted, and those after which the batch paused, are left out.
    """
    batches: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.started_at):
        if run.batch is not None:
            batches[run.batch.id].append(run)
    for in_order in batches.values():
        for run, following in itertools.pairwise(in_order):
            seconds, total = (following.started_at - run.started_at).total_seconds(), run.seconds.total
            if total is not None and run.outcome != "interrupted" and total <= seconds <= total + MOST_IDLE_SECONDS:
                yield run, seconds


def expected_seconds(runs: Sequence[Run], planned: Sequence[Run]) -> float | None:
    """Seconds of a process that runs one of the planned attempts: the median of similar runs on their machine class.

    Similar runs have the settings of one of the planned attempts; without such runs, the track and config of the first
    one. None without either.
    """
    here = [run for run in runs if run.machine.class_ == planned[0].machine.class_]
    settings = {settings_key(run.settings) for run in planned}
    with_pace = list(paces(here))
    overheads = [seconds - run.seconds.total for run, seconds in with_pace if run.seconds.total is not None]
    overhead = statistics.median(overheads) if overheads else USUAL_OVERHEAD
    by_likeness: list[Callable[[Run], bool]] = [
        lambda run: settings_key(run.settings) in settings,
        lambda run: (run.track, run.config) == (planned[0].track, planned[0].config),
    ]
    for is_similar in by_likeness:
        if similar := [seconds for run, seconds in with_pace if is_similar(run)]:
            return statistics.median(similar[-NEWEST:])
        if similar := [run.seconds.total for run in here if is_similar(run) and run.seconds.total is not None]:
            return statistics.median(similar[-NEWEST:]) + overhead
    return None
