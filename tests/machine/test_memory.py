"""Peak memory of this process and of the device, and free memory."""

import mmap
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from bench.machine import memory
from tests.support.examples import ROOT


def test_the_peak_memory_of_this_process_is_at_least_its_present_memory() -> None:
    resident = psutil.Process().memory_info().rss
    with mmap.mmap(-1, 32 * 2**20) as ballast:  # new pages; an allocation might reuse memory that was freed before
        ballast.write(b"\1" * len(ballast))
        peak = memory.peak_memory_bytes()
        assert peak >= resident
        assert peak >= len(ballast)
    assert peak <= psutil.virtual_memory().total


def test_the_peak_of_a_process_is_not_that_of_the_process_that_started_it() -> None:
    """A batch is started by a process that has read the journal; its attempts may need less memory than that."""
    assert memory.peak_memory_bytes() > 100 * 2**20  # torch is imported here
    code = "from bench.machine import memory; print(memory.peak_memory_bytes())"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(child.stdout) < 50 * 2**20


def test_without_a_status_file_the_peak_is_that_of_the_resource_usage(monkeypatch, tmp_path) -> None:
    usage = memory.peak_memory_bytes()
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert memory.peak_memory_bytes() >= usage // 2


def test_the_peak_device_memory_is_that_of_a_gpu_and_unknown_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2**30)
    assert memory.peak_device_memory_bytes(torch.device("cuda", 0)) == 2**30
    assert memory.peak_device_memory_bytes(torch.device("cpu")) is None


GIB = 2**30


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        ({"proc": "0::/a\n", "a/memory.max": "max", "a/memory.current": f"{GIB}"}, 8 * GIB),
        ({"proc": "0::/a\n", "a/memory.max": f"{3 * GIB}", "a/memory.current": f"{GIB}"}, 2 * GIB),
        (
            {
                "proc": "0::/a\n",
                "a/memory.max": f"{3 * GIB}",
                "a/memory.current": f"{3 * GIB}",
                "a/memory.stat": f"anon {2 * GIB}\ninactive_file {GIB}\n",
            },
            GIB,  # pages of files are dropped where memory is needed
        ),
        ({"proc": "0::/a/b\n", "a/memory.max": f"{GIB}", "a/memory.current": f"{2 * GIB}"}, 0),
        (
            {
                "proc": "4:memory:/x\n0::/\n",
                "memory/x/memory.limit_in_bytes": f"{5 * GIB}",
                "memory/x/memory.usage_in_bytes": f"{2 * GIB}",
                "memory/x/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n",
            },
            4 * GIB,
        ),
        (
            {
                "proc": "4:memory:/x\n0::/\n",
                "memory/memory.limit_in_bytes": "9223372036854771712",  # version 1 without a limit
                "memory/memory.usage_in_bytes": f"{2 * GIB}",
            },
            8 * GIB,
        ),
    ],
)
def test_free_memory_is_within_the_limits_of_the_control_groups(files, expected, monkeypatch: pytest.MonkeyPatch):
    texts = {Path("/proc/self/cgroup"): files.get("proc", "")}
    texts |= {Path("/sys/fs/cgroup", name): text for name, text in files.items() if name != "proc"}

    def read_text(path: Path) -> str:
        if path not in texts:
            raise FileNotFoundError(path)
        return texts[path]

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    assert memory.free_memory_bytes() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="memory is returned by glibc")
def test_freed_memory_is_returned_on_request() -> None:
    code = (
        "import psutil, startup; from bench.machine.memory import release_freed_memory; startup.keep_freed_memory()\n"
        "def resident(): return psutil.Process().memory_info().rss // 2**20\n"
        "parts = [b'1' * 2**20 for _ in range(200)]; del parts; kept = resident()\n"
        "release_freed_memory(); print(kept - resident() > 150)"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout == "True\n"
