"""The leaderboard's figures: the fraction solved against time, and the history of the records of one category.

Each figure consists of its data as CSV, which `board --check` compares, and a picture of that data as SVG.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from bench.clock import ClockName
from bench.report.plot_style import (
    COLORS,
    DASHES,
    Figure,
    add_legend,
    new_canvas,
    scale_axis,
    short,
    show_dates,
)
from bench.stats.descriptive import wilson_interval
from bench.stats.expected_time import attempt_costs
from bench.stats.ranking import Entry
from bench.storage.comparison_schema import Record

MOST_CURVES = 8  # contestants in a figure, the best ones
MOST_NAMES = 8  # records in a legend, the latest ones


class Category(NamedTuple):
    """What has a ranking of its own: a track on a machine class, by one clock."""

    track: str
    machine_class: str
    clock: ClockName


class RecordPoint(NamedTuple):
    """One record of a category."""

    name: str
    date: datetime  # UTC
    ert_seconds: float
    low_seconds: None  # columns that no record fills, kept for readers of the data
    high_seconds: None
    solved: int
    attempts: int


class SolvedRow(NamedTuple):
    """How many seeds of an entry had solved the track by then; bounds of the pointwise 95% interval.

    A seed that ran several times counts as the share of its attempts.
    """

    batches: str  # separated by spaces
    config: str
    seconds: float
    solved: float
    seeds: int
    fraction: float
    low: float
    high: float


def category_figures(category: Category, entries: Sequence[Entry], records: Sequence[Record]) -> list[Figure]:
    """The figures of one category: the best of its ranked entries, and the history of its records, if there are any.

    Nothing is computed before a figure's data or picture is requested.
    """
    figures = []
    if entries:
        figures.append(
            Figure(
                file_stem(category, "solved"),
                f"Share of seeds that solved {category.track}, against {category.clock} seconds",
                lambda: solved_rows(entries[:MOST_CURVES], category.clock),
                lambda rows: solved_canvas(rows, category),
            )
        )
    if records:
        figures.append(
            Figure(
                file_stem(category, "records"),
                f"Records of {category.track} by {category.clock} over time",
                lambda: record_rows(records),
                lambda rows: records_canvas(rows, category),
            )
        )
    return figures


def file_stem(category: Category, kind: str) -> str:
    """A stable file name, safe on every file system and unique by its hash."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{category.track} {category.machine_class}".lower()).strip("-")
    digest = hashlib.sha256(f"{category.track}\n{category.machine_class}".encode()).hexdigest()
    return f"{words[:40].strip('-')}-{digest[:8]}-{category.clock}-{kind}"


# -----------------------------------------------------------------------------
# the data


def solved_rows(entries: Sequence[Entry], clock: ClockName) -> list[SolvedRow]:
    """The empirical runtime distribution of each entry (Hoos and Stuetzle, 1998; Hansen et al., COCO, 2016).

    A row at 0 s, at every time at which an attempt solved the track, and at the end of the longest attempt. Attempts
    that did not solve the track count in every row: the curve of an entry ends at k/n.
    """
    rows = []
    for entry in entries:
        names = " ".join(batch.id for batch in entry.batches), entry.runs[0].config
        costs, counts = attempt_costs(entry.runs, clock), Counter(run.seed for run in entry.runs)
        solving = [
            (cost, 1 / counts[run.seed]) for cost, run in zip(costs, entry.runs, strict=True) if run.outcome == "solved"
        ]
        for seconds in sorted({0.0, *(cost for cost, _ in solving), max(costs)}):
            solved = sum(share for cost, share in solving if cost <= seconds)
            solved = round(solved) if math.isclose(solved, round(solved)) else solved
            low, high = wilson_interval(solved, len(counts))
            rows.append(SolvedRow(*names, seconds, solved, len(counts), solved / len(counts), low, high))
    return rows


def record_rows(records: Sequence[Record]) -> list[RecordPoint]:
    """Oldest first."""
    return [
        RecordPoint(
            record.name, record.started_at, record.ert_seconds, None, None, record.result.solved, record.result.attempts
        )
        for record in sorted(records, key=lambda record: (record.started_at, record.name))
    ]


