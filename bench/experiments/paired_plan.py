"""Paired plans: attempts of one contestant, or of two in pairs, that a command writes down before it runs them.

`agenda.jsonl` has a line for each `compare`, `record` and `replay`, and for each batch of `speedrun.py`. The line fixes
the number of attempts, their seeds, and the level of the test. So an interrupted command can be resumed, and an
abandoned one stays visible.
"""

import contextlib
import dataclasses
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

from bench.cli import print_progress
from bench.clock import ClockName
from bench.config import config_names, is_toml_file, settings_key
from bench.errors import UsageError, nearest_hint
from bench.experiments.altered import altered_of, altered_task, is_altered_next
from bench.experiments.executors import Executor, ExecutorLost
from bench.experiments.launcher import SCRIPT, Contestant, NotBegun, Task, run_tasks, yardstick_task
from bench.experiments.paired_runs import DISTURBED, PairedRuns, paired_runs
from bench.formatting import attempt_line, expected_text, interrupted_line, yardstick_line
from bench.stats.levels import LEVEL, fewest_pairs, record_level
from bench.storage.comparison_schema import PairedPlan, Side
from bench.storage.journal import Journal
from bench.storage.records import find_record, is_record, record_names, unpack_source
from bench.storage.results import paired_plans_file, runs_for_estimates
from bench.storage.schema import AUDIT, Batch, Run, SideName, new_id

THIS_MACHINE = Executor()


class Participant(NamedTuple):
    """One side of a plan, and the contestant that runs its attempts."""

    side: Side
    contestant: Contestant


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a command asks for: attempts of one contestant, or of two in pairs."""

    command: Literal["speedrun", "compare", "record", "replay"]
    a: Participant
    b: Participant | None  # the opponent, if any
    clock: ClockName | None
    pairs: int
    is_finished: Callable[[PairedPlan, Sequence[Run]], bool]  # whether a plan with all attempts needs nothing more
    results: Path
    why: str | None = None  # one line about what is tried and why
    noisy: bool | None = None  # of a record: attempts count although the machine was not quiet
    altered: int | None = None  # of a record: attempts of `a` whose answers have other ids
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

    An unfinished plan keeps the `why` and the `noisy` with which it was filed; another number of pairs is a UsageError,
    and so is a new plan that cannot reach its level. A batch of `speedrun.py` is never resumed.
    """
    file, identity = paired_plans_file(experiment.results), attrgetter("command", "clock", "machine_class", "a", "b")
    with file.lock():
        filed_plans, _ = file.read()
        plan = new_plan(experiment, filed_plans)
        latest = None
        if experiment.command != "speedrun":
            latest = next((filed for filed in reversed(filed_plans) if identity(filed) == identity(plan)), None)
        if latest is not None:
            runs, _ = Journal(experiment.results).read()
            filed_runs = paired_runs(latest, runs)
            if not filed_runs.is_complete or not experiment.is_finished(latest, runs):
                check_same_request(latest, plan, filed_runs)
                return latest, True
        check_level(plan)
        file.append(plan)
    return plan, False


def check_same_request(latest: PairedPlan, plan: PairedPlan, filed_runs: PairedRuns) -> None:
    """Raises UsageError: the unfinished plan has another number of pairs. Tells what it keeps of its own request."""
    if latest.pairs != plan.pairs:
        raise UsageError(
            f"{latest.id} of the same contestants was planned with {latest.pairs} and is not finished "
            f"({filed_runs.num_runs} of {filed_runs.num_attempts} attempts); finish it with that number first"
        )
    if plan.why is not None and plan.why != latest.why:
        filed_why = "no --why" if latest.why is None else f"--why {latest.why!r}"
        print_progress(f"{latest.id} was filed with {filed_why}, which is kept")
    if plan.noisy != latest.noisy and latest.noisy is not None:
        print_progress(f"{latest.id} was filed {'with' if latest.noisy else 'without'} --noisy, which is kept")


def check_level(plan: PairedPlan) -> None:
    """Raises UsageError, which names the pairs needed: a record whose pairs cannot reach its level."""
    if plan.command != "record" or plan.b is None or plan.level is None:
        return
    needed = fewest_pairs(plan.level)
    if plan.pairs < needed:
        raise UsageError(
            f"--pairs {plan.pairs}: as comparison number {plan.number} against {plan.b.name} this record has the level "
            f"{plan.level:.2g}, which fewer than {needed} pairs cannot reach; add --pairs {needed}"
        )


