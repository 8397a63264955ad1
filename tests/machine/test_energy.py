"""Counters in a folder made by hand, an NVML that is not there, and products that take the time they are told to."""

import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bench.machine import energy as energy_module
from bench.machine import peaks
from bench.machine.energy import EnergyMeter
from bench.machine.peaks import matmul_peak

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

# -----------------------------------------------------------------------------
# RAPL


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy_module, "POWERCAP", tmp_path)
    return tmp_path


def make_zone(folder: Path, name: str, joules: float, range_joules: float = 262_144.0) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{round(range_joules * 1e6)}\n")
    (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    return folder


def test_the_energy_of_a_cpu_is_what_its_packages_took(powercap: Path) -> None:
    make_zone(powercap / "intel-rapl:0", "package-0", 100.0)
    make_zone(powercap / "intel-rapl:1", "package-1", 7.0)
    energy = EnergyMeter(CPU)
    begin = energy.reading()
    make_zone(powercap / "intel-rapl:0", "package-0", 112.5)
    make_zone(powercap / "intel-rapl:1", "package-1", 10.0)
    assert energy.since(begin) == (pytest.approx(15.5), "RAPL")


def test_parts_of_a_package_and_what_contains_it_are_not_counted_again(powercap: Path) -> None:
    make_zone(powercap / "intel-rapl:0", "package-0", 1.0)
    make_zone(powercap / "intel-rapl:0:0", "core", 2.0)
    make_zone(powercap / "intel-rapl:0:1", "package-of-a-package", 4.0)
    make_zone(powercap / "intel-rapl:1", "psys", 8.0)
    make_zone(powercap / "intel-rapl-mmio:0", "package-0", 16.0)
    assert EnergyMeter(CPU).reading() == [1.0]


def test_a_counter_that_starts_again_at_zero_is_followed(powercap: Path) -> None:
    make_zone(powercap / "intel-rapl:0", "package-0", 990.0, range_joules=1000.0)
    make_zone(powercap / "intel-rapl:1", "package-1", 10.0, range_joules=1000.0)
    energy = EnergyMeter(CPU)
    begin = energy.reading()
    make_zone(powercap / "intel-rapl:0", "package-0", 5.0, range_joules=1000.0)
    make_zone(powercap / "intel-rapl:1", "package-1", 12.0, range_joules=1000.0)
    assert energy.since(begin) == (pytest.approx(17.0), "RAPL")


def test_a_machine_without_counters_has_no_energy(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (powercap, powercap / "nowhere"):
        monkeypatch.setattr(energy_module, "POWERCAP", folder)
        energy = EnergyMeter(CPU)
        assert energy.reading() is None
        assert energy.since(None) == (None, None)


@pytest.mark.parametrize("refused", ["energy_uj", "max_energy_range_uj", "name"])
def test_counters_that_only_root_may_read_are_no_energy(
    refused: str, powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_zone(powercap / "intel-rapl:0", "package-0", 1.0)
    locked = make_zone(powercap / "intel-rapl:1", "package-1", 1.0) / refused
    read_text = Path.read_text

    def read_unlocked(path: Path) -> str:
        if path == locked:
            raise PermissionError(path)
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", read_unlocked)
    energy = EnergyMeter(CPU)
    assert energy.reading() is None  # and not that of the other package alone
    assert energy.since(energy.reading()) == (None, None)


def test_a_counter_that_goes_away_leaves_no_energy(powercap: Path) -> None:
    zone = make_zone(powercap / "intel-rapl:0", "package-0", 1.0)
    energy = EnergyMeter(CPU)
    begin = energy.reading()
    (zone / "energy_uj").write_text("")
    assert begin == [1.0]
    assert energy.since(begin) == (None, None)


# -----------------------------------------------------------------------------
# NVML


class NVMLError_NotSupported(Exception):  # noqa: N801, pynvml's own naming
    pass


@pytest.fixture
def nvml(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An NVML whose counter stands at `millijoules`, or that refuses where it is None; RAPL counts beside it."""
    make_zone(powercap / "intel-rapl:0", "package-0", 1.0)
    module = ModuleType("pynvml")
    module.millijoules = 5_000

    def total_energy(handle: str) -> int:
        assert handle == "handle"
        if module.millijoules is None:
            raise NVMLError_NotSupported
        return module.millijoules

    module.nvmlDeviceGetTotalEnergyConsumption = total_energy
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(energy_module, "nvml_handle", lambda device: "handle")
    return module


def test_the_energy_of_a_gpu_is_what_nvml_counted(nvml: ModuleType) -> None:
    energy = EnergyMeter(CUDA)
    begin = energy.reading()
    nvml.millijoules = 7_250
    assert energy.since(begin) == (pytest.approx(2.25), "NVML")


def test_a_count_that_was_not_renewed_is_unknown_and_not_nothing(nvml: ModuleType) -> None:
    energy = EnergyMeter(CUDA)
    assert energy.since(energy.reading()) == (None, None)


def test_a_gpu_that_does_not_count_has_no_energy(nvml: ModuleType) -> None:
    energy = EnergyMeter(CUDA)
    begin = energy.reading()
    nvml.millijoules = None
    assert energy.since(begin) == (None, None)
    begin = energy.reading()
    nvml.millijoules = 7_250
    assert begin is None
    assert energy.since(begin) == (None, None)


def test_without_nvml_the_energy_of_the_cpu_does_not_stand_for_the_gpu(
    nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(device: torch.device) -> None:
        raise ImportError("pynvml")

    monkeypatch.setattr(energy_module, "nvml_handle", missing)
    for device in (CUDA, torch.device("mps")):
        energy = EnergyMeter(device)
        assert energy.since(energy.reading()) == (None, None)


# -----------------------------------------------------------------------------
# the peak


class FakeProducts:
    """Products that take one over `flops_per_second` of their FLOPs, every other one twice as long, on a fake clock."""

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
def test_the_peak_is_the_best_product_of_a_third_of_a_second(
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


def test_on_an_accelerator_the_clock_waits_for_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: events.append("synchronize"))
    monkeypatch.setattr(torch, "mm", lambda a, b, out: events.append("product"))
    monkeypatch.setattr(time, "perf_counter", lambda: events.append("clock") or 0.0)
    peaks.product_seconds([torch.empty(2, 2, device="meta")] * 3)
    assert events == ["synchronize", "clock", "product", "synchronize", "clock"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_peak_is_plausible_and_leaves_threads_and_random_state_alone(dtype: torch.dtype) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    begun = time.perf_counter()
    peak = matmul_peak(CPU, dtype, threads=1)
    assert time.perf_counter() - begun < 10
    assert 1e6 < peak < 1e15
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_the_peak_runs_on_the_threads_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "PEAK_SECONDS", 0.0)
    seen: list[int] = []
    monkeypatch.setattr(peaks, "product_seconds", lambda operands: seen.append(torch.get_num_threads()) or 1.0)
    matmul_peak(CPU, torch.float32, threads=3)
    assert set(seen) == {3}
