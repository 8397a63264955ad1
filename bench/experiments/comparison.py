"""The result of a comparison, computed from its paired plan and the journal, and its table and description."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from bench.clock import ClockName
from bench.console import output_console
from bench.experiments.paired_plan import runs_by_pair
from bench.formatting import contestant_text, number, ratio_text, spread_text, terminal_table
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
from bench.stats.ranking import CLOCKS
from bench.storage.comparison_schema import BatchSummary, Conclusion, PairedPlan, Verdict
from bench.storage.results import conclusions_file
from bench.storage.schema import Interval, Run

COMPARISON_WIDTH = 160  # columns of the table


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Side a compared with side b, on the plan's clock."""

    plan: PairedPlan
    a: list[Run]
    b: list[Run]
    verdict: Verdict  # about a; decided by the swap test alone
    p_value: float | None  # None until all attempts are filed
    ratio: float  # ERT of a / ERT of b
    ratio_95: Interval | None
    drift: float | None  # relative slowdown from the first pair to the last
    pairs_needed: int | None  # for a new comparison to decide such a difference; None when this one is decided

    @property
    def finished(self) -> bool:
        return len(self.a) == len(self.b) == self.plan.pairs

    def conclusion(self) -> Conclusion:
        """What is filed about a finished comparison; raises ValueError when attempts are missing."""
        if self.p_value is None:
            raise ValueError(f"{self.plan.id} is not finished")
        return Conclusion(
            id=self.plan.id,
            verdict=self.verdict,
            p_value=self.p_value,
            ert_ratio=self.ratio if 0 < self.ratio < math.inf else None,
            ert_ratio_95=self.ratio_95,
            drift=self.drift,
            pairs_needed=self.pairs_needed,
            a=summarize_batch(self.a),
            b=summarize_batch(self.b),
        )


def conclude_comparison(plan: PairedPlan, runs: Sequence[Run], results: Path) -> Comparison:
    """Evaluate a finished comparison, and file its conclusion, unless it is filed already."""
    comparison, file = evaluate_comparison(plan, runs), conclusions_file(results)
    with file.lock():
        if not is_concluded(plan, results):
            file.append(comparison.conclusion())
    return comparison


def is_concluded(plan: PairedPlan, results: Path) -> bool:
    return any(conclusion.id == plan.id for conclusion in conclusions_file(results).read()[0])


def evaluate_comparison(plan: PairedPlan, runs: Sequence[Run]) -> Comparison:
    """Evaluate the comparison of a plan with two sides; the verdict is "not decided" while attempts are missing."""
    a, b = runs_by_pair(plan, runs)
    indices, seed = sorted(a.keys() & b.keys()), plan.seeds[0]
    pairs = pair_runs([a[index] for index in indices], [b[index] for index in indices], plan.clock)
    finished = len(indices) == plan.pairs
    has_ratio = any(run.outcome == "solved" for index in indices for run in (a[index], b[index]))
    decision = verdict(pairs, seed) if finished else "not decided"
    return Comparison(
        plan=plan,
        a=list(a.values()),
        b=list(b.values()),
        verdict=decision,
        p_value=swap_test(pairs, seed) if finished else None,
        ratio=math.exp(log_ert_ratio(pairs)) if has_ratio else math.nan,
        ratio_95=bounded_interval(ratio_interval(pairs, seed)) if indices else None,
        drift=drift(pairs) if indices else None,
        pairs_needed=pairs_needed(pairs, seed) if finished and decision == "not decided" else None,
    )


def bounded_interval(interval: Interval | None) -> Interval | None:
    """The interval if both ends are finite, else None."""
    return interval if interval is not None and all(map(math.isfinite, interval)) else None


def summarize_batch(runs: Sequence[Run]) -> BatchSummary:
    """The counts and ERTs of the attempts of one side."""

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
    """The figures beside the verdict, which describe the comparison and decide nothing."""
    plan = comparison.plan
    lines = [
        f"ERT of a to ERT of b by `{plan.clock}`: {ratio_text(comparison.ratio, comparison.ratio_95)}"
        + (" (95% percentile bootstrap over pairs)" if comparison.ratio_95 else ""),
    ]
    if plan.number > 1:
        lines.append(
            f"comparison number {plan.number} against this opponent in this folder: the more of them, the more likely "
            "one decides by chance"
        )
    if plan.why is not None:
        lines.append(f"why: {plan.why}")
    if comparison.p_value is not None:
        pairs = "1 pair" if plan.pairs == 1 else f"{plan.pairs} pairs"
        limit = "below 0.05 decides" if plan.pairs >= FEWEST_PAIRS else f"fewer than {FEWEST_PAIRS} cannot decide"
        lines.insert(0, f"permutation test over {pairs}: p = {p_text(comparison.p_value)} ({limit})")
    if comparison.drift is not None and plan.pairs >= FEWEST_PAIRS:
        change = f"{abs(comparison.drift):.1%} {'more' if comparison.drift >= 0 else 'less'}"
        lines.append(f"the last pair took {change} time than the first; the ratio within pairs does not depend on that")
    if not comparison.finished:
        lines.append(f"not finished: {len(comparison.a) + len(comparison.b)} of {2 * plan.pairs} attempts")
    elif comparison.verdict == "not decided":
        needed = comparison.pairs_needed
        if needed is not None:
            lines.append(f"a new comparison with --pairs {needed} would decide such a difference in 80% of cases")
    return lines


def p_text(p_value: float) -> str:
    """A p-value with two decimals, or four if it is small: `0.75`, `0.0039`."""
    return f"{p_value:.2f}" if p_value >= 0.1 else f"{p_value:.4f}"


def sides_table(comparison: Comparison) -> Table:
    spread_heading = "median (min … max)"
    headings = ("side", "contestant", "solved", "clean", "ERT train, s", spread_heading, "ERT total, s", spread_heading)
    table = terminal_table(headings, text=("side", "contestant"))
    for name, side, runs in (("a", comparison.plan.a, comparison.a), ("b", comparison.plan.b, comparison.b)):
        cells = ["" if side is None else contestant_text(side)]
        cells += [f"{sum(run.outcome == 'solved' for run in runs)}/{len(runs)}"]
        cells += [f"{sum(run.machine.clean is True for run in runs)}/{len(runs)}"]
        for clock in CLOCKS:
            seconds = [value for run in runs if (value := getattr(run.seconds, clock)) is not None]
            cells += [number(expected_time_to_success(runs, clock), ".2f"), spread_text(seconds, ".2f")]
        table.add_row(name, *cells)
    return table


def show_comparison(comparison: Comparison) -> None:
    """Print the table and the description; the caller prints the verdict as its last line."""
    console = output_console()
    console.width = COMPARISON_WIDTH
    plan = comparison.plan
    console.print(f"comparison {plan.id}, {plan.track} on {plan.machine_class}")
    console.print(sides_table(comparison))
    for line in description_lines(comparison):
        console.print(line, soft_wrap=True)
