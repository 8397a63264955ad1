"""The board's figures, drawn from the journal alone: how soon a track was solved, and the history of its records.

Each figure is its data, kept as CSV and compared by `board --check`, and a picture of that data as SVG.
"""

import bisect
import contextlib
import csv
import dataclasses
import hashlib
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from bench.clock import ClockName
from bench.stats.descriptive import wilson_interval
from bench.stats.expected_time import attempt_costs
from bench.stats.ranking import Entry, RunBatch, group_entries

# matplotlib is imported where it is used: that takes longer than rendering the board's text.

MOST_CURVES = 8  # contestants in a figure, the best ones
MOST_NAMES = 8  # records in a legend, the latest ones
LOGARITHMIC_FROM = 20.0  # largest over smallest value on an axis

# Okabe and Ito's colours, which the colour-blind can tell apart, less the yellow that a white page swallows.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#777777")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (9, 2)), (0, (3, 2)), (0, (7, 1, 1, 1, 1, 1)), "-.")
TEXT_COLOR, SOFT_COLOR = "#222222", "#666666"
STYLE = {
    "svg.hashsalt": "addition-speedrun",  # the same data makes the same identifiers
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "text.parse_math": False,  # names are no formulas
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
    "figure.facecolor": "white",  # legible on a dark page too
    "savefig.facecolor": "white",
}


class Category(NamedTuple):
    """What has a ranking of its own: a track on a machine class, by one clock."""

    track: str
    machine_class: str
    clock: ClockName


class RecordPoint(NamedTuple):
    """One record of a place; the bounds are those of its ERT's 95% interval, None when nobody computed them."""

    name: str
    date: datetime  # UTC
    ert_seconds: float
    low_seconds: float | None
    high_seconds: float | None  # may be infinite
    solved: int
    attempts: int


class SolvedRow(NamedTuple):
    """How many of an entry's attempts had solved the track by then; the bounds are of the pointwise 95% interval."""

    batches: str  # with spaces between them
    config: str
    seconds: float
    solved: int
    attempts: int
    fraction: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure: what its files are called, what it shows, and its two forms, each made when it is asked for."""

    name: str  # of its files, without the suffix
    alt: str  # for those who do not see it
    make_rows: Callable[[], Sequence[NamedTuple]]
    draw: Callable[[Any], str]

    def csv(self) -> str:
        return csv_text(self.make_rows())

    def svg(self) -> str:
        return self.draw(self.make_rows())


def figures(place: Category, batches: Sequence[RunBatch], records: Sequence[RecordPoint]) -> list[Figure]:
    """The figures of one place: none while nobody is ranked there, no history while there is no record.

    Computes nothing yet, so that naming the figures in a text costs nothing.
    """
    found = []
    best = best_ranked(batches, place.clock)
    where = f"{place.track} on {place.machine_class}"
    if best:
        curves = "; ".join(f"{entry.runs[0].config} {entry.num_solved} of {len(entry.runs)}" for entry in best)
        alt = f"Fraction of attempts that solved {where}, against seconds of {place.clock}: {curves}"
        found.append(
            Figure(
                file_stem(place, "solved"),
                alt,
                lambda: solved_rows(best, place.clock),
                lambda rows: draw_solved(rows, place),
            )
        )
    if records:
        latest = max(records, key=lambda record: record.date)
        alt = (
            f"Records of {where} by {place.clock} over time: {len(records)} so far, "
            f"the latest {latest.name} with ERT {latest.ert_seconds:.2f} s"
        )
        found.append(
            Figure(
                file_stem(place, "records"),
                alt,
                lambda: record_rows(records),
                lambda rows: draw_records(rows, place),
            )
        )
    return found


def file_stem(place: Category, kind: str) -> str:
    """A name that is stable, safe on every file system, and unique: the hash tells apart what the words do not."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{place.track} {place.machine_class}".lower()).strip("-")
    digest = hashlib.sha256(f"{place.track}\n{place.machine_class}".encode()).hexdigest()
    return f"{words[:40].strip('-')}-{digest[:8]}-{place.clock}-{kind}"


# -----------------------------------------------------------------------------
# the data


def best_ranked(batches: Sequence[RunBatch], clock: ClockName) -> list[Entry]:
    ranked = sorted((entry for entry in group_entries(batches) if entry.ranked), key=lambda entry: entry.order(clock))
    return ranked[:MOST_CURVES]


