"""JSON Lines files with incomplete and invalid lines, and with two writers at once; the journal is the example."""

import errno
import json
import math
import os
import re
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.storage.journal import Journal
from bench.storage.jsonl import line_number, matching_lines, replace_file
from bench.storage.schema import Run
from tests.support.examples import example_run
from tests.support.processes import start_process

junk = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.integers(1, 900).map(lambda length: example_run().model_dump_json().encode()[:length]),  # incomplete
    st.sampled_from([b"{}", b"null", b'{"schema": 2}', b"<<<<<<< HEAD", b"\xff\xfe"]),
).filter(lambda line: b"\n" not in line)


def test_runs_are_read_in_the_order_they_were_filed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results")
    filed = [example_run(run_id=name) for name in ("c", "a", "b")]
    for run in filed:
        journal.append(run)
    assert journal.read() == (filed, [])
    assert (tmp_path / "results" / "runs.jsonl").read_text(encoding="utf-8") == "".join(
        run.model_dump_json() + "\n" for run in filed
    )


def test_a_line_after_an_incomplete_one_starts_on_a_new_line(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    torn = run.model_dump_json()[:100].encode()
    journal.path.write_bytes(torn)
    journal.append(run)
    journal.append(other := example_run(run_id="another"))
    lines = [each.model_dump_json().encode() + b"\n" for each in (run, other)]
    assert journal.path.read_bytes() == torn + b"\n" + lines[0] + lines[1]
    found, faults = journal.read()
    assert found == [run, other]
    (fault,) = faults
    assert fault.startswith("runs.jsonl:1: skipped, ")
    assert "\n" not in fault


@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(junk, st.text(min_size=1).map(lambda name: example_run(run_id=name))),
        max_size=6,
        unique_by=lambda line: line.run_id if isinstance(line, Run) else object(),
    ),
    st.booleans(),
)
def test_an_invalid_line_is_skipped_and_reported_and_never_altered(lines: list, is_torn: bool) -> None:
    content = b"\n".join(line.model_dump_json().encode() if isinstance(line, Run) else line for line in lines)
    content += b"" if is_torn else b"\n"
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        journal.path.write_bytes(content)
        found, faults = journal.read()
        assert found == [line for line in lines if isinstance(line, Run)]
        numbers = [n for n, line in enumerate(lines, start=1) if not isinstance(line, Run) and line.strip()]
        assert [int(fault.split(":")[1]) for fault in faults] == numbers
        assert journal.path.read_bytes() == content
        run = example_run(run_id="the next one")
        journal.append(run)
        assert journal.path.read_bytes().startswith(content)
        assert journal.read()[0] == [*found, run]


def test_a_fault_names_the_invalid_key(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    line = json.loads(example_run().model_dump_json())
    line["certificate"]["errors"] = "many"
    journal.path.write_text(f"{example_run().model_dump_json()}\n{json.dumps(line)}\n")
    found, (fault,) = journal.read()
    assert len(found) == 1
    assert fault.startswith("runs.jsonl:2: skipped, certificate.errors: ")


def test_a_line_is_fsynced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, run, sizes = Journal(tmp_path), example_run(), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    journal.append(run)
    assert len(run.model_dump_json().encode()) + 1 in sizes


def test_an_invalid_run_is_not_appended(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    wrong = example_run().model_copy(update={"outcome": "won"})
    with pytest.raises(ValidationError):
        journal.append(wrong)
    assert not journal.path.exists()


def test_a_copy_with_a_number_that_is_not_finite_is_not_appended(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    wrong = example_run().model_copy(update={"energy_joules": math.inf})  # a copy is not validated
    with pytest.raises((ValidationError, ValueError)):
        journal.append(wrong)
    assert not journal.path.exists()


# -----------------------------------------------------------------------------
# two processes

APPEND_TWENTY = """
import sys, time
from pathlib import Path
from tests.support.examples import example_run
from bench.storage import jsonl as module
from bench.storage.journal import Journal

class SlowFile:  # writes a line in two halves, between which another writer must not write
    def __init__(self, *arguments, **options):
        self.file = open(*arguments, **options)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, line):
        self.file.write(line[:100])
        time.sleep(0.002)
        return 100 + self.file.write(line[100:])

module.open = SlowFile
name, journal = sys.argv[1], Journal(Path(sys.argv[2]))
print("ready", flush=True)
input()
for i in range(20):
    journal.append(example_run(run_id=f"{name}-{i}"))
"""


def test_two_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [start_process(APPEND_TWENTY, name, tmp_path) for name in ("left", "right")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # both have finished their imports
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=60) and writer.returncode for writer in writers] == [0, 0]
    found, faults = Journal(tmp_path).read()
    assert faults == []
    for name in ("left", "right"):
        own = [run.run_id for run in found if run.run_id.startswith(name)]
        assert own == [f"{name}-{i}" for i in range(20)]


# -----------------------------------------------------------------------------
# file systems whose locks do not exclude


@pytest.mark.parametrize("answer", [None, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_lines_stay_whole_without_locks(answer: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        if answer is not None:
            raise OSError(answer, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)  # as a mount whose locks always succeed, or that has none
    note = "x" * 20_000  # longer than the buffer of a file

    def write(name: str) -> None:
        for index in range(20):
            Journal(tmp_path).append(example_run(run_id=f"{name}-{index}", note=note))

    writers = [threading.Thread(target=write, args=(name,)) for name in ("left", "right")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    runs, faults = Journal(tmp_path).read()
    assert faults == []
    assert {run.run_id for run in runs} == {f"{name}-{i}" for name in ("left", "right") for i in range(20)}


def test_a_draft_is_never_that_of_another_process_with_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = []
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in every container
    monkeypatch.setattr(os, "replace", lambda draft, path: drafts.append(draft))
    for _ in range(2):
        replace_file(tmp_path / "page.md", "text")
    assert len(set(drafts)) == 2


@given(st.lists(st.text("ab\r ", max_size=4), min_size=1), st.sampled_from([("a",), ("b", "a"), ("a+b", "aa"), ()]))
def test_a_search_finds_the_lines_that_a_loop_finds_with_their_numbers(
    texts: list[str], patterns: tuple[str, ...]
) -> None:
    lines = [text.encode() for text in texts]
    compiled = [re.compile(pattern.encode()) for pattern in patterns]
    expected = [(i, line) for i, line in enumerate(lines, start=1) if all(p.search(line) for p in compiled)]
    content = b"\n".join(lines)
    found = list(matching_lines(content, compiled))
    assert [(line_number(content, start), line) for start, line in found] == expected
    assert all(content[start:].startswith(line) for start, line in found)
