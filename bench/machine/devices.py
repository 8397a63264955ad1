"""The device of an attempt. Imports torch on use."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UnavailableHere

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> "torch.device":
    """Resolve `auto`, `cpu`, `cuda` or `mps`; `auto` is CUDA if available, else the CPU.

    MPS has to be requested: it has not been shown to be faster for models this small. Raises UnavailableHere.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if available["cuda"] else "cpu"
    if not available.get(name):
        raise UnavailableHere(f"there is no {name} device on this machine; use --device auto or --device cpu")
    return torch.device(name)


def pick_device_type(name: str) -> str:
    """The type of the device that `pick_device` returns, without torch where the CPU is certain."""
    return "cpu" if name == "cpu" or (name == "auto" and not may_have_cuda()) else pick_device(name).type


def may_have_cuda() -> bool:
    """Whether torch may find a GPU: there is a driver of NVIDIA, or the system does not show whether there is one."""
    return sys.platform == "win32" or any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg"))
