"""Batches of attempts, and the contestants that they rank: which runs are one, who leads, where an attempt stands."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from bench.clock import ClockName
from bench.stats.expected_time import expected_time_to_success
from bench.storage.schema import Run

RANKED_FROM = 10  # attempts in a batch
RANKED_COMMANDS = {"speedrun", "record"}  # attempts of a matrix or a search never stand on the board
CLOCKS: tuple[ClockName, ...] = ("train", "total")


@dataclasses.dataclass(frozen=True)
class RunBatch:
    """The attempts that one command started."""

    runs: tuple[Run, ...]  # by index

    @property
    def id(self) -> str:
        return self.runs[0].batch.id

    @property
    def finished(self) -> bool:
        return len(self.runs) == self.runs[0].batch.planned

    @property
    def ranked(self) -> bool:
        return self.finished and len(self.runs) >= RANKED_FROM


@dataclasses.dataclass(frozen=True)
class Entry:
    """One config, source and machine class with all its batches; the unit that is ranked.

    All of them count, the unfinished too: who repeats a batch gets no second throw of the dice.
    """

    batches: tuple[RunBatch, ...]  # in file order

    @property
    def id(self) -> str:
        return self.batches[0].id

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for batch in self.batches for run in batch.runs)

    @property
    def num_planned(self) -> int:
        return sum(batch.runs[0].batch.planned for batch in self.batches)

    @property
    def ranked(self) -> bool:
        return any(batch.ranked for batch in self.batches)

    @property
    def num_solved(self) -> int:
        return sum(run.outcome == "solved" for run in self.runs)

    def values(self, read: Callable[[Run], float | None]) -> list[float]:
        """What `read` finds in the runs, unknown values left out."""
        return [value for run in self.runs if (value := read(run)) is not None]

    def order(self, clock: ClockName) -> tuple[bool, float, str]:
        """Sorts the ranked before the others, then by ERT; one that solved nothing last."""
        return not self.ranked, expected_time_to_success(self.runs, clock), self.id


def group_batches(runs: Iterable[Run]) -> list[RunBatch]:
    """The batches that may stand on the board, in file order.

    A batch whose runs disagree in config, source or machine class is split: only like attempts rank together.
    """
    together: dict[tuple, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        # The opponent in a record's pairs has the challenger's seeds, not those that follow from itself.
        if run.batch is not None and run.batch.command in RANKED_COMMANDS and run.batch.side != "b":
            key = (run.batch.id, run.config_hash, run.source_sha256, run.machine.class_)
            together[key].setdefault(run.batch.index, run)
    return [RunBatch(tuple(by_index[i] for i in sorted(by_index))) for by_index in together.values()]


def group_entries(batches: Iterable[RunBatch]) -> list[Entry]:
    """The contestants of the board, in the order of their first batches."""
    together: dict[tuple, list[RunBatch]] = defaultdict(list)
    for batch in batches:
        first = batch.runs[0]
        together[first.config_hash, first.source_sha256, first.machine.class_].append(batch)
    return [Entry(tuple(its)) for its in together.values()]


def leaders(runs: Sequence[Run], clock: ClockName) -> list[Entry]:
    """The first of each track on each machine class."""
    best: dict[tuple, Entry] = {}
    for entry in sorted(group_entries(group_batches(runs)), key=lambda entry: entry.order(clock)):
        if entry.ranked and entry.num_solved:
            best.setdefault((entry.runs[0].track, entry.runs[0].machine.class_), entry)
    return list(best.values())


def describe_standing(run: Run, runs: Sequence[Run]) -> str:
    """Where an attempt stands, in a line."""
    same = [other for other in runs if (other.track, other.machine.class_) == (run.track, run.machine.class_)]
    best = {clock: leaders(same, clock) for clock in CLOCKS}
    if run.batch is not None:
        place = f"attempt {run.batch.index + 1} of {run.batch.planned} of the batch {run.batch.id}"
    else:
        place = f"a single attempt, not ranked (--attempts {RANKED_FROM} makes a batch that is)"
    if not best["train"]:
        return f"{place}; no batch leads {run.track} on this machine class yet"
    leads = "; ".join(
        f"{clock}: {first.runs[0].config} leads with ERT {expected_time_to_success(first.runs, clock):.2f} s"
        for clock, (first, *_) in best.items()
    )
    return f"{place}; {leads}"
