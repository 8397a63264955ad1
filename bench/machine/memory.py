"""Peak memory of this process, on the host and on the device."""

import sys

import psutil
import torch


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes if sys.platform == "darwin" else kibibytes_or_bytes * 1024


def peak_device_memory_bytes(device: torch.device) -> int | None:
    """The most CUDA memory that torch has reserved so far, CUDA graphs included; None for other devices."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
