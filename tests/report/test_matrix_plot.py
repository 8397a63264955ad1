"""Pictures of matrices: every cell says its figures, and the labels leave room for them."""

from pathlib import Path

import pytest

from bench.experiments.matrix_file import read_matrix
from bench.experiments.matrix_results import CellResult
from bench.report.matrix_plot import draw_matrix, matrix_canvas
from tests.support.examples import example_run, example_seconds

LINKED = """\
base = "fast"
seeds = [1, 2]
[axes]
batch_size = [256, 512, 1024]
optimizer = [
    { matrix_optimizer = "muon", muon_learning_rate = 0.15, adam_learning_rate = 0.08 },
    { matrix_optimizer = "adamw", muon_learning_rate = 0.0, adam_learning_rate = 0.01 },
]
"""


@pytest.fixture
def read(tmp_path: Path):
    def grid(text):
        (tmp_path / "some.toml").write_text(text)
        return read_matrix(tmp_path / "some.toml")

    return grid


def results(grid):
    """The first cell was never run, the last one solves nothing, the others take ten seconds more each."""
    found = []
    cells = list(grid.cells())
    for index, cell in enumerate(cells):
        outcome = "missed" if index == len(cells) - 1 else "solved"
        run = example_run(outcome=outcome, seconds=example_seconds(train=10.0 * index))
        found.append(CellResult(cell, "Example CPU", 2, (run,) if index else (), 0))
    return found


def texts(canvas):
    return [text.get_text() for text in canvas.axes[0].texts]


def test_a_map_says_what_each_cell_has_come_to(read):
    grid = read(LINKED)
    canvas = matrix_canvas(results(grid), grid, "some: ERT by train, s", "Example CPU " * 12)
    canvas.draw_without_rendering()
    assert sorted(texts(canvas)) == sorted(
        ["not yet", *(f"{seconds}.00\n1 of 1 solved" for seconds in (10, 20, 30, 40)), "0 of 1 solved"]
    )
    assert canvas.axes[0].get_position().width > 0.4, "the labels left no room"
    (label, _) = canvas.axes[0].get_yticklabels()
    assert label.get_text() == "matrix_optimizer=muon\nmuon_learning_rate=0.15\nadam_learning_rate=0.08"


def test_the_colour_bar_of_a_map_says_which_end_is_faster(read):
    grid = read(LINKED)
    canvas = matrix_canvas(results(grid), grid, "some", "Example CPU")
    _, bar = canvas.axes
    heights = {text.get_text(): text.get_position()[1] for text in bar.texts}
    assert set(heights) == {"faster", "slower"}
    assert heights["faster"] < heights["slower"], "and the colour bar rises with the seconds"
    assert [label.get_text() for label in bar.get_yticklabels()] == ["10", "14.1", "20", "28.3", "40"]


def test_one_axis_makes_a_line(read):
    grid = read('base = "fast"\nseeds = [1]\n[axes]\ncompile = [true, false]\n')
    canvas = matrix_canvas(results(grid), grid, "some", "Example CPU")
    canvas.draw_without_rendering()
    assert texts(canvas) == ["not yet", "0 of 1 solved"]
    assert [label.get_text() for label in canvas.axes[0].get_xticklabels()] == ["true", "false"]


def test_an_axis_that_is_not_drawn_shows_its_best(read):
    grid = read('base = "fast"\nseeds = [1]\nplot = ["a"]\n[axes]\na = [1, 2]\nb = [1, 2]\n')
    canvas = matrix_canvas(results(grid), grid, "some", "Example CPU")
    assert texts(canvas) == ["10.00\n1 of 1 solved", "20.00\n1 of 1 solved"]
    assert "each position shows its best cell" in " ".join(text.get_text() for text in canvas.texts)
    assert draw_matrix(results(grid), grid, "some", "Example CPU").startswith("<?xml")
