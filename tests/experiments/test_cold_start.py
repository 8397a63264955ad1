"""Cold starts: the order of the attempts, their medians, what is refused, and dropping files for real."""

import contextlib
import os
import subprocess
import time
from typing import Any

import pytest

from bench.errors import UsageError
from bench.experiments import cold_start
from bench.storage.schema import Run
from tests.support.examples import example_run, example_seconds


def run_of(total: float, **changes: Any) -> Run:
    return example_run(seconds=example_seconds(total=total), **changes)


def measure(monkeypatch: pytest.MonkeyPatch, totals: list[float], **changes: Any) -> tuple[Any, list[str]]:
    """Measure with attempts of these seconds; also returns what was done, in order."""
    done: list[str] = []

    def timed_attempt(device: str) -> Run:
        done.append(f"attempt on {device}")
        return run_of(totals[done.count(done[-1]) - 1], **changes)

    monkeypatch.setattr(cold_start, "timed_attempt", timed_attempt)
    monkeypatch.setattr(cold_start, "drop_from_page_cache", lambda folders: done.append("drop"))
    return cold_start.measure_cold_start("cpu"), done


def test_cold_and_warm_attempts_are_made_in_turn_after_one_that_does_not_count(monkeypatch) -> None:
    totals = [30.0, *(4.0, 1.5), *(9.0, 1.4), *(4.2, 2.0)]
    start, done = measure(monkeypatch, totals)
    assert done == ["attempt on cpu", *["drop", "attempt on cpu", "attempt on cpu"] * 3]
    assert (start.attempts, start.cold_total_seconds, start.warm_total_seconds) == (3, 4.2, 1.5)
    run = example_run()
    assert (start.machine_class, start.config) == (run.machine.class_, run.config)
    assert start.source_sha256 == run.source_sha256
    with pytest.raises(UsageError, match="the machine class is unknown"):
        measure(monkeypatch, totals, machine={"class": None, "clean": None, "reasons": []})
    monkeypatch.delattr(os, "RWF_NOWAIT")
    with pytest.raises(UsageError, match="cannot drop files from its page cache; Linux can"):
        cold_start.measure_cold_start("cpu")


@pytest.mark.parametrize(
    ("status", "changes", "problem"),
    [
        (0, {}, None),
        (1, {"outcome": "missed"}, None),
        (2, {}, "--measure-cold: there is no cuda device"),
        (
            1,
            {"outcome": "diverged", "certificate": None, "message": "not finite"},
            r"without a certificate \(diverged: not finite\)",
        ),
        (0, {"machine": {"class": "Example CPU", "clean": False, "reasons": ["a", "b"]}}, r"not clean \(a; b\)"),
    ],
)
def test_an_attempt_is_not_journalled_and_must_be_clean_and_certified(monkeypatch, status, changes, problem) -> None:
    def run_python(arguments: list[str]) -> Any:
        assert arguments[1:] == ["--device", "cpu", "--no-journal", "--json"]
        line = run_of(2.0, **changes).model_dump_json()
        return subprocess.CompletedProcess(arguments, status, f"{line}\n", "progress\nthere is no cuda device\n")

    monkeypatch.setattr(cold_start, "run_python", run_python)
    if problem is None:
        assert cold_start.timed_attempt("cpu").seconds.total == 2.0
    else:
        with pytest.raises(UsageError, match=f"{problem}$"):
            cold_start.timed_attempt("cpu")


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="this system cannot say what is in its page cache")
def test_the_files_of_a_folder_leave_the_page_cache(tmp_path) -> None:
    paths = [tmp_path / "probe", tmp_path / "folder" / "one", tmp_path / "folder" / "below" / "two"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(bytes(2**17 if path.name == "two" else 2**16))
            file.flush()
            os.fsync(file.fileno())  # a page that is not yet written stays
    (tmp_path / "folder" / "nowhere").symlink_to(tmp_path / "no such file")
    with open(paths[0], "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        if cold_start.is_cached(paths[0]):
            pytest.skip("this file system keeps its files in memory")
    except OSError as problem:
        pytest.skip(f"this file system cannot say what is in memory: {problem}")
    assert all(map(cold_start.is_cached, paths[1:]))
    for _ in range(50):  # a page that was just written stays until the kernel has put it into its lists
        with contextlib.suppress(UsageError):
            cold_start.drop_from_page_cache([str(tmp_path / "folder")])
        if not cold_start.is_cached(paths[1]):  # asked once, as the question may read the file into the cache again
            break
        time.sleep(0.1)
    else:
        pytest.fail("the file stays in the page cache")


def test_the_largest_file_must_leave_the_page_cache(tmp_path, monkeypatch) -> None:
    for name, size in (("small", 10), ("libtorch.so", 1000)):
        (tmp_path / name).write_bytes(bytes(size))
    monkeypatch.setattr(cold_start, "is_cached", lambda path: path.endswith("libtorch.so"))
    with pytest.raises(UsageError, match=r"libtorch\.so stays in the page cache, because another process uses it; end"):
        cold_start.drop_from_page_cache([str(tmp_path)])
