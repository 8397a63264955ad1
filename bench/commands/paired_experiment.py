"""The steps that `compare`, `record` and `replay` share."""

from bench.cli import reject_unwritable
from bench.experiments.paired_plan import Experiment, plan_experiment, run_experiment
from bench.report import leaderboard
from bench.storage.comparison_schema import PairedPlan
from bench.storage.journal import Journal
from bench.storage.results import conclusions_file
from bench.storage.schema import Run


def run_paired_experiment(experiment: Experiment) -> tuple[PairedPlan, list[Run]]:
    """Plan an experiment, or resume the same unfinished one, and run its attempts.

    Returns the plan, and all runs of the journal. The board is up to date after an interrupt.
    """
    journal = Journal(experiment.results)
    with reject_unwritable(experiment.results):
        journal.recover()
        for file in (journal, conclusions_file(experiment.results)):  # before the first attempt, not after the last
            file.check_writable()
        plan, resumed = plan_experiment(experiment)
    try:
        run_experiment(plan, resumed, experiment)
    except KeyboardInterrupt:
        leaderboard.refresh(experiment.results)
        raise
    return plan, journal.read()[0]
