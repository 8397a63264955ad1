"""The common look of all plots, their axes and legends, and their data as CSV."""

import contextlib
import csv
import dataclasses
import io
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

# matplotlib is imported inside functions: the import takes longer than rendering all pages.

LOGARITHMIC_FROM = 20.0  # largest over smallest value on an axis

# Okabe and Ito's palette (2008), which colour-blind readers can tell apart, without its yellow, too pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#777777")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1, 1, 1)),
    (0, (9, 2)),
    (0, (3, 2)),
    (0, (7, 1, 1, 1, 1, 1)),
    "-.",
)
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
    draw: Callable[[Any], str]

    def csv(self) -> str:
        return csv_text(self.make_rows())

    def svg(self) -> str:
        return self.draw(self.make_rows())


def csv_text(rows: Sequence[NamedTuple]) -> str:
    """Rows under the names of their fields.

    Floats have six decimals: further digits differ between versions of Python and its libraries.
    """

    def cell(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        return f"{value:.6f}" if isinstance(value, float) else value  # None becomes an empty cell

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([row._fields for row in rows[:1]])
    writer.writerows([[cell(value) for value in row] for row in rows])
    return text.getvalue()


# -----------------------------------------------------------------------------
# canvases


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply STYLE on top of matplotlib's defaults, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def svg_text(canvas: Any) -> str:
    """A matplotlib Figure as SVG."""
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def blank_canvas(width: float, height: float, **layout: Any) -> Any:
    """An empty matplotlib Figure, made without pyplot, which would keep state and open windows.

    Args:
        width, height: inches.
        layout: options of the constrained layout.
    """
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Canvas(figsize=(width, height), layout=ConstrainedLayoutEngine(**layout))


def new_canvas(title: str, subtitle: str, num_labels: int) -> tuple[Any, Any]:
    """A matplotlib Figure and its Axes, with a title and room for the labels of a legend below.

    Args:
        subtitle: wrapped into lines of similar length.
        num_labels: lines of the legend.
    """
    lines = textwrap.wrap(subtitle, len(subtitle) // (1 + len(subtitle) // 94) + 7)
    canvas = blank_canvas(8.0, 4.3 + 0.24 * num_labels + 0.18 * len(lines), w_pad=0.14, h_pad=0.1)
    axes = canvas.add_subplot()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=10 + 13 * len(lines))
    axes.annotate(
        "\n".join(lines), (0, 1), (0, 8), "axes fraction", "offset points", fontsize=9, color=SOFT_COLOR, va="bottom"
    )
    return canvas, axes


def show_nothing(axes: Any) -> None:
    """Say that there is no data, in the middle of empty axes."""
    axes.text(0.5, 0.5, "no data yet", ha="center", color=SOFT_COLOR, transform=axes.transAxes)


def add_legend(canvas: Any, handles: Sequence[Any], labels: Sequence[str], handle_length: float) -> None:
    """A legend below the axes, one label a line, so that long names cover nothing."""
    canvas.legend(
        handles,
        labels,
        loc="outside lower left",
        frameon=False,
        fontsize=9,
        borderaxespad=0.7,
        handlelength=handle_length,
        handletextpad=0.8 if handle_length else 0,
    )


def short(name: str, longest: int = 36) -> str:
    """A name with its middle cut out where it is too long for a legend."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


# -----------------------------------------------------------------------------
# axes


def limits(values: Sequence[float], from_zero: bool) -> tuple[str, float, float]:
    """The scale of an axis for these values, and its two ends; logarithmic where the values differ widely."""
    positive = [value for value in values if value > 0]
    low, high = min(positive, default=0.0), max(positive, default=1.0)
    if low and high / low > LOGARITHMIC_FROM:
        margin = (high / low) ** 0.05
        return "log", low / margin, high * margin
    margin = 0.06 * ((high if from_zero else high - low) or high)
    return "linear", 0.0 if from_zero else max(0.0, low - margin), high + margin


def show_plain_numbers(axis: Any, low: float, high: float) -> None:
    """Label a logarithmic axis 1, 2, 5, 10 instead of with powers; 1, 10, 100 where that is too dense."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if math.log10(high / low) < 4 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def show_dates(axis: Any) -> None:
    """Label an axis with dates (UTC)."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)
    axis.set_major_locator(locator)
    axis.set_major_formatter(ConciseDateFormatter(locator))
