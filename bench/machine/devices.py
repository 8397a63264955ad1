"""The device of an attempt."""

import torch

from bench.errors import UnavailableHere


def pick_device(name: str) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda` or `mps`; `auto` is CUDA if available, else the CPU.

    MPS has to be requested: it has not been shown to be faster for models this small. Raises UnavailableHere.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if available["cuda"] else "cpu"
    if not available.get(name):
        raise UnavailableHere(f"there is no {name} device on this machine; use --device auto or --device cpu")
    return torch.device(name)
