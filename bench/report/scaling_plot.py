"""The plot of quantities against the number of digits, as PNG: a row for each machine class, a panel for each quantity.

A row shows the families of one machine class, at most one in each order of the answer's digits.
"""

import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.report.plot_style import COLORS, DASHES, SOFT_COLOR, blank_canvas, draw, show_plain_numbers
from bench.report.scaling_families import ORDERS, QUANTITIES, Family, ScalingAttempt, points
from bench.stats.power_law import exponent_text, fit

DOTS_PER_INCH = 200
STRIP = 0.2  # share of a panel's height, at its top, for unsolved attempts
NARROWEST = 8.0  # largest over smallest value that a quantity's axis shows
LABELS = {"seconds": "train seconds", "steps": "optimizer steps", "FLOPs": "FLOPs of the steps"}
MARKERS = dict(zip(ORDERS, "o^", strict=True))


def draw_scaling(families: Sequence[Family]) -> bytes:
    """The plot as PNG; families of one machine class must be adjacent."""
    return draw(lambda: scaling_canvas(families), format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def scaling_canvas(families: Sequence[Family]) -> Any:
    """The rows as a matplotlib Figure."""
    rows = [list(group) for _, group in itertools.groupby(families, key=lambda family: family.machine_class)]
    canvas = blank_canvas(12.6, 0.5 + 5.1 * len(rows), w_pad=0.1, h_pad=0.08)
    title = "Cost of learning addition, by the number of digits"
    canvas.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
    for row, row_families in zip(canvas.subfigures(len(rows), squeeze=False)[:, 0], rows, strict=True):
        machine_class = textwrap.fill(row_families[0].machine_class, 150)
        row.suptitle(machine_class, x=0.012, ha="left", fontsize=9, color=SOFT_COLOR)
        above, below = row.subplots(2, len(QUANTITIES), height_ratios=(5, 1.25))  # the panels, their legends
        for axes, legend_axes, quantity in zip(above, below, QUANTITIES, strict=True):
            add_legend(legend_axes, *draw_panel(axes, row_families, quantity))
    return canvas


def draw_panel(axes: Any, families: Sequence[Family], quantity: str) -> tuple[list[Any], list[str]]:
    """One quantity against the number of digits, both logarithmic.

    Each solved attempt is a point, each order has a fitted line; unsolved attempts are hollow points at the top, with
    their number where there are several. The points of the two orders are shifted a little to the left and right.
    Returns the handles and labels of the legend.
    """
    from matplotlib.lines import Line2D

    attempts = [attempt for family in families for attempt in family.attempts]
    lengths = sorted({attempt.digits for attempt in attempts})
    width = math.log(max(lengths[-1] / lengths[0], 2.0))
    has_unsolved = not all(attempt.solved for attempt in attempts)
    set_up_axes(axes, lengths, width, [value for _, value in points(attempts, quantity)], has_unsolved)
    axes.set_ylabel(LABELS[quantity])
    handles: list[Any] = []
    labels: list[str] = []
    for family in families:
        place, measured = ORDERS.index(family.order), points(family.attempts, quantity)
        look: dict[str, Any] = {"color": COLORS[place], "marker": MARKERS[family.order], "markersize": 6}
        shift = math.exp((2 * place - 1) * 0.012 * width)
        xs, ys = [digits * shift for digits, _ in measured], [value for _, value in measured]
        axes.plot(xs, ys, linestyle="none", alpha=0.65, markeredgewidth=0, zorder=3, **look)
        fitted = fit(measured)
        if fitted is not None:
            ends = [bound(digits for digits, _ in measured) for bound in (min, max)]
            line = [fitted.factor * digits**fitted.exponent for digits in ends]
            axes.plot(ends, line, color=COLORS[place], linestyle=DASHES[place], linewidth=1.8)
        handles.append(Line2D([], [], linestyle=DASHES[place] if fitted else "none", linewidth=1.8, **look))
        labels.append(f"{family.order}: {exponent_text(fitted)}")
        mark_unsolved(axes, [attempt for attempt in family.attempts if not attempt.solved], place, shift)
    if has_unsolved:
        handles.append(Line2D([], [], linestyle="none", marker="o", markersize=6, **hollow(SOFT_COLOR)))
        labels.append("attempts that did not solve the track")
    return handles, labels


def add_legend(axes: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend in separate axes, so that it neither covers nor narrows a panel."""
    axes.set_axis_off()
    title = "exponent and its 95% interval"
    place = {"loc": "upper left", "bbox_to_anchor": (-0.04, 1), "borderaxespad": 0, "alignment": "left"}
    look = {"frameon": False, "fontsize": 9, "title_fontsize": 9, "handlelength": 2.6}
    legend = axes.legend(handles, labels, title=title, **place, **look)
    legend.get_title().set_color(SOFT_COLOR)
    legend.set_in_layout(False)


def set_up_axes(axes: Any, lengths: Sequence[int], width: float, values: Sequence[float], has_unsolved: bool) -> None:
    """Logarithmic axes for these lengths and values, with a strip at the top for unsolved attempts."""
    from matplotlib.patches import Rectangle

    xlim = lengths[0] * math.exp(-0.07 * width), lengths[-1] * math.exp(0.07 * width)
    axes.set(xscale="log", xlim=xlim, xlabel="digits of each number", yscale="log")
    labelled = spread_out(lengths, 0.075 * width)
    axes.set_xticks(labelled, [str(digits) for digits in labelled])
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    margin = max((high / low) ** 0.06, (NARROWEST * low / high) ** 0.5)
    bottom, top = low / margin, high * margin
    show_plain_numbers(axes.yaxis, bottom, top)
    # Fixed, so that the strip for unsolved attempts, which have no value, has no ticks.
    ticks = [tick for tick in axes.yaxis.get_major_locator().tick_values(bottom, top) if bottom <= tick <= top]
    axes.set_yticks(ticks if values else [])
    axes.minorticks_off()
    if not values:
        axes.text(0.5, 0.4, "no data", ha="center", color=SOFT_COLOR, transform=axes.transAxes)
    if has_unsolved:
        top = bottom * (top / bottom) ** (1 / (0.98 - STRIP))
        strip: dict[str, Any] = {"transform": axes.transAxes, "facecolor": "#f1f1f1", "linewidth": 0, "zorder": 0}
        axes.add_patch(Rectangle((0, 1 - STRIP), 1, STRIP, **strip))
        at = (0.02, 1 - STRIP / 2)
        axes.text(*at, "not solved", va="center", fontsize=9, color=SOFT_COLOR, transform=axes.transAxes, zorder=1)
    axes.set_ylim(bottom, top)


def spread_out(lengths: Sequence[int], apart: float) -> list[int]:
    """A subset of ascending numbers whose logarithms are at least `apart` apart, so that their labels have room."""
    kept = [lengths[-1]]
    for digits in reversed(lengths[:-1]):
        if math.log(kept[0] / digits) >= apart:
            kept.insert(0, digits)
    return kept


def mark_unsolved(axes: Any, unsolved: Sequence[ScalingAttempt], place: int, shift: float) -> None:
    """Hollow points in the strip, one line for each order."""
    height, transform = 1 - STRIP * (0.4 if place == 0 else 0.78), axes.get_xaxis_transform()
    look = {"markersize": 6, "transform": transform, "zorder": 3, **hollow(COLORS[place])}
    for digits, count in Counter(attempt.digits for attempt in unsolved).items():
        at = (digits * shift, height)
        axes.plot(*at, MARKERS[ORDERS[place]], **look)
        if count > 1:
            offset = (0, 4), transform, "offset points"
            axes.annotate(str(count), at, *offset, fontsize=7, ha="center", color=COLORS[place])


def hollow(color: str) -> dict[str, Any]:
    return {"markerfacecolor": "white", "markeredgecolor": color, "markeredgewidth": 1.3}
