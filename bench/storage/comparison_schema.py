"""Journalled record types of comparisons: records and reproductions, paired plans and conclusions."""

import math
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt

from bench.clock import ClockName
from bench.storage.schema import SCHEMA, Batch, Interval, SchemaModel, SettingValues, SideName

Verdict = Literal["faster", "slower", "not decided"]

# -----------------------------------------------------------------------------
# records and reproductions


class BatchSummary(SchemaModel):
    """The number of attempts of a batch, and its expected time to success (ERT)."""

    attempts: int = Field(ge=1)
    solved: int = Field(ge=0)
    clean: int = Field(ge=0)  # attempts on a quiet machine
    ert_train_seconds: FiniteFloat | None  # null if none solved
    ert_total_seconds: FiniteFloat | None

    def ert_seconds(self, clock: ClockName) -> float | None:
        """ERT on one clock; None if none solved."""
        return self.ert_train_seconds if clock == "train" else self.ert_total_seconds


class Record(SchemaModel):
    """`record.json`: a batch that beat the standing record, or was the first, with the data to verify it."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    name: str  # of the folder
    track: str
    clock: ClockName
    machine_class: str
    device: str
    config: str
    settings: SettingValues
    config_hash: str
    source_sha256: str
    harness_sha256: str
    commit: str
    batch: str  # id of the batch in the journal
    result: BatchSummary
    predecessor: str | None  # the previous record; null for the first
    predecessor_result: BatchSummary | None  # in the same pairs
    ert_ratio: FiniteFloat | None  # ERT over that of the predecessor in the same pairs, on the record's clock
    ert_ratio_95: Interval | None
    p_value: FiniteFloat | None
    level: FiniteFloat | None = None  # that the p-value had to reach; null: 0.05, or no predecessor
    number: int | None = None  # of its comparison in the series against the predecessor; null: see the plan
    noisy: bool  # filed although the machine was not quiet all the time
    median_run: str  # id of the run whose weights are filed
    weights_sha256: str
    parameters: int
    started_at: datetime
    search: dict[str, Any] | None = None  # the search that found the settings, and its cost

    @property
    def ert_seconds(self) -> float:
        """ERT on the record's clock; infinite if no attempt solved the track."""
        seconds = self.result.ert_seconds(self.clock)
        return math.inf if seconds is None else seconds


class Reproduction(SchemaModel):
    """One replay of a record, a line of `reproductions.jsonl`."""

    batch: str
    machine_class: str
    harness_sha256: str  # of the harness that timed and certified the replay
    result: BatchSummary
    certified: int = Field(ge=0)  # attempts that the certificate, repeated in a separate process, found solved
    ert_ratio: FiniteFloat | None  # ERT over that of the record, on the record's clock; null if none solved
    ert_ratio_95: Interval | None
    reproduced: bool
    reason: str | None  # why it was not reproduced
    started_at: datetime


# -----------------------------------------------------------------------------
# paired plans and conclusions


class Side(SchemaModel):
    """One contestant of a paired plan."""

    name: str  # of the config or the record
    record: str | None  # the record whose snapshot is run; null for a config of this checkout
    config: str
    settings: SettingValues
    config_hash: str
    source_sha256: str
    harness_sha256: str
    commit: str | None
    dirty: bool | None


class PairedPlan(SchemaModel):
    """A comparison, or a batch without an opponent, fixed before its first attempt; a line of `agenda.jsonl`.

    Seeds are drawn from the system's randomness. In older plans they follow from the hashes of settings and source.
    """

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    id: str  # of the batch
    command: Literal["speedrun", "compare", "record", "replay"]
    number: int = Field(ge=1)  # in the series of comparisons with this opponent on this board
    track: str
    clock: ClockName | None  # that decides; null: a batch of speedrun.py, which both clocks rank
    device: str
    machine_class: str
    pairs: int = Field(ge=1)  # attempts, if there is no opponent
    seeds: list[int]  # one for each pair
    spare_seeds: list[int] | None = None  # of a record with an opponent: for pairs that are run again, in order
    first: list[SideName] | None = None  # the side that runs first in each pair; null: drawn when the pair begins
    level: FiniteFloat | None = None  # of the test; null: 0.05, or no opponent
    noisy: bool | None = None  # of a record: attempts count although the machine was not quiet; null: not told
    # Of a record: attempts of a whose answers have other ids, at places that are drawn while it runs. 0: the track or
    # the trainer has none; null: before there were such attempts, or no record.
    altered: NonNegativeInt | None = None
    a: Side
    b: Side | None  # the opponent, if any
    started_at: datetime
    why: str | None = None  # what side a changes and why, in one line

    def batch(self, index: int, side: SideName) -> Batch:
        """The `batch` value of an attempt; those of speedrun.py have no side."""
        named = None if self.command == "speedrun" else side
        return Batch(id=self.id, command=self.command, planned=self.pairs, index=index, side=named)

    def seed(self, index: int) -> int:
        """The seed of a pair; the indices of pairs that are run again follow those of the planned ones."""
        return [*self.seeds, *(self.spare_seeds or ())][index]

    def series(self) -> tuple[str, ClockName | None, str, tuple[str, str] | None]:
        """The key of a series of comparisons: the board (track, clock, machine class) and the opponent's hashes."""
        opponent = None if self.b is None else (self.b.config_hash, self.b.source_sha256)
        return self.track, self.clock, self.machine_class, opponent


class Conclusion(SchemaModel):
    """The result of a finished comparison, a line of `comparisons.jsonl`; it can be recomputed from the journal."""

    id: str  # of the paired plan
    verdict: Verdict  # about side a, on the plan's clock
    p_value: FiniteFloat
    level: FiniteFloat | None = None  # of the test; null: 0.05
    number: int | None = None  # in the series of comparisons with this opponent; null: see the plan
    reason: str | None = None  # why it is not decided, beside the p-value
    repeated: NonNegativeInt | None = None  # pairs that do not count, because the opponent was disturbed
    # Attempts of a and of b that count with fewer seconds in the ratio, because a step of theirs took unusually long.
    # Null: there was no such limit, and the statistic of the test was the log ratio of the ERTs.
    capped: tuple[NonNegativeInt, NonNegativeInt] | None = None
    ert_ratio: FiniteFloat | None  # ERT of a over that of b; null if one of them never solved
    ert_ratio_95: Interval | None
    drift: FiniteFloat | None
    pairs_needed: int | None
    a: BatchSummary  # of the pairs that count
    b: BatchSummary
