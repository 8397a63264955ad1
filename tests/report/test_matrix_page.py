"""The page of a matrix: which runs of the journal it shows, and how it shows runs that did not finish."""

import csv
import dataclasses
import io

import pytest

from bench.commands.matrix import results_table
from bench.experiments.journalled_matrix import journalled_matrices
from bench.experiments.matrix_file import Cell, read_matrix
from bench.experiments.matrix_results import CellResult, numbered_cells, results_csv
from bench.report import matrix_page, matrix_plot
from bench.report.matrix_learning_plot import panels_canvas, steps_canvas
from bench.report.plot_style import COLORS, style
from bench.storage.schema import Batch, Evaluated
from tests.support.examples import example_certificate, example_check, example_run

TEXT = """\
# What is shown.
base = "add3"
seeds = [1, 2]
steps = ["train 100%", "validation 100%"]
[axes]
change = [{}, { rate = 0.0 }, { size = 4 }]
"""


@pytest.fixture
def matrix(tmp_path):
    (tmp_path / "some.toml").write_text(TEXT)
    return read_matrix(tmp_path / "some.toml")


def learning_run(overrides, seed, trained_at, validated_at, name="some", source="a", **changes):
    """Checks at 10, 20, 30 and 40 steps; the splits are right from `trained_at` and `validated_at` on."""
    checks = [
        example_check(
            step,
            0 if step >= trained_at else 50,
            validation=Evaluated(problems=200, errors=0 if step >= validated_at else 1, loss=1 / step),
        )
        for step in (10, 20, 30, 40)
    ]
    settings = {"track": "add3", "max_seconds": 300.0, "rate": 0.5, "size": 2} | overrides
    batch = Batch(id=f"20260131-235959-matrix-{name}-1a2b3c", command="matrix", planned=6, index=0)
    run = {"settings": settings, "overrides": overrides, "seed": seed, "checks": checks, "batch": batch.model_dump()}
    return example_run(
        **run | {"source_sha256": source * 64, "run_id": f"{name}-{seed}-{overrides}-{source}"} | changes
    )


@pytest.fixture
def runs():
    return [
        learning_run({"rate": 0.0}, 1, 10, 20, source="0"),
        learning_run({}, 1, 10, 30),
        learning_run({}, 2, 10, 20, certificate=example_certificate(heldout_errors=1)),
        learning_run({"rate": 0.0}, 1, 20, 99),
        learning_run({"rate": 0.0}, 2, 99, 99, outcome="timeout", certificate=None),
        learning_run({"rate": 0.0, "size": 4}, 1, 10, 20),
        learning_run({}, 3, 10, 20),
        learning_run({"size": 4}, 1, 10, 20, name="other", source="b"),
    ]


def test_a_run_belongs_to_the_cell_with_its_changes_and_to_the_latest_source_of_the_matrix(matrix, runs):
    (journalled,) = journalled_matrices(matrix, runs)
    found = {str(result.cell): [run.run_id for run in result.runs] for result in journalled.results}
    assert found == {
        "the base": ["some-1-{}-a", "some-2-{}-a"],
        "rate=0.0": ["some-1-{'rate': 0.0}-a", "some-2-{'rate': 0.0}-a"],
    }
    assert journalled_matrices(matrix, [run.model_copy(update={"config": "add2"}) for run in runs]) == []


def test_a_matrix_file_may_use_the_former_names_of_settings(tmp_path):
    path = tmp_path / "some.toml"
    path.write_text('base = "add3"\nseeds = [1]\n[axes]\nchange = [{}, { drill_share = 0.0 }]\n')
    runs = [learning_run({"replay_share": 0.0}, 1, 10, 20), learning_run({}, 1, 10, 20)]
    (journalled,) = journalled_matrices(read_matrix(path), runs)
    assert [len(result.runs) for result in journalled.results] == [1, 1]


def test_runs_with_other_settings_than_the_latest_are_left_out(matrix, runs):
    later = learning_run({}, 1, 10, 30)
    later = later.model_copy(update={"settings": later.settings | {"max_seconds": 5.0}})
    (journalled,) = journalled_matrices(matrix, [*runs, later])
    assert journalled.runs == [later]
    interrupted = later.model_copy(update={"outcome": "interrupted"})
    assert journalled_matrices(matrix, [*runs, interrupted])[0].runs == journalled_matrices(matrix, runs)[0].runs


