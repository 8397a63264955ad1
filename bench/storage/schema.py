"""Every record that the project files, as pydantic models: journal lines, plans, records, conclusions."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

from bench.clock import ClockName


class SchemaModel(BaseModel):
    """A part of a line; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)


class Gpu(BaseModel):
    """One GPU, an NVIDIA one as NVML reports it; a counter that the driver does not offer is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None
    memory_bytes: int | None
    driver: str | None
    power_limit_watts: float | None
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_celsius: int | None
    throttle_reasons: list[str] | None
    energy_joules: float | None  # since the driver was loaded


class Hardware(BaseModel):
    """The machine; sizes in bytes, what is not known is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str | None
    cpu_family: int | None
    cpu_model: int | None
    cpu_stepping: int | None
    amx_bf16: bool | None
    avx512_bf16: bool | None
    cores: int | None  # that this process may use
    cores_physical: int | None
    memory_bytes: int | None
    gpu: Gpu | None


class Software(BaseModel):
    """The versions that the figures depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: str
    torch: str
    cuda: str | None
    platform: str


SCHEMA = 1
YARDSTICK, AUDIT = "yardstick", "audit"  # commands of batches that test a machine, and a trainer
MATRIX, TUNE = "matrix", "tune"  # and of those that look for settings
EXPLORATION_COMMANDS = (MATRIX, TUNE)

Outcome = Literal["solved", "missed", "diverged", "timeout", "interrupted", "error", "lost", "pruned"]
NonNegativeSeconds = Annotated[FiniteFloat, Field(ge=0)] | None


class Batch(SchemaModel):
    """The command that started this attempt together with others."""

    id: str
    command: str
    planned: int = Field(ge=1)  # attempts, of each side; fixed before the first one
    index: int = Field(ge=0)
    side: Literal["a", "b"] | None = None  # of a comparison; the attempts of one index are a pair


class Seconds(SchemaModel):
    """The clock's phases; null for a phase that the attempt did not reach."""

    import_: NonNegativeSeconds = Field(alias="import")
    setup: NonNegativeSeconds
    warmup: NonNegativeSeconds
    train: NonNegativeSeconds
    certify: NonNegativeSeconds
    total: NonNegativeSeconds


class Check(SchemaModel):
    """One sparse evaluation: its errors are of training problems, and so is all that can end training."""

    step: int
    train_seconds: FiniteFloat
    loss: FiniteFloat | None  # nats a character; null when it is not finite
    errors: int | None
    asked: int | None = None  # problems; a survey asks more than a check, and with it those it climbed to


class Count(SchemaModel):
    problems: NonNegativeInt
    errors: NonNegativeInt


class Certificate(SchemaModel):
    """The verdict on the weights that training ended with."""

    problems: NonNegativeInt
    errors: NonNegativeInt
    heldout_problems: NonNegativeInt
    heldout_errors: NonNegativeInt
    groups: dict[str, Count]
    samples: dict[str, Count]
    exhaustive: bool  # every problem of the track was decoded
    error_rate_upper_95: FiniteFloat  # the rate itself when exhaustive


class Machine(SchemaModel):
    class_: str | None = Field(alias="class")
    clean: bool | None  # null: nobody looked
    reasons: list[str]  # why it is not clean
    others_before: FiniteFloat | None = None  # share of the cores that other processes took before the start, 0..1
    others_train: FiniteFloat | None = None  # and during `train`


class Run(SchemaModel):
    """One line of the journal. Units stand in the key; what is not known is null."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str
    batch: Batch | None
    engine: Literal["ray"] | None = None  # that carried it to another process or machine; null for one started here
    track: str
    config: str
    settings: dict[str, bool | int | FiniteFloat | str | None]
    config_hash: str  # of the settings, seed and paths aside
    seed: int
    outcome: Outcome
    message: str | None
    note: str | None
    device: str
    precision: str
    compiled: bool
    threads: int | None  # of each process
    processes: int = 1  # that trained together
    seconds: Seconds
    outer_seconds: Seconds | None = None  # by the clock of the command that started it; null when none did
    clock_resolution_seconds: FiniteFloat | None  # of the process's start
    display_seconds: FiniteFloat | None  # processor time that the display took during `train`
    steps: int | None
    examples: int | None
    parameters: int | None
    train_flops: FiniteFloat | None  # of the matrix products of all optimizer steps
    matmul_flops_per_second: FiniteFloat | None = None  # the machine's measured peak, in the same precision
    step_launches: int | None = None  # operations that a step gives to torch; null where they are not counted
    launch_seconds: FiniteFloat | None = None  # of one such operation on a single number, measured
    checks: list[Check]
    reached: dict[str, FiniteFloat | None]  # target -> train seconds
    certificate: Certificate | None
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    energy_joules: FiniteFloat | None  # during `train`
    energy_method: str | None = None  # whose counter it is
    machine: Machine
    hardware: Hardware | None
    software: Software | None
    source_sha256: str
    harness_sha256: str
    data_sha256: dict[str, str] | None
    commit: str | None
    dirty: bool | None
    weights: str | None
    weights_sha256: str | None
    initial_weights_sha256: str | None = None  # of the tensors as training began from them, before the warm-up
    warmed_weights_sha256: str | None = None  # and after it; the same when the warm-up trained nothing
    search: dict[str, Any] | None
    started_at: datetime

    def line(self) -> str:
        return self.model_dump_json()

    @property
    def is_contest(self) -> bool:
        """Whether it was made for its own sake, not to test a trainer or a machine, nor to look for settings."""
        command = None if self.batch is None else self.batch.command
        return (
            command not in (YARDSTICK, AUDIT, *EXPLORATION_COMMANDS) and self.settings.get("control", "none") == "none"
        )


def new_id(config: str) -> str:
    """The name of a run or a batch; sorts by time and is unique: `20260131-235959-add3-cpu-1a2b3c`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config}-{uuid.uuid4().hex[:6]}"


