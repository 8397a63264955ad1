"""What a command has undertaken: attempts of one contestant or of two in pairs, written down before the first of them.

`agenda.jsonl` has a line for each `compare`, `record` and `replay`. As the line fixes how many attempts there will be,
with which seeds and in which order, a command that was broken off goes on where it stopped, and one that was given up
stays visible.
"""

import contextlib
import dataclasses
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bench.clock import ClockName
from bench.errors import UsageError
from bench.experiments.executors import Executor, ExecutorLost, LocalExecutor
from bench.experiments.launcher import SCRIPT, Contestant, Task, run_tasks, yardstick_task
from bench.formatting import attempt_line
from bench.storage.journal import Journal
from bench.storage.records import find_record, is_record, unpack_source
from bench.storage.results import paired_plans_file
from bench.storage.schema import PairedPlan, Run, Side, new_id


@dataclasses.dataclass(frozen=True)
class Contestants:
    """Those that an agenda's sides stand for, ready to be started."""

    a: Contestant
    b: Contestant | None


# -----------------------------------------------------------------------------
# who takes part


def resolve_side(
    name: str, device: str, results: Path, stack: contextlib.ExitStack, place: Executor | None = None
) -> tuple[Side, Contestant]:
    """A config of this checkout, or a record, as a contestant.

    Args:
        device: as on the command line; `auto` lets the trainer choose.
        stack: closes when the contestant is not needed any more, and takes its unpacked snapshot away.
        place: where it is to run; here when left out.

    Raises:
        UsageError: there is neither a config nor a record of this name, or it cannot run there.
    """
    place = place or LocalExecutor()
    if not is_record(name, results):
        contestant = place.ask(SCRIPT, ["--config", name, "--device", device])
        return side_of(contestant, contestant.planned.config, None), contestant
    filed = find_record(name, results)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="addition-speedrun-")))
    script = unpack_source(filed, folder)
    record = filed.record
    contestant = place.ask(script, ["--config", str(filed.config.resolve())], commit=record.commit)
    if contestant.planned.config_hash != record.config_hash:
        raise UsageError(f"{record.name}: config.toml makes other settings than record.json names")
    contestant = dataclasses.replace(
        contestant,
        planned=contestant.planned.model_copy(update={"config": record.config}),
        commit=record.commit,
    )
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
# writing it down


def normalize_why(text: str | None) -> str | None:
    """The value of `--why` as one line.

    Raises:
        UsageError: it says nothing, or is no UTF-8.
    """
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("--why: this is not UTF-8") from None
    line = " ".join(text.split())
    if not line:
        raise UsageError("--why: this says nothing; leave it out, or say what is tried and for what reason")
    return line


def plan_experiment(
    command: Literal["compare", "record", "replay"],
    sides: tuple[Side, Side | None],
    planned: Run,
    clock: ClockName,
    pairs: int,
    first_seed: Callable[[int], int],
    is_over: Callable[[PairedPlan, Sequence[Run]], bool],
    results: Path,
    why: str | None = None,
) -> tuple[PairedPlan, bool]:
    """The agenda for a command, and whether it was written down before and only broken off.

    Args:
        sides: a, and b where there is an opponent.
        planned: what side a would file; names the track, device and machine class.
        first_seed: from the number in the series to the seed of the first pair; the others follow it.
        is_over: whether nothing is left to do about an agenda all of whose attempts are in the journal.
        why: what is tried and for what reason, in a line; a broken-off agenda is the same whatever is said now, and
            keeps what it was filed with.

    Raises:
        UsageError: the same was undertaken with another number of pairs, and is not finished.
    """
    file = paired_plans_file(results)
    with file.lock():
        known, _ = file.read()
        a, b = sides
        wanted = command, clock, planned.machine.class_, a, b
        runs, _ = Journal(results).read()
        for agenda in reversed(known):
            if (agenda.command, agenda.clock, agenda.machine_class, agenda.a, agenda.b) == wanted:
                started = sum(map(len, runs_by_side(agenda, runs)))
                if started == len(agenda.batches()) and is_over(agenda, runs):
                    break
                if agenda.pairs != pairs:
                    raise UsageError(
                        f"{agenda.id} of the same contestants was planned with {agenda.pairs} and is not finished "
                        f"({started} of {len(agenda.batches())} attempts); finish it with that number first"
                    )
                if why is not None and why != agenda.why:
                    filed = "no --why" if agenda.why is None else f"--why {agenda.why!r}"
                    print(f"{agenda.id} was filed with {filed}, and keeps that", file=sys.stderr)
                return agenda, True
        draft = PairedPlan(
            id=new_id(planned.config),
            command=command,
            number=1,
            track=planned.track,
            clock=clock,
            device=planned.device,
            machine_class=planned.machine.class_,
            pairs=pairs,
            seeds=[0],
            first=[random.SystemRandom().choice("ab") if b is not None else "a" for _ in range(pairs)],
            a=a,
            b=b,
            started_at=datetime.now(UTC),
            why=why,
        )
        number = 1 + sum(agenda.series() == draft.series() for agenda in known)
        seeds = [(first_seed(number) + index) % 2**31 for index in range(pairs)]
        agenda = draft.model_copy(update={"number": number, "seeds": seeds})
        file.append(agenda)
    return agenda, False


def tasks_for(agenda: PairedPlan, contestants: Contestants) -> list[Task]:
    """The attempts that an agenda stands for, in order."""
    return [Task(getattr(contestants, b.side), agenda.seeds[b.index], b) for b in agenda.batches()]


def run_experiment(
    agenda: PairedPlan, resumed: bool, contestants: Contestants, results: Path, place: Executor | None = None
) -> None:
    """Make those attempts of an agenda that are still to be made, and the yardstick's; a line of progress for each.

    Args:
        place: where; here when left out.

    Raises:
        KeyboardInterrupt: this process was interrupted; the same command goes on where it stopped.
        ExecutorLost: there is more to do.
        UsageError: another process carries out the same agenda.
    """
    place = place or LocalExecutor()
    tasks = tasks_for(agenda, contestants)
    print(f"{'resuming' if resumed else 'beginning'} {agenda.id}: {len(tasks)} attempts", file=sys.stderr)
    done = 0

    def filed(run: Run) -> None:
        nonlocal done
        done += run.batch.command == agenda.command
        side = f"pair {run.batch.index + 1}{run.batch.side}  " if agenda.b is not None and run.batch.side else ""
        what = f"{done}/{len(tasks)}" if run.batch.command == agenda.command else run.batch.command
        print(f"{what}  {side}{attempt_line(run)}", file=sys.stderr, flush=True)

    def make(task: Task, journal: Journal) -> tuple[Run, bool]:
        if place.is_lost:
            raise ExecutorLost
        return place.make(task, journal, quietly=False)

    try:
        run_tasks([yardstick_task(SCRIPT, agenda.device, agenda.id, place.ask), *tasks], Journal(results), filed, make)
    except KeyboardInterrupt:
        print(f"interrupted after {done} of {len(tasks)} attempts; the same command goes on", file=sys.stderr)
        raise


def runs_by_side(agenda: PairedPlan, runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of side a and of side b, by the number of their pair."""
    own = {run.batch: run for run in runs if run.batch is not None and run.batch.id == agenda.id}
    found = [own[batch] for batch in sorted(agenda.batches(), key=lambda batch: batch.index) if batch in own]
    return [run for run in found if run.batch.side == "a"], [run for run in found if run.batch.side == "b"]
