"""What a comparison came to, computed from the agenda and the journal alone, and how it is shown."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.clock import ClockName
from bench.experiments.paired_plan import runs_by_side
from bench.formatting import contestant_text, ratio_text, terminal_table
from bench.stats.descriptive import spread
from bench.stats.expected_time import expected_time_to_success
from bench.stats.paired_test import (
    FEWEST_PAIRS,
    drift,
    log_ert_ratio,
    pair_runs,
    pairs_needed,
    ratio_interval,
    swap_test,
    verdict,
)
from bench.storage.results import conclusions_file
from bench.storage.schema import BatchSummary, Conclusion, Interval, PairedPlan, Run, Verdict

COMPARISON_WIDTH = 160  # columns that the table of a comparison needs


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Side a against side b, on the agenda's clock."""

    agenda: PairedPlan
    a: list[Run]
    b: list[Run]
    verdict: Verdict  # about a; by the test alone
    p_value: float | None
    ratio: float  # ERT of a to ERT of b
    ratio_95: Interval | None
    drift: float | None  # how much slower the last pair was than the first, as a share
    pairs_needed: int | None  # for a new comparison to decide a difference like this one; null when it is decided

    @property
    def finished(self) -> bool:
        return len(self.a) == len(self.b) == self.agenda.pairs

    def conclusion(self) -> Conclusion:
        """Of a comparison that is finished."""
        return Conclusion(
            id=self.agenda.id,
            verdict=self.verdict,
            p_value=self.p_value,
            ert_ratio=self.ratio if 0 < self.ratio < math.inf else None,
            ert_ratio_95=self.ratio_95,
            drift=self.drift,
            pairs_needed=self.pairs_needed,
            a=summarize_batch(self.a),
            b=summarize_batch(self.b),
        )


def file_conclusion(comparison: Comparison, results: Path) -> None:
    """File what a finished comparison came to, unless that is filed already."""
    file = conclusions_file(results)
    with file.lock():
        if not is_concluded(comparison.agenda, results):
            file.append(comparison.conclusion())


def is_concluded(agenda: PairedPlan, results: Path) -> bool:
    return any(conclusion.id == agenda.id for conclusion in conclusions_file(results).read()[0])


def evaluate_comparison(agenda: PairedPlan, runs: Sequence[Run]) -> Comparison:
    """The comparison as far as it has come; undecided while attempts are missing.

    Raises:
        ValueError: the agenda has no opponent.
    """
    if agenda.b is None:
        raise ValueError(f"{agenda.id} has no side b")
    a, b = runs_by_side(agenda, runs)
    both = {run.batch.index for run in a} & {run.batch.index for run in b}
    pairs = pair_runs(*([run for run in side if run.batch.index in both] for side in (a, b)), agenda.clock)
    finished = len(both) == agenda.pairs
    decision = verdict(pairs, agenda.seeds[0]) if finished else "not decided"
    return Comparison(
        agenda=agenda,
        a=a,
        b=b,
        verdict=decision,
        p_value=swap_test(pairs, agenda.seeds[0]) if finished else None,
        ratio=math.exp(log_ert_ratio(pairs)) if both else math.nan,
        ratio_95=bounded_interval(ratio_interval(pairs, agenda.seeds[0])) if both else None,
        drift=drift(pairs) if both else None,
        pairs_needed=pairs_needed(pairs, agenda.seeds[0]) if finished and decision == "not decided" else None,
    )


def bounded_interval(interval: Interval | None) -> Interval | None:
    """An interval that is bounded on both sides, or None."""
    return interval if interval is not None and all(map(math.isfinite, interval)) else None


def summarize_batch(runs: Sequence[Run]) -> BatchSummary:
    """What the attempts of one side came to."""

    def ert(clock: ClockName) -> float | None:
        seconds = expected_time_to_success(runs, clock)
        return seconds if math.isfinite(seconds) else None

    return BatchSummary(
        attempts=len(runs),
        solved=sum(run.outcome == "solved" for run in runs),
        clean=sum(run.machine.clean is True for run in runs),
        ert_train_seconds=ert("train"),
        ert_total_seconds=ert("total"),
    )


def description_lines(comparison: Comparison) -> list[str]:
    """All that stands beside the verdict: description, not decision."""
    agenda = comparison.agenda
    lines = [
        f"ERT of a to ERT of b by `{agenda.clock}`: {ratio_text(comparison.ratio, comparison.ratio_95)}"
        + (" (95% percentile bootstrap over pairs)" if comparison.ratio_95 else ""),
        f"comparison number {agenda.number} against this opponent on this board",
    ]
    if agenda.why is not None:
        lines.append(f"why: {agenda.why}")
    if comparison.p_value is not None:
        pairs = "1 pair" if agenda.pairs == 1 else f"{agenda.pairs} pairs"
        lines.insert(0, f"labels swapped within {pairs}: p = {comparison.p_value:.4f}, decided at 0.05")
    if agenda.pairs < FEWEST_PAIRS:
        lines.append(f"fewer than {FEWEST_PAIRS} pairs cannot decide anything")
    if comparison.drift is not None:
        lines.append(f"drift: the last pair took {comparison.drift:+.1%} against the first")
    if not comparison.finished:
        lines.append(f"not finished: {len(comparison.a) + len(comparison.b)} of {2 * agenda.pairs} attempts")
    elif comparison.verdict == "not decided":
        needed = comparison.pairs_needed
        what = "cannot be told from these pairs" if needed is None else f"about {needed:,} pairs"
        lines.append(f"a new comparison, to find a difference like this one with 80% power, would need: {what}")
    return lines


def sides_table(comparison: Comparison) -> Table:
    spread_heading = "median (min … max)"
    headings = ("side", "contestant", "solved", "clean", "ERT train, s", spread_heading, "ERT total, s", spread_heading)
    table = terminal_table(headings, text=("side", "contestant"))
    for name, side, runs in (("a", comparison.agenda.a, comparison.a), ("b", comparison.agenda.b, comparison.b)):
        cells = [name, contestant_text(side)]
        cells += [f"{sum(test)}/{len(runs)}" for test in solved_and_clean(runs)]
        for clock in ("train", "total"):
            ert = expected_time_to_success(runs, clock)
            known = spread([s for run in runs if (s := getattr(run.seconds, clock)) is not None])
            cells.append("never" if math.isinf(ert) else f"{ert:.2f}")
            cells.append(f"{known.median:.2f} ({known.minimum:.2f} … {known.maximum:.2f})" if known else "—")
        table.add_row(*cells)
    return table


def solved_and_clean(runs: Sequence[Run]) -> tuple[list[bool], list[bool]]:
    return [run.outcome == "solved" for run in runs], [run.machine.clean is True for run in runs]


def show_comparison(comparison: Comparison, console: Console) -> None:
    """The table and the description; the verdict is the caller's last line."""
    console.print(f"comparison {comparison.agenda.id}, {comparison.agenda.track} on {comparison.agenda.machine_class}")
    console.print(sides_table(comparison))
    for line in description_lines(comparison):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
