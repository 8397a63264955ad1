"""Cold starts: the order of the attempts, their medians, what is refused, and dropping a file for real."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageError
from bench.experiments import cold_start
from bench.storage.schema import Run
from tests.support.examples import example_run, example_seconds


def run_of(total: float, **changes: Any) -> Run:
    return example_run(seconds=example_seconds(total=total), **changes)


def measure(
    monkeypatch: pytest.MonkeyPatch, attempts: list[tuple[float, int]], **changes: Any
) -> tuple[Any, list[str]]:
    """Measure with attempts of these seconds and bytes read; also returns what was done, in order."""
    done: list[str] = []

    def timed_attempt(device: str) -> tuple[Run, int]:
        done.append(f"attempt on {device}")
        total, read_bytes = attempts.pop(0)
        return run_of(total, **changes), read_bytes

    monkeypatch.setattr(cold_start, "timed_attempt", timed_attempt)
    monkeypatch.setattr(cold_start, "drop_from_page_cache", lambda folders: done.append("drop"))
    return cold_start.measure_cold_start("cpu"), done


FIRST = (30.0, 900)
PAIRS = [(4.0, 200), (1.5, 0), (9.0, 210), (1.4, 1), (4.2, 190), (2.0, 0)]  # cold, warm, cold, warm, ...


def test_cold_and_warm_attempts_are_made_in_turn_after_one_that_does_not_count(monkeypatch) -> None:
    start, done = measure(monkeypatch, [FIRST, *PAIRS])
    assert done == ["attempt on cpu", *["drop", "attempt on cpu", "attempt on cpu"] * cold_start.NUM_ATTEMPTS]
    assert (start.cold_total_seconds, start.warm_total_seconds) == (4.2, 1.5)
    assert (start.cold_read_bytes, start.warm_read_bytes) == (200, 0)
    run = example_run()
    assert (start.machine_class, start.config, start.source_sha256) == (
        run.machine.class_,
        run.config,
        run.source_sha256,
    )
    assert (start.attempts, start.clean) == (cold_start.NUM_ATTEMPTS, 0), "it was not measured"


def test_attempts_on_a_quiet_machine_are_counted(monkeypatch) -> None:
    quiet = {"class": "Example CPU", "clean": True, "reasons": []}
    assert measure(monkeypatch, [FIRST, *PAIRS], machine=quiet)[0].clean == 2 * cold_start.NUM_ATTEMPTS


def test_nothing_is_measured_where_dropping_the_files_had_no_effect(monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"no effect.*; end other processes"):
        measure(monkeypatch, [FIRST, *((seconds, 0) for seconds, _ in PAIRS)])


def test_an_unknown_machine_class_and_a_system_without_the_call_are_refused(monkeypatch) -> None:
    unknown = {"class": None, "clean": None, "reasons": []}
    with pytest.raises(UsageError, match="the machine class is unknown"):
        measure(monkeypatch, [FIRST, *PAIRS], machine=unknown)
    monkeypatch.delattr(os, "posix_fadvise")
    with pytest.raises(UsageError, match="cannot drop files from its page cache; Linux can"):
        cold_start.measure_cold_start("cpu")


def answer(monkeypatch: pytest.MonkeyPatch, status: int, run: Run, errors: str = "") -> list[str]:
    """Let the next attempt end so; returns the list that its command line will be added to."""
    commands: list[str] = []

    def run_python(arguments: list[str]) -> Any:
        commands.extend(arguments)
        return subprocess.CompletedProcess(arguments, status, f"{run.model_dump_json()}\n", errors)

    monkeypatch.setattr(cold_start, "run_python", run_python)
    return commands


def test_an_attempt_is_not_journalled_and_may_miss_its_track(monkeypatch) -> None:
    commands = answer(monkeypatch, 1, run_of(2.0, outcome="missed"))
    run, read_bytes = cold_start.timed_attempt("cpu")
    assert (run.seconds.total, read_bytes) == (2.0, 0)
    assert commands[1:] == ["--device", "cpu", "--no-journal", "--json"]


def test_an_attempt_that_was_refused_or_has_no_certificate_ends_the_measurement(monkeypatch) -> None:
    answer(monkeypatch, 2, run_of(2.0), "progress\nthere is no cuda device\n")
    with pytest.raises(UsageError, match=r"^--measure-cold: there is no cuda device$"):
        cold_start.timed_attempt("cuda")
    answer(monkeypatch, 1, run_of(2.0, outcome="diverged", certificate=None, message="the loss is not finite"))
    with pytest.raises(UsageError, match=r"without a certificate \(diverged: the loss is not finite\)"):
        cold_start.timed_attempt("cpu")


def is_cached(path: Path) -> bool:
    """Whether the first bytes of a file can be read without waiting for the disk."""
    with open(path, "rb", buffering=0) as file:
        try:
            return os.preadv(file.fileno(), [bytearray(16)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="this system cannot say what is in its page cache")
def test_the_files_of_a_folder_leave_the_page_cache(tmp_path) -> None:
    paths = [tmp_path / "probe", tmp_path / "folder" / "one", tmp_path / "folder" / "below" / "two"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())  # a page that is not yet written stays
    (tmp_path / "folder" / "nowhere").symlink_to(tmp_path / "no such file")
    try:
        assert all(map(is_cached, paths))
        with open(paths[0], "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if is_cached(paths[0]):
            pytest.skip("this file system keeps its files in memory")
    except OSError as problem:
        pytest.skip(f"this file system cannot say what is in memory: {problem}")
    cold_start.drop_from_page_cache([tmp_path / "folder"])
    assert not any(map(is_cached, paths[1:]))
