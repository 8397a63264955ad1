"""What the machine spends and could do: energy over a phase, the peak of its matrix products, the cost of a launch."""

from pathlib import Path

import torch

from bench.machine.hardware import ask_nvml, gpu_joules, nvml_handle

# -----------------------------------------------------------------------------
# energy

POWERCAP = Path("/sys/class/powercap")


class Package:
    """The counter of one processor package, cores and caches, by RAPL: Intel's and AMD's, as Linux shows it."""

    def __init__(self, zone: Path) -> None:
        self.counter = zone / "energy_uj"
        self.range_joules = int((zone / "max_energy_range_uj").read_text()) / 1e6  # where it starts again at 0

    def joules(self) -> float:
        return int(self.counter.read_text()) / 1e6


class EnergyMeter:
    """The energy that the device takes: a GPU's by NVML, a CPU's by RAPL, where this process may read them.

    Both count whatever runs on the device, ours or not. NVML's counter is of the whole board, RAPL's of the processor
    packages without the memory. NVML renews its count some ten times a second, RAPL a thousand times.

    Made once, so that a reading is cheap enough for the edge of a phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.gpu = ask_nvml(lambda: nvml_handle(device)) if device.type == "cuda" else None
        self.packages = find_packages() if device.type == "cpu" else []

    def reading(self) -> list[float] | None:
        """Joules on each counter; None where one cannot be read."""
        if self.gpu is not None:
            joules = gpu_joules(self.gpu)
            return None if joules is None else [joules]
        try:
            return [package.joules() for package in self.packages] or None
        except (OSError, ValueError):  # most systems let only root read RAPL
            return None

    def since(self, begin: list[float] | None) -> tuple[float | None, str | None]:
        """Joules since a reading, and who counted them, NVML or RAPL; (None, None) when nobody did."""
        end = self.reading()
        if begin is None or end is None:
            return None, None
        if self.gpu is not None:
            spent = end[0] - begin[0]
            return (spent, "NVML") if spent else (None, None)  # not renewed in so short a time
        readings = zip(self.packages, begin, end, strict=True)
        return sum((after - before) % package.range_joules for package, before, after in readings), "RAPL"


def find_packages() -> list[Package]:
    """The packages that RAPL counts; not their parts, and not `psys`, which contains them. Empty where it counts none.

    A zone `intel-rapl:0` has parts `intel-rapl:0:0`; `intel-rapl-mmio:0` is another way to the same counter.
    """
    try:
        zones = [zone for zone in sorted(POWERCAP.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        return [Package(zone) for zone in zones if (zone / "name").read_text().startswith("package-")]
    except (OSError, ValueError):
        return []
