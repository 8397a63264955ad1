"""Energy from RAPL counters in a temporary folder and from a fake NVML."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bench.machine import energy as energy_module
from bench.machine.energy import EnergyMeter

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


def test_the_energy_of_a_cpu_is_the_sum_over_its_packages(powercap: Path) -> None:
    make_zone(powercap / "intel-rapl:0", "package-0", 100.0)
    make_zone(powercap / "intel-rapl:1", "package-1", 7.0)
    energy = EnergyMeter(CPU)
    begin = energy.reading()
    make_zone(powercap / "intel-rapl:0", "package-0", 112.5)
    make_zone(powercap / "intel-rapl:1", "package-1", 10.0)
    assert energy.since(begin) == (pytest.approx(15.5), "RAPL")


def test_parts_of_a_package_and_zones_that_contain_it_are_not_counted_again(powercap: Path) -> None:
    make_zone(powercap / "intel-rapl:0", "package-0", 1.0)
    make_zone(powercap / "intel-rapl:0:0", "core", 2.0)
    make_zone(powercap / "intel-rapl:0:1", "package-of-a-package", 4.0)
    make_zone(powercap / "intel-rapl:1", "psys", 8.0)
    make_zone(powercap / "intel-rapl-mmio:0", "package-0", 16.0)
    assert EnergyMeter(CPU).reading() == [1.0]


def test_a_counter_that_wraps_around_is_handled(powercap: Path) -> None:
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
def test_counters_that_only_root_may_read_give_no_energy(
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


def test_a_counter_that_disappears_gives_no_energy(powercap: Path) -> None:
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
def nvml(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An NVML with the counter `millijoules`, not supported if None; RAPL counters are present as well."""
    make_zone(powercap / "intel-rapl:0", "package-0", 1.0)
    module: Any = ModuleType("pynvml")
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


def test_the_energy_of_a_gpu_is_nvml_s(nvml: Any) -> None:
    energy = EnergyMeter(CUDA)
    begin = energy.reading()
    nvml.millijoules = 7_250
    assert energy.since(begin) == (pytest.approx(2.25), "NVML")


def test_a_counter_that_was_not_updated_gives_unknown_and_not_zero(nvml: Any) -> None:
    energy = EnergyMeter(CUDA)
    assert energy.since(energy.reading()) == (None, None)


def test_a_gpu_that_does_not_count_has_no_energy(nvml: Any) -> None:
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
