"""The section of a matrix that compares orders of generation."""

import math
import statistics

import pytest

from bench.experiments.matrix_file import Cell
from bench.experiments.matrix_results import CellResult
from bench.report.matrix_orders import PANELS, curve, ordering, orders_canvas, orders_table
from bench.report.plot_style import COLORS, style
from bench.storage.schema import Evaluated, Run
from tests.support.examples import example_certificate, example_check, example_run

SHARES = {"left-to-right": (0.20, 0.22, 0.18), "alternating": (0.55, 0.60, 0.50), "uniform": (0.56, 0.52, 0.66)}


def order_run(share: float, seed: int, length: int = 4) -> Run:
    """A run that ends with this share of right completions, after `length` checks."""
    checks = [
        example_check(
            10 * (i + 1),
            50,
            validation=Evaluated(problems=1000, errors=round(1000 - 1000 * share * i / length), loss=1.5 - 0.1 * i),
            squared_norm=100.0 * seed + i,
        )
        for i in range(length)
    ]
    wrong = round(5000 * (1 - share))
    certificate = example_certificate(
        errors=wrong,
        heldout_problems=5000,
        heldout_errors=wrong,
        samples={"first 7 characters": {"problems": 5000, "errors": wrong + 50}},
    )
    return example_run(seed=seed, checks=checks, certificate=certificate, outcome="missed")


@pytest.fixture
def results() -> list[CellResult]:
    return [
        CellResult(
            Cell({"order": {"order": order}}),
            "cpu",
            3,
            tuple(order_run(share, seed) for seed, share in enumerate(shares)),
            0,
        )
        for order, shares in SHARES.items()
    ]


def test_the_ordering_tells_apart_only_what_the_seeds_tell_apart(results: list[CellResult]) -> None:
    assert ordering(results) == "uniform ≈ alternating > left-to-right"
    assert ordering(results[:1]) == "left-to-right"
    assert ordering([]) == ""


def test_the_table_has_means_with_student_s_interval(results: list[CellResult]) -> None:
    shares = SHARES["left-to-right"]
    width = 4.30265 * statistics.stdev(shares) / math.sqrt(3)  # the 97.5% quantile with two degrees of freedom
    low, high = (100 * (statistics.fmean(shares) + sign * width) for sign in (-1, 1))
    row = orders_table(results).splitlines()[2]
    assert row.startswith(f"| `left-to-right` | 3 | 20.0 [{low:.1f}, {high:.1f}] | 19.0 [")
    assert row.endswith("| 1.200 (1.200 … 1.200) | 103 (3 … 203) |")


def test_a_single_seed_has_no_interval_and_cells_without_runs_no_row(results: list[CellResult]) -> None:
    cell = Cell({"order": {"order": "uniform"}})
    rows = orders_table([CellResult(cell, "cpu", 1, (order_run(0.5, 1),), 0), CellResult(cell, "cpu", 1, (), 0)])
    assert len(rows.splitlines()) == 3
    assert "| 50.0 |" in rows


def test_a_curve_is_the_mean_over_runs_at_the_steps_of_all(results: list[CellResult]) -> None:
    runs = [order_run(0.4, 1), order_run(0.8, 2, length=3)]
    steps, means, lows, highs = curve(runs, PANELS[0][1])
    assert steps == [10, 20, 30]
    assert means == pytest.approx([0.0, (0.1 + 0.267) / 2, (0.2 + 0.533) / 2])
    assert all(low <= mean <= high for low, mean, high in zip(lows, means, highs, strict=True))


def test_the_picture_has_three_panels_and_a_colour_for_each_order(results: list[CellResult]) -> None:
    with style():
        canvas = orders_canvas(results, "orders")
    assert [axes.get_title(loc="left") for axes in canvas.axes] == [name for name, _ in PANELS]
    for axes in canvas.axes:
        assert [line.get_color() for line in axes.lines] == list(COLORS[:3])
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == list(SHARES)
