"""The common look of all plots, their axes and legends, and their data as CSV."""

import dataclasses
import io
import math
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, NamedTuple

from bench.formatting import csv_rows

# matplotlib is imported inside functions: the import takes longer than rendering all pages.

LOGARITHMIC_FROM = 20.0  # largest over smallest value on an axis

# Okabe and Ito's palette (2008), which colour-blind readers can tell apart, without its yellow, too pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#777777")
DASH_LENGTHS = ((5, 1.5), (1, 1), (5, 1, 1, 1), (9, 2), (3, 2), (7, 1, 1, 1, 1, 1))  # line, gap, ... in line widths
DASHES: tuple[Any, ...] = ("-", *((0, lengths) for lengths in DASH_LENGTHS), "-.")
TEXT_COLOR, SOFT_COLOR = "#222222", "#666666"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "addition-speedrun",  # the same data makes the same identifiers
    "svg.fonttype": "path",  # looks the same in every viewer
    "text.parse_math": False,  # names are not formulas
    "font.size": 11.0,
    "text.color": TEXT_COLOR,
    "axes.labelcolor": TEXT_COLOR,
    "axes.edgecolor": SOFT_COLOR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": SOFT_COLOR,
    "xtick.labelcolor": TEXT_COLOR,
    "ytick.color": SOFT_COLOR,
    "ytick.labelcolor": TEXT_COLOR,
    "figure.facecolor": "white",  # readable on a dark page
    "savefig.facecolor": "white",
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure; its data and its picture are computed on request."""

    name: str  # file name without suffix
    alt: str  # alternative text
    make_rows: Callable[[], Sequence[NamedTuple]]
    make_canvas: Callable[[Any], Any]  # rows -> matplotlib Figure

    def csv(self) -> str:
        return csv_text(self.make_rows())

    def svg(self) -> str:
        return draw_svg(lambda: self.make_canvas(self.make_rows()))


def csv_text(rows: Sequence[NamedTuple]) -> str:
    """Rows under the names of their fields.

    Floats have six decimals: further digits differ between versions of Python and its libraries.
    """

    def cell(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        return f"{value:.6f}" if isinstance(value, float) else value  # None becomes an empty cell

    return csv_rows([*(row._fields for row in rows[:1]), *(map(cell, row) for row in rows)])


def style() -> AbstractContextManager[None]:
    """Apply STYLE on top of matplotlib's defaults, whatever the user's own settings are."""
    import matplotlib.style

    return matplotlib.style.context(STYLE, after_reset=True)


def draw(make_canvas: Callable[[], Any], **options: Any) -> bytes:
    """Make a matplotlib Figure and save it in the common style."""
    picture = io.BytesIO()
    with style():
        make_canvas().savefig(picture, **options)
    return picture.getvalue()


def draw_svg(make_canvas: Callable[[], Any]) -> str:
    return draw(make_canvas, format="svg", metadata={"Date": None, "Creator": None}).decode()


def blank_canvas(width: float, height: float, **layout: Any) -> Any:
    """An empty matplotlib Figure of a size in inches, with options of the constrained layout.

    It is made without pyplot, which would keep state and open windows.
    """
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Canvas(figsize=(width, height), layout=ConstrainedLayoutEngine(**layout))


def new_canvas(title: str, subtitle: str, num_labels: int) -> tuple[Any, Any]:
    """A matplotlib Figure and its Axes, with room for so many lines of a legend below.

    The subtitle is wrapped into lines of similar length.
    """
    lines = textwrap.wrap(subtitle, len(subtitle) // (1 + len(subtitle) // 94) + 7)
    canvas = blank_canvas(8.0, 4.3 + 0.24 * num_labels + 0.18 * len(lines), w_pad=0.14, h_pad=0.1)
    axes = canvas.add_subplot()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=10 + 13 * len(lines))
    axes.annotate(
        "\n".join(lines), (0, 1), (0, 8), "axes fraction", "offset points", fontsize=9, color=SOFT_COLOR, va="bottom"
    )
    return canvas, axes


def add_legend(canvas: Any, handles: Sequence[Any], labels: Sequence[str], handle_length: float) -> None:
    """A legend below the axes, one label a line, so that long names cover nothing."""
    spacing = {"borderaxespad": 0.7, "handlelength": handle_length, "handletextpad": 0.8 if handle_length else 0}
    canvas.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=9, **spacing)


def short(name: str, longest: int = 36) -> str:
    """A name with its middle cut out where it is too long for a legend."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def scale_axis(axes: Any, name: str, values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    """Set the scale and the ends of an axis, "x" or "y", for these values; returns the ends.

    Logarithmic where the values differ widely.
    """
    positive = [value for value in values if value > 0]
    low, high = min(positive, default=0.0), max(positive, default=1.0)
    is_logarithmic = bool(low) and high / low > LOGARITHMIC_FROM
    if is_logarithmic:
        margin = (high / low) ** 0.05
        low, high = low / margin, high * margin
    else:
        margin = 0.06 * ((high if from_zero else high - low) or high)
        low, high = 0.0 if from_zero else max(0.0, low - margin), high + margin
    axes.set(**{f"{name}scale": "log" if is_logarithmic else "linear", f"{name}lim": (low, high)})
    if is_logarithmic:
        show_plain_numbers(getattr(axes, f"{name}axis"), low, high)
    return low, high


def show_plain_numbers(axis: Any, low: float, high: float, most_decades: float = 4.0) -> None:
    """Label a logarithmic axis 1, 2, 5, 10 instead of with powers; 1, 10, 100 from `most_decades` on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if math.log10(high / low) < most_decades else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def show_dates(axes: Any) -> None:
    """Label the x axis with dates (UTC)."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("date (UTC)")
