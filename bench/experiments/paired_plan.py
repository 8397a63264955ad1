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
from pathlib import Path
from typing import Literal

from bench.cli import print_progress
from bench.clock import ClockName
from bench.errors import UsageError
from bench.experiments.executors import Executor, ExecutorLost, LocalExecutor
from bench.experiments.launcher import SCRIPT, Contestant, Task, run_tasks, yardstick_task
from bench.formatting import attempt_line
from bench.storage.journal import Journal
from bench.storage.records import find_record, is_record, unpack_source
from bench.storage.results import paired_plans_file
from bench.storage.schema import Batch, PairedPlan, Run, Side, SideName, new_id

SIDES: tuple[SideName, ...] = ("a", "b")


@dataclasses.dataclass(frozen=True)
class Contestants:
    """The contestants of a plan's sides."""

    a: Contestant
    b: Contestant | None

    def of(self, batch: Batch) -> Contestant:
        """Raises ValueError: there is no contestant on the batch's side."""
        contestant = self.b if batch.side == "b" else self.a
        if contestant is None:
            raise ValueError(f"{batch.id} has no side b")
        return contestant


# -----------------------------------------------------------------------------
# the sides


def resolve_side(
    name: str, device: str, results: Path, stack: contextlib.ExitStack, executor: Executor | None = None
) -> tuple[Side, Contestant]:
    """A config of this checkout, or a record, as a contestant.

    Args:
        device: of the config, as on the command line; a record uses its own.
        stack: deletes the unpacked snapshot of a record when it closes.
        executor: runs the attempts; this machine by default.

    Raises:
        UsageError: no config or record has this name, or it cannot run on the executor.
    """
    executor = executor or LocalExecutor()
    if not is_record(name, results):
        contestant = executor.resolve(SCRIPT, ["--config", name, "--device", device])
        return side_of(contestant, contestant.planned.config, None), contestant
    record_folder = find_record(name, results)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="addition-speedrun-")))
    script = unpack_source(record_folder, folder)
    record = record_folder.record
    contestant = executor.resolve(script, ["--config", str(record_folder.config.resolve())], commit=record.commit)
    if contestant.planned.config_hash != record.config_hash:
        raise UsageError(f"{record.name}: the settings in config.toml differ from those in record.json")
    planned = contestant.planned.model_copy(update={"config": record.config})
    contestant = dataclasses.replace(contestant, planned=planned)
    return side_of(contestant, record.name, record.name), contestant