# -----------------------------------------------------------------------------
# the pictures


def solved_canvas(rows: Sequence[SolvedRow], category: Category) -> Any:
    """The curves as a matplotlib Figure: a step at every solved attempt, a dot where the longest attempt ended."""
    from matplotlib.ticker import PercentFormatter

    curves: dict[tuple[str, str], list[SolvedRow]] = {}
    for row in rows:
        curves.setdefault((row.batches, row.config), []).append(row)
    title = f"{category.track}: seeds solved, by {category.clock} seconds"
    canvas, axes = new_canvas(title, category.machine_class, len(curves))
    left, _ = scale_axis(axes, "x", [row.seconds for row in rows], from_zero=False)
    handles: list[Any] = []
    labels: list[str] = []
    for points in curves.values():
        handles.append(draw_curve(axes, points, len(handles), len(curves), left))
        labels.append(curve_label(points))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(
        ylim=(0, 1.02),
        xlabel=f"seconds on the {category.clock} clock ({axes.get_xscale()} scale)",
        ylabel=f"share of seeds that solved {category.track}\n(shaded: 95% interval)",
    )
    add_legend(canvas, handles, labels, handle_length=3.4)
    return canvas


def draw_curve(axes: Any, points: Sequence[SolvedRow], index: int, num_curves: int, left: float) -> Any:
    """One entry's curve with its interval; returns the line."""
    color, dashes = COLORS[index % len(COLORS)], DASHES[index % len(DASHES)]
    seconds = [max(point.seconds, left) for point in points]
    axes.fill_between(
        seconds,
        [point.low for point in points],
        [point.high for point in points],
        step="post",
        color=color,
        alpha=0.16 if num_curves < 3 else 0.08 if num_curves < 5 else 0.05,
        linewidth=0,
    )
    fractions = [point.fraction for point in points]
    (line,) = axes.step(seconds, fractions, where="post", color=color, linestyle=dashes, linewidth=2.2)
    axes.plot(seconds[-1:], fractions[-1:], "o", color=color, markersize=6, clip_on=False, zorder=3)
    return line


def curve_label(points: Sequence[SolvedRow]) -> str:
    last = points[-1]
    first, *others = last.batches.split()
    more = f" and {len(others)} more" if others else ""
    return f"{short(last.config)}: {last.solved:g} of {last.seeds} seeds, batch {short(first)}{more}"


def records_canvas(rows: Sequence[RecordPoint], category: Category) -> Any:
    """The records as a matplotlib Figure: the standing ERT over time, a numbered dot at each record."""
    from matplotlib.lines import Line2D

    title = f"{category.track}: records by {category.clock}"
    canvas, axes = new_canvas(title, category.machine_class, len(rows[-MOST_NAMES:]))
    scale_axis(axes, "y", [row.ert_seconds for row in rows if row.ert_seconds < math.inf], from_zero=True)
    show_dates(axes)
    axes.set_ylabel(f"ERT, seconds on the {category.clock} clock")
    dates, erts = [row.date for row in rows], [row.ert_seconds for row in rows]
    margin = 0.06 * (dates[-1] - dates[0]) or timedelta(days=2)
    end = dates[-1] + 2 * margin  # the last record stands until it is beaten
    axes.set_xlim(dates[0] - margin, end)
    axes.step([*dates, end], [*erts, erts[-1]], where="post", color=COLORS[0], linewidth=2.2)
    axes.plot(dates, erts, "o", color=COLORS[0], markersize=7, zorder=3)
    labels = []
    for number, row in list(enumerate(rows, start=1))[-MOST_NAMES:]:
        at = (row.date, row.ert_seconds)
        axes.annotate(str(number), at, (7, 5), textcoords="offset points", fontsize=10, fontweight="bold")
        solved = f"{row.solved} of {row.attempts} solved"
        labels.append(f"{number}. {short(row.name)}: ERT {row.ert_seconds:.2f} s, {solved}")
    add_legend(canvas, [Line2D([], [], linestyle="none") for _ in labels], labels, handle_length=0)
    return canvas
