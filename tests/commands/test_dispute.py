"""`python -m bench dispute`."""

import pytest

from bench import __main__ as commands
from bench.storage.disputes import disputes_by_hand, disputes_file
from bench.storage.journal import Journal
from bench.storage.results import read_results
from tests.support.examples import batch_runs, example_record, example_run


@pytest.fixture
def results(tmp_path):
    yardstick = example_run(run_id="yard", batch={"id": "a", "command": "yardstick", "planned": 1, "index": 0})
    for run in [yardstick, *batch_runs("a", [1.0] * 10), *batch_runs("b", [2.0] * 10)]:
        Journal(tmp_path).append(run)
    return tmp_path


def dispute(results, *arguments):
    return commands.main(["dispute", *arguments, "--results", str(results)])


def page(results):
    return (results / "LEADERBOARD.md").read_text("utf-8")


def test_a_dispute_takes_the_rank_at_once_and_leaves_the_journal_as_it_was(results, capsys):
    before = (results / "runs.jsonl").read_bytes()
    assert dispute(results, "a-3", "--why", "  weights in its *initializer*  ") == 0
    assert (results / "runs.jsonl").read_bytes() == before
    assert disputes_by_hand(results) == {"a-3": "weights in its *initializer*"}
    assert "| 1 | b |" in page(results)
    assert "by hand: weights in its \\*initializer\\*" in page(results)
    assert "the dispute of a-3 is filed" in capsys.readouterr().err


def test_a_settled_dispute_gives_the_rank_back_and_both_lines_stay(results, capsys):
    dispute(results, "a-3", "--why", "looks odd")
    assert dispute(results, "a-3", "--settle", "--why", "replayed, it is right") == 0
    assert "| 1 | a |" in page(results)
    assert [line.settled for line in disputes_file(results).read()[0]] == [False, True]
    assert "is settled" in capsys.readouterr().err


def test_all_runs_of_a_batch_are_disputed_by_its_id_without_the_yardstick(results):
    assert dispute(results, "a", "--why", "another machine") == 0
    assert sorted(disputes_by_hand(results)) == [f"a-{index}" for index in range(10)]
    assert dispute(results, "a-4", "--settle", "--why", "this one was here") == 0
    assert dispute(results, "a", "--settle", "--why", "so were the others") == 0
    lines = disputes_file(results).read()[0]
    assert (len(lines), disputes_by_hand(results)) == (10 + 1 + 9, {})


def test_a_run_may_be_named_as_everywhere(results):
    latest = example_run(run_id="last", batch=None, started_at="2027-01-01T00:00:00Z")
    Journal(results).append(latest)
    assert dispute(results, "latest", "--why", "odd") == 0
    assert list(disputes_by_hand(results)) == ["last"]


def test_a_record_whose_batch_is_disputed_is_not_shown(results):
    record = example_record(batch="a").record
    folder = results / "records" / record.name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(record.model_dump_json())
    assert len(read_results(results).records) == 1
    dispute(results, "a-0", "--why", "odd")
    assert read_results(results).records == []


def test_show_says_that_a_run_is_disputed(results, capsys):
    dispute(results, "a-3", "--why", "looks odd")
    capsys.readouterr()
    assert commands.main(["show", "a-3", "--results", str(results)]) == 0
    assert "disputed and its batch does not rank: by hand: looks odd" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nosuch", "--why", "x"], "there is no run 'nosuch'"),
        (["", "--why", "x"], "the name of the run is empty"),
        (["a-3"], "--why"),
        (["--why", "x"], "RUN"),
        (["a-3", "--why", " "], "--why is empty"),
        (["a-3", "--why", "two\nlines"], "--why has line ends"),
        (["a-3", "--why", "a\x1b[31mb"], "control characters"),
        (["a-3", "--why", "not UTF-8 \udcff"], "UTF-8"),
        (["a-3", "--settle", "--why", "x"], "a-3 is not disputed by hand"),
        (["forged-0", "--settle", "--why", "x"], "what a check found is not settled by hand: its line does not name"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(arguments, named, results, capsys):
    for run in batch_runs("forged", [0.1] * 10, judge=None):
        Journal(results).append(run)
    assert dispute(results, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert not disputes_file(results).path.exists()


def test_a_folder_that_cannot_be_written_to_is_one_line_and_exit_2(results, capsys):
    (results / "disputes.jsonl.lock").mkdir()
    assert dispute(results, "a-3", "--why", "x") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written to" in line
