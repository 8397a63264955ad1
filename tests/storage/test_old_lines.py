"""The list of lines that are older than the checks."""

import hashlib
import subprocess
import sys

from bench.storage.journal import Journal
from bench.storage.old_lines import LIST, line_sha256, list_old_lines, read_old_lines
from tests.support.examples import ROOT, batch_runs


def old_runs(name: str = "old"):
    return batch_runs(name, [1.0] * 10, judge=None)


def test_the_list_holds_the_hash_of_each_line_and_nothing_else(tmp_path):
    for run in old_runs():
        Journal(tmp_path).append(run)
    assert list_old_lines(tmp_path) == 10
    lines = (tmp_path / "runs.jsonl").read_text("utf-8").splitlines()
    expected = sorted(hashlib.sha256(line.encode()).hexdigest() for line in lines)
    assert (tmp_path / LIST).read_text("ascii") == "\n".join(expected) + "\n"
    assert read_old_lines(tmp_path) == set(expected)


def test_the_line_ends_of_a_checkout_do_not_matter():
    assert line_sha256(b'{"a": 1}\r') == line_sha256(b'{"a": 1}')


def test_a_folder_without_a_list_has_no_old_lines(tmp_path):
    assert read_old_lines(tmp_path) == frozenset()


def test_old_lines_are_not_disputed_and_later_ones_are(tmp_path):
    journal = Journal(tmp_path)
    for run in old_runs():
        journal.append(run)
    list_old_lines(tmp_path)
    for run in old_runs("forged"):
        journal.append(run)
    runs = journal.read()[0]
    assert [run.is_old for run in runs] == [True] * 10 + [False] * 10
    assert all(not run.disputed for run in runs[:10])
    assert all("judge" in " ".join(run.disputed) for run in runs[10:])


def test_a_changed_line_and_a_line_with_a_judge_are_not_old(tmp_path):
    journal = Journal(tmp_path)
    for run in [*old_runs(), *batch_runs("new", [1.0] * 10)]:
        journal.append(run)
    list_old_lines(tmp_path)
    text = journal.path.read_text("utf-8")
    journal.path.write_text(text.replace('"train":1.0', '"train":0.5', 1), "utf-8")
    runs = journal.read()[0]
    assert [run.is_old for run in runs] == [False, *[True] * 9, *[False] * 10]
    assert "do not add up" in " ".join(runs[0].disputed)


def test_the_list_is_made_by_one_command(tmp_path):
    Journal(tmp_path).append(old_runs()[0])
    command = [sys.executable, "-m", "bench.storage.old_lines", str(tmp_path)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown == f"1 lines are listed in {LIST}\n"
    assert len(read_old_lines(tmp_path)) == 1


def test_no_line_of_the_project_with_a_judge_is_in_its_list():
    old, lines = read_old_lines(ROOT / "results"), (ROOT / "results" / "runs.jsonl").read_bytes().split(b"\n")
    listed = [line for line in lines if line_sha256(line) in old]
    assert len(listed) == len(old) > 2000, "each hash is that of a line of the journal"
    assert not any(b'"judge":"' in line for line in listed)
