"""Peak memory of this process, and free memory, on the host and on the device."""

import ctypes
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.machine.control_group import group_folders, read_words

if TYPE_CHECKING:
    import torch

STATUS = Path("/proc/self/status")  # of Linux
NO_LIMIT_FROM = 2**60  # bytes; version 1 writes a number near 2**63 where there is no limit


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    # On Linux, ru_maxrss starts at the resident set of the process that started this one: it is kept across exec.
    if STATUS.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes if sys.platform == "darwin" else kibibytes_or_bytes * 1024


def peak_device_memory_bytes(device: "torch.device") -> int | None:
    """The most CUDA memory that torch has reserved so far, CUDA graphs included; None for other devices."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_reserved(device)


def release_freed_memory() -> None:
    """Return freed memory to the operating system. Has no effect with other C libraries than glibc.

    An allocator that keeps freed memory, as `startup.keep_freed_memory` asks for, is fast for a step, whose buffers
    have the same sizes again and again. Buffers of many sizes, as for texts of many lengths, would fragment it.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def free_memory_bytes() -> int:
    """The memory that this process can still take: what the system has available, within its control groups' limits."""
    return min([psutil.virtual_memory().available, *control_group_free_bytes()])


def control_group_free_bytes() -> list[int]:
    """What each control group of this process can still take; groups of version 1 and 2 that have a limit.

    Pages of files that the system can drop are free.
    """
    free = []
    for controller, limit_name, usage_name, droppable in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in group_folders(controller):
            limit, usage = (read_words(folder / name) for name in (limit_name, usage_name))
            if limit and usage and limit != ["max"] and int(limit[0]) < NO_LIMIT_FROM:
                words = read_words(folder / "memory.stat")
                counters = dict(zip(words[::2], words[1::2], strict=False))
                used = int(usage[0]) - int(counters.get(droppable, 0))
                free.append(max(0, int(limit[0]) - used))
    return free


def free_device_memory_bytes(device: "torch.device") -> int:
    """The free memory of a GPU, or that of the host for other devices."""
    if device.type != "cuda":
        return free_memory_bytes()
    import torch

    return torch.cuda.mem_get_info(device)[0]
