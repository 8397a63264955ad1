"""The journal under torn lines, foreign lines, two writers at once and attempts that were killed."""

import json
import math
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.storage import schema
from bench.storage.journal import Journal
from bench.storage.schema import Run, new_id
from tests.support.examples import HARDWARE, ROOT, example_certificate, example_run, example_seconds

# The contract of DESIGN.md, copied by hand: what scripts may rely on.
KEYS = [
    "schema",
    "run_id",
    "batch",
    "track",
    "config",
    "settings",
    "config_hash",
    "seed",
    "outcome",
    "message",
    "note",
    "device",
    "precision",
    "compiled",
    "threads",
    "seconds",
    "steps",
    "examples",
    "parameters",
    "train_flops",
    "checks",
    "reached",
    "certificate",
    "peak_memory_bytes",
    "peak_device_memory_bytes",
    "energy_joules",
    "machine",
    "hardware",
    "software",
    "source_sha256",
    "harness_sha256",
    "data_sha256",
    "commit",
    "dirty",
    "weights",
    "weights_sha256",
    "search",
    "started_at",
]
OUTCOMES = ["solved", "missed", "diverged", "timeout", "interrupted", "error", "lost", "pruned"]

finite = st.floats(allow_nan=False, allow_infinity=False)
amounts = st.floats(0, 1e12)
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
counts = st.fixed_dictionaries({"problems": st.integers(0, 10**6), "errors": st.integers(0, 10**6)})
runs = st.builds(
    example_run,
    run_id=st.text(min_size=1),
    batch=st.none()
    | st.fixed_dictionaries(
        {"id": st.text(), "command": st.text(), "planned": st.integers(1, 100), "index": st.integers(0, 99)}
    ),
    settings=st.dictionaries(st.text(), plain, max_size=4),
    seed=st.integers(0, 2**63 - 1),
    outcome=st.sampled_from(OUTCOMES),
    message=st.none() | st.text(),
    note=st.none() | st.text(),
    seconds=st.builds(
        example_seconds, train=st.none() | amounts, certify=st.none() | amounts, total=st.none() | amounts
    ),
    energy_joules=st.none() | amounts,
    checks=st.lists(
        st.fixed_dictionaries(
            {
                "step": st.integers(1, 10**6),
                "train_seconds": amounts,
                "loss": st.none() | finite,
                "errors": st.none() | st.integers(0, 10**6),
            }
        ),
        max_size=3,
    ),
    reached=st.dictionaries(st.text(), st.none() | amounts, max_size=3),
    certificate=st.none()
    | st.builds(example_certificate, groups=st.dictionaries(st.text(), counts, max_size=3), exhaustive=st.booleans()),
    machine=st.fixed_dictionaries(
        {"class": st.none() | st.text(), "clean": st.none() | st.booleans(), "reasons": st.lists(st.text(), max_size=2)}
    ),
    hardware=st.none() | st.just(HARDWARE.model_dump()),
    dirty=st.none() | st.booleans(),
    search=st.none() | st.dictionaries(st.text(), values, max_size=2),
    started_at=st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC)),
)
junk = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.integers(1, 900).map(lambda length: example_run().line().encode()[:length]),  # torn
    st.sampled_from([b"{}", b"null", b'{"schema": 2}', b"<<<<<<< HEAD", b"\xff\xfe"]),
).filter(lambda line: b"\n" not in line)


# -----------------------------------------------------------------------------
# one line


@given(runs)
def test_a_line_holds_the_whole_run(run: Run) -> None:
    line = run.line()
    assert "\n" not in line
    assert Run.model_validate_json(line) == run
    assert Run.model_validate_json(line).line() == line


def test_the_line_has_every_key_of_the_contract() -> None:
    line = json.loads(example_run().line())
    assert set(KEYS) <= set(line)
    assert line["schema"] == 1
    assert list(line["seconds"]) == ["import", "setup", "warmup", "train", "certify", "total"]
    assert {"class", "clean", "reasons"} <= set(line["machine"])
    assert set(line["checks"][0]) == {"step", "train_seconds", "loss", "errors", "asked"}
    assert set(line["certificate"]) == {
        "problems", "errors", "heldout_problems", "heldout_errors", "groups", "samples", "exhaustive",
        "error_rate_upper_95",
    }  # fmt: skip


