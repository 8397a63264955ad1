"""Orders of generation compared: completions, loss and weights over training, and the ordering at its end."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from bench.experiments.matrix_results import CellResult
from bench.formatting import UNKNOWN, known, markdown_code, markdown_table, spread_text
from bench.report.plot_style import COLORS, DASHES, blank_canvas, draw_svg
from bench.stats.descriptive import mean_interval, means_differ
from bench.storage.schema import Check, Count, Run

ORDER = "order"  # the setting; an axis of this name adds the section to a matrix's page
SIGNIFICANCE = 0.05


def order_of(result: CellResult) -> str:
    """The label of a cell: its order, and its other settings if it has any."""
    return ", ".join(result.cell.labels().values())


def right_share(count: Count) -> float:
    return 1 - count.errors / count.problems


def heldout_share(run: Run) -> float | None:
    """The share of right completions of the certificate's held-out problems, 0..1."""
    certificate = run.certificate
    if certificate is None or not certificate.heldout_problems:
        return None
    return 1 - certificate.heldout_errors / certificate.heldout_problems


# -----------------------------------------------------------------------------
# the table


def orders_table(results: Sequence[CellResult]) -> str:
    """The figures at the end of training: shares of right completions with intervals, losses and norms."""
    with_runs = [result for result in results if result.runs]
    samples = list(dict.fromkeys(name for result in with_runs for run in result.runs for name in samples_of(run)))
    headings = [ORDER, "seeds", "test prompts right, %", *(f"{name}, %" for name in samples)]
    headings += ["validation loss, left to right", "squared norm of the weights"]
    rows = []
    for result in with_runs:
        checks = [run.checks[-1] for run in result.runs if run.checks]
        row: list[object] = [markdown_code(order_of(result)), len(result.runs), percent_text(shares_of(result))]
        row += [percent_text(known(samples_of(run).get(name) for run in result.runs)) for name in samples]
        row.append(
            spread_text([None if check.validation is None else check.validation.loss for check in checks], ".3f")
        )
        row.append(spread_text([check.squared_norm for check in checks], ",.0f"))
        rows.append(row)
    return markdown_table(headings, rows, text=[ORDER])


def samples_of(run: Run) -> dict[str, float]:
    """The share of right completions of each sample of the certificate."""
    samples = {} if run.certificate is None else run.certificate.samples
    return {name: right_share(count) for name, count in samples.items() if count.problems}


def shares_of(result: CellResult) -> list[float]:
    return known(map(heldout_share, result.runs))


def percent_text(shares: Sequence[float]) -> str:
    """`55.2 [50.1, 60.3]`: the mean over seeds and its 95% interval, in percent; a single seed has no interval."""
    if not shares:
        return UNKNOWN
    mean, low, high = (100 * value for value in mean_interval(shares))
    return f"{mean:.1f} [{max(low, 0.0):.1f}, {min(high, 100.0):.1f}]" if len(shares) > 1 else f"{mean:.1f}"


def ordering(results: Sequence[CellResult]) -> str:
    """`alternating > uniform ≈ left-to-right`, the best first; `≈` where the seeds do not tell two neighbours apart."""
    ranked = sorted((result for result in results if shares_of(result)), key=lambda result: -mean_of(result))
    text = "".join(order_of(result) for result in ranked[:1])
    for better, worse in itertools.pairwise(ranked):
        is_better = means_differ(shares_of(better), shares_of(worse), SIGNIFICANCE)
        text += f" {'>' if is_better else '≈'} {order_of(worse)}"
    return text


def mean_of(result: CellResult) -> float:
    return mean_interval(shares_of(result)).mean


# -----------------------------------------------------------------------------
# the picture


def validation_share(check: Check) -> float | None:
    return None if check.validation is None else right_share(check.validation)


def validation_loss(check: Check) -> float | None:
    return None if check.validation is None else check.validation.loss


def squared_norm(check: Check) -> float | None:
    return check.squared_norm


PANELS: tuple[tuple[str, Callable[[Check], float | None]], ...] = (
    ("right completions of validation prompts", validation_share),
    ("loss of validation lines, left to right, nats", validation_loss),
    ("squared norm of the weights", squared_norm),
)


def draw_orders(results: Sequence[CellResult], title: str) -> str:
    return draw_svg(lambda: orders_canvas(results, title))


def orders_canvas(results: Sequence[CellResult], title: str) -> Any:
    """A panel for each figure, against steps: the mean over seeds and its 95% interval, a colour for each order."""
    from matplotlib.ticker import PercentFormatter

    with_runs = [result for result in results if any(run.checks for run in result.runs)]
    canvas = blank_canvas(12.0, 4.2, w_pad=0.1, h_pad=0.08)
    canvas.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    grid = canvas.subplots(1, len(PANELS), sharex=True)
    handles: list[Any] = []
    for axes, (name, quantity) in zip(grid, PANELS, strict=True):
        handles = []
        axes.set_title(name, loc="left", fontsize=10)
        for index, result in enumerate(with_runs):
            color = COLORS[index % len(COLORS)]
            steps, means, lows, highs = curve(result.runs, quantity)
            dashes = DASHES[index // len(COLORS) % len(DASHES)]
            handles += axes.plot(steps, means, color=color, linestyle=dashes, linewidth=1.8)
            axes.fill_between(steps, lows, highs, color=color, alpha=0.15, linewidth=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("optimizer steps")
    grid[0].set_ylim(-0.02, 1.02)
    grid[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    labels = list(map(order_of, with_runs))
    canvas.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False, fontsize=10)
    return canvas


def curve(runs: Sequence[Run], quantity: Callable[[Check], float | None]) -> tuple[list[Any], ...]:
    """The steps at which all runs have the quantity; its mean over the runs, and the ends of its 95% interval."""
    values = [{check.step: value for check in run.checks if (value := quantity(check)) is not None} for run in runs]
    steps = sorted(set.intersection(*map(set, values)))
    intervals = [mean_interval([of_run[step] for of_run in values]) for step in steps]
    lows, highs = ([interval[end] for interval in intervals] for end in (1, 2))
    return steps, [interval.mean for interval in intervals], lows, highs
