"""`python -m bench compare`: decide by one test over pairs of attempts which of two contestants is faster."""

import contextlib
import dataclasses
from typing import Annotated

import tyro

from bench.cli import handle_interrupts, print_progress
from bench.clock import ClockName
from bench.commands.options import DEFAULT_RESULTS, DeviceName, ResultsOption, WhyOption, read_why
from bench.commands.paired_experiment import run_paired_experiment
from bench.config import settings_key
from bench.errors import UsageError
from bench.experiments.comparison import conclude_comparison, is_concluded, show_comparison
from bench.experiments.launcher import check_may_rank
from bench.experiments.paired_plan import Experiment, Participant, resolve_side
from bench.report import leaderboard

MAX_PAIRS = 10_000


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare two configs or records in pairs of attempts; the last line is the verdict on A.

    An interrupted comparison resumes when the same command is run again.
    """

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A config or a record."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The config or record that A is compared with."""
    pairs: int = 10
    """Pairs of attempts. Fewer than 6 cannot decide; 6 decide only when all favour one side."""
    clock: ClockName = "train"
    """The clock that decides."""
    why: WhyOption = None
    device: DeviceName = "auto"
    """The device of configs; a record runs on its own."""
    results: ResultsOption = DEFAULT_RESULTS


def contestant_key(participant: Participant) -> object:
    """What decides how a side trains: its settings and its source."""
    return settings_key(participant.side.settings), participant.side.source_sha256


def main(arguments: Arguments) -> int:
    if not 1 <= arguments.pairs <= MAX_PAIRS:
        raise UsageError(f"--pairs {arguments.pairs}: a comparison has 1 to {MAX_PAIRS:,} pairs")
    results = arguments.results
    why = read_why(arguments.why, results)
    handle_interrupts()
    with contextlib.ExitStack() as stack:
        a, b = (resolve_side(name, arguments.device, results, stack) for name in (arguments.a, arguments.b))
        for side in (a, b):
            check_may_rank(side.contestant.planned, side.side.name)
        for what in ("track", "device"):
            if getattr(a.contestant.planned, what) != getattr(b.contestant.planned, what):
                raise UsageError(f"{arguments.a} and {arguments.b} cannot be compared: their {what}s differ")
        if contestant_key(a) == contestant_key(b):
            print_progress("both sides are the same config and source: the comparison shows only the noise of the test")
        experiment = Experiment(
            "compare",
            a,
            b,
            arguments.clock,
            arguments.pairs,
            is_finished=lambda plan, runs: is_concluded(plan, results),
            results=results,
            why=why,
        )
        plan, runs = run_paired_experiment(experiment)
    comparison = conclude_comparison(plan, runs, results)
    leaderboard.refresh(results)
    show_comparison(comparison)
    print(comparison.verdict)
    return 0
