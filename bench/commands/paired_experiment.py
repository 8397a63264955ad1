"""The steps that `compare`, `record` and `replay` share."""

from pathlib import Path

from bench.cli import print_progress, reject_unwritable
from bench.experiments.paired_plan import Experiment, plan_experiment, run_experiment
from bench.formatting import verdict_text
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


def certificate_problem(run: Run, results: Path) -> str | None:
    """Certify a solved attempt again, in another process: why it is not confirmed, or None when it is."""
    from bench.judge.recertify import UnusableWeights, recertify  # imports torch, which takes a second

    print_progress(f"certifying {run.run_id} again")
    if run.weights is None:
        return f"{run.run_id}: it kept no weights"
    try:
        certificate = recertify(results / run.weights, run.seed).certificate
    except UnusableWeights as problem:
        return str(problem)
    return None if certificate.is_solved else f"{run.run_id}: {verdict_text(certificate)} by today's certificate"
