"""Paired plans: attempts of one contestant, or of two in pairs, that a command writes down before it runs them.

`agenda.jsonl` has a line for each `compare`, `record` and `replay`. The line fixes the number of attempts, their seeds
and their order. So an interrupted command can be resumed, and an abandoned one stays visible.
"""

import contextlib
import dataclasses
import random
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

from bench.cli import print_progress
from bench.clock import ClockName
from bench.config import config_names, is_toml_file, settings_key
from bench.errors import UsageError, nearest_hint
from bench.experiments.executors import Executor, ExecutorLost
from bench.experiments.launcher import SCRIPT, Contestant, NotBegun, Task, run_tasks, yardstick_task
from bench.formatting import attempt_line, expected_text, interrupted_line, yardstick_line
from bench.storage.comparison_schema import PairedPlan, Side
from bench.storage.journal import Journal
from bench.storage.records import find_record, is_record, record_names, unpack_source
from bench.storage.results import paired_plans_file, runs_for_estimates
from bench.storage.schema import Run, SideName, new_id

SIDES: tuple[SideName, ...] = ("a", "b")
THIS_MACHINE = Executor()


class Participant(NamedTuple):
    """One side of a plan, and the contestant that runs its attempts."""

    side: Side
    contestant: Contestant


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a command asks for: attempts of one contestant, or of two in pairs."""

    command: Literal["compare", "record", "replay"]
    a: Participant
    b: Participant | None  # the opponent, if any
    clock: ClockName
    pairs: int
    first_seed: Callable[[int], int]  # from the number in the series to the seed of the first pair; the others follow
    is_finished: Callable[[PairedPlan, Sequence[Run]], bool]  # whether a plan with all attempts needs nothing more
    results: Path
    why: str | None = None  # one line about what is tried and why
    executor: Executor = THIS_MACHINE


# -----------------------------------------------------------------------------
# the sides


def resolve_side(
    name: str, device: str, results: Path, stack: contextlib.ExitStack, executor: Executor = THIS_MACHINE
) -> Participant:
    """A config of this checkout on a device, or a record, as a participant; raises UsageError when neither can run.

    `stack` deletes the unpacked snapshot of a record when it closes.
    """
    if not name:
        raise UsageError("the name of a contestant is empty; give a config or a record")
    if not is_record(name, results):
        if not is_toml_file(name) and name not in (names := config_names()):
            hint = nearest_hint(name, names | record_names(results), "the folder bench/configs")
            raise UsageError(f"there is no config or record {name!r}{hint}")
        contestant = executor.resolve(SCRIPT, ["--config", name, "--device", device])
        return participant(contestant, contestant.planned.config, None)
    record_folder = find_record(name, results)
    record = record_folder.record
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="addition-speedrun-"))
    script = unpack_source(record_folder, Path(folder))
    contestant = executor.resolve(script, ["--config", str(record_folder.config.resolve())], commit=record.commit)
    if settings_key(contestant.planned.settings) != settings_key(record.settings):
        raise UsageError(f"{record.name}: the settings in config.toml differ from those in record.json")
    planned = contestant.planned.model_copy(update={"config": record.config})
    return participant(dataclasses.replace(contestant, planned=planned), record.name, record.name)


def participant(contestant: Contestant, name: str, record: str | None) -> Participant:
    planned = contestant.planned
    side = Side(
        name=name,
        record=record,
        config=planned.config,
        settings=planned.settings,
        config_hash=planned.config_hash,
        source_sha256=planned.source_sha256,
        harness_sha256=planned.harness_sha256,
        commit=contestant.commit or planned.commit,
        dirty=False if contestant.commit else planned.dirty,
    )
    return Participant(side, contestant)


# -----------------------------------------------------------------------------
# the plan


def normalize_why(text: str | None) -> str | None:
    """The value of `--why` as one line; raises UsageError if it is empty, or not UTF-8."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("--why: this is not UTF-8") from None
    line = " ".join(text.split())
    if not line:
        raise UsageError("--why: the text is empty; leave the option out, or say what is tried and why")
    return line


def plan_experiment(experiment: Experiment) -> tuple[PairedPlan, bool]:
    """File a plan for an experiment, or find its unfinished one; also returns whether the plan is resumed.

    An unfinished plan keeps the `why` with which it was filed; another number of pairs is a UsageError.
    """
    file, identity = paired_plans_file(experiment.results), attrgetter("command", "clock", "machine_class", "a", "b")
    with file.lock():
        filed_plans, _ = file.read()
        runs, _ = Journal(experiment.results).read()
        plan = new_plan(experiment, filed_plans)
        latest = next((filed for filed in reversed(filed_plans) if identity(filed) == identity(plan)), None)
        if latest is not None:
            num_runs, num_attempts = sum(map(len, runs_by_side(latest, runs))), len(latest.batches())
            if num_runs < num_attempts or not experiment.is_finished(latest, runs):
                if latest.pairs != plan.pairs:
                    raise UsageError(
                        f"{latest.id} of the same contestants was planned with {latest.pairs} and is not finished "
                        f"({num_runs} of {num_attempts} attempts); finish it with that number first"
                    )
                if plan.why is not None and plan.why != latest.why:
                    filed_why = "no --why" if latest.why is None else f"--why {latest.why!r}"
                    print_progress(f"{latest.id} was filed with {filed_why}, which is kept")
                return latest, True
        file.append(plan)
    return plan, False


