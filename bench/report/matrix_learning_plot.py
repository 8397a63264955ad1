"""Plots of how the cells of a matrix learned: the steps between milestones, and the curves of accuracy."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from bench.config import TRACK_SETTINGS
from bench.experiments.matrix_results import CellResult
from bench.report.curves_plot import SPLIT_COLORS, accuracy, points_of
from bench.report.plot_style import COLORS, DASHES, SOFT_COLOR, blank_canvas, draw_svg, show_plain_numbers
from bench.stats.learning_curves import SPLITS, split_label

PANELS_IN_A_ROW = 4
LONGEST_LABEL = 34  # characters of a panel's title


def cell_label(result: CellResult) -> str:
    """`n_layer=1 p=97`: the settings of a cell, those of the track by their short names."""
    return str(result.cell).replace(f"{TRACK_SETTINGS}.", "")


def draw_steps(ranked: Sequence[CellResult], milestones: Sequence[str], title: str) -> str:
    return draw_svg(lambda: steps_canvas(ranked, milestones, title))


def steps_canvas(ranked: Sequence[CellResult], milestones: Sequence[str], title: str) -> Any:
    """A row for each cell, the first at the top, with a line for each run from the first milestone to the second.

    An arrow marks a run that did not reach the second one.
    """
    canvas = blank_canvas(8.0, 1.5 + 0.42 * len(ranked), w_pad=0.12, h_pad=0.1)
    axes = canvas.add_subplot()
    canvas.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    positions = []
    for row, result in enumerate(ranked):
        for index, span in enumerate(result.step_spans(milestones)):
            height = row + 0.56 * ((index + 0.5) / len(result.runs) - 0.5)
            color = COLORS[0] if span.end is not None else COLORS[1]
            stop = max(1, span.last if span.end is None else span.end)  # a logarithmic axis has no 0
            if span.start:
                axes.plot([span.start, stop], [height, height], color=color, linewidth=1.6, alpha=0.6)
                axes.plot([span.start], [height], "|", color=SOFT_COLOR, markersize=8)
            axes.plot([stop], [height], "o" if span.end is not None else ">", color=color, markersize=5)
            positions += [span.start, stop] if span.start else [stop]
    low, high = float(min(positions)), float(max(positions))
    if low == high:
        low, high = low / 2, high * 2
    axes.set_xscale("log")
    margin = (high / low) ** 0.04
    axes.set_xlim(low / margin, high * margin)
    show_plain_numbers(axes.xaxis, low, high, 3.0)
    axes.set_yticks(range(len(ranked)), [cell_label(result) for result in ranked], fontsize=9)
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.set_xlabel("optimizer steps (log scale)")
    add_steps_key(canvas, milestones)
    return canvas


def add_steps_key(canvas: Any, milestones: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    *first, last = milestones
    marks = dict.fromkeys(first, ("|", SOFT_COLOR))
    marks |= {last: ("o", COLORS[0]), f"training ended before {last}": (">", COLORS[1])}
    handles = [Line2D([], [], linestyle="", marker=marker, color=color) for marker, color in marks.values()]
    canvas.legend(handles, list(marks), loc="outside lower left", ncols=3, frameon=False, fontsize=9)


def draw_panels(results: Sequence[CellResult], title: str) -> str:
    return draw_svg(lambda: panels_canvas(results, title))


def panels_canvas(results: Sequence[CellResult], title: str) -> Any:
    """Accuracy against steps, a panel for each cell, a colour for each split, a line for each run."""
    columns = min(PANELS_IN_A_ROW, len(results))
    rows = math.ceil(len(results) / columns)
    canvas = blank_canvas(max(5.0, 2.9 * columns), 1.2 + 2.1 * rows, w_pad=0.08, h_pad=0.06)
    canvas.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    runs = [run for result in results for run in result.runs]
    shown = [split for split in SPLITS if any(split in check.splits for run in runs for check in run.checks)]
    all_steps = [check.step for run in runs for check in run.checks if check.step] or [1]
    low, high = float(min(all_steps)), float(max(all_steps)) * 1.1
    for axes, result in zip(grid.flat, results, strict=False):
        axes.set_title("\n".join(textwrap.wrap(cell_label(result), LONGEST_LABEL)), loc="left", fontsize=9)
        for split in shown:
            for run in result.runs:
                points = points_of(run.checks, split, accuracy)
                steps, accuracies = [step for step, _ in points], [share for _, share in points]
                dashes = DASHES[2] if split == "test" else DASHES[0]  # over the curve of validation
                axes.plot(steps, accuracies, color=SPLIT_COLORS[split], linestyle=dashes, linewidth=1.2, alpha=0.75)
    for axes in itertools.islice(grid.flat, len(results), None):
        axes.set_axis_off()
    first = grid[0][0]
    first.set_xscale("log")
    first.set_xlim(low, high)
    first.set_ylim(-0.03, 1.03)
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    first.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in grid.flat:
        show_plain_numbers(axes.xaxis, low, high, 2.0)
    canvas.supxlabel("optimizer steps (log scale)", fontsize=10)
    canvas.supylabel("problems right", fontsize=10)
    handles = [Line2D([], [], color=SPLIT_COLORS[split], linewidth=2) for split in shown]
    labels = [split_label(split, runs) for split in shown]
    canvas.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return canvas
