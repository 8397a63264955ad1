"""Measured limits of the machine: peak FLOP/s of matrix products, cost of a kernel launch."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
