"""Peak memory of this process, on the host and on the device."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

STATUS = Path("/proc/self/status")  # of Linux


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