def mark_not_clean(machine: Machine, reasons: Sequence[str]) -> Machine:
    """Not clean, for these reasons too; as it was when there are none."""
    return machine.model_copy(update={"clean": False, "reasons": [*machine.reasons, *reasons]}) if reasons else machine


Interval = tuple[FiniteFloat, FiniteFloat]


class BatchSummary(SchemaModel):
    """What a batch came to."""

    attempts: int = Field(ge=1)
    solved: int = Field(ge=0)
    clean: int = Field(ge=0)  # attempts on a quiet machine
    ert_train_seconds: FiniteFloat | None  # null when none solved
    ert_total_seconds: FiniteFloat | None


class Record(SchemaModel):
    """`record.json`: a batch that beat the standing record, or was the first, with all that is needed to check it."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str  # of the folder
    track: str
    clock: ClockName
    machine_class: str
    device: str
    config: str
    settings: dict[str, bool | int | FiniteFloat | str | None]
    config_hash: str
    source_sha256: str
    harness_sha256: str
    commit: str
    batch: str  # its runs in the journal carry this id
    result: BatchSummary
    predecessor: str | None  # the record before, null for the first
    predecessor_result: BatchSummary | None  # in the same pairs
    ert_ratio: FiniteFloat | None  # to the predecessor's, in the same pairs, on the record's clock
    ert_ratio_95: Interval | None
    p_value: FiniteFloat | None
    noisy: bool  # filed although the machine was not quiet all the time
    median_run: str  # whose weights these are
    weights_sha256: str
    parameters: int
    started_at: datetime
    search: dict[str, Any] | None = None  # that found the settings, and what it took

    @property
    def ert_seconds(self) -> float:
        """On the record's own clock."""
        return self.result.ert_train_seconds if self.clock == "train" else self.result.ert_total_seconds


class Reproduction(SchemaModel):
    """One replay of a record."""

    batch: str
    machine_class: str
    harness_sha256: str  # today's, whose clock and certificate were used
    result: BatchSummary
    certified: int = Field(ge=0)  # attempts that today's certificate found solved, in a process of its own
    ert_ratio: FiniteFloat | None  # to the record's, on the record's clock; null when none solved
    ert_ratio_95: Interval | None
    reproduced: bool
    reason: str | None  # why not
    started_at: datetime


SideName = Literal["a", "b"]


class Side(SchemaModel):
    """One contestant of an agenda."""

    name: str  # of the config or the record
    record: str | None  # whose snapshot is run; null for a config of this checkout
    config: str
    settings: dict[str, bool | int | FiniteFloat | str | None]
    config_hash: str
    source_sha256: str
    harness_sha256: str
    commit: str | None
    dirty: bool | None


class PairedPlan(SchemaModel):
    """A line of `agenda.jsonl`."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str  # of its batches
    command: Literal["compare", "record", "replay"]
    number: int = Field(ge=1)  # in the series of comparisons that this opponent has had on this board
    track: str
    clock: ClockName
    device: str
    machine_class: str
    pairs: int = Field(ge=1)  # or attempts, where there is no opponent
    seeds: list[int]  # one a pair
    first: list[SideName]  # the side that goes first in each pair
    a: Side
    b: Side | None  # the opponent
    started_at: datetime
    why: str | None = None  # what side a tries and for what reason, in a line; null when nobody said

    def batches(self) -> list[Batch]:
        """All attempts, in order."""
        ordered = []
        for index, first in enumerate(self.first):
            sides = [first] if self.b is None else [first, "b" if first == "a" else "a"]
            for side in sides:
                ordered.append(Batch(id=self.id, command=self.command, planned=self.pairs, index=index, side=side))
        return ordered

    def series(self) -> tuple:
        """What the comparisons of one series have in common: the board and the opponent."""
        opponent = None if self.b is None else (self.b.config_hash, self.b.source_sha256)
        return self.track, self.clock, self.machine_class, opponent


Verdict = Literal["faster", "slower", "not decided"]


class Conclusion(SchemaModel):
    """A line of `comparisons.jsonl`: what a finished comparison came to; `compared` finds it again in the journal."""

    id: str  # of the agenda
    verdict: Verdict  # about side a, on the agenda's clock
    p_value: FiniteFloat
    ert_ratio: FiniteFloat | None  # a to b; null when one of them never solved
    ert_ratio_95: Interval | None
    drift: FiniteFloat | None
    pairs_needed: int | None
    a: BatchSummary
    b: BatchSummary
