"""What the machine spends and could do: energy over a phase, the peak of its matrix products, the cost of a launch."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.hardware import ask_nvml, gpu_joules, nvml_handle

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


# -----------------------------------------------------------------------------
# the peak

PEAK_SECONDS = 0.3
SMALLEST, LARGEST_ON_CPU, LARGEST_ON_GPU = 256, 2048, 8192  # rows and columns of a product


def matmul_peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """The most FLOP/s that a square matrix product in `dtype` reached here, 2 for each multiply-add.

    The best of those tried for some 0.3 s, each with the device idle before and after: a peak, and no mean. They
    grow for as long as there is time: without instructions of its own, a CPU's bfloat16 is a hundred times slower.

    Takes up to 40 MB on a CPU and 800 MB on a GPU, so peaks of memory are to be read before.
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        largest = LARGEST_ON_CPU if device.type == "cpu" else LARGEST_ON_GPU
        n, best = SMALLEST, 0.0
        operands = square_matrices(n, device, dtype)
        product_seconds(operands)  # libraries start, and choose their kernels
        deadline = time.perf_counter() + PEAK_SECONDS
        while (seconds_left := deadline - time.perf_counter()) > 0 or not best:
            seconds = product_seconds(operands)
            best = max(best, 2 * n**3 / seconds)
            if n < largest and 2**3 * seconds < seconds_left:
                n *= 2
                operands = square_matrices(n, device, dtype)
        return best
    finally:
        torch.set_num_threads(threads_before)


def square_matrices(n: int, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """Two factors, random as zeros would be multiplied faster by some, and room for their product."""
    generator = torch.Generator(device).manual_seed(0)  # not the global one: what follows a peak is as without it
    return [torch.randn(n, n, generator=generator, device=device).to(dtype) for _ in range(3)]


def product_seconds(operands: list[torch.Tensor]) -> float:
    a, b, product = operands
    synchronize = torch.accelerator.synchronize if a.device.type != "cpu" else lambda: None
    synchronize()
    begun = time.perf_counter()
    torch.mm(a, b, out=product)
    synchronize()
    return time.perf_counter() - begun


# -----------------------------------------------------------------------------
# launches


class Launches(TorchDispatchMode):
    """Counts the operations that torch is given in its `with` block, gradients' included; views cost no launch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, _: Any, values: tuple = (), options: dict | None = None) -> Any:
        self.count += not operation.is_view
        return operation(*values, **(options or {}))


def launches_of(work: Callable[[], None]) -> int:
    """How many operations `work` gives to torch."""
    with Launches() as launches:
        work()
    return launches.count


def launch_seconds(device: torch.device, repetitions: int = 2000, rounds: int = 5) -> float:
    """What one operation on a single number takes, back to back with its like: the median of some rounds, seconds."""
    number = torch.zeros(1, device=device)
    synchronize = torch.accelerator.synchronize if device.type != "cpu" else lambda: None

    def once() -> float:
        synchronize()
        begun = time.perf_counter()
        for _ in range(repetitions):
            number.add_(1)
        synchronize()
        return (time.perf_counter() - begun) / repetitions

    once()
    return statistics.median(once() for _ in range(rounds))
