"""The picture of all records of the main track."""

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from bench.report import plot_style, records_plot
from tests.support.examples import example_record


def record(day, train, clock="train", machine_class="Example CPU, 2 cores", **changes):
    result = {"attempts": 10, "solved": 10, "clean": 10, "ert_train_seconds": train, "ert_total_seconds": train + 2}
    when = datetime(2026, 1, day, 12, tzinfo=UTC)
    values = {"name": f"record-{day}-{clock}", "clock": clock, "machine_class": machine_class}
    return example_record(**values | {"result": result, "started_at": when} | changes)


HISTORY = [
    record(1, 90.0, "total", "Old CPU, 2 cores"),
    record(2, 4.0),
    record(3, 4.0, "total"),
    record(4, 1.0),
    record(5, 0.5, "total"),
]
HISTORIES = {
    "one": [record(2, 4.0)],
    "one of each clock at once": [record(2, 4.0), record(2, 4.0, "total")],
    "both clocks on two classes": HISTORY,
    "a class each": [record(1, 3.0), record(2, 2.0, "total", "Another CPU"), record(3, 1.0, "train", "A third CPU")],
}


def texts(canvas):
    from matplotlib.text import Text

    canvas.draw_without_rendering()
    return [text.get_text() for text in canvas.findobj(Text) if text.get_visible()]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HISTORIES)
def test_any_history_can_be_drawn(name):
    rows = records_plot.history_rows(HISTORIES[name])
    with plot_style.style():
        assert "expected seconds to success (ERT)" in texts(records_plot.history_canvas(rows))
    ElementTree.fromstring(plot_style.draw_svg(lambda: records_plot.history_canvas(rows)))


def test_both_clocks_are_named_with_their_latest_seconds_on_a_logarithmic_axis():
    with plot_style.style():
        canvas = records_plot.history_canvas(records_plot.history_rows(HISTORY))
        shown = texts(canvas)
    assert {"train: training alone", "total: process start to proof", "1.00 s", "2.50 s", "4.00", "6.00"} <= set(shown)
    assert "on Example CPU, 2 cores" in shown
    assert "on Old CPU" in shown
    assert canvas.axes[0].get_yscale() == "log"


def test_the_main_class_is_the_one_with_most_records_then_the_latest():
    assert records_plot.main_class(records_plot.history_rows(HISTORY)) == "Example CPU, 2 cores"
    assert records_plot.main_class(records_plot.history_rows(HISTORIES["a class each"])) == "A third CPU"


def test_the_data_are_all_records_of_the_main_track_oldest_first():
    figure = records_plot.history_figure([*HISTORY[::-1], record(6, 1.0, track="add2")])
    header, first, *others = figure.csv().splitlines()
    assert header == "name,date,clock,machine_class,ert_seconds,solved,attempts"
    assert first == 'record-1-total,2026-01-01T12:00:00+00:00,total,"Old CPU, 2 cores",92.000000,10,10'
    assert len(others) == 4
    assert records_plot.history_figure([record(6, 1.0, track="add2")]) is None