def test_what_is_not_known_stands_as_null() -> None:
    unknown = example_run(
        outcome="lost",
        seconds=dict.fromkeys(example_seconds()),
        steps=None,
        certificate=None,
        hardware=None,
        machine={"class": None, "clean": None, "reasons": []},
        energy_joules=None,
        commit=None,
        dirty=None,
    )
    line = json.loads(unknown.line())
    assert set(KEYS) <= set(line)
    for key in ("batch", "steps", "certificate", "hardware", "energy_joules", "commit", "dirty"):
        assert line[key] is None
    assert set(line["seconds"].values()) == {None}
    assert line["machine"]["class"] is None


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_of_the_contract_can_be_filed(outcome: str) -> None:
    assert json.loads(example_run(outcome=outcome).line())["outcome"] == outcome


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "change",
    [
        lambda number: {"energy_joules": number},
        lambda number: {"train_flops": number},
        lambda number: {"seconds": example_seconds(train=number, total=1.0)},
        lambda number: {"checks": [{"step": 1, "train_seconds": 0.5, "loss": number, "errors": None}]},
        lambda number: {"reached": {"99%": number}},
        lambda number: {"certificate": example_certificate(error_rate_upper_95=number)},
    ],
)
def test_a_number_that_is_not_finite_is_refused(change, number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        example_run(**change(number))


def test_negative_seconds_are_refused() -> None:
    with pytest.raises(ValidationError):
        example_run(seconds=example_seconds(train=-1.0))


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"seconds": example_seconds() | {"lunch": 1.0}},
        {"machine": {"class": None, "clean": None, "reasons": [], "host": "x"}},
        {"hardware": HARDWARE.model_dump() | {"host": "x"}},
        {"certificate": example_certificate(verdict="fine")},
        {"batch": {"id": "b", "command": "c", "planned": 2, "index": 0, "of": 2}},
    ],
)
def test_an_unknown_key_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        example_run(**change)


@pytest.mark.parametrize("change", [{"outcome": "won"}, {"schema": 2}, {"seed": "seven"}, {"settings": None}])
def test_a_value_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        example_run(**change)


def test_ids_are_unique_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {new_id("add3-cpu") for _ in range(200)}
    assert len(ids) == 200

    class Times(datetime):
        hour = 0

        @classmethod
        def now(cls, tz: timezone) -> datetime:
            Times.hour += 7
            return datetime(2026, 1, 31, 16, tzinfo=tz) + timedelta(hours=Times.hour)

    monkeypatch.setattr(schema, "datetime", Times)
    later = [new_id("add3-cpu") for _ in range(20)]
    assert later == sorted(later)
    assert later[0].startswith("20260131-230000-add3-cpu-")


# -----------------------------------------------------------------------------
# the file


def test_a_journal_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert Journal(tmp_path / "nowhere").read() == ([], [])
    assert not (tmp_path / "nowhere").exists()


def test_runs_are_read_in_the_order_they_were_filed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results")
    filed = [example_run(run_id=name) for name in ("c", "a", "b")]
    for run in filed:
        journal.append(run)
    assert journal.read() == (filed, [])
    assert (tmp_path / "results" / "runs.jsonl").read_text(encoding="utf-8") == "".join(
        run.line() + "\n" for run in filed
    )


