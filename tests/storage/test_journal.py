"""Start marks: attempts that are running, finished, killed, or supervised by the command of their batch."""

import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from bench.process_identity import ProcessIdentity, current_process, identify
from bench.storage import journal as journal_module
from bench.storage.journal import ASSUMED_LOST, Journal, MarkContent, StartMark
from bench.storage.schema import Batch, Machine, Run
from tests.support.examples import ROOT
from tests.support.examples import example_run as judged_run
from tests.support.processes import start_process


def example_run(**changes: Any) -> Run:
    """What an attempt writes of itself."""
    return judged_run(**{"judge": "self", **changes})


HOLD_A_MARK = """
import sys
from pathlib import Path
from tests.support.examples import example_run
from bench.storage.journal import Journal
journal = Journal(Path(sys.argv[2]))
with journal.attempt(example_run(run_id=sys.argv[1], outcome="lost", judge="self")):
    print("ready", flush=True)
    input()
"""


def dead_process() -> ProcessIdentity:
    """The identity of a process of this machine that has ended."""
    identity = current_process()
    assert identity is not None
    return dataclasses.replace(identity, started="1")


def distant_process() -> ProcessIdentity:
    """The identity of a process on another machine, or before a restart."""
    identity = current_process()
    assert identity is not None
    return dataclasses.replace(identity, boot="another boot")


def leave_mark(journal: Journal, run: Run, process: ProcessIdentity | None, minutes: float = 0.0) -> StartMark:
    """A start mark that was written some minutes ago."""
    mark = StartMark(journal, journal.marks / f"{run.run_id}.json")
    mark.path.write_text(MarkContent(run=run, process=process).model_dump_json())
    written = time.time() - 60 * minutes
    os.utime(mark.path, (written, written))
    return mark


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


@pytest.mark.parametrize("machine_class", ["CPU", 'CPU "1"', "Пк", None])
def test_searches_without_parsing_find_what_parsing_finds(machine_class: str | None, tmp_path: Path) -> None:
    def line(track: str, command: str | None, name: str | None) -> Run:
        batch = None if command is None else Batch(id="b", command=command, planned=2, index=0)
        machine = Machine(class_=name, clean=True, reasons=["add3", "CPU"])
        message = '"batch":null "track":"add3","config" "class":"CPU"'
        return judged_run(
            run_id=f"{track} {command} {name}", track=track, batch=batch, machine=machine, message=message
        )

    commands = (None, "speedrun", "matrix")
    runs = [
        line(track, command, name)
        for track in ("add3", "add2")
        for command in commands
        for name in (machine_class, "CPU other")
    ]
    texts = [run.model_dump_json(by_alias=True) for run in runs]
    texts[::2] = [json.dumps(json.loads(text), ensure_ascii=False) for text in texts[::2]]  # with spaces
    journal = Journal(tmp_path)
    journal.path.write_text("\n".join(["", "no line", *texts]), encoding="utf-8")
    assert journal.count_singles("add3") == 2
    found = journal.read_category("add3", machine_class, ["speedrun"])
    assert [run.run_id for run in found] == [f"add3 speedrun {machine_class}"]


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
        assert mark.read() == lost
        assert mark.path.stat().st_size in sizes
        mark.file(lost)


def test_an_attempt_that_could_not_file_its_line_is_filed_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, lost = Journal(tmp_path), example_run(outcome="lost")
    monkeypatch.setattr(journal_module, "current_process", dead_process)  # the attempt's process ends with the error

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
    mark = leave_mark(journal, example_run(outcome="lost"), dead_process())
    assert journal.recover() == []
    assert not mark.path.exists()
    assert journal.read() == ([run], [])


def attempt_of_a_batch(journal: Journal, index: int = 0) -> Run:
    """The finished line that an attempt of a batch leaves in its mark."""
    batch = {"id": "batch", "command": "compare", "planned": 2, "index": index}
    run = example_run(batch=batch, run_id=f"run-{index}", judge=None)
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


# -----------------------------------------------------------------------------
# the proof that an attempt has ended


