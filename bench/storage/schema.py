"""Journalled record types, as pydantic models: runs, limits of machines, scores of decodings.

Those of comparisons and records are in `comparison_schema`.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PrivateAttr

from bench.config import config_label, lacks_target

SCHEMA: Final = 1
YARDSTICK, AUDIT = "yardstick", "audit"  # commands whose batches test a machine and a trainer
MATRIX, TUNE = "matrix", "tune"  # commands whose batches explore settings
EXPLORATION_COMMANDS = (MATRIX, TUNE)
RANKED_COMMANDS = ("speedrun", "record")  # commands whose batches may rank

Outcome = Literal["solved", "missed", "diverged", "timeout", "interrupted", "error", "lost", "pruned"]
SideName = Literal["a", "b"]
SettingValues = dict[str, bool | int | FiniteFloat | str | None]
NonNegativeSeconds = Annotated[FiniteFloat, Field(ge=0)] | None
Interval = tuple[FiniteFloat, FiniteFloat]
DecodingKey = tuple[float, int, float]  # temperature, top-k, top-p; see `DecodingScore`


class SchemaModel(BaseModel):
    """Base class of all record types and their parts; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)


class Gpu(SchemaModel):
    """One GPU, as NVML reports it; a counter that the driver does not provide is null."""

    name: str | None
    memory_bytes: int | None
    driver: str | None
    power_limit_watts: float | None
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_celsius: int | None
    throttle_reasons: list[str] | None
    energy_joules: float | None  # since the driver was loaded


class Hardware(SchemaModel):
    """The hardware of a machine; what is not known is null."""

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


class Software(SchemaModel):
    """The versions of the software that times depend on."""

    python: str
    torch: str
    cuda: str | None
    platform: str


# -----------------------------------------------------------------------------
# runs


class Batch(SchemaModel):
    """The batch of an attempt, and the attempt's index in it."""

    id: str
    command: str  # that started the batch
    planned: int = Field(ge=1)  # number of attempts, of each side; fixed before the first one
    index: int = Field(ge=0)
    side: SideName | None = None  # of a comparison; the attempts with the same index are a pair


class Seconds(SchemaModel):
    """Seconds of each phase of the clock; null for a phase that did not begin."""

    import_: NonNegativeSeconds = Field(alias="import")
    setup: NonNegativeSeconds
    warmup: NonNegativeSeconds
    train: NonNegativeSeconds
    certify: NonNegativeSeconds
    total: NonNegativeSeconds
    # From process start until the line is filed; of an attempt in a batch, until its process has ended.
    wall: NonNegativeSeconds = None


class Count(SchemaModel):
    """The number of errors among a number of problems."""

    problems: NonNegativeInt
    errors: NonNegativeInt

    def is_right(self, percent: int) -> bool:
        """Whether at least `percent` of the problems are right."""
        return 100 * (self.problems - self.errors) >= percent * self.problems


class Evaluated(Count):
    """An evaluation of the problems of a split during training."""

    loss: FiniteFloat | None  # mean over the tokens with a target, nats; null if not finite


class Check(SchemaModel):
    """One evaluation during training. Training and validation problems may end training, test problems never do."""

    step: int
    train_seconds: FiniteFloat
    loss: FiniteFloat | None  # nats per character; null if not finite
    errors: int | None
    asked: int | None = None  # number of drawn training problems; larger at the end of a round
    squared_norm: FiniteFloat | None = None  # sum of the squares of all weights
    validation: Evaluated | None = None  # of the problems that never train, where the track names any
    # With the setting `curves`; such a run is never ranked. Of the held-out problems, or of all if none is held out.
    test: Evaluated | None = None
    training: Evaluated | None = None  # of all training problems, with `curves`, if `asked` is fewer

    @property
    def splits(self) -> dict[str, Evaluated]:
        """The evaluations by split: `train`, and `validation` and `test` where they were evaluated.

        `train` is a sample of the training problems, unless all were evaluated.
        """
        train = self.training
        if train is None and self.errors is not None and self.asked:
            train = Evaluated(problems=self.asked, errors=self.errors, loss=self.loss)
        splits = {"train": train, "validation": self.validation, "test": self.test}
        return {name: result for name, result in splits.items() if result is not None and result.problems}