def new_plan(experiment: Experiment, filed_plans: Sequence[PairedPlan]) -> PairedPlan:
    command, pairs, planned = experiment.command, experiment.pairs, experiment.a.contestant.planned
    if planned.machine.class_ is None and command != "speedrun":
        raise UsageError(f"{command}: the machine class is unknown, because the CPU could not be identified")
    has_challenger = command == "record" and experiment.b is not None
    seeds = draw_seeds(pairs + (pairs // 2 if has_challenger else 0))
    plan = PairedPlan(
        id=new_id(planned.config),
        command=command,
        number=1,
        track=planned.track,
        clock=experiment.clock,
        device=planned.device,
        machine_class=planned.machine_class_name,
        pairs=pairs,
        seeds=seeds[:pairs],
        spare_seeds=seeds[pairs:] if has_challenger else None,
        noisy=experiment.noisy,
        altered=experiment.altered,
        a=experiment.a.side,
        b=None if experiment.b is None else experiment.b.side,
        started_at=datetime.now(UTC),
        why=experiment.why,
    )
    number = 1 + sum(filed.series() == plan.series() for filed in filed_plans)
    level = None if plan.b is None else record_level(number) if has_challenger else LEVEL
    return plan.model_copy(update={"number": number, "level": level})


def draw_seeds(number: int) -> list[int]:
    """Distinct seeds of 31 bits from the system's randomness, so that nobody can choose or foresee them."""
    return random.SystemRandom().sample(range(2**31), number)


# -----------------------------------------------------------------------------
# the attempts


def run_experiment(plan: PairedPlan, resumed: bool, experiment: Experiment) -> None:
    """Run the yardstick and the remaining attempts of a plan, and print a line for each.

    Attempts are left after KeyboardInterrupt and ExecutorLost. A UsageError: another process is running the plan.
    """
    executor, journal = experiment.executor, Journal(experiment.results)
    contestants: dict[SideName, Contestant] = {"a": experiment.a.contestant}
    if experiment.b is not None:
        contestants["b"] = experiment.b.contestant
    yardstick = yardstick_task(SCRIPT, plan.device, plan.id, executor.resolve)
    runs, _ = journal.read()
    filed, before = {run.batch for run in runs if run.batch is not None}, paired_runs(plan, runs)
    planned = [
        contestants[side].planned
        for index in range(before.num_pairs)
        for side in before.sides
        if plan.batch(index, side) not in filed
    ]
    num_left, has_yardstick = len(planned), yardstick.batch in filed
    num_altered = altered_of(plan, runs).num_left(plan)
    planned += [contestants["a"].planned] * num_altered
    planned += [] if has_yardstick else [yardstick.contestant.planned]
    expected = expected_text(runs_for_estimates(experiment.results, planned), planned)
    remaining = f", {num_left} left" if resumed else ""
    print_progress(
        f"{'resuming' if resumed else 'beginning'} {plan.id}: {before.num_attempts} attempts{remaining}"
        f"{f', {num_altered} with other ids of answers' if num_altered else ''}"
        f"{'' if has_yardstick else ' and the yardstick'}, {expected}"
    )
    done: list[Run] = []
    altered = list(altered_of(plan, runs).runs)

    def is_left(index: int) -> bool:
        return any(plan.batch(index, side) not in filed for side in before.sides)

    def tasks() -> Iterator[Task]:
        yield yardstick
        index = 0
        while True:
            so_far = paired_runs(plan, done)
            pairs = range(index, so_far.num_pairs)  # a pair that is run again is one more
            num_altered = altered_of(plan, [*altered, *done]).num_left(plan)
            if not pairs and not num_altered:
                return
            if (not pairs or is_left(index)) and is_altered_next(num_altered, sum(map(is_left, pairs))):
                yield altered_task(contestants["a"], plan.id, plan.altered or 1, len(altered))
                continue
            for side in order_of_sides(plan, index, filed, journal):
                yield Task(contestants[side], plan.seed(index), plan.batch(index, side))
            index += 1

    def print_run(run: Run) -> None:
        if run.batch_of(AUDIT):
            altered.append(run)
            print_progress(f"other ids of answers  {attempt_line(run)}")
            return
        batch = run.batch_of(plan.command)
        if batch is None:
            print_progress(yardstick_line(run))
            return
        done.append(run)
        so_far = paired_runs(plan, done)
        side = f"pair {batch.index + 1}{batch.side}  " if plan.b is not None else ""
        print_progress(f"{len(done)}/{so_far.num_attempts}  {side}{attempt_line(run)}")
        if batch.index in so_far.repeated:
            is_last = so_far.repeated.index(batch.index) >= len(so_far.spare_seeds)
            follows = "no seed is left to run it again" if is_last else "it is run again with another seed"
            print_progress(f"pair {batch.index + 1} does not count, {DISTURBED}; {follows}")

    def run_task(task: Task, journal: Journal) -> tuple[Run, bool]:
        if executor.is_lost:
            raise ExecutorLost
        return executor.run_attempt(task, journal, quietly=False)

    try:
        run_tasks(tasks(), journal, print_run, run_task)
    except KeyboardInterrupt as interrupt:
        if done and done[-1].outcome in ("interrupted", "lost") and not isinstance(interrupt, NotBegun):
            is_opponent = plan.spare_seeds is not None and done[-1].batch is not None and done[-1].batch.side == "b"
            if is_opponent:
                print_progress(
                    "the opponent's attempt was interrupted: its pair is run again if the challenger solves it"
                )
            else:
                print_progress(interrupted_line(len(done), done, plan.clock or "train"))
        num_attempts = paired_runs(plan, done).num_attempts
        print_progress(
            f"interrupted after {len(done)} of {num_attempts} attempts; run the same command again to resume"
        )
        raise


def order_of_sides(plan: PairedPlan, index: int, filed: Set[Batch], journal: Journal) -> list[SideName]:
    """The sides of a pair in the order in which they run; drawn now, so that nobody can know it before.

    A side whose attempt has begun comes first, so that a pair that was broken off is finished. Older plans hold the
    order of each pair.
    """
    if plan.b is None:
        return ["a"]
    sides: list[SideName] = ["a", "b"]
    if plan.first is not None:
        first = plan.first[index]
        return sorted(sides, key=lambda side: side != first)
    random.SystemRandom().shuffle(sides)
    begun = filed | {run.batch for _, run in journal.read_marks() if run.batch is not None}
    return sorted(sides, key=lambda side: plan.batch(index, side) not in begun)
