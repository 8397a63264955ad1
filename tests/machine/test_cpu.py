"""The cores that this process may use, and the limits of its control group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.machine import cpu
from tests.support.examples import ROOT


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
@pytest.mark.parametrize("variable", ["OMP_PROC_BIND=true", f"GOMP_CPU_AFFINITY={min(os.sched_getaffinity(0))}"])
def test_the_binding_of_openmp_does_not_change_the_cores(variable: str) -> None:
    code = (
        "import os, startup; from bench.machine.cpu import usable_cores; before = os.sched_getaffinity(0)\n"
        "import torch; torch.ones(4) + 1; startup.after_imports()\n"
        "print(len(before) == len(usable_cores()) == len(os.sched_getaffinity(0)))"
    )
    name, _, value = variable.partition("=")
    environment = os.environ | {name: value}
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert answer.stdout == "True\n", answer.stderr


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({}, None), ({"a/b": "max 100000"}, None), ({"a/b": "150000 100000"}, 1.5), ({"a": "100000 100000"}, 1.0)],
)
def test_the_quota_is_the_smallest_of_all_control_groups_around_the_process(
    limits: dict[str, str], expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path) -> str:
        if path == Path("/proc/self/cgroup"):
            return "0::/a/b\n"
        name = path.parent.relative_to("/sys/fs/cgroup").as_posix()
        if path.name != "cpu.max" or name not in limits:
            raise FileNotFoundError(path)
        return limits[name]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert cpu.quota() == expected


@pytest.mark.parametrize(("text", "size"), [("2048K\n", 2**21), ("", None)])
def test_the_size_of_the_second_level_cache_may_be_unknown(
    text: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert cpu.level2_cache_bytes.__wrapped__() == size


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (8.0, 4), (2.5, 2), (0.5, 1)])
def test_no_more_threads_compute_than_the_quota_allows(
    quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(cpu, "quota", lambda: quota)
    assert cpu.default_threads() == threads
