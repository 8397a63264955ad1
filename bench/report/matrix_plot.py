"""The plot of a matrix: a map of two of its axes, or a line along one."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.clock import ClockName
from bench.experiments.matrix_file import Matrix, label
from bench.experiments.matrix_results import CellResult, rank_cells
from bench.report.plot_style import COLORS, SOFT_COLOR, TEXT_COLOR, blank_canvas, draw_svg

LONGEST_LABEL = 18  # characters of a line of a tick label


def draw_matrix(results: Sequence[CellResult], matrix: Matrix, title: str, subtitle: str) -> str:
    """The plot as SVG. Where the matrix has further axes, each position shows its best cell."""
    return draw_svg(lambda: matrix_canvas(results, matrix, title, subtitle))


def matrix_canvas(results: Sequence[CellResult], matrix: Matrix, title: str, subtitle: str) -> Any:
    """The plot as a matplotlib Figure."""
    if len(matrix.plot) < sum(len(choices) > 1 for choices in matrix.axes.values()):
        subtitle += "; each position shows its best cell"
    columns, *others = ([label(axis, choice) for choice in matrix.axes[axis]] for axis in matrix.plot)
    rows = others[0] if others else [""]
    best = best_cells(results, matrix)

    longest = max(len(line) for text in rows for line in wrapped(text).splitlines() or [""])
    tallest = max(len(wrapped(text).splitlines()) for text in (*columns, *rows))
    width = max(6.4, 2.6 + 1.15 * len(columns) + 0.08 * longest)  # inches
    lines = textwrap.wrap(subtitle, round(14 * width))
    head = 0.5 + 0.18 * len(lines)
    height = head + 1.2 + (max(0.62, 0.2 * tallest) * len(rows) if others else 2.6) + 0.18 * tallest
    # The title is not a part of the axes, or the layout would reserve its whole length beside them.
    canvas = blank_canvas(width, height, w_pad=0.14, h_pad=0.1, rect=(0, 0, 1, 1 - head / height))
    canvas.text(0.14 / width, 1 - 0.12 / height, title, fontsize=13, fontweight="bold", va="top")
    canvas.text(0.14 / width, 1 - 0.4 / height, "\n".join(lines), fontsize=9, color=SOFT_COLOR, va="top")
    axes = canvas.add_subplot()
    axes.set_xlabel(matrix.plot[0])
    axes.set_xticks(range(len(columns)), [wrapped(text) for text in columns])
    if others:
        axes.set_ylabel(matrix.plot[1])
        draw_map(canvas, axes, columns, rows, best, matrix.clock)
    else:
        draw_line(axes, columns, best, matrix.clock)
    return canvas


def best_cells(results: Sequence[CellResult], matrix: Matrix) -> dict[tuple[str, ...], CellResult]:
    """Labels on the axes of the plot -> the best cell at that position."""
    best_last = reversed(rank_cells(results, matrix.clock))
    return {tuple(result.cell.labels()[axis] for axis in matrix.plot): result for result in best_last}


def wrapped(text: str) -> str:
    """A tick label in several lines; settings that change together have a line each."""
    return text.replace(" ", "\n") if "=" in text else "\n".join(textwrap.wrap(text, LONGEST_LABEL))


def cell_text(result: CellResult | None, clock: ClockName) -> str:
    """The text at a position of the map: the ERT and the number of solved attempts."""
    if result is None:
        return "left out"
    if not result.runs:
        return "not yet"
    solved = f"{result.num_solved} of {len(result.runs)} solved"
    text = f"{result.ert(clock):.2f}\n{solved}" if result.num_solved else solved
    return text if result.unranked_because is None else f"{text}\nnever ranks"


def ranked_ert(result: CellResult | None, clock: ClockName) -> float:
    """The ERT of a cell that solved the track and may be ranked; NaN of another one."""
    ert = None if result is None or not result.num_solved or result.unranked_because else result.ert(clock)
    return math.nan if ert is None else ert


def draw_map(
    canvas: Any,
    axes: Any,
    columns: Sequence[str],
    rows: Sequence[str],
    best: Mapping[tuple[str, ...], CellResult],
    clock: ClockName,
) -> None:
    """A square for each pair of choices with its ERT as text; darker is slower."""
    import numpy as np
    from matplotlib.colors import LogNorm

    cells = [[best.get((first, second)) for first in columns] for second in rows]
    values = np.array([[ranked_ert(cell, clock) for cell in row] for row in cells])
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    norm = LogNorm(low, high if high > low else low * 1.01)
    axes.set_facecolor("#ececec")
    axes.grid(False)
    if known.size:
        image = axes.imshow(values, norm=norm, cmap="viridis_r", aspect="auto", origin="lower")
        add_color_bar(canvas.colorbar(image, ax=axes, label=f"ERT by {clock}, s (log scale)"), low, high)
    else:
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5))
    for (row, column), value in np.ndenumerate(values):
        color = "white" if np.isfinite(value) and norm(value) > 0.55 else TEXT_COLOR
        text = cell_text(cells[row][column], clock)
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
    axes.set_yticks(range(len(rows)), [wrapped(text) for text in rows])


def add_color_bar(bar: Any, low: float, high: float) -> None:
    """Label a colour bar with seconds, and its ends with `faster` and `slower`."""
    bar.ax.minorticks_off()
    if high == low:
        bar.set_ticks([low], labels=[f"{low:.3g}"])
        return
    ticks = [low * (high / low) ** (step / 4) for step in range(5)]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    for height, va, word in ((-0.03, "top", "faster"), (1.03, "bottom", "slower")):
        bar.ax.text(0.5, height, word, transform=bar.ax.transAxes, ha="center", va=va, fontsize=9, color=SOFT_COLOR)


def draw_line(axes: Any, columns: Sequence[str], best: Mapping[tuple[str, ...], CellResult], clock: ClockName) -> None:
    """ERT along one axis, with a mark for each attempt."""
    known = [(i, best[(text,)]) for i, text in enumerate(columns) if (text,) in best]
    solved = [(i, ert) for i, result in known if not math.isnan(ert := ranked_ert(result, clock))]
    axes.plot([i for i, _ in solved], [ert for _, ert in solved], "o-", color=COLORS[0], linewidth=2)
    for i, result in known:
        seconds = result.seconds(clock)
        axes.plot([i] * len(seconds), seconds, "_", color=COLORS[0], alpha=0.5, markersize=12)
        height = result.ert(clock) if result.num_solved else median(seconds or [0.0])
        axes.annotate(cell_text(result, clock), (i, height), (9, 4), textcoords="offset points", fontsize=9)
    axes.set_xlim(-0.5, len(columns) - 0.3)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.2)
    axes.set_ylabel(f"ERT by {clock}, s")
