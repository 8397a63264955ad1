"""A matrix as a picture: a map of two of its axes, or a line along one."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from bench.clock import ClockName
from bench.experiments.matrix_file import Matrix, label
from bench.experiments.matrix_results import CellResult
from bench.report.plots import COLORS, SOFT_COLOR, style, svg_text
from bench.stats.descriptive import spread

# matplotlib is imported where it is used, as in plots.py.

LONGEST_LABEL = 18  # characters in a line of an axis's label


def draw_matrix(results: Sequence[CellResult], grid: Matrix, title: str, subtitle: str) -> str:
    """SVG. Where there are more axes than are drawn, each place shows the best of its cells."""
    with style():
        return svg_text(matrix_canvas(results, grid, title, subtitle))


def matrix_canvas(results: Sequence[CellResult], grid: Matrix, title: str, subtitle: str) -> Any:
    """The picture as a matplotlib Figure, made without pyplot, which would keep state."""
    from matplotlib.figure import Figure as Canvas

    if len(grid.plot) < len([axis for axis, choices in grid.axes.items() if len(choices) > 1]):
        subtitle += "; each place shows the best of its cells"
    along = labels_of(grid, grid.plot[0])
    up = labels_of(grid, grid.plot[1]) if len(grid.plot) == 2 else [""]
    places: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        own = result.cell.labels()
        places.setdefault((own[grid.plot[0]], own[grid.plot[1]] if len(grid.plot) == 2 else ""), []).append(result)
    best = {place: best_of(there, grid.clock) for place, there in places.items()}

    longest = max(len(line) for text in up for line in wrapped(text).splitlines() or [""])
    tallest = max(len(wrapped(text).splitlines()) for text in (*along, *up))
    width = max(6.4, 2.6 + 1.15 * len(along) + 0.08 * longest)  # inches
    lines = textwrap.wrap(subtitle, round(14 * width))
    head = 0.5 + 0.18 * len(lines)
    height = head + 1.2 + (max(0.62, 0.2 * tallest) * len(up) if len(grid.plot) == 2 else 2.6) + 0.18 * tallest
    canvas = Canvas(figsize=(width, height), layout="constrained")
    # What stands above is no part of the axes: the layout would make room for its whole length beside them.
    canvas.get_layout_engine().set(w_pad=0.14, h_pad=0.1, rect=(0, 0, 1, 1 - head / height))
    canvas.text(0.14 / width, 1 - 0.12 / height, title, fontsize=13, fontweight="bold", va="top")
    canvas.text(0.14 / width, 1 - 0.4 / height, "\n".join(lines), fontsize=9, color=SOFT_COLOR, va="top")
    axes = canvas.add_subplot()
    axes.set_xlabel(grid.plot[0])
    axes.set_xticks(range(len(along)), [wrapped(text) for text in along])
    if len(grid.plot) == 2:
        axes.set_ylabel(grid.plot[1])
        draw_map(canvas, axes, along, up, best, grid.clock)
    else:
        draw_line(axes, along, best, grid.clock)
    return canvas


def labels_of(grid: Matrix, axis: str) -> list[str]:
    return [label(axis, choice) for choice in grid.axes[axis]]


def wrapped(text: str) -> str:
    """A label in lines; of settings that change together, each has its own."""
    return text.replace(" ", "\n") if "=" in text else "\n".join(textwrap.wrap(text, LONGEST_LABEL))


def best_of(results: Sequence[CellResult], clock: ClockName) -> CellResult:
    """The lowest ERT; one that was tried rather than one that was not."""
    return min(results, key=lambda result: (math.inf if (ert := result.ert(clock)) is None else ert, not result.runs))


def words(result: CellResult | None, clock: ClockName) -> str:
    """What a place of the map says: the ERT and how many solved."""
    if result is None:
        return "left out"
    if not result.runs:
        return "not yet"
    solved = f"{result.num_solved} of {len(result.runs)}"
    return f"{result.ert(clock):.2f}\n{solved}" if result.num_solved else f"never\n{solved}"


def draw_map(
    canvas: Any, axes: Any, along: Sequence[str], up: Sequence[str], best: dict[tuple[str, str], CellResult], clock: str
) -> None:
    """A square for each pair of choices, the darker the slower; each says its figures, so that colour is no need."""
    import numpy as np
    from matplotlib.colors import LogNorm

    values = np.full((len(up), len(along)), np.nan)
    for row, second in enumerate(up):
        for column, first in enumerate(along):
            result = best.get((first, second))
            if result is not None and result.num_solved:
                values[row, column] = result.ert(clock)
    known = values[np.isfinite(values)]
    axes.set_facecolor("#ececec")
    axes.grid(False)
    if known.size:
        low, high = float(known.min()), float(known.max())
        norm = LogNorm(low, high if high > low else low * 1.01)
        image = axes.imshow(values, norm=norm, cmap="viridis_r", aspect="auto", origin="lower")
        bar = canvas.colorbar(image, ax=axes, label=f"ERT by {clock}, s")
        bar.ax.minorticks_off()
        bar.set_ticks([low, high] if high > low else [low], labels=[f"{value:.3g}" for value in sorted({low, high})])
    else:
        axes.set_xlim(-0.5, len(along) - 0.5)
        axes.set_ylim(-0.5, len(up) - 0.5)
    for row, second in enumerate(up):
        for column, first in enumerate(along):
            value = values[row, column]
            is_dark = np.isfinite(value) and norm(value) > 0.55
            color = "white" if is_dark else "#222222"
            axes.text(
                column, row, words(best.get((first, second)), clock), ha="center", va="center", fontsize=9, color=color
            )
    axes.set_yticks(range(len(up)), [wrapped(text) for text in up])


def draw_line(axes: Any, along: Sequence[str], best: dict[tuple[str, str], CellResult], clock: str) -> None:
    """ERT along one axis, with each attempt as a point."""
    known = [(i, best[text, ""]) for i, text in enumerate(along) if (text, "") in best]
    solved = [(i, result) for i, result in known if result.num_solved]
    axes.plot([i for i, _ in solved], [result.ert(clock) for _, result in solved], "o-", color=COLORS[0], linewidth=2)
    for i, result in known:
        seconds = result.seconds(clock)
        axes.plot([i] * len(seconds), seconds, "_", color=COLORS[0], alpha=0.5, markersize=12)
        spot = spread(seconds)
        text = words(result, clock)
        at = (i, result.ert(clock) if result.num_solved else spot.median if spot else 0.0)
        axes.annotate(text, at, (9, 4), textcoords="offset points", fontsize=9)
    axes.set_xlim(-0.5, len(along) - 0.3)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.2)
    axes.set_ylabel(f"ERT by {clock}, s")
