"""The learning curves of runs: accuracy, loss and norm of the weights against steps, on a logarithmic axis.

The form is that of Power et al., Grokking (2022): training and validation accuracy in one figure.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from bench.formatting import counted
from bench.report.plot_style import COLORS, DASHES, SOFT_COLOR, blank_canvas, draw, short, show_plain_numbers
from bench.stats.learning_curves import SPLITS, reached_steps, split_label
from bench.storage.schema import Check, Run

SPLIT_COLORS = dict(zip(SPLITS, COLORS, strict=False))  # where all runs have one label
MOST_MARKED = 40  # checks of a curve that are marked by dots
DENSE_DECADES = 1.5  # on a short axis, from which it has one label a decade
Points = list[tuple[int, float]]  # step, value


def draw_curves(runs: Sequence[Run], picture_format: str) -> bytes:
    """The figure as `svg` or `png`.

    Runs of one label share an axis for all splits. Runs of several labels have a column of axes for each split, in
    which each label has a colour.
    """
    options: dict[str, Any] = {"metadata": {"Date": None, "Creator": None}} if picture_format == "svg" else {"dpi": 120}
    return draw(lambda: curves_canvas(runs), format=picture_format, **options)


def curves_canvas(runs: Sequence[Run]) -> Any:
    """The figure as a matplotlib Figure."""
    labels: dict[str, list[Run]] = {}
    for run in runs:
        labels.setdefault(run.label, []).append(run)
    evaluated = {split for run in runs for check in run.checks for split in check.splits}
    splits = [split for split in SPLITS if split in evaluated] or ["train"]
    columns = [splits] if len(labels) == 1 else [[split] for split in splits]
    quantities = [accuracy, loss]
    if any(check.squared_norm is not None for run in runs for check in run.checks):
        quantities.append(norm)
    rows = len(quantities) if len(labels) == 1 else 2  # the norm belongs to no split
    keys = list(labels) if len(labels) > 1 else splits
    width, height = (7.2, 1.1 + 2.0 * rows) if len(columns) == 1 else (4.2 * len(columns), 6.0)
    canvas = blank_canvas(width, height + 0.2 * len(keys), w_pad=0.12, h_pad=0.06)
    tracks = ", ".join(dict.fromkeys(run.track for run in runs))
    config = short(next(iter(labels)), longest=50) if len(labels) == 1 else counted(len(labels), "config")
    of_runs = f"seed {runs[0].seed}" if len(runs) == 1 else counted(len(runs), "run")
    canvas.suptitle(f"{tracks}\n{config}, {of_runs}", x=0.02, ha="left", fontsize=11)
    grid = canvas.subplots(rows, len(columns), sharex=True, sharey="row", squeeze=False)
    colors = dict(zip(labels, palette(len(labels)), strict=True))
    for row, quantity in enumerate(quantities[:rows]):
        for column, shown in enumerate(columns):
            axes = grid[row][column]
            for split in shown if quantity is not norm else shown[:1]:
                for label, group in labels.items():
                    color = (
                        SOFT_COLOR if quantity is norm else SPLIT_COLORS[split] if len(labels) == 1 else colors[label]
                    )
                    dashes = DASHES[1] if split == "test" and len(shown) > 1 else DASHES[0]  # over those of validation
                    for run in group:
                        draw_line(axes, points_of(run.checks, split, quantity), color, dashes, len(runs) == 1)
            if row == 0 and len(columns) > 1:
                axes.set_title(split_label(shown[0], runs), loc="left", fontsize=11)
    scale(grid, runs, quantities[:rows])
    add_key(canvas, runs, labels, colors, splits)
    return canvas


def palette(number: int) -> list[Any]:
    """Distinct colours, of a colour map where the palette has too few."""
    if number <= len(COLORS):
        return list(COLORS[:number])
    from matplotlib import colormaps

    return [colormaps["turbo"](0.05 + 0.9 * i / (number - 1)) for i in range(number)]


# -----------------------------------------------------------------------------
# the data


def accuracy(check: Check, split: str) -> float | None:
    """The share of right problems, 0..1."""
    result = check.splits.get(split)
    return None if result is None else 1 - result.errors / result.problems


def loss(check: Check, split: str) -> float | None:
    """Nats a token, for training that of the latest batch; None if it is 0, which a logarithmic axis cannot show."""
    if split == "train":
        return check.loss or None
    result = check.splits.get(split)
    return None if result is None else result.loss or None


def norm(check: Check, split: str) -> float | None:
    return None if check.squared_norm is None else math.sqrt(check.squared_norm)


def points_of(checks: Sequence[Check], split: str, quantity: Callable[[Check, str], float | None]) -> Points:
    values = ((check.step, quantity(check, split)) for check in checks)
    return [(step, value) for step, value in values if value is not None and step]


# -----------------------------------------------------------------------------
# the picture


def draw_line(axes: Any, points: Points, color: Any, dashes: Any, is_single: bool) -> None:
    marker = "o" if len(points) == 1 or (is_single and len(points) <= MOST_MARKED) else ""
    steps, values = [step for step, _ in points], [value for _, value in points]
    width, alpha = (1.8, 1.0) if is_single else (1.2, 0.7)
    axes.plot(steps, values, marker=marker, markersize=3.5, color=color, linestyle=dashes, linewidth=width, alpha=alpha)


def scale(grid: Any, runs: Sequence[Run], quantities: Sequence[Callable[..., Any]]) -> None:
    """Set the scales and the names of all axes."""
    from matplotlib.ticker import PercentFormatter

    steps = [check.step for run in runs for check in run.checks if check.step] or [1]
    low, high = float(min(steps)), float(max(steps))
    if low == high:
        low, high = low / 2, high * 2
    names = {accuracy: "problems right", loss: "loss, nats a token", norm: "norm of the weights"}
    for axes_of_row, quantity in zip(grid, quantities, strict=True):
        axes_of_row[0].set_ylabel(names[quantity])
        if quantity is accuracy:
            axes_of_row[0].set_ylim(-0.03, 1.03)
            axes_of_row[0].yaxis.set_major_formatter(PercentFormatter(1.0))
        elif quantity is loss:
            values = [value for run in runs for split in SPLITS for _, value in points_of(run.checks, split, loss)]
            lowest, highest = min(values, default=0.1), max(values, default=1.0)
            axes_of_row[0].set_yscale("log")
            axes_of_row[0].set_ylim(lowest / 1.3, highest * 1.3)
            show_plain_numbers(axes_of_row[0].yaxis, lowest, highest, DENSE_DECADES)
    for axes in grid[-1]:
        axes.set_xscale("log")
        margin = (high / low) ** 0.03
        axes.set_xlim(low / margin, high * margin)
        show_plain_numbers(axes.xaxis, low, high, DENSE_DECADES if len(grid[0]) > 1 else 4.0)
        axes.set_xlabel("optimizer steps (log scale)")


def add_key(
    canvas: Any, runs: Sequence[Run], labels: dict[str, list[Run]], colors: dict[str, Any], splits: Sequence[str]
) -> None:
    """The legend below the axes, with the steps to 95% and 100% of a single run."""
    from matplotlib.lines import Line2D

    if len(labels) > 1:
        texts = {f"{label}, {counted(len(group), 'run')}": colors[label] for label, group in labels.items()}
    elif len(runs) == 1:
        reached = reached_steps(runs[0].checks)
        texts = {f"{split_label(split, runs)}: {reached_text(reached, split)}": SPLIT_COLORS[split] for split in splits}
    else:
        texts = {split_label(split, runs): SPLIT_COLORS[split] for split in splits}
    handles = [Line2D([], [], color=color, linewidth=2) for color in texts.values()]
    canvas.legend(handles, list(texts), loc="outside lower left", frameon=False, fontsize=9, borderaxespad=0.7)


def reached_text(reached: dict[str, int | None], split: str) -> str:
    """`95% after 80 steps, 100% after 100`."""
    first, last = (reached.get(f"{split} {percent}%") for percent in (95, 100))
    if first is None:
        return "95% not reached"
    return f"95% after {first:,} steps, " + ("100% not reached" if last is None else f"100% after {last:,}")