class Certificate(Count):
    """The result of decoding the track's problems with the final weights."""

    heldout_problems: NonNegativeInt
    heldout_errors: NonNegativeInt
    groups: dict[str, Count]
    samples: dict[str, Count]
    exhaustive: bool  # every problem of the track was decoded
    error_rate_upper_95: FiniteFloat  # the exact rate if exhaustive
    measures: dict[str, FiniteFloat | None] = {}  # other figures that the verdict depends on; null if not finite
    limits: dict[str, FiniteFloat] = {}  # the measures of a solved track are at most these
    may_have_errors: bool = False  # whether the verdict depends on the measures alone
    has_target: bool = True  # whether the track can be solved; else its measures are the result
    targets: dict[str, bool] = {}  # whether each of the track's weaker targets is met
    # Of the right answers' logits less the largest other ones, where each problem has one right answer: the smallest
    # one, in float64 if it is small, and the number of problems from the lower end of each bin on.
    smallest_margin: FiniteFloat | None = None
    margins: dict[str, NonNegativeInt] | None = None
    asked_again: NonNegativeInt | None = None  # problems that were computed in float64, too; null before the judge

    @property
    def decisive_measures(self) -> list[str]:
        """The names of the measures with a limit; of all on a track without a target, whose result they are."""
        return list(self.limits if self.has_target else self.measures)

    @property
    def unmet_limits(self) -> list[str]:
        """The names of the measures that are above their limits."""
        values = ((name, self.measures.get(name), limit) for name, limit in self.limits.items())
        return [name for name, value, limit in values if value is None or value > limit]

    @property
    def is_solved(self) -> bool:
        """Whether the track is solved."""
        return self.has_target and (not self.errors or self.may_have_errors) and not self.unmet_limits


class Machine(SchemaModel):
    """The machine class, and whether other processes or throttling disturbed the attempt."""

    class_: str | None = Field(alias="class")
    clean: bool | None  # null: not measured
    reasons: list[str]  # why it is not clean
    others_before: FiniteFloat | None = None  # share of the cores used by other processes before `train`, 0..1
    others_train: FiniteFloat | None = None  # the same during `train`

    def with_reasons(self, reasons: Sequence[str]) -> "Machine":
        """A copy that is not clean for these additional reasons; unchanged if there are none."""
        return self.model_copy(update={"clean": False, "reasons": [*self.reasons, *reasons]}) if reasons else self


class Run(SchemaModel):
    """One attempt, a line of `runs.jsonl`. Keys name their units; what is not known is null."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str
    batch: Batch | None
    # Whether another process judged the attempt (harness), or its own (self); null before there was a judge.
    judge: Literal["self", "harness"] | None = None
    # Whether its process had namespaces of its own (/tmp, /dev/shm, network, IPC, processes), and did not see the
    # results folder; null where no other process judged it, and where it is not known.
    isolated: bool | None = None
    altered: bool = False  # the judge gave the answers other ids than prompts, to test the trainer; it never ranks
    engine: Literal["ray"] | None = None  # that ran it on another process or machine; null if run locally
    track: str
    config: str
    settings: SettingValues
    overrides: SettingValues | None = None  # settings that the command line changed; null: not known
    init_from: str | None = None  # the run whose weights this one started from; the settings hold their sha256
    config_hash: str  # of the settings, without seed and paths
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
    outer_seconds: Seconds | None = None  # on the clock of the command that started the attempt, if any
    clock_resolution_seconds: FiniteFloat | None  # of the start of the process
    display_seconds: FiniteFloat | None  # CPU time of the progress display during `train`
    steps: int | None
    examples: int | None
    parameters: int | None
    train_flops: FiniteFloat | None  # of the matrix products of all optimizer steps
    matmul_flops_per_second: FiniteFloat | None = None  # the machine's measured peak at the same precision
    tokenizer_seconds: FiniteFloat | None = None  # in `setup`, of making the track's own tokenizer; null without one
    # The C compiler that the judge gave it: path, version and sha256 of the file; null if it had none.
    compiler: dict[str, str | None] | None = None
    compiler_seconds: FiniteFloat | None = None  # of compiling the C kernel, beside the phases until `setup` ends
    step_launches: int | None = None  # torch operations of one step; null if not counted
    launch_seconds: FiniteFloat | None = None  # measured, of one such operation on a single number
    checks: list[Check]
    reached: dict[str, FiniteFloat | None]  # target -> train seconds
    reached_steps: dict[str, int | None] | None = None  # such as `validation 95%` -> step of the first such check
    certificate: Certificate | None
    estimated_memory_bytes: int | None = None  # of the peak before the attempt; on CUDA, of the device's
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    energy_joules: FiniteFloat | None  # during `train`
    energy_method: str | None = None  # `NVML` or `RAPL`
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
    initial_weights_sha256: str | None = None  # of the tensors that training started from
    warmed_weights_sha256: str | None = None  # of the tensors after the warm-up; of runs before there was a judge
    search: dict[str, Any] | None
    started_at: datetime

    # Not in the line: set by `Journal` when it reads the line; see `bench.storage.disputes`.
    _disputed: tuple[str, ...] = PrivateAttr(default=())
    _is_old: bool = PrivateAttr(default=False)

    @property
    def disputed(self) -> tuple[str, ...]:
        """Why the run is disputed, so that its batch has no rank."""
        return self._disputed

    @property
    def is_old(self) -> bool:
        """Whether the line is older than the checks of the journal: the run keeps its place, not rechecked."""
        return self._is_old

    def with_status(self, disputed: Sequence[str] = (), is_old: bool = False) -> "Run":
        """A copy with another `disputed` and `is_old`."""
        run = self.model_copy()
        run._disputed, run._is_old = tuple(disputed), is_old
        return run

    @property
    def command(self) -> str | None:
        """The command that started the batch of this run; None for a single attempt."""
        return None if self.batch is None else self.batch.command

    @property
    def label(self) -> str:
        """The config, and the settings that the command line changed: `add3-cpu + batch_size=192`.

        A run that started from another one's weights names it, even if the config says so.
        """
        start = self.settings.get("init_from")
        named = {"init_from": self.init_from or start} if start else {}
        return config_label(self.config, {**(self.overrides or {}), **named})

    def batch_of(self, *commands: str) -> Batch | None:
        """The batch of this run if one of these commands started it."""
        return self.batch if self.command in commands else None

    @property
    def is_regular(self) -> bool:
        """Whether the run was made to solve its track, rather than test a trainer or a machine, or explore settings."""
        tests_or_explores = self.command in (YARDSTICK, AUDIT, *EXPLORATION_COMMANDS)
        return not tests_or_explores and not self.altered and self.settings.get("control", "none") == "none"

    @property
    def unranked_because(self) -> str | None:
        """What the run did because of which it is never ranked, as a verb in the past tense; None if it may be."""
        if (control := self.settings.get("control", "none")) != "none":
            return f"trained on an altered track (--control {control})"
        if self.altered:
            return "trained on an altered track (the judge relabelled its answers)"
        if lacks_target(self.settings):
            return "trained on a track without a target (track_settings.bits_per_byte)"
        if self.settings.get("init_from"):
            return "started from the weights of another run (init_from)"
        return "looked at the test problems during training" if self.settings.get("curves") else None

    @property
    def is_contest(self) -> bool:
        """Whether the run may be ranked and compared with others."""
        return self.is_regular and self.unranked_because is None

    @property
    def may_rank(self) -> bool:
        """Whether the run is one of a batch that may rank.

        Side b of a record's pairs is not: it runs with the seeds of side a.
        """
        batch = self.batch_of(*RANKED_COMMANDS)
        return batch is not None and batch.side != "b" and self.is_contest

    @property
    def machine_class_name(self) -> str:
        """The machine class, or a text that says that it is not known."""
        return self.machine.class_ or "unknown machine"


class Note(SchemaModel):
    """A remark about a run that was added later, a line of `notes.jsonl`."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str
    text: str = Field(min_length=1)  # one line
    written_at: datetime  # UTC


