"""The log of a search: damaged lines are named and passed over, and no lock outlives its process."""

import errno
import json
import threading

import filelock
import pytest

from bench.cli import print_progress
from bench.experiments.search_log import SearchLog, held

LOGS = [{"op_code": 0, "worker_id": "a", "study_name": name} for name in ("one", "two", "three")]


def test_logs_are_read_in_order_from_any_number_on(tmp_path):
    log, other = SearchLog(tmp_path / "a.log"), SearchLog(tmp_path / "a.log")
    log.append_logs(LOGS[:2])
    assert list(log.read_logs(0)) == list(other.read_logs(0)) == LOGS[:2]
    other.append_logs(LOGS[2:])
    assert list(log.read_logs(2)) == list(SearchLog(tmp_path / "a.log").read_logs(2)) == LOGS[2:]
    assert list(log.read_logs(1)) == LOGS[1:]
    assert list(log.read_logs(3)) == []


def test_what_is_whole_of_a_damaged_log_is_read_and_the_rest_is_named(tmp_path, capsys):
    path = tmp_path / "a.log"
    SearchLog(path).append_logs(LOGS)
    path.write_bytes(path.read_bytes()[:-20])
    log = SearchLog(path)
    assert f"{path}:3: skipped" in capsys.readouterr().err
    assert list(log.read_logs(0)) == LOGS[:2]
    with open(path, "ab") as file:
        file.write(b"\xff\x00 garbage\n[1]\n")
    log = SearchLog(path)
    assert f"{path}:3: skipped" in (errors := capsys.readouterr().err)
    assert f"{path}:4: skipped" in errors
    log.append_logs(LOGS[2:])
    assert list(log.read_logs(0)) == list(SearchLog(path).read_logs(0)) == LOGS


def test_a_line_that_is_appended_after_a_cut_one_stands_alone(tmp_path):
    path = tmp_path / "a.log"
    path.write_text(json.dumps(LOGS[0]) + "\n" + json.dumps(LOGS[1])[:-5])
    log = SearchLog(path)
    log.append_logs(LOGS[2:])
    assert list(log.read_logs(0)) == [LOGS[0], LOGS[2]]


def test_a_stale_lock_of_optuna_does_not_matter(tmp_path):
    (tmp_path / "a.log.lock").symlink_to(tmp_path / "a.log")  # as its killed process leaves it
    log = SearchLog(tmp_path / "a.log")
    log.append_logs(LOGS)
    assert list(log.read_logs(0)) == LOGS


def test_a_process_that_waits_for_a_lock_says_so(tmp_path, capsys, monkeypatch):
    is_held, is_said = threading.Event(), threading.Event()
    monkeypatch.setattr("bench.experiments.search_log.SILENT_SECONDS", 0.01)
    monkeypatch.setattr(
        "bench.experiments.search_log.print_progress", lambda line: (print_progress(line), is_said.set())
    )

    def hold():
        with filelock.FileLock(tmp_path / "a.lock"):
            is_held.set()
            is_said.wait(60)

    threading.Thread(target=hold).start()
    is_held.wait()
    with held(filelock.FileLock(tmp_path / "a.lock")):
        pass
    assert f"waiting for another process, which holds {tmp_path / 'a.lock'}" in capsys.readouterr().err


def test_a_file_system_without_locks_keeps_a_log(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    SearchLog(tmp_path / "a.log").append_logs(LOGS)
    assert list(SearchLog(tmp_path / "a.log").read_logs(0)) == LOGS
