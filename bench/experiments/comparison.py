"""The result of a comparison, computed from its paired plan and the journal, and its table and description."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from bench.clock import ClockName
from bench.console import output_console
from bench.experiments.paired_runs import DISTURBED, PairedRuns, paired_runs
from bench.formatting import contestant_text, counted, number, ratio_text, spread_text, terminal_table
from bench.stats.expected_time import CAP, STOPPED, expected_time_to_success
from bench.stats.levels import LEVEL, fewest_pairs, record_level
from bench.stats.paired_test import drift, log_ert_ratio, pair_runs, pairs_needed, ratio_interval, swap_test, verdict
from bench.stats.ranking import CLOCKS
from bench.storage.comparison_schema import BatchSummary, Conclusion, PairedPlan, Verdict
from bench.storage.results import conclusions_file
from bench.storage.schema import Interval, Run

COMPARISON_WIDTH = 160  # columns of the table
MOST_STOPPED = 5  # `compare` decides nothing if a side lost more than one attempt in this many


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Side a compared with side b, on the plan's clock."""

    plan: PairedPlan
    filed: PairedRuns
    a: list[Run]  # of the pairs that count, and of unfinished pairs
    b: list[Run]
    level: float
    verdict: Verdict  # about a; "not decided" while attempts are missing
    reason: str | None  # why it is not decided, beside the p-value
    p_value: float | None  # None until all attempts are filed
    ratio: float  # ERT of a / ERT of b in the pairs that count, with capped seconds
    ratio_95: Interval | None
    capped: tuple[int, int] | None  # attempts of a and of b that were capped; None: by an older rule, without caps
    drift: float | None  # relative slowdown from the first pair to the last
    pairs_needed: int | None  # for a new comparison to decide such a difference; None when this one is decided

    def conclusion(self) -> Conclusion:
        """What is filed about a finished comparison; raises ValueError when attempts are missing."""
        if self.p_value is None:
            raise ValueError(f"{self.plan.id} is not finished")
        return Conclusion(
            id=self.plan.id,
            verdict=self.verdict,
            p_value=self.p_value,
            level=self.level,
            number=self.plan.number,
            reason=self.reason,
            repeated=len(self.filed.repeated),
            capped=self.capped,
            ert_ratio=self.ratio if 0 < self.ratio < math.inf else None,
            ert_ratio_95=self.ratio_95,
            drift=self.drift,
            pairs_needed=self.pairs_needed,
            a=summarize_batch(self.a),
            b=summarize_batch(self.b),
        )


def conclude_comparison(plan: PairedPlan, runs: Sequence[Run], results: Path) -> Comparison:
    """Evaluate a finished comparison, and file its conclusion, unless it is filed already."""
    file = conclusions_file(results)
    with file.lock():
        filed = filed_conclusion(plan, results)
        comparison = evaluate_comparison(plan, runs, filed)
        if filed is None:
            file.append(comparison.conclusion())
    return comparison


def filed_conclusion(plan: PairedPlan, results: Path) -> Conclusion | None:
    return next((conclusion for conclusion in conclusions_file(results).read()[0] if conclusion.id == plan.id), None)


def is_concluded(plan: PairedPlan, results: Path) -> bool:
    return filed_conclusion(plan, results) is not None


