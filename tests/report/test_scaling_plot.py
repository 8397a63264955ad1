"""The picture of how learning grows, as far as a program can see it."""

import math
from itertools import pairwise

import pytest

from bench.report import plot_style, scaling_plot
from bench.report.scaling_families import families
from tests.support.sweep import attempt, sweep

LONG = {
    "class": "A machine whose class says everything about it, and then some more, " * 4,
    "clean": None,
    "reasons": [],
}
SWEEPS = {
    "one attempt": [attempt("add3")],
    "none solved": [attempt("add3", outcome="missed"), attempt("add3", outcome="missed")],
    "equal seconds": sweep(0.0),
    "both orders, some missed": [
        *sweep(3.0, range(1, 15)),
        *sweep(2.0, range(1, 21), "-reversed"),
        *sweep(0.0, range(12, 21), outcome="timeout"),
    ],
    "very different": sweep(9.0, (1, 20)),
    "no FLOPs, no seconds": sweep(train_flops=None, seconds=dict.fromkeys(
        ("import", "setup", "warmup", "train", "certify", "total"))),
    "two machines": [*sweep(), *sweep(machine=LONG)],
}  # fmt: skip


def canvas_of(runs):
    with plot_style.style():
        canvas = scaling_plot.scaling_canvas(families(runs))
        canvas.draw_without_rendering()
    return canvas


def panels(canvas):
    """The axes of the first row that show something, with their legends' texts."""
    axes = canvas.axes[:6]
    return [
        (above, [text.get_text() for text in below.get_legend().get_texts()])
        for above, below in zip(axes[:3], axes[3:], strict=True)
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SWEEPS)
def test_it_can_be_drawn_whatever_the_attempts_and_nothing_stands_outside(name):
    canvas = canvas_of(SWEEPS[name])
    page = canvas.bbox.padded(1)
    for axes in canvas.axes:
        legend = axes.get_legend()
        texts = [*axes.texts, axes.xaxis.label, axes.yaxis.label, *(legend.get_texts() if legend else [])]
        for text in (text for text in texts if text.get_text() and axes.axison | bool(legend)):
            box = text.get_window_extent()
            assert page.contains(*box.min), text
            assert page.contains(*box.max), text


def test_legends_neither_overlap_one_another_nor_the_panels():
    canvas = canvas_of(SWEEPS["both orders, some missed"])
    boxes = [axes.get_legend().get_window_extent() for axes in canvas.axes[3:6]]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert all(
        axes.xaxis.label.get_window_extent().y0 > box.y1 for axes, box in zip(canvas.axes[:3], boxes, strict=True)
    )


def test_the_three_panels_show_seconds_steps_and_flops_on_logarithmic_axes():
    shown = panels(canvas_of(sweep(2.0)))
    assert [axes.get_ylabel() for axes, _ in shown] == ["train seconds", "optimizer steps", "FLOPs of the steps"]
    for axes, labels in shown:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3", "4"]
        assert len(labels) == 1, "an order without attempts is not named"
    assert [labels for _, labels in shown] == [
        ["most significant first: 2.00 [2.00, 2.00]"],
        *[["most significant first: 0.00 [0.00, 0.00]"]] * 2,
    ]


def test_every_solved_attempt_has_its_point_and_the_line_follows_the_law():
    axes, _ = panels(canvas_of(sweep(2.0)))[0]
    dots, line = axes.get_lines()
    assert list(dots.get_ydata()) == [5.0, 20.0, 45.0, 80.0]
    assert list(dots.get_xdata()) == pytest.approx([1, 2, 3, 4], rel=0.05)
    assert list(line.get_xdata()) == [1, 4]
    assert list(line.get_ydata()) == pytest.approx([5.0, 80.0])


def test_missed_attempts_stand_hollow_above_all_points_with_their_number():
    runs = [*sweep(2.0), *[attempt("add9", outcome="missed")] * 3, attempt("add4-reversed", outcome="timeout")]
    for axes, labels in panels(canvas_of(runs)):
        assert labels[-1] == "attempts that did not solve the track"
        assert "reversed: too few" in labels
        hollow = [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
        assert [line.get_xdata()[0] for line in hollow] == pytest.approx([9, 4], rel=0.05)
        solved = max(axes.get_lines()[0].get_ydata())
        bottom, top = map(math.log, axes.get_ylim())
        share = (math.log(solved) - bottom) / (top - bottom)
        assert share < 1 - scaling_plot.STRIP < min(line.get_ydata()[0] for line in hollow)
        assert {text.get_text() for text in axes.texts} >= {"not solved", "3"}


def test_labels_of_many_lengths_leave_room_for_one_another():
    kept = scaling_plot.spread_out(range(1, 21), 0.2)
    assert kept[-1] == 20
    assert all(math.log(b / a) >= 0.2 for a, b in pairwise(kept))
    assert scaling_plot.spread_out([7], 0.2) == [7]


def test_the_same_attempts_make_the_same_png():
    found = families(sweep())
    picture = scaling_plot.draw_scaling(found)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert scaling_plot.draw_scaling(found) == picture
