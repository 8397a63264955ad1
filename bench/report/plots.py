"""The leaderboard's figures: the fraction solved against time, and the history of the records of one category.

Each figure consists of its data as CSV, which `board --check` compares, and a picture of that data as SVG.
"""

import bisect
import hashlib
import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from bench.clock import ClockName
from bench.report.plot_style import (
    COLORS,
    DASHES,
    Figure,
    add_legend,
    limits,
    new_canvas,
    short,
    show_dates,
    show_nothing,
    show_plain_numbers,
    style,
    svg_text,
)
from bench.stats.descriptive import wilson_interval
from bench.stats.expected_time import attempt_costs
from bench.stats.ranking import Entry, RunBatch, group_entries

MOST_CURVES = 8  # contestants in a figure, the best ones
MOST_NAMES = 8  # records in a legend, the latest ones


class Category(NamedTuple):
    """What has a ranking of its own: a track on a machine class, by one clock."""

    track: str
    machine_class: str
    clock: ClockName


class RecordPoint(NamedTuple):
    """One record of a category; the bounds of its ERT's 95% interval are None where they are unknown."""

    name: str
    date: datetime  # UTC
    ert_seconds: float
    low_seconds: float | None
    high_seconds: float | None  # may be infinite
    solved: int
    attempts: int


class SolvedRow(NamedTuple):
    """How many attempts of an entry had solved the track by then; bounds of the pointwise 95% interval."""

    batches: str  # separated by spaces
    config: str
    seconds: float
    solved: int
    attempts: int
    fraction: float
    low: float
    high: float


def category_figures(category: Category, batches: Sequence[RunBatch], records: Sequence[RecordPoint]) -> list[Figure]:
    """The figures of one category: none without a ranked batch, no history without a record.

    Nothing is computed before a figure's data or picture is requested.
    """
    figures = []
    best = best_ranked(batches, category.clock)
    if best:
        figures.append(
            Figure(
                file_stem(category, "solved"),
                f"Share of attempts that solved {category.track}, against {category.clock} seconds",
                lambda: solved_rows(best, category.clock),
                lambda rows: draw_solved(rows, category),
            )
        )
    if records:
        figures.append(
            Figure(
                file_stem(category, "records"),
                f"Records of {category.track} by {category.clock} over time",
                lambda: record_rows(records),
                lambda rows: draw_records(rows, category),
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


def best_ranked(batches: Sequence[RunBatch], clock: ClockName) -> list[Entry]:
    ranked = sorted((entry for entry in group_entries(batches) if entry.ranked), key=lambda entry: entry.order(clock))
    return ranked[:MOST_CURVES]


def solved_rows(entries: Sequence[Entry], clock: ClockName) -> list[SolvedRow]:
    """The empirical runtime distribution of each entry (Hoos and Stuetzle, 1998; Hansen et al., COCO, 2016).

    A row at 0 s, at every time at which an attempt solved the track, and at the end of the longest attempt. Attempts
    that did not solve the track count in every row: the curve of an entry ends at k/n.
    """
    rows = []
    for entry in entries:
        names = " ".join(batch.id for batch in entry.batches), entry.runs[0].config
        costs = attempt_costs(entry.runs, clock)
        times = sorted(cost for cost, run in zip(costs, entry.runs, strict=True) if run.outcome == "solved")
        for seconds in sorted({0.0, *times, max(costs)}):
            solved = bisect.bisect_right(times, seconds)
            low, high = wilson_interval(solved, len(costs))
            fraction = solved / len(costs)
            rows.append(SolvedRow(*names, seconds, solved, len(costs), fraction, low, high))
    return rows


def record_rows(records: Sequence[RecordPoint]) -> list[RecordPoint]:
    """Oldest first."""
    return sorted(records, key=lambda record: (record.date, record.name))


# -----------------------------------------------------------------------------
# the fraction solved


def draw_solved(rows: Sequence[SolvedRow], category: Category) -> str:
    """The curves as SVG: a step at every solved attempt, a dot where the longest attempt ended."""
    with style():
        return svg_text(solved_canvas(rows, category))


def solved_canvas(rows: Sequence[SolvedRow], category: Category) -> Any:
    """The curves as a matplotlib Figure."""
    from matplotlib.ticker import PercentFormatter

    curves: dict[tuple[str, str], list[SolvedRow]] = {}
    for row in rows:
        curves.setdefault((row.batches, row.config), []).append(row)
    title = f"{category.track}: attempts solved, by {category.clock} seconds"
    canvas, axes = new_canvas(title, category.machine_class, len(curves))
    if not rows:
        show_nothing(axes)
    scale, left, right = limits([row.seconds for row in rows], from_zero=False)
    handles: list[Any] = []
    labels: list[str] = []
    for points in curves.values():
        handles.append(draw_curve(axes, points, len(handles), len(curves), left))
        labels.append(curve_label(points, len(handles)))
    axes.set_xscale(scale)
    if scale == "log":
        show_plain_numbers(axes.xaxis, left, right)
    axes.set_xlim(left, right)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"seconds on the {category.clock} clock")
    axes.set_ylabel(f"share of attempts that solved {category.track}")
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


def curve_label(points: Sequence[SolvedRow], number: int) -> str:
    last = points[-1]
    first, *others = last.batches.split()
    more = f" and {len(others)} more" if others else ""
    return f"{number}. {short(last.config)}: {last.solved} of {last.attempts} solved, batch {short(first)}{more}"


# -----------------------------------------------------------------------------
# the records of a category


def draw_records(rows: Sequence[RecordPoint], category: Category) -> str:
    """The records as SVG: the standing ERT over time, a numbered dot at each record."""
    with style():
        return svg_text(records_canvas(rows, category))


def records_canvas(rows: Sequence[RecordPoint], category: Category) -> Any:
    """The records as a matplotlib Figure."""
    from matplotlib.lines import Line2D

    title = f"{category.track}: records by {category.clock}"
    canvas, axes = new_canvas(title, category.machine_class, len(rows[-MOST_NAMES:]))
    bounds = [bound for row in rows for bound in (row.low_seconds, row.ert_seconds, row.high_seconds)]
    scale, bottom, top = limits([bound for bound in bounds if bound is not None and bound < math.inf], from_zero=True)
    axes.set_yscale(scale)
    if scale == "log":
        show_plain_numbers(axes.yaxis, bottom, top)
    axes.set_ylim(bottom, top)
    show_dates(axes.xaxis)
    axes.set_xlabel("date (UTC)")
    axes.set_ylabel(f"ERT, seconds on the {category.clock} clock")
    if rows:
        draw_steps(axes, rows)
    else:
        show_nothing(axes)
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


def draw_steps(axes: Any, rows: Sequence[RecordPoint]) -> None:
    """The standing ERT over time; the last record stands until it is beaten."""
    first, last = rows[0].date, rows[-1].date
    margin = 0.06 * (last - first) or timedelta(days=2)
    axes.set_xlim(first - margin, last + 2 * margin)
    dates, erts = [row.date for row in rows], [row.ert_seconds for row in rows]
    axes.step([*dates, last + 2 * margin], [*erts, erts[-1]], where="post", color=COLORS[0], linewidth=2.2)
