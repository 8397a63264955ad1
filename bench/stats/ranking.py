"""Ranking: batches of attempts grouped into entries of the board, their ranks, the best entry of a machine class."""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence, Set

from bench.clock import ClockName
from bench.config import settings_key
from bench.stats.expected_time import count_solved_seeds, expected_time_to_success
from bench.storage.comparison_schema import Conclusion, PairedPlan, Side
from bench.storage.schema import RANKED_COMMANDS as RANKED_COMMANDS
from bench.storage.schema import Run

RANKED_FROM = 10  # attempts in a batch
CLOCKS: tuple[ClockName, ...] = ("train", "total")


@dataclasses.dataclass(frozen=True)
class RunBatch:
    """A batch of attempts with equal config, source and machine class."""

    id: str
    planned: int  # number of attempts, fixed before the first one
    runs: tuple[Run, ...]  # by index

    @property
    def finished(self) -> bool:
        return len(self.runs) >= self.planned  # more in a record, of which some pairs were run again

    @functools.cached_property
    def ranked(self) -> bool:
        is_whole = self.finished and len({run.seed for run in self.runs}) >= RANKED_FROM
        return is_whole and not self.disputed and self.unranked_because is None

    @functools.cached_property
    def disputed(self) -> list[str]:
        """Why runs of the batch are disputed, each reason once; a batch with a disputed run has no rank."""
        return list(dict.fromkeys(reason for run in self.runs for reason in run.disputed))

    @property
    def unranked_because(self) -> str | None:
        """What a run of it did because of which the batch is never ranked; see `Run`."""
        return next((reason for run in self.runs if (reason := run.unranked_because) is not None), None)


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the board: all batches of one config, source and machine class.

    Unfinished batches count as well, so that repeating a batch until it is lucky does not pay. Each seed has one vote.
    Disputed batches are an entry of their own, without a rank.
    """

    batches: tuple[RunBatch, ...]  # in file order

    @property
    def id(self) -> str:
        return self.batches[0].id

    @property
    def contestant(self) -> Hashable:
        return contestant_key(self.runs[0], self.runs[0].machine.class_)

    @functools.cached_property
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
    def finished(self) -> bool:
        return all(batch.finished for batch in self.batches)

    @functools.cached_property
    def ranked(self) -> bool:
        return any(batch.ranked for batch in self.batches)

    @property
    def disputed(self) -> list[str]:
        """Why its batches are disputed, each reason once."""
        return list(dict.fromkeys(reason for batch in self.batches for reason in batch.disputed))

    @property
    def is_old(self) -> bool:
        """Whether some of its runs are older than the checks, and were not rechecked."""
        return any(run.is_old for run in self.runs)

    @property
    def num_seeds(self) -> int:
        return len({run.seed for run in self.runs})

    @functools.cached_property
    def num_solved_seeds(self) -> float:
        """See `count_solved_seeds`."""
        return count_solved_seeds(self.runs)

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
        # Side b of a record's pairs has no fixed number of attempts: those that were disturbed are run again.
        if batch is not None and batch.side != "b":
            key = (batch.id, batch.planned, run.config_hash, run.source_sha256, run.machine.class_)
            groups[key].setdefault(batch.index, run)
    return [RunBatch(key[0], key[1], tuple(run for _, run in sorted(group.items()))) for key, group in groups.items()]


def group_entries(batches: Iterable[RunBatch]) -> list[Entry]:
    """The entries of the board, in the order of their first batches."""
    groups: dict[Hashable, list[RunBatch]] = defaultdict(list)
    for batch in batches:
        first = batch.runs[0]
        groups[contestant_key(first, first.machine.class_), bool(batch.disputed)].append(batch)
    return [Entry(tuple(group)) for group in groups.values()]


def ranked_entries(runs: Iterable[Run], clock: ClockName) -> list[Entry]:
    """The entries of the board that have a rank, by ERT; for their ranks see `shared_ranks`."""
    return sorted_by_time(group_entries(group_batches(runs)), clock)


def sorted_by_time(entries: Iterable[Entry], clock: ClockName) -> list[Entry]:
    """Those of some entries that have a rank, by ERT."""
    return sorted((entry for entry in entries if entry.ranked), key=lambda entry: entry.order(clock))


@dataclasses.dataclass(frozen=True)
class ClassRuns:
    """The runs of one track on one machine class."""

    runs: Sequence[Run]  # in the journal's order

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """The entries of the board that the runs form."""
        return group_entries(group_batches(self.runs))


def decided_pairs(plans: Iterable[PairedPlan], conclusions: Iterable[Conclusion]) -> set[tuple[Hashable, Hashable]]:
    """The pairs of contestants, the faster one first, that finished comparisons by one clock have told apart.

    Pairs about which two comparisons contradict each other are left out.
    """
    verdicts = {conclusion.id: conclusion.verdict for conclusion in conclusions}
    pairs: set[tuple[Hashable, Hashable]] = set()
    for plan in plans:
        verdict = verdicts.get(plan.id, "not decided")
        if plan.b is not None and verdict != "not decided":
            a, b = (contestant_key(side, plan.machine_class) for side in (plan.a, plan.b))
            pairs.add((a, b) if verdict == "faster" else (b, a))
    return {(faster, slower) for faster, slower in pairs if (slower, faster) not in pairs}


def shared_ranks(entries: Sequence[Entry], decided: Set[tuple[Hashable, Hashable]]) -> list[int]:
    """The ranks of the entries of one table, which are sorted by ERT.

    An entry has the rank of the one above it, unless it was found slower than an entry of that rank: then the next rank
    begins with it. Entries that solved nothing come after all others.
    """
    ranks: list[int] = []
    same_rank: list[Entry] = []  # the entries so far of the last rank
    for entry in entries:
        found_slower = any((above.contestant, entry.contestant) in decided for above in same_rank)
        solved_nothing = not entry.num_solved_seeds and any(above.num_solved_seeds for above in same_rank)
        if found_slower or solved_nothing:
            same_rank = []
        ranks.append(ranks[-1] + (not same_rank) if ranks else 1)
        same_rank.append(entry)
    return ranks


def leaders(runs: Sequence[Run], clock: ClockName) -> list[Entry]:
    """The ranked entry with the best ERT of each track and machine class."""
    best: dict[tuple[str, str | None], Entry] = {}
    for entry in ranked_entries(runs, clock):
        if entry.num_solved_seeds:
            best.setdefault((entry.runs[0].track, entry.runs[0].machine.class_), entry)
    return list(best.values())


def describe_standing(run: Run, runs: Sequence[Run]) -> str:
    """The batch of a run and the best ERTs of its track and machine class, in one line."""
    same = [other for other in runs if (other.track, other.machine.class_) == (run.track, run.machine.class_)]
    best = {clock: leaders(same, clock) for clock in CLOCKS}
    if run.unranked_because is not None:
        return f"this run {run.unranked_because} and never ranks"
    if run.disputed:
        return f"this run is disputed and its batch does not rank: {'; '.join(run.disputed)}"
    membership = f"one attempt is not ranked, use --attempts {RANKED_FROM}"
    if run.batch is not None:
        membership = f"attempt {run.batch.index + 1} of {run.batch.planned} of the batch {run.batch.id}"
    if not best["train"]:
        return f"{membership}; no ranked batch of {run.track} on this machine class yet"
    best_texts = "; ".join(
        f"best ERT by {clock}: {expected_time_to_success(first.runs, clock):.2f} s, {first.runs[0].label}"
        for clock, (first, *_) in best.items()
    )
    return f"{membership}; {best_texts}"


def current_runs(runs: Iterable[Run]) -> list[Run]:
    """The attempts of each config's entry of the board with the latest attempt, in the journal's order.

    For a config without an entry, its attempts with the settings, source and machine class of the latest one. Attempts
    with settings changed on the command line, and those of disputed batches, are left out.
    """
    contest = [run for run in runs if run.is_contest and not run.overrides]
    entries = group_entries(group_batches(contest))
    disputed = {run.run_id for entry in entries if entry.disputed for run in entry.runs}
    contest = [run for run in contest if run.run_id not in disputed]
    groups = [entry.runs for entry in entries if not entry.disputed]
    with_entry = {(group[0].track, group[0].config) for group in groups}
    others: dict[Hashable, list[Run]] = defaultdict(list)
    for run in contest:
        if (run.track, run.config) not in with_entry:
            others[run.config, contestant_key(run, run.machine.class_)].append(run)
    latest: dict[tuple[str, str], Sequence[Run]] = {}
    for group in sorted([*groups, *others.values()], key=lambda group: max(run.started_at for run in group)):
        latest[group[0].track, group[0].config] = group
    ids = {run.run_id for group in latest.values() for run in group}
    return [run for run in contest if run.run_id in ids]


def contestant_key(contestant: Run | Side, machine_class: str | None) -> Hashable:
    """What the attempts of one entry have in common: equal settings, source and machine class."""
    return settings_key(contestant.settings), contestant.source_sha256, machine_class
