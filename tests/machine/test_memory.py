"""Peak memory of this process and of the device."""

import mmap
import subprocess
import sys

import psutil
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
