"""`python -m bench compare`: two contestants in pairs, and one test that says whether one of them is faster."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from bench.cli import EXIT_INTERRUPTED, handle_interrupts, reject_unwritable
from bench.clock import ClockName
from bench.errors import UsageError
from bench.experiments.comparison import (
    COMPARISON_WIDTH,
    evaluate_comparison,
    file_conclusion,
    is_concluded,
    show_comparison,
)
from bench.experiments.paired_plan import Contestants, normalize_why, plan_experiment, resolve_side, run_experiment
from bench.provenance import ROOT, first_seed
from bench.report import leaderboard
from bench.storage.journal import Journal


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare two configs, or a config and a record, in pairs of attempts; the last line is the verdict on A.

    A comparison that was broken off goes on where it stopped when it is asked for again.
    """

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A config or a record."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Its opponent."""
    pairs: int = 10
    """Pairs of attempts, fixed before the first; below 6 nothing can be decided."""
    clock: ClockName = "train"
    """The clock that decides."""
    why: str | None = None
    """What A tries and for what reason, in a line; it stands in NEGATIVE.md beside the verdict."""
    device: str = "auto"
    """auto, cpu, cuda or mps; a record keeps its own."""
    results: Path = ROOT / "results"
    """The folder of the journal and the records."""


def main(arguments: Arguments) -> int:
    if arguments.pairs < 1:
        raise UsageError(f"--pairs {arguments.pairs}: a comparison has at least one pair")
    why = normalize_why(arguments.why)
    handle_interrupts()
    journal = Journal(arguments.results)
    with contextlib.ExitStack() as stack:
        (side_a, a), (side_b, b) = (
            resolve_side(name, arguments.device, arguments.results, stack) for name in (arguments.a, arguments.b)
        )
        for what in ("track", "device"):
            if getattr(a.planned, what) != getattr(b.planned, what):
                raise UsageError(f"{arguments.a} and {arguments.b} differ in their {what}: nothing to compare")

        def seed(number: int) -> int:
            hashes = (digest for side in (side_a, side_b) for digest in (side.config_hash, side.source_sha256))
            return first_seed(*hashes, str(number))

        with reject_unwritable(arguments.results):
            journal.recover()
            agenda, resumed = plan_experiment(
                "compare",
                (side_a, side_b),
                a.planned,
                arguments.clock,
                arguments.pairs,
                seed,
                lambda agenda, runs: is_concluded(agenda, arguments.results),
                arguments.results,
                why,
            )
        try:
            run_experiment(agenda, resumed, Contestants(a, b), arguments.results)
        except KeyboardInterrupt:
            leaderboard.refresh(arguments.results)
            return EXIT_INTERRUPTED
    comparison = evaluate_comparison(agenda, journal.read()[0])
    file_conclusion(comparison, arguments.results)
    leaderboard.refresh(arguments.results)
    show_comparison(comparison, Console(highlight=False, width=COMPARISON_WIDTH))
    print(comparison.verdict)
    return 0
