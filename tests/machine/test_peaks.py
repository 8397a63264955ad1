"""Peak FLOP/s of matrix products on a fake clock and on this machine, and counted operations."""

import time

import pytest
import torch

from bench.machine import peaks
from bench.machine.peaks import matmul_peak

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

# -----------------------------------------------------------------------------
# peak FLOP/s


class FakeProducts:
    """Products on a fake clock at `flops_per_second`; every other one takes twice as long."""

    def __init__(self, flops_per_second: float) -> None:
        self.flops_per_second = flops_per_second
        self.now = 0.0
        self.sizes: list[int] = []

    def matrices(self, n: int, device: torch.device, dtype: torch.dtype) -> int:
        return n

    def product_seconds(self, n: int) -> float:
        self.sizes.append(n)
        seconds = 2 * n**3 / self.flops_per_second * (1 + len(self.sizes) % 2)
        self.now += seconds
        return seconds


@pytest.mark.parametrize(
    ("device", "flops_per_second", "largest"),
    [(CPU, 5e8, 256), (CPU, 5e10, 1024), (CPU, 1e13, 2048), (CUDA, 1e12, 4096), (CUDA, 1e15, 8192)],
)
def test_the_peak_is_the_best_product_within_a_third_of_a_second(
    device: torch.device, flops_per_second: float, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeProducts(flops_per_second)
    monkeypatch.setattr(peaks, "square_matrices", fake.matrices)
    monkeypatch.setattr(peaks, "product_seconds", fake.product_seconds)
    monkeypatch.setattr(time, "perf_counter", lambda: fake.now)
    assert matmul_peak(device, torch.float32, threads=1) == pytest.approx(flops_per_second)
    assert max(fake.sizes) == largest
    assert fake.now < 0.7
    assert len(fake.sizes) > 3


def test_on_an_accelerator_the_device_is_synchronized_before_the_time_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: events.append("synchronize"))
    monkeypatch.setattr(torch, "mm", lambda a, b, out: events.append("product"))
    monkeypatch.setattr(time, "perf_counter", lambda: events.append("clock") or 0.0)
    peaks.product_seconds([torch.empty(2, 2, device="meta")] * 3)
    assert events == ["synchronize", "clock", "product", "synchronize", "clock"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_peak_is_plausible_and_leaves_threads_and_random_state_alone(dtype: torch.dtype) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    peak = matmul_peak(CPU, dtype, threads=1)
    assert 1e6 < peak < 1e15
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_the_peak_uses_the_given_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "PEAK_SECONDS", 0.0)
    seen: list[int] = []
    monkeypatch.setattr(peaks, "product_seconds", lambda operands: seen.append(torch.get_num_threads()) or 1.0)
    matmul_peak(CPU, torch.float32, threads=3)
    assert set(seen) == {3}


# -----------------------------------------------------------------------------
# operation launches


def test_operations_are_counted_with_those_of_backward_and_without_views() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert peaks.launches_of(lambda: weight.detach().view(3, 1)) == 0
    assert peaks.launches_of(lambda: (weight.detach() + 1) * 2) == 2
    forward_only = peaks.launches_of(lambda: (weight * 2).sum())
    assert peaks.launches_of(lambda: (weight * 2).sum().backward()) > forward_only


def test_the_seconds_of_a_launch_are_the_median_round_over_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter([0.0, 9.0, 0.0, 1.0, 0.0, 2.0, 0.0, 6.0])  # the first round does not count
    monkeypatch.setattr(time, "perf_counter", lambda: next(ends))
    assert peaks.launch_seconds(CPU, repetitions=4, rounds=3) == 0.5
