"""The board, from journals made by hand."""

import pytest
from examples import example_run

from bench import board
from bench.journal import Batch, Journal, Machine, Seconds


def seconds(train, total):
    return Seconds.model_validate(
        {"import": 1.0, "setup": 0.5, "warmup": 0.5, "train": train, "certify": 2.0, "total": total}
    )


def batch_runs(name, trains, outcome=lambda i: "solved", planned=None, command="speedrun", **changes):
    """A batch with these seconds of `train`, each with 5 s more in total."""
    return [
        example_run(
            run_id=f"{name}-{i}",
            batch=Batch(id=name, command=command, planned=planned or len(trains), index=i),
            seconds=seconds(train, train + 5),
            outcome=outcome(i),
            config=name,
            **changes,
        )
        for i, train in enumerate(trains)
    ]


def table(text, clock):
    """The rows of the first table by a clock, as lists of cells."""
    part = text.split(f"### by `{clock}`")[1].split("###")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def test_batches_are_ranked_by_expected_time_to_success():
    fast_but_unsure = batch_runs("unsure", [6.0] * 10, outcome=lambda i: "solved" if i % 2 else "missed")
    slow_and_sure = batch_runs("sure", [10.0] * 10)
    rows = table(board.render(fast_but_unsure + slow_and_sure, []), "train")
    assert [(row[0], row[1], row[2], row[3]) for row in rows] == [
        ("1", "sure", "10.00", "10/10"),
        ("2", "unsure", "12.00", "5/10"),
    ]


def test_the_two_clocks_are_ranked_apart():
    runs = batch_runs("a", [10.0] * 10) + [
        run.model_copy(update={"seconds": seconds(9.0, 30.0)}) for run in batch_runs("b", [9.0] * 10)
    ]
    text = board.render(runs, [])
    assert [row[1] for row in table(text, "train")] == ["b", "a"]
    assert [row[1] for row in table(text, "total")] == ["a", "b"]


def test_a_batch_that_solved_nothing_ranks_last_and_small_or_unfinished_ones_have_no_rank():
    runs = [
        *batch_runs("small", [1.0] * 9),
        *batch_runs("unfinished", [1.0] * 10, planned=11),
        *batch_runs("hopeless", [1.0] * 10, outcome=lambda i: "missed"),
        *batch_runs("good", [20.0] * 10),
    ]
    rows = table(board.render(runs, []), "train")
    assert [(row[0], row[1]) for row in rows[:2]] == [("1", "good"), ("2", "hopeless")]
    assert rows[1][2] == "never"
    assert {(row[0], row[1]) for row in rows[2:]} == {("—", "small"), ("—", "unfinished")}
    assert next(row for row in rows if row[1] == "unfinished")[3] == "10/10 of 11 planned"


def test_median_and_extremes_are_shown_in_seconds():
    rows = table(board.render(batch_runs("a", [3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0]), []), "train")
    assert rows[0][4] == "5.50 (1.00 … 10.00)"


def test_a_search_or_a_matrix_never_stands_on_the_board():
    text = board.render(batch_runs("matrix", [1.0] * 10, command="matrix"), [])
    assert "No batch yet." in text
    assert "matrix-0" not in text


def test_attempts_of_unlike_sources_are_not_one_batch():
    runs = batch_runs("a", [1.0] * 10)
    runs[5:] = [run.model_copy(update={"source_sha256": "other"}) for run in runs[5:]]
    assert sorted(len(batch.runs) for batch in board.batches_of(runs)) == [5, 5]
    assert not any(batch.ranked for batch in board.batches_of(runs))


def test_machine_classes_have_tables_of_their_own():
    runs = batch_runs("a", [1.0] * 10)
    other = Machine(class_="another machine", clean=None, reasons=[])
    text = board.render(runs + batch_runs("b", [2.0] * 10, machine=other), [])
    assert text.count("### by `train`") == 2
    assert "on another machine" in text


def test_single_attempts_stand_below_unranked_newest_first():
    runs = [
        example_run(run_id=f"single-{day}", batch=None, started_at=f"2026-01-{day}T00:00:00Z") for day in (11, 13, 12)
    ]
    part = board.render(runs, []).split("### single attempts")[1]
    places = [part.index(f"single-{day}") for day in (13, 12, 11)]
    assert places == sorted(places)


def test_every_row_leads_to_its_runs():
    text = board.render(batch_runs("a", [1.0] * 10), [])
    assert "(#a)" in text
    assert '<a id="a"></a>' in text
    assert all(f"| a-{i} |" in text for i in range(10))


def test_lines_that_could_not_be_read_are_shown():
    assert "runs.jsonl:3: skipped" in board.render([], ["runs.jsonl:3: skipped, it is torn"])


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


def test_the_check_writes_nothing(results):
    before = sorted(path.name for path in results.iterdir())
    board.main(board.Arguments(results=results, check=True))
    assert sorted(path.name for path in results.iterdir()) == before


def test_figures_between_markers_are_made_anew_and_the_rest_is_left():
    runs = batch_runs("a", [1.0] * 10)
    text = "before\n<!-- figures: standing -->\nold\n<!-- end of figures -->\nafter\n"
    filled = board.fill_readme(text, runs)
    assert filled.startswith("before\n<!-- figures: standing -->\n| track |")
    assert filled.endswith("<!-- end of figures -->\nafter\n")
    assert "old" not in filled
    assert "10/10" in filled
    assert board.fill_readme(filled, runs) == filled
    with pytest.raises(KeyError):
        board.fill_readme(text.replace("standing", "no-such-figures"), runs)


def test_where_an_attempt_stands_is_said_in_a_line():
    runs = batch_runs("a", [1.0] * 10)
    single = example_run(run_id="single", batch=None)
    assert "not ranked" in board.standing(single, [single])
    assert "no batch leads" in board.standing(single, [single])
    line = board.standing(single, [*runs, single])
    assert "train: a leads with ERT 1.00 s" in line
    assert "total: a leads with ERT 6.00 s" in line
    assert "\n" not in line


def test_updating_after_an_attempt_renders_the_whole_board(results):
    single = example_run(run_id="single", batch=None)
    Journal(results).append(single)
    board.update(results, single)
    assert board.main(board.Arguments(results=results, check=True)) == 0
    assert "single" in (results / "LEADERBOARD.md").read_text("utf-8")