def test_a_line_after_a_torn_one_starts_anew(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    torn = run.line()[:100].encode()
    journal.path.write_bytes(torn)
    journal.append(run)
    journal.append(run)
    assert journal.path.read_bytes() == torn + b"\n" + 2 * (run.line().encode() + b"\n")
    found, faults = journal.read()
    assert found == [run, run]
    (fault,) = faults
    assert fault.startswith("runs.jsonl:1: skipped, ")
    assert "\n" not in fault


@settings(max_examples=40)
@given(
    st.lists(st.one_of(junk, st.text(min_size=1).map(lambda name: example_run(note=name))), max_size=6), st.booleans()
)
def test_a_line_that_is_no_run_is_skipped_and_reported_and_never_altered(lines: list, is_torn: bool) -> None:
    content = b"\n".join(line.line().encode() if isinstance(line, Run) else line for line in lines)
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


def test_a_fault_names_the_key_that_is_wrong(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    line = json.loads(example_run().line())
    line["certificate"]["errors"] = "many"
    journal.path.write_text(f"{example_run().line()}\n{json.dumps(line)}\n")
    found, (fault,) = journal.read()
    assert len(found) == 1
    assert fault.startswith("runs.jsonl:2: skipped, certificate.errors: ")


def test_a_line_is_forced_to_the_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, run, sizes = Journal(tmp_path), example_run(), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    journal.append(run)
    assert len(run.line().encode()) + 1 in sizes


def test_what_would_not_be_read_is_not_appended(tmp_path: Path) -> None:
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


def test_settings_come_back_as_they_were_or_are_refused(tmp_path: Path) -> None:
    journal, limit = Journal(tmp_path), {"max_seconds": math.inf}
    try:
        journal.append(example_run(settings=limit))
    except ValueError:
        assert not journal.path.exists()
    else:
        assert journal.read()[0][0].settings == limit


# -----------------------------------------------------------------------------
# processes

APPEND_TWENTY = """
import sys, time
from pathlib import Path
from tests.support.examples import example_run
from bench.storage import jsonl as module
from bench.storage.journal import Journal

class SlowFile:  # the other writer must not come in between the two halves of a line
    def __init__(self, *arguments):
        self.file = open(*arguments)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, line):
        self.file.write(line[:100])
        self.file.flush()
        time.sleep(0.002)
        self.file.write(line[100:])

module.open = SlowFile
name, journal = sys.argv[1], Journal(Path(sys.argv[2]))
print("ready", flush=True)
input()
for i in range(20):
    journal.append(example_run(run_id=f"{name}-{i}"))
"""

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


def start(code: str, name: str, results: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, name, str(results)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [start(APPEND_TWENTY, name, tmp_path) for name in ("left", "right")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # both have done their imports: now they run side by side
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=60) and writer.returncode for writer in writers] == [0, 0]
    found, faults = Journal(tmp_path).read()
    assert faults == []
    for name in ("left", "right"):
        own = [run.run_id for run in found if run.run_id.startswith(name)]
        assert own == [f"{name}-{i}" for i in range(20)]


def test_a_killed_attempt_is_filed_as_lost_and_a_living_one_is_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    process = start(HOLD_A_MARK, "killed", tmp_path)
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
# start marks


def test_an_attempt_that_ends_well_leaves_no_mark(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    with journal.attempt(run.model_copy(update={"outcome": "lost"})) as mark:
        assert len(list(journal.marks.glob("*.json"))) == 1
        mark.file(run)
    assert list(journal.marks.iterdir()) == []
    assert journal.recover() == []
    assert journal.read() == ([run], [])


def test_the_mark_is_the_line_of_a_lost_attempt_and_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, lost, sizes = Journal(tmp_path), example_run(outcome="lost"), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    with journal.attempt(lost) as mark:
        assert Run.model_validate_json(mark.path.read_bytes()) == lost
        assert mark.path.stat().st_size in sizes
        mark.file(lost)


def test_an_attempt_that_could_not_file_its_line_is_lost(tmp_path: Path) -> None:
    journal, lost = Journal(tmp_path), example_run(outcome="lost")

    def fail() -> None:
        with journal.attempt(lost):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert journal.recover() == [lost]
    assert journal.read() == ([lost], [])
    assert list(journal.marks.iterdir()) == []


def test_an_attempt_that_was_killed_after_filing_its_line_counts_once(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), example_run()
    journal.append(run)
    journal.marks.mkdir()
    mark = journal.marks / f"{run.run_id}.json"
    mark.write_text(run.model_copy(update={"outcome": "lost"}).line())
    assert journal.recover() == []
    assert not mark.exists()
    assert journal.read() == ([run], [])


def attempt_of_a_batch(journal: Journal, index: int = 0) -> Run:
    """The line that such an attempt has left in its mark."""
    run = example_run(batch={"id": "batch", "command": "compare", "planned": 2, "index": index}, run_id=f"run-{index}")
    with journal.attempt(run.model_copy(update={"outcome": "lost"})) as mark:
        mark.leave(run)
    return run


def test_a_line_that_was_left_is_filed_once_its_command_has_added_to_it(tmp_path: Path) -> None:
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
def test_nobody_else_recovers_what_a_living_command_will_collect(tmp_path: Path) -> None:
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


def test_a_foreign_file_among_the_marks_is_left_alone(tmp_path: Path) -> None:
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
