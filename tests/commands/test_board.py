"""`python -m bench board`: every generated page and figure is written, or checked."""

import hashlib
from pathlib import Path

import pytest

from bench import __main__ as commands
from bench.audit.verification import Verification, verify
from bench.commands import board
from bench.errors import UsageError
from bench.git import is_shallow
from bench.report import leaderboard
from bench.storage.journal import Journal
from tests.report.test_leaderboard import pictures
from tests.support.examples import ROOT, batch_runs, example_run


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Of runs whose commit and weights are not looked for: `bench.audit.verification` has its own tests."""
    journal = Journal(tmp_path)
    for run in batch_runs("a", [1.0] * 10):
        journal.append(run)
    monkeypatch.setattr(board, "verify", lambda results, runs, deep: Verification({}, []))
    return tmp_path


def write(results):
    return board.main(board.Arguments(results=results))


def check(results):
    return board.main(board.Arguments(results=results, check=True))


@pytest.mark.parametrize("page", ["LEADERBOARD.md", "tracks/add3.md"])
def test_the_check_fails_when_a_page_and_the_journal_disagree(results, page, capsys):
    assert check(results) == 1
    advice = f"{results / page} is missing; run `python -m bench board --results {results}`"
    assert advice in capsys.readouterr().err
    assert write(results) == 0
    assert check(results) == 0
    path = results / page
    path.write_text(path.read_text("utf-8").replace("1.00", "0.90"), "utf-8")
    assert check(results) == 1
    write(results)
    Journal(results).append(example_run(run_id="new", batch=None))
    assert check(results) == 1


def test_a_page_of_a_track_without_attempts_fails_the_check_and_is_deleted(results, capsys):
    write(results)
    stale = results / "tracks" / "add9.md"
    stale.write_text("# add9\n")
    assert check(results) == 1
    assert "tracks/add9.md does not agree with the journal" in capsys.readouterr().err
    assert stale.exists()
    write(results)
    assert not stale.exists()
    assert check(results) == 0


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path):
    for path in (tmp_path / "typo", Path(__file__)):
        with pytest.raises(UsageError, match="there is no such folder"):
            write(path)
    assert not list(tmp_path.iterdir())


def test_the_check_writes_nothing(results):
    before = sorted(path.name for path in results.iterdir())
    check(results)
    assert sorted(path.name for path in results.iterdir()) == before


def test_an_update_after_an_attempt_leaves_nothing_for_the_board_to_do(results):
    write(results)  # draws the figures, which a single attempt does not change
    single = example_run(run_id="single", batch=None)
    Journal(results).append(single)
    leaderboard.update(results, single)
    assert check(results) == 0
    assert "single" in (results / "tracks" / "add3.md").read_text("utf-8")


def test_the_board_writes_the_figures_it_shows(results):
    write(results)
    written = sorted((results / "plots").iterdir())
    for path in written:
        path.unlink()
    leaderboard.refresh_figures(results)  # as at the end of a batch
    assert sorted((results / "plots").iterdir()) == written
    assert check(results) == 0
    shown = pictures((results / "LEADERBOARD.md").read_text("utf-8"))
    written = sorted(path.name for path in (results / "plots").iterdir())
    assert written == sorted(f"{name}.{suffix}" for name in shown for suffix in ("csv", "svg"))
    assert all("</svg>" in path.read_text("utf-8") for path in (results / "plots").glob("*.svg"))


def test_the_check_compares_the_data_of_a_figure_and_not_its_picture(results, capsys):
    write(results)
    data, picture = sorted((results / "plots").glob("*train*"))
    picture.write_text("drawn by another version", "utf-8")
    assert check(results) == 0
    picture.unlink()
    assert check(results) == 1
    write(results)
    data.write_text(data.read_text("utf-8").replace("1.000000", "0.900000", 1), "utf-8")
    capsys.readouterr()
    assert check(results) == 1
    assert data.name in capsys.readouterr().err


def test_the_check_fails_when_the_journal_disagrees_with_its_commits_or_weights(results, monkeypatch, capsys):
    write(results)
    capsys.readouterr()
    found = Verification({"a": ["no such commit", "no weights"]}, ["a shallow clone"], 2, 0)
    monkeypatch.setattr(board, "verify", lambda results, runs, deep: found)
    assert check(results) == 1
    _, not_done, faults, advice = capsys.readouterr().err.splitlines()
    assert not_done == "a shallow clone"
    assert faults == "a: no such commit; no weights"
    assert "python -m bench dispute BATCH --why TEXT" in advice


def test_a_commit_that_does_not_exist_fails_the_check_until_the_batch_is_disputed(results, monkeypatch, capsys):
    """The commit of the example is none of this repository, nor are there weights."""
    monkeypatch.setattr(board, "verify", verify)
    write(results)
    if (ROOT / ".git").exists() and not is_shallow(ROOT):
        assert check(results) == 1
        assert "a: the commit ffffffffff does not exist" in capsys.readouterr().err
    assert commands.main(["dispute", "a", "--why", "no such commit", "--results", str(results)]) == 0
    assert write(results) == 0
    assert check(results) == 0
    assert "by hand: no such commit" in (results / "LEADERBOARD.md").read_text("utf-8")


def test_rendering_packs_weights_that_the_command_of_a_batch_could_not(results):
    runs, _ = Journal(results).read()
    (results / "weights").mkdir()
    for run in runs:
        (results / run.weights).write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (results / "runs.jsonl").write_text((results / "runs.jsonl").read_text("utf-8").replace("9" * 64, digest), "utf-8")
    write(results)
    assert (results / "evidence" / "a.zip").exists()


def test_a_deep_check_needs_a_check(results, monkeypatch):
    with pytest.raises(UsageError, match="--deep: it needs --check"):
        board.main(board.Arguments(results=results, deep=True))
    seen = []
    monkeypatch.setattr(board, "verify", lambda results, runs, deep: seen.append(deep) or Verification({}, []))
    board.main(board.Arguments(results=results, check=True, deep=True))
    assert seen == [True]
