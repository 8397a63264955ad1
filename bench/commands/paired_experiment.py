"""The steps that `compare`, `record` and `replay` share: plan an experiment, run it, file its conclusion."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from bench.cli import reject_unwritable
from bench.clock import ClockName
from bench.experiments.comparison import Comparison, evaluate_comparison, file_conclusion, show_comparison
from bench.experiments.executors import Executor
from bench.experiments.launcher import Contestant
from bench.experiments.paired_plan import Contestants, plan_experiment, run_experiment
from bench.report import leaderboard
from bench.storage.journal import Journal
from bench.storage.schema import PairedPlan, Run, Side

Participant = tuple[Side, Contestant]  # as returned by resolve_side


def run_paired_experiment(
    command: Literal["compare", "record", "replay"],
    a: Participant,
    b: Participant | None,
    *,
    clock: ClockName,
    pairs: int,
    first_seed: Callable[[int], int],
    is_finished: Callable[[PairedPlan, Sequence[Run]], bool],
    results: Path,
    why: str | None = None,
    executor: Executor | None = None,
) -> tuple[PairedPlan, list[Run]]:
    """Plan an experiment, or resume the same unfinished one, and run its attempts.

    The arguments are those of `plan_experiment` and `run_experiment`.

    Returns:
        The plan, and all runs of the journal.

    Raises:
        KeyboardInterrupt: this process was interrupted; the board is up to date.
        ExecutorLost: attempts are left.
        UsageError: `results` cannot be written to, or an unfinished plan has another number of pairs.
    """
    (side_a, contestant_a), (side_b, contestant_b) = a, b or (None, None)
    journal = Journal(results)
    with reject_unwritable(results):
        journal.recover()
        plan, resumed = plan_experiment(
            command, (side_a, side_b), contestant_a.planned, clock, pairs, first_seed, is_finished, results, why
        )
    try:
        run_experiment(plan, resumed, Contestants(contestant_a, contestant_b), results, executor)
    except KeyboardInterrupt:
        leaderboard.refresh(results)
        raise
    return plan, journal.read()[0]


def conclude_comparison(plan: PairedPlan, runs: Sequence[Run], results: Path) -> Comparison:
    """Evaluate, file and show a finished comparison."""
    comparison = evaluate_comparison(plan, runs)
    file_conclusion(comparison, results)
    show_comparison(comparison)
    return comparison
