"""What an attempt does before torch is imported, which takes about a second.

A wrong command line is refused at once, the C compiler starts to work beside the import, and two things are noted that
the import changes: the counters that show how busy the machine is, and the cores that this process may use.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from bench.attempt.memory import check_memory, estimate_memory_bytes
from bench.attempt.request import CommandLine, read_command_line
from bench.cli import with_option_names
from bench.errors import UsageError
from bench.machine.devices import may_have_cuda
from bench.machine.memory import free_memory_bytes
from bench.machine.noise import CounterReading, NoiseMonitor
from bench.machine.policy import kernel_precisions

counters_at_start: CounterReading | None = None  # read by `prepare`


def prepare(settings_type: type, arguments: Sequence[str], description: str) -> None:
    """Do all of it; raises UsageError for a wrong command line.

    The command line is not read where that has to wait for torch: a short config name depends on the device.
    """
    global counters_at_start
    counters_at_start = NoiseMonitor(None).reading()
    if list(arguments) != ["--plans"] and "TORCHELASTIC_RUN_ID" not in os.environ and not may_have_cuda():
        try:
            command_line = read_command_line(
                settings_type, arguments, description, lambda name: "cpu" if name == "auto" else name
            )
            check_memory_early(command_line.settings)
        except UsageError as problem:
            raise UsageError(with_option_names(str(problem), arguments)) from None
        start_compiler(command_line)


def check_memory_early(settings: Any) -> None:
    """Raises UnavailableHere: the memory is not enough on a CPU, whatever precision and kernel will be chosen."""
    kernel = "torch" if settings.kernel == "torch" or settings.kernel_problem else "c"
    precisions = ["float32", "bfloat16"] if settings.precision == "auto" else [settings.precision]
    resolved = [dataclasses.replace(settings, device="cpu", precision=each, kernel=kernel) for each in precisions]
    estimates = [estimate for each in resolved if (estimate := estimate_memory_bytes(each)) is not None]
    check_memory(min(estimates, default=None), free_memory_bytes())


def start_compiler(command_line: CommandLine) -> None:
    """Start to compile the C kernel that the plan will try first, if there is one."""
    settings = command_line.settings
    device_type = "cpu" if settings.device == "auto" else settings.device
    precisions = kernel_precisions(settings.precision, settings.kernel, device_type)
    if precisions and settings.kernel_problem is None:
        settings.kernel_compilation(next(iter(precisions)))
