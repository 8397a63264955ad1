"""Start marks: attempts that are running, finished, killed, or supervised by the command of their batch."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.storage.journal import Journal
from bench.storage.schema import Run
from tests.support.examples import ROOT, example_run
from tests.support.processes import start_process

HOLD_A_MARK = """
import sys
from pathlib import Path
from tests.support.examples import example_run
from bench.storage.journal import Journal
journal = Journal(Path(sys.argv[2]))
with journal.attempt(example_run(run_id=sys.argv[1], outcome="lost")):
    print("ready", flush=True)
    input()
"""


def test_a_journal_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert Journal(tmp_path / "nowhere").read() == ([], [])
    assert not (tmp_path / "nowhere").exists()


def test_settings_are_read_as_they_were_written_or_are_refused(tmp_path: Path) -> None:
    journal, limit = Journal(tmp_path), {"max_seconds": math.inf}
    try:
        journal.append(example_run(settings=limit))
    except ValueError:
        assert not journal.path.exists()
    else:
        assert journal.read()[0][0].settings == limit


def test_a_finished_attempt_leaves_no_mark(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    with journal.attempt(run.model_copy(update={"outcome": "lost"})) as mark:
        assert len(list(journal.marks.glob("*.json"))) == 1
        mark.file(run)
    assert list(journal.marks.iterdir()) == []
    assert journal.recover() == []
    assert journal.read() == ([run], [])


def test_a_mark_holds_the_line_of_the_lost_run_and_is_fsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, lost, sizes = Journal(tmp_path), example_run(outcome="lost"), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    with journal.attempt(lost) as mark:
        assert Run.model_validate_json(mark.path.read_bytes()) == lost
        assert mark.path.stat().st_size in sizes
        mark.file(lost)


def test_an_attempt_that_could_not_file_its_line_is_filed_as_lost(tmp_path: Path) -> None:
    journal, lost = Journal(tmp_path), example_run(outcome="lost")

    def fail() -> None:
        with journal.attempt(lost):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert journal.recover() == [lost]
    assert journal.read() == ([lost], [])
    assert list(journal.marks.iterdir()) == []


def test_an_attempt_killed_after_filing_its_line_is_filed_once(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    journal.append(run)
    journal.marks.mkdir()
    mark = journal.marks / f"{run.run_id}.json"
    mark.write_text(run.model_copy(update={"outcome": "lost"}).model_dump_json())
    assert journal.recover() == []
    assert not mark.exists()
    assert journal.read() == ([run], [])


def attempt_of_a_batch(journal: Journal, index: int = 0) -> Run:
    """The finished line that an attempt of a batch leaves in its mark."""
    run = example_run(batch={"id": "batch", "command": "compare", "planned": 2, "index": index}, run_id=f"run-{index}")
    with journal.attempt(run.model_copy(update={"outcome": "lost"})) as mark:
        mark.write(run)
    return run


def test_collect_files_the_line_of_a_mark_once_it_is_completed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    run = attempt_of_a_batch(journal)
    other = attempt_of_a_batch(journal, index=1)
    filed = journal.collect(run.batch, lambda left: left.model_copy(update={"note": "heard"}))
    assert filed == run.model_copy(update={"note": "heard"})
    assert journal.read() == ([filed], [])
    assert journal.collect(run.batch, lambda left: left) is None
    assert journal.collect(other.batch, lambda left: left) == other
    assert list(journal.marks.iterdir()) == []


@pytest.mark.slow
def test_other_processes_do_not_recover_the_marks_of_a_supervised_batch(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    recover = "import sys; from pathlib import Path; from bench.storage.journal import Journal\n"
    recover += "print(len(Journal(Path(sys.argv[1])).recover()))"

    def recovered_elsewhere() -> int:
        command = [sys.executable, "-c", recover, str(tmp_path)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    with journal.supervise("batch"):
        attempt_of_a_batch(journal)
        assert recovered_elsewhere() == 0
        assert journal.read() == ([], [])
    assert recovered_elsewhere() == 1
    assert [run.run_id for run in journal.read()[0]] == ["run-0"]


def test_other_files_among_the_marks_are_not_touched(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.marks.mkdir()
    foreign = journal.marks / "notes.json"
    foreign.write_text('{"shopping": ["milk"]}')
    assert journal.recover() == []
    assert foreign.read_text() == '{"shopping": ["milk"]}'
    assert not journal.path.exists()


def test_a_journal_without_marks_has_nothing_to_recover(tmp_path: Path) -> None:
    assert Journal(tmp_path / "nowhere").recover() == []
    assert not (tmp_path / "nowhere").exists()


def test_a_killed_attempt_is_filed_as_lost_and_a_running_one_is_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    process = start_process(HOLD_A_MARK, "killed", tmp_path)
    try:
        assert process.stdout.readline() == "ready\n"
        with journal.attempt(example_run(run_id="alive", outcome="lost")) as alive:
            assert journal.recover() == []
            assert journal.read() == ([], [])
            process.kill()
            process.wait(timeout=60)
            expected = example_run(run_id="killed", outcome="lost")
            assert journal.recover() == [expected]
            assert journal.recover() == []
            assert journal.read() == ([expected], [])
            assert [mark.stem for mark in journal.marks.glob("*.json")] == ["alive"]
            alive.file(example_run(run_id="alive"))
    finally:
        process.kill()
        process.communicate()
    assert list(journal.marks.iterdir()) == []