def solved_rows(entries: Sequence[Entry], clock: ClockName) -> list[SolvedRow]:
    """The empirical runtime distribution of each entry (Hoos and Stuetzle, 1998; Hansen et al., COCO, 2016).

    A row at 0 s, at every moment at which an attempt was solved, and at the end of the longest attempt. An attempt that
    did not solve the track counts in all of them: an entry's curve ends at k/n.
    """
    rows = []
    for entry in entries:
        who = " ".join(batch.id for batch in entry.batches), entry.runs[0].config
        costs = attempt_costs(entry.runs, clock)
        times = sorted(cost for cost, run in zip(costs, entry.runs, strict=True) if run.outcome == "solved")
        for seconds in sorted({0.0, *times, max(costs)}):
            solved = bisect.bisect_right(times, seconds)
            low, high = wilson_interval(solved, len(costs))
            fraction = solved / len(costs)
            rows.append(SolvedRow(*who, seconds, solved, len(costs), fraction, low, high))
    return rows


def record_rows(records: Sequence[RecordPoint]) -> list[RecordPoint]:
    """Oldest first."""
    return sorted(records, key=lambda record: (record.date, record.name))


def csv_text(rows: Sequence[NamedTuple]) -> str:
    """Rows under the names of their fields.

    Fractions are cut to the millionth: their last digits differ between versions of Python and of its libraries.
    """

    def cell(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        return f"{value:.6f}" if isinstance(value, float) else value  # None is left empty

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([row._fields for row in rows[:1]])
    writer.writerows([[cell(value) for value in row] for row in rows])
    return text.getvalue()


# -----------------------------------------------------------------------------
# the pictures


def draw_solved(rows: Sequence[SolvedRow], place: Category) -> str:
    """The curves as SVG: a step at every solved attempt, a dot where the longest attempt ended."""
    with style():
        return svg_text(solved_canvas(rows, place))


def draw_records(rows: Sequence[RecordPoint], place: Category) -> str:
    """The records as SVG: the standing ERT over time, a numbered dot where a new one was set."""
    with style():
        return svg_text(records_canvas(rows, place))


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Our settings and otherwise matplotlib's own defaults, whatever the user's are."""
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


def new_canvas(title: str, place: Category, num_labels: int) -> tuple[Any, Any]:
    """A matplotlib Figure and its Axes, titled and with room for so many labels below.

    Made without pyplot, which would keep state and open windows.
    """
    from matplotlib.figure import Figure as Canvas

    length = len(place.machine_class)
    subtitle = textwrap.wrap(place.machine_class, length // (1 + length // 94) + 7)  # lines of like length
    canvas = Canvas(figsize=(8.0, 4.3 + 0.24 * num_labels + 0.18 * len(subtitle)), layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.14, h_pad=0.1)  # inches
    axes = canvas.add_subplot()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=10 + 13 * len(subtitle))
    axes.annotate(
        "\n".join(subtitle), (0, 1), (0, 8), "axes fraction", "offset points", fontsize=9, color=SOFT_COLOR, va="bottom"
    )
    if not num_labels:
        axes.text(0.5, 0.5, "nothing yet", ha="center", color=SOFT_COLOR, transform=axes.transAxes)
    return canvas, axes


def add_legend(canvas: Any, handles: Sequence[Any], labels: Sequence[str], handle_length: float) -> None:
    """Below the axes, one label a line, so that long names cover nothing."""
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
    """A name that is too long for a legend, less its middle."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def limits(values: Sequence[float], from_zero: bool) -> tuple[str, float, float]:
    """The scale of an axis for these values, and its ends: logarithmic for values of very different sizes."""
    positive = [value for value in values if value > 0]
    low, high = min(positive, default=0.0), max(positive, default=1.0)
    if low and high / low > LOGARITHMIC_FROM:
        margin = (high / low) ** 0.05
        return "log", low / margin, high * margin
    margin = 0.06 * ((high if from_zero else high - low) or high)
    return "linear", 0.0 if from_zero else max(0.0, low - margin), high + margin


def show_plain_numbers(axis: Any, low: float, high: float) -> None:
    """On a logarithmic axis: 1, 2, 5, 10 in place of powers; where that were too many, 1, 10, 100."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if math.log10(high / low) < 4 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def solved_canvas(rows: Sequence[SolvedRow], place: Category) -> Any:
    """The curves as a matplotlib Figure."""
    from matplotlib.ticker import PercentFormatter

    curves: dict[tuple[str, str], list[SolvedRow]] = {}
    for row in rows:
        curves.setdefault((row.batches, row.config), []).append(row)
    canvas, axes = new_canvas(f"{place.track} solved, by the {place.clock} clock", place, len(curves))
    scale, left, right = limits([row.seconds for row in rows], from_zero=False)
    handles, labels = [], []
    for (batches, config), points in curves.items():
        color, dashes = COLORS[len(handles) % len(COLORS)], DASHES[len(handles) % len(DASHES)]
        seconds = [max(point.seconds, left) for point in points]
        axes.fill_between(
            seconds,
            [point.low for point in points],
            [point.high for point in points],
            step="post",
            color=color,
            alpha=0.16 if len(curves) < 3 else 0.08 if len(curves) < 5 else 0.05,
            linewidth=0,
        )
        fractions = [point.fraction for point in points]
        handles += axes.step(seconds, fractions, where="post", color=color, linestyle=dashes, linewidth=2.2)
        axes.plot(seconds[-1:], fractions[-1:], "o", color=color, markersize=6, clip_on=False, zorder=3)
        k, n = points[-1].solved, points[-1].attempts
        first, *others = batches.split()
        more = f" and {len(others)} more" if others else ""
        labels.append(f"{len(handles)}. {short(config)}: {k} of {n} solved, batch {short(first)}{more}")
    axes.set_xscale(scale)
    if scale == "log":
        show_plain_numbers(axes.xaxis, left, right)
    axes.set_xlim(left, right)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"seconds on the {place.clock} clock")
    axes.set_ylabel(f"attempts that have solved {place.track}")
    add_legend(canvas, handles, labels, handle_length=3.4)
    return canvas


def records_canvas(rows: Sequence[RecordPoint], place: Category) -> Any:
    """The records as a matplotlib Figure."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.lines import Line2D

    canvas, axes = new_canvas(f"{place.track} records, by the {place.clock} clock", place, len(rows[-MOST_NAMES:]))
    bounds = [bound for row in rows for bound in (row.low_seconds, row.ert_seconds, row.high_seconds)]
    scale, bottom, top = limits([bound for bound in bounds if bound is not None and bound < math.inf], from_zero=True)
    axes.set_yscale(scale)
    if scale == "log":
        show_plain_numbers(axes.yaxis, bottom, top)
    axes.set_ylim(bottom, top)
    locator = AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("date (UTC)")
    axes.set_ylabel(f"ERT, seconds on the {place.clock} clock")
    if rows:
        first, last = rows[0].date, rows[-1].date
        margin = 0.06 * (last - first) or timedelta(days=2)
        axes.set_xlim(first - margin, last + 2 * margin)
        # The last record stands until it is beaten.
        dates, erts = [row.date for row in rows], [row.ert_seconds for row in rows]
        axes.step([*dates, last + 2 * margin], [*erts, erts[-1]], where="post", color=COLORS[0], linewidth=2.2)
    labels = []
    for number, row in enumerate(rows, start=1):
        at = (row.date, row.ert_seconds)
        interval = ""
        if row.low_seconds is not None and row.high_seconds is not None:
            axes.vlines(row.date, row.low_seconds, min(row.high_seconds, top), color=COLORS[0], linewidth=6, alpha=0.25)
            interval = f" ({row.low_seconds:.2f} … {row.high_seconds:.2f})".replace("inf", "∞")
        axes.plot(*at, "o", color=COLORS[0], markersize=7, zorder=3)
        if number > len(rows) - MOST_NAMES:
            axes.annotate(str(number), at, (7, 5), textcoords="offset points", fontsize=10, fontweight="bold")
            solved = f"{row.solved} of {row.attempts} solved"
            labels.append(f"{number}. {short(row.name)}: ERT {row.ert_seconds:.2f} s{interval}, {solved}")
    add_legend(canvas, [Line2D([], [], linestyle="none") for _ in labels], labels, handle_length=0)
    return canvas
