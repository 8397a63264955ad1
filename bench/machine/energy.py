"""Energy consumption over a phase: NVML for GPUs, RAPL for CPUs."""

from pathlib import Path

import torch

from bench.machine.hardware import gpu_joules, nvml_handle, query_nvml

POWERCAP = Path("/sys/class/powercap")


class Package:
    """The RAPL energy counter of one processor package (cores and caches; Intel and AMD, on Linux)."""

    def __init__(self, zone: Path) -> None:
        self.counter = zone / "energy_uj"
        self.range_joules = int((zone / "max_energy_range_uj").read_text()) / 1e6  # the counter wraps around here

    def joules(self) -> float:
        """The counter's value, from an arbitrary zero."""
        return int(self.counter.read_text()) / 1e6


class EnergyMeter:
    """The energy consumption of the device, by NVML for a GPU and by RAPL for a CPU, where this process may read them.

    Both include the work of other processes. NVML's counter covers the whole board, RAPL's the processor packages
    without the memory. NVML updates about 10 times a second, RAPL about 1000 times. Created once in advance, so that a
    reading is cheap enough for the edge of a phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.gpu = query_nvml(lambda: nvml_handle(device)) if device.type == "cuda" else None
        self.packages = find_packages() if device.type == "cpu" else []

    def reading(self) -> list[float] | None:
        """Joules of each counter; None if one cannot be read."""
        if self.gpu is not None:
            joules = gpu_joules(self.gpu)
            return None if joules is None else [joules]
        try:
            return [package.joules() for package in self.packages] or None
        except (OSError, ValueError):  # on most systems only root may read RAPL
            return None

    def since(self, begin: list[float] | None) -> tuple[float | None, str | None]:
        """Joules since an earlier reading, and their source, `NVML` or `RAPL`; (None, None) if not measured."""
        end = self.reading()
        if begin is None or end is None:
            return None, None
        if self.gpu is not None:
            spent = end[0] - begin[0]
            return (spent, "NVML") if spent else (None, None)  # the counter was not updated in so short a time
        readings = zip(self.packages, begin, end, strict=True)
        return sum((after - before) % package.range_joules for package, before, after in readings), "RAPL"


def find_packages() -> list[Package]:
    """The processor packages that RAPL measures: without their parts, and without `psys`, which contains them.

    The parts of the zone `intel-rapl:0` are named `intel-rapl:0:0`; `intel-rapl-mmio:0` is the same counter again.
    """
    try:
        zones = [zone for zone in sorted(POWERCAP.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        return [Package(zone) for zone in zones if (zone / "name").read_text().startswith("package-")]
    except (OSError, ValueError):
        return []
