"""The board, from journals made by hand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands import board
from bench.errors import UsageError
from bench.report import leaderboard
from bench.storage.journal import Journal
from bench.storage.schema import Machine
from tests.support.examples import ROOT, batch_runs, example_record, example_run, example_seconds


def table(text, clock):
    """The rows of the first table by a clock, as lists of cells."""
    part = text.split(f"### by `{clock}`")[1].split("###")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def test_batches_are_ranked_by_expected_time_to_success():
    fast_but_unsure = batch_runs("unsure", [6.0] * 10, outcome=lambda i: "solved" if i % 2 else "missed")
    slow_and_sure = batch_runs("sure", [10.0] * 10)
    rows = table(leaderboard.render(leaderboard.FiledResults(fast_but_unsure + slow_and_sure)), "train")
    assert [(row[0], row[1], row[2], row[3]) for row in rows] == [
        ("1", "sure", "10.00", "10/10"),
        ("2", "unsure", "12.00", "5/10"),
    ]


def test_the_two_clocks_are_ranked_apart():
    runs = batch_runs("a", [10.0] * 10) + [
        example_run(batch=run.batch, config="b", seconds=example_seconds(train=9.0, total=30.0))
        for run in batch_runs("b", [9.0] * 10)
    ]
    text = leaderboard.render(leaderboard.FiledResults(runs))
    assert [row[1] for row in table(text, "train")] == ["b", "a"]
    assert [row[1] for row in table(text, "total")] == ["a", "b"]


def test_a_batch_that_solved_nothing_ranks_last_and_small_or_unfinished_ones_have_no_rank():
    runs = [
        *batch_runs("small", [1.0] * 9),
        *batch_runs("unfinished", [1.0] * 10, planned=11),
        *batch_runs("hopeless", [1.0] * 10, outcome=lambda i: "missed"),
        *batch_runs("good", [20.0] * 10),
    ]
    rows = table(leaderboard.render(leaderboard.FiledResults(runs)), "train")
    assert [(row[0], row[1]) for row in rows[:2]] == [("1", "good"), ("2", "hopeless")]
    assert rows[1][2] == "never"
    assert {(row[0], row[1]) for row in rows[2:]} == {("—", "small"), ("—", "unfinished")}
    assert next(row for row in rows if row[1] == "unfinished")[3] == "10/10 of 11 planned"


def test_median_and_extremes_are_shown_in_seconds():
    rows = table(
        leaderboard.render(
            leaderboard.FiledResults(batch_runs("a", [3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0]))
        ),
        "train",
    )
    assert rows[0][4] == "5.50 (1.00 … 10.00)"


def test_a_search_or_a_matrix_never_stands_on_the_board():
    text = leaderboard.render(leaderboard.FiledResults(batch_runs("matrix", [1.0] * 10, command="matrix")))
    assert "No attempt yet." in text
    assert "matrix-0" not in text


def test_machine_classes_have_tables_of_their_own():
    runs = batch_runs("a", [1.0] * 10)
    other = Machine(class_="another machine", clean=None, reasons=[])
    text = leaderboard.render(leaderboard.FiledResults(runs + batch_runs("b", [2.0] * 10, machine=other)))
    assert text.count("### by `train`") == 2
    assert "on another machine" in text


def test_single_attempts_stand_below_unranked_newest_first():
    runs = [
        example_run(run_id=f"single-{day}", batch=None, started_at=f"2026-01-{day}T00:00:00Z") for day in (11, 13, 12)
    ]
    part = leaderboard.render(leaderboard.FiledResults(runs)).split("### single attempts")[1]
    places = [part.index(f"single-{day}") for day in (13, 12, 11)]
    assert places == sorted(places)


def test_every_row_leads_to_its_runs():
    text = leaderboard.render(leaderboard.FiledResults(batch_runs("a", [1.0] * 10)))
    assert "(#a)" in text
    assert '<a id="a"></a>' in text
    assert all(f"| a-{i} |" in text for i in range(10))


def test_tracks_with_a_ranked_batch_come_first_the_others_in_order_of_their_digits():
    singles = [example_run(run_id=name, batch=None, track=name) for name in ("add10", "add2", "add4-reversed")]
    text = leaderboard.render(leaderboard.FiledResults([*singles, *batch_runs("a", [1.0] * 10)]))
    assert re.findall(r"^# (add.*)$", text, re.MULTILINE) == ["add3", "add2", "add4-reversed", "add10"]
    links = "[add3](#add3), [add2](#add2), [add4-reversed](#add4-reversed), [add10](#add10)."
    assert links in text


def test_lines_that_could_not_be_read_are_shown():
    assert "runs.jsonl:3: skipped" in leaderboard.render(
        leaderboard.FiledResults([], ["runs.jsonl:3: skipped, it is torn"])
    )


@pytest.fixture
def results(tmp_path):
    journal = Journal(tmp_path)
    for run in batch_runs("a", [1.0] * 10):
        journal.append(run)
    return tmp_path


def test_the_check_fails_when_file_and_journal_disagree(results, capsys):
    check, write = board.Arguments(results=results, check=True), board.Arguments(results=results)
    assert board.main(check) == 1
    assert "LEADERBOARD.md" in capsys.readouterr().err
    assert board.main(write) == 0
    assert board.main(check) == 0
    (results / "LEADERBOARD.md").write_text(
        (results / "LEADERBOARD.md").read_text("utf-8").replace("1.00", "0.90"), "utf-8"
    )
    assert board.main(check) == 1
    board.main(write)
    Journal(results).append(example_run(run_id="new", batch=None))
    assert board.main(check) == 1


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path):
    for path in (tmp_path / "typo", Path(__file__)):
        with pytest.raises(UsageError, match="there is no such folder"):
            board.main(board.Arguments(results=path))
    assert not list(tmp_path.iterdir())


def test_the_check_writes_nothing(results):
    before = sorted(path.name for path in results.iterdir())
    board.main(board.Arguments(results=results, check=True))
    assert sorted(path.name for path in results.iterdir()) == before


def test_updating_after_an_attempt_renders_the_whole_board(results):
    single = example_run(run_id="single", batch=None)
    board.main(board.Arguments(results=results))  # draws the plots, which a single attempt leaves as they are
    Journal(results).append(single)
    leaderboard.update(results, single)
    assert board.main(board.Arguments(results=results, check=True)) == 0
    assert "single" in (results / "LEADERBOARD.md").read_text("utf-8")


# -----------------------------------------------------------------------------
# the plots


def pictures(text):
    """The names of the pictures that the board shows, without folder and suffix."""
    return re.findall(r"!\[[^\]]+\]\(plots/([^)]+)\.svg\)", text)


def test_every_ranking_shows_its_plot_and_leads_to_the_data():
    text = leaderboard.render(leaderboard.FiledResults(batch_runs("a", [1.0] * 10)))
    train, total = pictures(text)
    assert train.endswith("-train-solved")
    assert total.endswith("-total-solved")
    assert text.index("### by `train`") < text.index(train) < text.index("### by `total`") < text.index(total)
    assert f"(plots/{train}.csv)" in text


def test_no_plot_is_shown_before_a_batch_is_ranked():
    assert not pictures(leaderboard.render(leaderboard.FiledResults(batch_runs("small", [1.0] * 9))))


def test_records_have_a_plot_of_their_own():
    runs = batch_runs("a", [1.0] * 10)
    evidence = leaderboard.FiledResults(runs, records=[example_record()])
    shown = pictures(leaderboard.render(evidence))
    assert [name.rpartition("-")[2] for name in shown] == ["solved", "records", "solved"]
    assert [figure.name for figure in leaderboard.all_figures(evidence)] == shown


def test_the_board_writes_the_plots_it_shows(results):
    board.main(board.Arguments(results=results))
    shown = pictures((results / "LEADERBOARD.md").read_text("utf-8"))
    written = sorted(path.name for path in (results / "plots").iterdir())
    assert written == sorted(f"{name}.{suffix}" for name in shown for suffix in ("csv", "svg"))
    assert all("</svg>" in path.read_text("utf-8") for path in (results / "plots").glob("*.svg"))


def test_the_check_compares_the_data_of_a_plot_and_not_its_picture(results, capsys):
    check = board.Arguments(results=results, check=True)
    board.main(board.Arguments(results=results))
    data, picture = sorted((results / "plots").glob("*train*"))
    picture.write_text("drawn by another version", "utf-8")
    assert board.main(check) == 0
    picture.unlink()
    assert board.main(check) == 1
    board.main(board.Arguments(results=results))
    data.write_text(data.read_text("utf-8").replace("1.000000", "0.900000", 1), "utf-8")
    capsys.readouterr()
    assert board.main(check) == 1
    assert data.name in capsys.readouterr().err


def test_after_an_attempt_nothing_is_drawn_and_nothing_heavy_is_imported(results):
    code = (
        "import sys; from pathlib import Path; from bench.report import leaderboard as board;"
        "from bench.storage.journal import Journal;"
        "results = Path(sys.argv[1]); board.update(results, Journal(results).read()[0][0]);"
        "print([name for name in ('matplotlib', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(results)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
    assert pictures((results / "LEADERBOARD.md").read_text("utf-8"))
    assert not (results / "plots").exists()
