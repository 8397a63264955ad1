"""Ranking: batches of attempts grouped into entries of the board, and the best entry of each machine class."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from bench.clock import ClockName
from bench.config import settings_key
from bench.stats.expected_time import expected_time_to_success
from bench.storage.schema import Run

RANKED_FROM = 10  # attempts in a batch
RANKED_COMMANDS = {"speedrun", "record"}  # attempts of a matrix or a search never stand on the board
CLOCKS: tuple[ClockName, ...] = ("train", "total")


@dataclasses.dataclass(frozen=True)
class RunBatch:
    """A batch of attempts with equal config, source and machine class."""

    id: str
    planned: int  # number of attempts, fixed before the first one
    runs: tuple[Run, ...]  # by index

    @property
    def finished(self) -> bool:
        return len(self.runs) == self.planned

    @property
    def ranked(self) -> bool:
        return self.finished and len(self.runs) >= RANKED_FROM and self.unranked_because is None

    @property
    def unranked_because(self) -> str | None:
        """What its runs did because of which they are never ranked; see `Run`."""
        return self.runs[0].unranked_because


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the board: all batches of one config, source and machine class.

    Unfinished batches count as well, so that repeating a batch until it is lucky does not pay.
    """

    batches: tuple[RunBatch, ...]  # in file order

    @property
    def id(self) -> str:
        return self.batches[0].id

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for batch in self.batches for run in batch.runs)

    @property
    def config_hashes(self) -> list[str]:
        """The hashes of the settings: several where equal settings were written in several ways before 2026-11-29."""
        return list(dict.fromkeys(run.config_hash for run in self.runs))

    @property
    def num_planned(self) -> int:
        return sum(batch.planned for batch in self.batches)

    @property
    def ranked(self) -> bool:
        return any(batch.ranked for batch in self.batches)

    @property
    def num_solved(self) -> int:
        return sum(run.outcome == "solved" for run in self.runs)

    def values(self, read: Callable[[Run], float | None]) -> list[float]:
        """The values of `read` for all runs, without None."""
        return [value for run in self.runs if (value := read(run)) is not None]

    def order(self, clock: ClockName) -> tuple[bool, float, str]:
        """Sort key: ranked entries first, then by ERT; entries that solved nothing are last."""
        return not self.ranked, expected_time_to_success(self.runs, clock), self.id


def group_batches(runs: Iterable[Run]) -> list[RunBatch]:
    """The batches that may stand on the board, in file order, split where config, source or machine class differ."""
    groups: dict[tuple[str, int, str, str, str | None], dict[int, Run]] = defaultdict(dict)
    for run in runs:
        batch = run.batch_of(*RANKED_COMMANDS)
        # Side b of a record's pairs runs with the seeds of side a, not with those derived from its own hashes.
        if batch is not None and batch.side != "b":
            key = (batch.id, batch.planned, run.config_hash, run.source_sha256, run.machine.class_)
            groups[key].setdefault(batch.index, run)
    return [RunBatch(key[0], key[1], tuple(run for _, run in sorted(group.items()))) for key, group in groups.items()]


def group_entries(batches: Iterable[RunBatch]) -> list[Entry]:
    """The entries of the board, in the order of their first batches."""
    groups: dict[Hashable, list[RunBatch]] = defaultdict(list)
    for batch in batches:
        groups[contestant_key(batch.runs[0])].append(batch)
    return [Entry(tuple(group)) for group in groups.values()]


def ranked_entries(runs: Iterable[Run], clock: ClockName) -> list[Entry]:
    """The ranked entries of the board, the best one first."""
    entries = group_entries(group_batches(runs))
    return sorted((entry for entry in entries if entry.ranked), key=lambda entry: entry.order(clock))


def leaders(runs: Sequence[Run], clock: ClockName) -> list[Entry]:
    """The best ranked entry of each track and machine class."""
    best: dict[tuple[str, str | None], Entry] = {}
    for entry in ranked_entries(runs, clock):
        if entry.num_solved:
            best.setdefault((entry.runs[0].track, entry.runs[0].machine.class_), entry)
    return list(best.values())


def describe_standing(run: Run, runs: Sequence[Run]) -> str:
    """The batch of a run and the leaders of its track and machine class, in one line."""
    same = [other for other in runs if (other.track, other.machine.class_) == (run.track, run.machine.class_)]
    best = {clock: leaders(same, clock) for clock in CLOCKS}
    if run.unranked_because is not None:
        return f"this run {run.unranked_because} and never ranks"
    membership = f"one attempt is not ranked, use --attempts {RANKED_FROM}"
    if run.batch is not None:
        membership = f"attempt {run.batch.index + 1} of {run.batch.planned} of the batch {run.batch.id}"
    if not best["train"]:
        return f"{membership}; no ranked batch of {run.track} on this machine class yet"
    leads = "; ".join(
        f"{clock}: {first.runs[0].label} leads with ERT {expected_time_to_success(first.runs, clock):.2f} s"
        for clock, (first, *_) in best.items()
    )
    return f"{membership}; {leads}"


def current_runs(runs: Iterable[Run]) -> list[Run]:
    """The attempts of each config's entry of the board with the latest attempt, in the journal's order.

    For a config without an entry, its attempts with the settings, source and machine class of the latest one. Attempts
    with settings changed on the command line are left out.
    """
    contest = [run for run in runs if run.is_contest and not run.overrides]
    groups = [entry.runs for entry in group_entries(group_batches(contest))]
    with_entry = {(group[0].track, group[0].config) for group in groups}
    others: dict[Hashable, list[Run]] = defaultdict(list)
    for run in contest:
        if (run.track, run.config) not in with_entry:
            others[run.config, contestant_key(run)].append(run)
    latest: dict[tuple[str, str], Sequence[Run]] = {}
    for group in sorted([*groups, *others.values()], key=lambda group: max(run.started_at for run in group)):
        latest[group[0].track, group[0].config] = group
    ids = {run.run_id for group in latest.values() for run in group}
    return [run for run in contest if run.run_id in ids]


def contestant_key(run: Run) -> Hashable:
    """What the attempts of one entry have in common: equal settings, source and machine class."""
    return settings_key(run.settings), run.source_sha256, run.machine.class_