def evaluate_comparison(plan: PairedPlan, runs: Sequence[Run], conclusion: Conclusion | None = None) -> Comparison:
    """Evaluate the comparison of a plan with two sides; the verdict is "not decided" while attempts are missing.

    Figures that are filed in its conclusion are not computed again: older ones follow older rules. Raises ValueError
    for a plan without a clock, which compares nothing.
    """
    if plan.clock is None:
        raise ValueError(f"{plan.id} is no comparison")
    filed, level = paired_runs(plan, runs), LEVEL if plan.level is None else plan.level
    indices, seed = filed.counted, plan.seeds[0]
    of_a, of_b = ([side[index] for index in indices] for side in (filed.a, filed.b))
    pairs = pair_runs(of_a, of_b, plan.clock, has_challenger=plan.spare_seeds is not None)
    has_ratio = any(run.outcome == "solved" for run in (*of_a, *of_b))
    comparison = Comparison(
        plan=plan,
        filed=filed,
        a=filed.without_repeated("a"),
        b=filed.without_repeated("b"),
        level=level,
        verdict="not decided",
        reason=None,
        p_value=None,
        ratio=math.exp(log_ert_ratio(pairs)) if has_ratio else math.nan,
        ratio_95=None,
        capped=(pairs.a.num_capped, pairs.b.num_capped),
        drift=None,
        pairs_needed=None,
    )
    if conclusion is not None:
        kept = ("level", "verdict", "reason", "p_value", "ert_ratio_95", "capped", "drift", "pairs_needed")
        values = {key.removeprefix("ert_"): getattr(conclusion, key) for key in kept}
        values["level"] = values["level"] or LEVEL
        values["ratio"] = comparison.ratio if conclusion.ert_ratio is None else conclusion.ert_ratio
        return dataclasses.replace(comparison, **values)
    comparison = dataclasses.replace(
        comparison,
        ratio_95=bounded_interval(ratio_interval(pairs, seed)) if indices else None,
        drift=drift(pairs) if indices else None,
    )
    if not filed.is_complete:
        return comparison
    p_value, decision = swap_test(pairs), verdict(pairs, level)
    reason = reason_against_verdict(filed)
    if reason is None and decision == "not decided" and p_value <= level:
        reason = "most pairs favour one side, and the ratio of the ERTs the other"
    is_decided = reason is None and decision != "not decided"
    next_level = level if plan.spare_seeds is None else record_level(plan.number + 1)
    return dataclasses.replace(
        comparison,
        p_value=p_value,
        verdict=decision if is_decided else "not decided",
        reason=reason,
        pairs_needed=None if is_decided or reason is not None else pairs_needed(pairs, next_level),
    )


def reason_against_verdict(filed: PairedRuns) -> str | None:
    """Why a finished comparison decides nothing, whatever the attempts took; None if it may decide."""
    if filed.plan.spare_seeds is not None:
        num_repeated, num_spare = len(filed.repeated), len(filed.spare_seeds)
        return None if num_repeated <= num_spare else f"{num_repeated} pairs do not count, {DISTURBED}"
    for side, runs in (("a", filed.a), ("b", filed.b)):
        num_stopped = sum(map(has_no_result, runs.values()))
        if filed.plan.level is not None and num_stopped * MOST_STOPPED > len(runs):
            return (
                f"{num_stopped} of {counted(len(runs), 'attempt')} of side {side} have no result of their own, because "
                "they were killed, interrupted or did not start; that is more than a fifth"
            )
    return None


def has_no_result(run: Run) -> bool:
    """Whether an attempt was killed or interrupted, or ended with an error before it had seconds of its own."""
    return run.outcome in STOPPED or (run.outcome == "error" and run.seconds.total is None)


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
    plan, filed, capped = comparison.plan, comparison.filed, comparison.capped
    fewest = fewest_pairs(comparison.level)
    lines = []
    if comparison.p_value is not None:
        can_decide = f"at most {comparison.level:.2g} decides"
        limit = can_decide if plan.pairs >= fewest else f"fewer than {fewest} cannot decide"
        lines.append(f"permutation test over {counted(plan.pairs, 'pair')}: p = {p_text(comparison.p_value)} ({limit})")
    if comparison.reason is not None:
        lines.append(f"not decided, because {comparison.reason}")
    lines.append(
        f"ERT of a to ERT of b by `{plan.clock}`: {ratio_text(comparison.ratio, comparison.ratio_95)}"
        + (" (95% percentile bootstrap over pairs)" if comparison.ratio_95 else "")
    )
    if capped is not None and any(capped):
        lines.append(
            f"in this ratio {capped[0]} attempts of a and {capped[1]} of b count with {CAP:g} times the usual seconds "
            "for their steps, as they took longer; the ERTs in the table have no such cap"
        )
    if filed.repeated:
        lines.append(f"{counted(len(filed.repeated), 'pair')} did not count, {DISTURBED}")
    if plan.spare_seeds is not None:
        lines.append(
            f"comparison number {plan.number} against this opponent in this folder: the level is "
            f"0.05 / ({plan.number} × {plan.number + 1}), so that all of them together err in at most 5%"
        )
    elif plan.number > 1:
        lines.append(
            f"comparison number {plan.number} against this opponent in this folder: the more of them, the more likely "
            "one decides by chance"
        )
    if plan.why is not None:
        lines.append(f"why: {plan.why}")
    if comparison.drift is not None and plan.pairs >= fewest:
        change = f"{abs(comparison.drift):.1%} {'more' if comparison.drift >= 0 else 'less'}"
        lines.append(f"the last pair took {change} time than the first; the ratio within pairs does not depend on that")
    if not filed.is_complete:
        lines.append(f"not finished: {filed.num_runs} of {filed.num_attempts} attempts")
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