def test_the_page_lists_each_run_of_a_cell_that_did_not_finish_and_averages_none(matrix, runs, tmp_path):
    texts, pictures = matrix_page.matrix_files(matrix, runs, tmp_path)
    ((path, page),) = texts.items()
    assert path == tmp_path / "matrix" / "some.md"
    assert "What is shown." in page
    assert "when it runs `some.toml`" in page
    assert "2 of 3 cells" in page
    assert "| 1 | `the base` | 15 (10 … 20) | 2/2 |" in page
    assert "| 2 | `rate=0.0` | > 20, not begun in 40 | 1/2 |" in page
    base, changed = (line for line in page.splitlines() if line.startswith(("| `the base`", "| `rate")))
    assert base.endswith("| 10 (10 … 10) | 25 (20 … 30) |")
    assert changed.endswith("| 20, > 40 | > 40, > 40 |")
    assert {picture.name for picture in pictures} == {"some-steps.svg", "some-curves.svg"}
    assert all(picture.name in page for picture in pictures)
    assert all(str(draw()).startswith("<?xml") for draw in pictures.values())


def test_one_error_is_not_shown_as_100_percent():
    counts = [Evaluated(problems=1_000_000, errors=errors, loss=None) for errors in (0, 1)]
    assert [matrix_page.right_percent(count) for count in counts] == [100.0, 99.99]


def test_the_plot_of_steps_marks_runs_that_did_not_finish(matrix, runs):
    (journalled,) = journalled_matrices(matrix, runs)
    with style():
        (axes,) = steps_canvas(journalled.results, matrix.steps, "some").get_axes()
    ends = [(line.get_marker(), line.get_xdata()[0], line.get_color()) for line in axes.get_lines()]
    assert [end for end in ends if end[0] in ("o", ">")] == [
        ("o", 30, COLORS[0]),
        ("o", 20, COLORS[0]),
        (">", 40, COLORS[1]),
        (">", 40, COLORS[1]),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["the base", "rate=0.0"]


def test_the_curves_have_a_panel_for_each_cell_and_a_line_for_each_run_and_split(matrix, runs):
    (journalled,) = journalled_matrices(matrix, runs)
    with style():
        panels = panels_canvas(journalled.results, "some").get_axes()
    assert [panel.get_title("left") for panel in panels] == ["the base", "rate=0.0"]
    assert [len(panel.get_lines()) for panel in panels] == [4, 4]
    assert list(panels[0].get_lines()[0].get_ydata()) == [1.0] * 4


def test_cells_that_looked_at_the_test_problems_are_shown_and_no_ert_ranks_them(matrix):
    results = [
        CellResult(cell, "Example CPU", 2, (learning_run(cell.settings | {"curves": looked}, 1, trained_at, 20),), 0)
        for cell, looked, trained_at in zip(matrix.cells(), (True, False, True), (10, 20, 30), strict=True)
    ]
    by_ert = dataclasses.replace(matrix, steps=())
    table = matrix_page.ranking_table(by_ert, ["change"], numbered_cells(results, "train"))
    assert [line.split(" | ")[:2] for line in table.splitlines()[2:]] == [
        ["| 1", "`rate=0.0`"],
        ["| never ranks", "`the base`"],
        ["| never ranks", "`size=4`"],
    ]
    reason = "looked at the test problems during training"
    assert matrix_page.unranked_sentences(results, ()) == [f"The runs of 2 of 3 cells {reason}. They never rank."]
    rows = list(csv.DictReader(io.StringIO(results_csv([results], "train"))))
    assert [(row["rank"], row["never_ranks"]) for row in rows] == [("1", ""), ("", reason), ("", reason)]
    assert [matrix_plot.cell_text(result, "train").endswith("never ranks") for result in results] == [True, False, True]
    screen = results_table(results, "train")
    assert list(screen.columns[0].cells) == ["1", "never ranks", "never ranks"]
    best = matrix_plot.best_cells([results[0], results[1]], dataclasses.replace(by_ert, plot=()))
    assert best[()] is results[1], "the map shows the best cell that is ranked"


def test_steps_rank_cells_that_looked_at_the_test_problems_and_the_page_says_so(matrix, tmp_path):
    runs = [learning_run({"curves": True} | each, 1, 10, 20) for each in ({}, {"rate": 0.0})]
    (page,) = matrix_page.matrix_files(matrix, runs, tmp_path)[0].values()
    assert "| 1 | `the base` |" in page
    sentence = (
        "The runs of all cells looked at the test problems during training. They are ranked by steps, never by ERT."
    )
    assert f"\n\n{sentence}\n\n" in page
    assert "never_ranks" not in results_csv([[CellResult(Cell({}), None, 1, (), 0)]], "train")


def test_the_pages_of_the_projects_matrices_are_made_from_the_journal(runs, tmp_path, monkeypatch, matrix):
    monkeypatch.setattr(matrix_page, "MATRICES", matrix.path.parent)
    texts, _ = matrix_page.all_matrix_files(runs, tmp_path)
    ((path, page),) = texts.items()
    assert path == tmp_path / "matrix" / "some.md"
    assert "`python -m bench matrix some` runs the matrix" in page
    assert matrix_page.all_matrix_files([], tmp_path) == ({}, {})