def new_plan(experiment: Experiment, filed_plans: Sequence[PairedPlan]) -> PairedPlan:
    command, pairs, planned = experiment.command, experiment.pairs, experiment.a.contestant.planned
    if planned.machine.class_ is None:
        raise UsageError(f"{command}: the machine class is unknown, because the CPU could not be identified")
    generator = random.SystemRandom()
    plan = PairedPlan(
        id=new_id(planned.config),
        command=command,
        number=1,
        track=planned.track,
        clock=experiment.clock,
        device=planned.device,
        machine_class=planned.machine.class_,
        pairs=pairs,
        seeds=[],
        first=[SIDES[0] if experiment.b is None else generator.choice(SIDES) for _ in range(pairs)],
        a=experiment.a.side,
        b=None if experiment.b is None else experiment.b.side,
        started_at=datetime.now(UTC),
        why=experiment.why,
    )
    number = 1 + sum(filed.series() == plan.series() for filed in filed_plans)
    seeds = [(experiment.first_seed(number) + index) % 2**31 for index in range(pairs)]
    return plan.model_copy(update={"number": number, "seeds": seeds})


# -----------------------------------------------------------------------------
# the attempts


def run_experiment(plan: PairedPlan, resumed: bool, experiment: Experiment) -> None:
    """Run the yardstick and the remaining attempts of a plan, and print a line for each.

    Attempts are left after KeyboardInterrupt and ExecutorLost. A UsageError: another process is running the plan.
    """
    executor, a, b = experiment.executor, experiment.a, experiment.b or experiment.a  # or: no batch is of side b
    tasks = [
        Task((b if batch.side == "b" else a).contestant, plan.seeds[batch.index], batch) for batch in plan.batches()
    ]
    yardstick = yardstick_task(SCRIPT, plan.device, plan.id, executor.resolve)
    runs, _ = Journal(experiment.results).read()
    filed = {run.batch for run in runs}
    pending = [task for task in (yardstick, *tasks) if task.batch not in filed]
    planned = [task.contestant.planned for task in pending]
    expected = expected_text(runs_for_estimates(experiment.results, planned), planned)
    num_left = len(pending) - (yardstick in pending)
    remaining = f", {num_left} left" if resumed else ""
    print_progress(
        f"{'resuming' if resumed else 'beginning'} {plan.id}: {len(tasks)} attempts{remaining}"
        f"{' and the yardstick' if yardstick in pending else ''}, {expected}"
    )
    done: list[Run] = []

    def print_run(run: Run) -> None:
        batch = run.batch_of(plan.command)
        if batch is None:
            print_progress(yardstick_line(run))
            return
        done.append(run)
        side = f"pair {batch.index + 1}{batch.side}  " if plan.b is not None else ""
        print_progress(f"{len(done)}/{len(tasks)}  {side}{attempt_line(run)}")

    def run_task(task: Task, journal: Journal) -> tuple[Run, bool]:
        if executor.is_lost:
            raise ExecutorLost
        return executor.run_attempt(task, journal, quietly=False)

    try:
        run_tasks([yardstick, *tasks], Journal(experiment.results), print_run, run_task)
    except KeyboardInterrupt as interrupt:
        if done and done[-1].outcome in ("interrupted", "lost") and not isinstance(interrupt, NotBegun):
            print_progress(interrupted_line(len(done), done, plan.clock))
        print_progress(f"interrupted after {len(done)} of {len(tasks)} attempts; run the same command again to resume")
        raise


def runs_by_pair(plan: PairedPlan, runs: Sequence[Run]) -> tuple[dict[int, Run], dict[int, Run]]:
    """The runs of side a and of side b, by the index of their pair, in its order."""
    by_batch = {run.batch: run for run in runs if run.batch is not None and run.batch.id == plan.id}
    batches = [batch for batch in sorted(plan.batches(), key=lambda batch: batch.index) if batch in by_batch]
    a, b = ({batch.index: by_batch[batch] for batch in batches if batch.side == side} for side in SIDES)
    return a, b


def runs_by_side(plan: PairedPlan, runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of side a and of side b, in the order of their pairs."""
    a, b = runs_by_pair(plan, runs)
    return list(a.values()), list(b.values())
