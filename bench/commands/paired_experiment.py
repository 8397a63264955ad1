"""The steps that `compare`, `record` and `replay` share: plan an experiment, run it, file its conclusion."""

from collections.abc import Sequence
from pathlib import Path

from bench.cli import reject_unwritable
from bench.experiments.comparison import Comparison, evaluate_comparison, file_conclusion, show_comparison
from bench.experiments.paired_plan import Experiment, plan_experiment, run_experiment
from bench.report import leaderboard
from bench.storage.journal import Journal
from bench.storage.schema import PairedPlan, Run


def run_paired_experiment(experiment: Experiment) -> tuple[PairedPlan, list[Run]]:
    """Plan an experiment, or resume the same unfinished one, and run its attempts.

    Returns:
        The plan, and all runs of the journal.

    Raises:
        KeyboardInterrupt: this process was interrupted; the board is up to date.
        ExecutorLost: attempts are left.
        UsageError: `results` cannot be written to, or an unfinished plan has another number of pairs.
    """
    journal = Journal(experiment.results)
    with reject_unwritable(experiment.results):
        journal.recover()
        plan, resumed = plan_experiment(experiment)
    try:
        run_experiment(plan, resumed, experiment)
    except KeyboardInterrupt:
        leaderboard.refresh(experiment.results)
        raise
    return plan, journal.read()[0]


def conclude_comparison(plan: PairedPlan, runs: Sequence[Run], results: Path) -> Comparison:
    """Evaluate, file and show a finished comparison."""
    comparison = evaluate_comparison(plan, runs)
    file_conclusion(comparison, results)
    show_comparison(comparison)
    return comparison