@pytest.fixture
def free_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a mount whose locks always succeed."""
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", lambda *_: None)


@pytest.mark.usefixtures("free_locks")
def test_a_running_attempt_is_not_lost_although_its_lock_is_free(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    with journal.attempt(example_run(outcome="lost")) as mark:
        assert Journal(tmp_path).recover() == []
        assert mark.path.exists()
        mark.file(run)
    assert journal.read() == ([run], [])


def test_a_finished_line_is_filed_although_the_run_was_filed_as_lost(tmp_path: Path) -> None:
    journal, run, lost = Journal(tmp_path), example_run(), example_run(outcome="lost")
    with journal.attempt(lost) as mark:
        journal.append(lost)  # what another machine concluded
        mark.path.unlink()
        assert mark.file(run)
        assert not mark.file(run)
    runs, (fault,) = journal.read()
    assert runs == [run]
    assert fault == "runs.jsonl:1: passed over for line 2, which is of the same run"
    assert len(journal.path.read_text().splitlines()) == 2, "the journal is never rewritten"


def test_a_lost_line_after_the_finished_one_is_passed_over(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    other = example_run(run_id="another")
    for line in (run, example_run(outcome="lost"), other, run):
        journal.append(line)
    runs, faults = journal.read()
    assert runs == [run, other]
    assert [fault.partition(" ")[0] for fault in faults] == ["runs.jsonl:2:", "runs.jsonl:4:"]


@pytest.mark.usefixtures("free_locks")
def test_the_completed_line_of_a_batch_is_filed_although_another_command_filed_it_as_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.supervise("batch"):
        run = attempt_of_a_batch(journal)
        assert Journal(tmp_path).recover() == [run]

        def complete(left: Run) -> Run:
            return left.model_copy(update={"outer_seconds": left.seconds})

        assert journal.collect(run.batch, complete) is None
        assert journal.collect(run.batch, complete, ended=True) == complete(run)
        assert journal.collect(run.batch, complete, ended=True) == complete(run)
    runs, (fault,) = journal.read()
    assert runs == [complete(run)]
    assert fault.startswith("runs.jsonl:1: passed over for line 2")


def test_an_attempt_of_this_machine_whose_process_is_gone_is_lost_at_once(tmp_path: Path) -> None:
    journal, lost = Journal(tmp_path), example_run(outcome="lost")
    leave_mark(journal, lost, dead_process())
    assert journal.recover() == [lost]


@pytest.mark.parametrize("has_process", [True, False])
def test_an_attempt_that_cannot_be_checked_is_lost_ten_minutes_after_its_limit(
    has_process: bool, tmp_path: Path
) -> None:
    journal, lost = Journal(tmp_path), example_run(outcome="lost", settings={"max_seconds": 600.0})
    process = distant_process() if has_process else None
    leave_mark(journal, lost, process, minutes=21.9)  # 10 of its limit, 2 of warm-up, 10 of grace
    assert journal.recover() == []
    leave_mark(journal, lost, process, minutes=22.1)
    (filed,) = journal.recover()
    assert filed == lost.model_copy(update={"message": ASSUMED_LOST})
    assert list(journal.marks.iterdir()) == []


def test_an_attempt_that_cannot_be_checked_is_not_lost_while_its_lock_is_held(tmp_path: Path) -> None:
    journal, lost = Journal(tmp_path), example_run(outcome="lost", settings={"max_seconds": 600.0})
    mark = leave_mark(journal, lost, distant_process(), minutes=1000)
    with mark.lock:
        assert journal.recover() == []
    assert len(journal.recover()) == 1


def test_a_mark_as_older_harnesses_write_it_is_read(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    mark = StartMark(journal, journal.marks / "old.json")
    mark.path.write_text(run.model_dump_json())
    assert mark.read() == run


@pytest.mark.usefixtures("free_locks")
def test_collect_waits_for_a_running_attempt_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path)
    lost = example_run(batch={"id": "batch", "command": "compare", "planned": 1, "index": 0}, outcome="lost")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        between_looks = SimpleNamespace(sleep=lambda seconds: process.communicate(b"\n"), time=time.time)
        monkeypatch.setattr(journal_module, "time", between_looks)
        leave_mark(journal, lost, identify(process.pid))
        assert journal.collect(lost.batch, lambda run: run) == lost
        assert process.poll() == 0
    assert capfd.readouterr().err == f"waiting for the attempt {lost.run_id}, which is still running\n"


def test_collect_does_not_wait_for_an_attempt_whose_end_the_caller_has_seen(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    lost = example_run(batch={"id": "batch", "command": "compare", "planned": 1, "index": 0}, outcome="lost")
    leave_mark(journal, lost, None)
    assert journal.collect(lost.batch, lambda run: run, ended=True) == lost


def test_a_mark_under_the_lock_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    mark = leave_mark(journal, example_run(outcome="lost"), dead_process())

    def refuse(self: FileLock, timeout: float) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", refuse)
        assert journal.recover() == []
    assert mark.path.exists()


@pytest.mark.parametrize("name", ["runs.jsonl", "runs.jsonl.lock"])
def test_an_attempt_does_not_begin_when_its_line_could_not_be_filed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()  # as a file that belongs to another user
    journal = Journal(tmp_path)
    with pytest.raises(OSError, match="directory"), journal.attempt(example_run(outcome="lost")):
        pytest.fail("the attempt began")
    assert not list(journal.marks.glob("*.json"))


def test_the_draft_of_a_mark_that_is_being_written_is_not_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.marks.mkdir()
    young, old = journal.marks / ".run.json.1", journal.marks / ".run.json.2"
    for draft in (young, old):
        draft.touch()
    os.utime(old, (0, 0))
    journal.recover()
    assert young.exists()
    assert not old.exists()


def test_a_finished_line_takes_the_reserved_room_when_the_disk_is_full(tmp_path, monkeypatch) -> None:
    journal = Journal(tmp_path)
    with journal.attempt(example_run(outcome="lost")) as mark:
        append = Journal.append

        def full_while_reserved(self, line) -> None:
            if mark.reserved.exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            append(self, line)

        assert mark.reserved.stat().st_size == journal_module.RESERVED_BYTES
        monkeypatch.setattr(Journal, "append", full_while_reserved)
        assert mark.file(example_run())
    assert [run.outcome for run in journal.read()[0]] == ["solved"]
    assert list(journal.marks.iterdir()) == []


def test_a_finished_line_that_cannot_be_appended_stays_in_the_mark_and_is_filed_later(tmp_path, monkeypatch) -> None:
    journal = Journal(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", lambda self, line: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"), journal.attempt(example_run(outcome="lost")) as mark:
            mark.file(example_run())
    assert journal.read()[0] == []
    assert [run.outcome for run in journal.recover()] == ["solved"]
