"""Measured limits of the machine: peak FLOP/s of matrix products, cost of a kernel launch."""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.storage.machines import known_peak, machine_peaks_file
from bench.storage.schema import MachinePeak, Run

PEAK_SECONDS = 0.3
MIN_SIZE, MAX_SIZE_ON_CPU, MAX_SIZE_ON_GPU = 256, 2048, 8192  # rows and columns of the matrices


def machine_peak(run: Run, results: Path, is_kept: bool = True) -> MachinePeak:
    """The limits of the machine of a run, in its precision: those in a results folder, or measured now and kept there.

    A new measurement is not kept unless `is_kept`.
    """
    machine_class, device = run.machine.class_ or "", torch.device(run.device)
    peak = known_peak(results, machine_class, run.precision)
    if peak is None:
        peak = measure_peak(machine_class, device, getattr(torch, run.precision), run.threads or 1)
        if is_kept:
            machine_peaks_file(results).append(peak)
    return peak


def measure_peak(machine_class: str, device: torch.device, dtype: torch.dtype, threads: int) -> MachinePeak:
    """Measure the limits of this machine; takes about 0.4 s."""
    return MachinePeak(
        machine_class=machine_class,
        precision=str(dtype).removeprefix("torch."),
        matmul_flops_per_second=matmul_peak(device, dtype, threads),
        launch_seconds=launch_seconds(device),
        measured_at=datetime.now(UTC),
    )


def matmul_peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """The highest FLOP/s measured for a square matrix product in `dtype`; a multiply-add counts as 2 FLOPs.

    The best single product of about 0.3 s. The matrices grow as long as time allows, because bfloat16 is a hundred
    times slower on a CPU without instructions for it. Uses up to 40 MB on a CPU and 800 MB on a GPU, so read the peak
    memory of the attempt before.
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        max_size = MAX_SIZE_ON_CPU if device.type == "cpu" else MAX_SIZE_ON_GPU
        n, best = MIN_SIZE, 0.0
        operands = square_matrices(n, device, dtype)
        product_seconds(operands)  # initialises the libraries
        deadline = time.perf_counter() + PEAK_SECONDS
        while (seconds_left := deadline - time.perf_counter()) > 0 or not best:
            seconds = product_seconds(operands)
            best = max(best, 2 * n**3 / seconds)
            if n < max_size and 2**3 * seconds < seconds_left:
                n *= 2
                operands = square_matrices(n, device, dtype)
        return best
    finally:
        torch.set_num_threads(threads_before)


def square_matrices(n: int, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """Two random factors (zeros may multiply faster) and the output matrix, (n, n) each."""
    generator = torch.Generator(device).manual_seed(0)  # leaves the global random state alone
    return [torch.randn(n, n, generator=generator, device=device).to(dtype) for _ in range(3)]


def product_seconds(operands: list[torch.Tensor]) -> float:
    a, b, product = operands
    return seconds_of(lambda: torch.mm(a, b, out=product), a.device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The time of `work`, from an idle device to an idle device."""
    synchronize = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    synchronize()
    begun = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - begun


class LaunchCounter(TorchDispatchMode):
    """Counts the torch operations in its `with` block, including those of backward, but not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, which takes a second, to exempt this class from it

    def __torch_dispatch__(
        self, operation: Any, _: Any, values: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        self.count += not operation.is_view
        return operation(*values, **(options or {}))


def launches_of(work: Callable[[], object]) -> int:
    """The number of torch operations that `work` executes."""
    with LaunchCounter() as counter:
        work()
    return counter.count


def launch_seconds(device: torch.device, repetitions: int = 2000, rounds: int = 5) -> float:
    """Seconds per operation in a sequence of operations on a single number: the median of the rounds."""
    number = torch.zeros(1, device=device)

    def run_round() -> None:
        for _ in range(repetitions):
            number.add_(1)

    seconds_of(run_round, device)
    return statistics.median(seconds_of(run_round, device) for _ in range(rounds)) / repetitions