class MachinePeak(SchemaModel):
    """Measured limits of a machine, a line of `machines.jsonl`; the newest line of a class and precision is valid."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    machine_class: str
    precision: str
    matmul_flops_per_second: FiniteFloat  # of the best matrix product
    launch_seconds: FiniteFloat  # of a torch operation on a single number
    measured_at: datetime


class ColdStart(SchemaModel):
    """What an attempt takes without Python's files in the page cache, a line of `cold_starts.jsonl`.

    The values are medians. The newest line of a machine class is valid.
    """

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    machine_class: str
    config: str
    source_sha256: str
    attempts: int = Field(ge=1)  # of each kind, cold and warm in turn
    cold_total_seconds: FiniteFloat  # of `total`, with the files of Python and its packages not in the page cache
    warm_total_seconds: FiniteFloat  # with them in it
    measured_at: datetime


class DecodingScore(SchemaModel):
    """The number of right answers of a model by one way of decoding."""

    temperature: FiniteFloat = 0.0  # 0 is greedy
    top_k: NonNegativeInt = 0  # 0: all tokens
    top_p: FiniteFloat = 1.0  # 1: all tokens
    problems: int = Field(ge=1)
    right: NonNegativeInt

    @property
    def decoding(self) -> DecodingKey:
        return self.temperature, self.top_k, self.top_p


class Sampling(DecodingScore):
    """The score of one decoding of a model's answers, a line of `samplings.jsonl`."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str
    weights_sha256: str
    seed: int  # of the problems and of the sampled tokens
    share_95: Interval  # the 95% interval of the share of right answers (Wilson, 1927)
    measured_at: datetime


class MachineUse(SchemaModel):
    """How a trainer uses a machine, and why; the answer of `python speedrun.py --probe machine`."""

    precision: str
    precision_reason: str
    kernel: str
    kernel_reason: str
    threads: int
    compiler_seconds: FiniteFloat | None  # of compiling and testing the C kernel; null without one


def new_id(config: str) -> str:
    """A unique name of a run or a batch that sorts by time, like `20260131-235959-add3-cpu-1a2b3c`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config}-{uuid.uuid4().hex[:6]}"