def side_of(contestant: Contestant, name: str, record: str | None) -> Side:
    planned = contestant.planned
    return Side(
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


# -----------------------------------------------------------------------------
# the plan


def normalize_why(text: str | None) -> str | None:
    """The value of `--why` as one line.

    Raises:
        UsageError: the text is empty, or not UTF-8.
    """
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


def plan_experiment(
    command: Literal["compare", "record", "replay"],
    sides: tuple[Side, Side | None],
    planned: Run,
    clock: ClockName,
    pairs: int,
    first_seed: Callable[[int], int],
    is_finished: Callable[[PairedPlan, Sequence[Run]], bool],
    results: Path,
    why: str | None = None,
) -> tuple[PairedPlan, bool]:
    """File a plan for a command, or find the unfinished plan of the same command.

    Args:
        sides: a, and b if there is an opponent.
        planned: the planned run of side a; gives the track, device and machine class.
        first_seed: from the number in the series to the seed of the first pair; the other seeds follow it.
        is_finished: whether nothing is left to do for a plan whose attempts are all in the journal.
        why: one line about what is tried and why. An unfinished plan keeps the line with which it was filed.

    Returns:
        The plan, and whether it is resumed.

    Raises:
        UsageError: the same contestants have an unfinished plan with another number of pairs, or the machine class is
            unknown.
    """
    file = paired_plans_file(results)
    with file.lock():
        filed_plans, _ = file.read()
        runs, _ = Journal(results).read()
        latest = find_plan(filed_plans, (command, clock, planned.machine.class_, *sides))
        if latest is not None:
            num_runs, num_attempts = sum(map(len, runs_by_side(latest, runs))), len(latest.batches())
            if num_runs < num_attempts or not is_finished(latest, runs):
                check_resumable(latest, pairs, f"{num_runs} of {num_attempts} attempts")
                if why is not None and why != latest.why:
                    filed_why = "no --why" if latest.why is None else f"--why {latest.why!r}"
                    print_progress(f"{latest.id} was filed with {filed_why}, which is kept")
                return latest, True
        plan = new_plan(command, sides, planned, clock, pairs, why)
        number = 1 + sum(filed.series() == plan.series() for filed in filed_plans)
        seeds = [(first_seed(number) + index) % 2**31 for index in range(pairs)]
        plan = plan.model_copy(update={"number": number, "seeds": seeds})
        file.append(plan)
    return plan, False


def find_plan(plans: Sequence[PairedPlan], experiment: tuple[object, ...]) -> PairedPlan | None:
    """The latest plan with this command, clock, machine class and sides."""
    for plan in reversed(plans):
        if (plan.command, plan.clock, plan.machine_class, plan.a, plan.b) == experiment:
            return plan
    return None


def check_resumable(plan: PairedPlan, pairs: int, progress: str) -> None:
    """Raises UsageError: an unfinished plan has another number of pairs."""
    if plan.pairs != pairs:
        raise UsageError(
            f"{plan.id} of the same contestants was planned with {plan.pairs} and is not finished ({progress}); "
            "finish it with that number first"
        )


def new_plan(
    command: Literal["compare", "record", "replay"],
    sides: tuple[Side, Side | None],
    planned: Run,
    clock: ClockName,
    pairs: int,
    why: str | None,
) -> PairedPlan:
    """A plan that is the first in its series; its seeds are still missing."""
    a, b = sides
    if planned.machine.class_ is None:
        raise UsageError(f"{command}: the machine class is unknown, because the CPU could not be identified")
    generator = random.SystemRandom()
    return PairedPlan(
        id=new_id(planned.config),
        command=command,
        number=1,
        track=planned.track,
        clock=clock,
        device=planned.device,
        machine_class=planned.machine.class_,
        pairs=pairs,
        seeds=[0],
        first=[SIDES[0] if b is None else generator.choice(SIDES) for _ in range(pairs)],
        a=a,
        b=b,
        started_at=datetime.now(UTC),
        why=why,
    )


# -----------------------------------------------------------------------------
# the attempts


def tasks_for(plan: PairedPlan, contestants: Contestants) -> list[Task]:
    """The attempts of a plan, in order."""
    return [Task(contestants.of(batch), plan.seeds[batch.index], batch) for batch in plan.batches()]


def run_experiment(
    plan: PairedPlan, resumed: bool, contestants: Contestants, results: Path, executor: Executor | None = None
) -> None:
    """Run the yardstick and the remaining attempts of a plan, and print a line for each.

    Args:
        executor: runs the attempts; this machine by default.

    Raises:
        KeyboardInterrupt: this process was interrupted; the same command resumes the plan.
        ExecutorLost: attempts are left.
        UsageError: another process is running the same plan.
    """
    executor = executor or LocalExecutor()
    tasks = tasks_for(plan, contestants)
    print_progress(f"{'resuming' if resumed else 'beginning'} {plan.id}: {len(tasks)} attempts")
    num_done = 0

    def print_run(run: Run) -> None:
        nonlocal num_done
        batch = run.batch_of(plan.command)
        if batch is None:
            print_progress(f"yardstick  {attempt_line(run)}")
            return
        num_done += 1
        side = f"pair {batch.index + 1}{batch.side}  " if plan.b is not None else ""
        print_progress(f"{num_done}/{len(tasks)}  {side}{attempt_line(run)}")

    def run_task(task: Task, journal: Journal) -> tuple[Run, bool]:
        if executor.is_lost:
            raise ExecutorLost
        return executor.run_attempt(task, journal, quietly=False)

    yardstick = yardstick_task(SCRIPT, plan.device, plan.id, executor.resolve)
    try:
        run_tasks([yardstick, *tasks], Journal(results), print_run, run_task)
    except KeyboardInterrupt:
        print_progress(f"interrupted after {num_done} of {len(tasks)} attempts; run the same command again to resume")
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
