"""What a line of the journal must say, so that its batch may rank: checks of one run, by its line alone.

They take microseconds, so they are made whenever a line is read. `bench.audit.verification` holds runs against git and
their weights, too.
"""

import math
from collections.abc import Iterator

from bench.clock import PHASES, disagreements
from bench.config import track_of
from bench.storage.schema import Run

ROUNDING_SECONDS = 1e-3  # of the sum of the phases


def line_faults(run: Run) -> list[str]:
    """Why the line of a run may not rank, each reason a sentence without its subject; empty if it may."""
    return [fault for check in CHECKS for fault in check(run)]


def verdict_faults(run: Run) -> Iterator[str]:
    """A solved attempt has a certificate that says so."""
    if run.outcome == "solved" and not (run.certificate and run.certificate.is_solved):
        yield "its certificate does not say that it solved the track"


def judge_faults(run: Run) -> Iterator[str]:
    """A certified attempt names its judge, another process than its own; a solved one has the smallest margin."""
    if run.certificate is None:  # it ended before the verdict, and cannot have solved the track
        return
    if run.judge != "harness":
        yield "its line does not name its judge" if run.judge is None else "it judged itself"
    margin = run.certificate.smallest_margin
    if run.outcome == "solved" and margin is None and has_one_right_answer(run):
        yield "its certificate has no smallest margin"


def has_one_right_answer(run: Run) -> bool:
    """Whether each problem of the run's track has exactly one right answer; False if the track is no more."""
    from tracks.descriptions import describe_track  # few lines need it

    try:
        description = describe_track(*track_of(run.settings))
    except (KeyError, ValueError):
        return False
    return description.has_one_answer and (description.exhaustive or not description.is_stream)  # or: any text


def source_faults(run: Run) -> Iterator[str]:
    """The source is that of a commit."""
    if run.commit is None:
        yield "its commit is not known"
    elif run.dirty is not False:
        yield "its source was not committed"


def utilisation_faults(run: Run) -> Iterator[str]:
    """The optimizer steps took no less time than the machine's measured peak allows."""
    flops, peak, seconds = run.train_flops, run.matmul_flops_per_second, run.seconds.train
    if flops is None or peak is None or seconds is None:
        return
    utilisation = flops / (seconds * peak) if seconds * peak > 0 else math.inf
    if not utilisation <= 1:
        yield "its steps need more FLOP/s than the measured peak of the machine (utilisation above 1)"


def phases_faults(run: Run) -> Iterator[str]:
    """The phases add up to the total, and both clocks agree."""
    seconds = run.seconds.model_dump()
    if run.outcome == "solved" and None in (seconds[phase] for phase in (*PHASES, "total")):
        yield "the seconds of a phase are missing"
        return
    phases_seconds = sum(seconds[phase] or 0.0 for phase in PHASES)
    if run.seconds.total is not None and abs(phases_seconds - run.seconds.total) > ROUNDING_SECONDS:
        yield "its phases do not add up to its total"
    if run.outer_seconds is not None and run.outcome != "lost":  # a lost attempt has no seconds of its own
        sentences = disagreements(seconds, run.outer_seconds.model_dump())
        yield from (sentence.partition(":")[0] for sentence in sentences)  # with figures each run had its own reason


CHECKS = (verdict_faults, judge_faults, source_faults, utilisation_faults, phases_faults)
