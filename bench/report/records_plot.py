"""The picture of README: the seconds of every record of the main track over time, on both clocks."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from bench.clock import ClockName
from bench.report.main_track import MAIN_TRACK
from bench.report.plot_style import COLORS, SOFT_COLOR, Figure, new_canvas, show_dates, show_plain_numbers
from bench.stats.ranking import CLOCKS
from bench.storage.records import RecordFolder

LOOKS = {"train": (COLORS[0], "o", "training alone"), "total": (COLORS[1], "s", "process start to proof")}


class HistoryRow(NamedTuple):
    """One record of the main track."""

    name: str
    date: datetime  # UTC
    clock: ClockName
    machine_class: str
    ert_seconds: float
    solved: int
    attempts: int


def history_figure(folders: Sequence[RecordFolder]) -> Figure | None:
    """The figure `records`; None while the main track has no record."""
    if not any(folder.record.track == MAIN_TRACK for folder in folders):
        return None
    return Figure(
        "records",
        f"Expected seconds (ERT) of every record of {MAIN_TRACK} over time, by train and by total; lower is faster",
        lambda: history_rows(folders),
        history_canvas,
    )


def history_rows(folders: Sequence[RecordFolder]) -> list[HistoryRow]:
    """Oldest first."""
    records = [folder.record for folder in folders if folder.record.track == MAIN_TRACK]
    return [
        HistoryRow(
            record.name,
            record.started_at,
            record.clock,
            record.machine_class,
            record.ert_seconds,
            record.result.solved,
            record.result.attempts,
        )
        for record in sorted(records, key=lambda record: (record.started_at, record.name))
    ]


def main_class(rows: Sequence[HistoryRow]) -> str:
    """The machine class with the most records; among equals the one with the latest record."""
    counts = Counter(row.machine_class for row in rows)
    latest = {row.machine_class: row.date for row in rows}
    return max(counts, key=lambda name: (counts[name], latest[name]))


def history_canvas(rows: Sequence[HistoryRow]) -> Any:
    """The records as a matplotlib Figure: steps for `main_class`, faint points for the other classes."""
    shown = main_class(rows)
    canvas, axes = new_canvas(f"{MAIN_TRACK}: seconds of every record, lower is faster", f"on {shown}", num_labels=0)
    first, last = rows[0].date, rows[-1].date
    span = (last - first) or timedelta(days=2)
    axes.set_xlim(first - 0.04 * span, last + 0.13 * span)  # room for the labels at the right
    show_dates(axes)
    low, high = min(row.ert_seconds for row in rows) / 1.8, max(row.ert_seconds for row in rows) * 1.5
    axes.set(yscale="log", ylim=(low, high), ylabel="expected seconds to success (ERT)")
    show_plain_numbers(axes.yaxis, low, high)
    others = [row for row in rows if row.machine_class != shown]
    for clock in CLOCKS:
        color, marker, _ = LOOKS[clock]
        faint = [row for row in others if row.clock == clock]
        dates, erts = [row.date for row in faint], [row.ert_seconds for row in faint]
        axes.plot(dates, erts, marker, color=color, alpha=0.3, markersize=7.5, markeredgewidth=0, zorder=2)
        steps = [row for row in rows if (row.machine_class, row.clock) == (shown, clock)]
        draw_steps(axes, steps, last + 0.03 * span)
    for row in {row.machine_class: row for row in reversed(others)}.values():  # the first record of each class
        annotate(axes, f"on {row.machine_class.partition(',')[0]}", row, (8, 0), fontsize=9, color=SOFT_COLOR)
    return canvas


def draw_steps(axes: Any, rows: Sequence[HistoryRow], end: datetime) -> None:
    """One clock's records on the main machine class: the standing ERT as steps, each record with its seconds."""
    if not rows:
        return
    color, marker, meaning = LOOKS[rows[0].clock]
    dates, erts = [row.date for row in rows], [row.ert_seconds for row in rows]
    axes.step([*dates, end], [*erts, erts[-1]], where="post", color=color, linewidth=2.4, zorder=3)
    axes.plot(dates, erts, marker, color=color, markersize=8.5, markeredgecolor="white", markeredgewidth=1.2, zorder=4)
    for row in rows[:-1]:
        annotate(axes, f"{row.ert_seconds:.2f}", row, (0, -15), fontsize=9.5, color=color, ha="center")
    annotate(axes, f"{rows[0].clock}: {meaning}", rows[0], (-4, 12), fontsize=10.5, color=color, fontweight="bold")
    last = rows[-1]._replace(date=end)
    annotate(axes, f"{last.ert_seconds:.2f} s", last, (6, 0), fontsize=12, color=color, fontweight="bold")


def annotate(axes: Any, text: str, row: HistoryRow, offset: tuple[float, float], **look: Any) -> None:
    """A text beside a record; `offset` in points."""
    at = (row.date, row.ert_seconds)
    axes.annotate(text, at, offset, textcoords="offset points", va="center", zorder=5, **look)
