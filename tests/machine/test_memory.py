"""Peak memory of this process and of the device."""

import mmap

import psutil
import torch

from bench.machine import memory


def test_the_peak_memory_of_this_process_is_at_least_its_present_memory() -> None:
    resident = psutil.Process().memory_info().rss
    with mmap.mmap(-1, 32 * 2**20) as ballast:  # new pages; an allocation might reuse memory that was freed before
        ballast.write(b"\1" * len(ballast))
        peak = memory.peak_memory_bytes()
        assert peak >= resident
        assert peak >= len(ballast)
    assert peak <= psutil.virtual_memory().total


def test_the_peak_device_memory_is_that_of_a_gpu_and_unknown_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2**30)
    assert memory.peak_device_memory_bytes(torch.device("cuda", 0)) == 2**30
    assert memory.peak_device_memory_bytes(torch.device("cpu")) is None
