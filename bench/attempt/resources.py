"""What an attempt holds while it runs: the device lock and empty compile caches."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.attempt.plan import AttemptPlan
from bench.experiments.device_turn import hold_devices


@contextlib.contextmanager
def device_turn(plan: AttemptPlan) -> Iterator[None]:
    """Hold the lock of the device, or of all GPUs that are trained on together; prints a line if it has to wait.

    Of several processes, the first one on each machine acquires the locks.
    Raises UnavailableHere if a lock cannot be used.
    """
    if plan.request.shared or plan.world.local_rank:
        yield
        return
    devices = [plan.device]
    if plan.world.size > 1 and plan.device.type == "cuda":
        devices = [torch.device("cuda", index) for index in range(plan.world.local_size)]

    with hold_devices(devices):
        yield


@contextlib.contextmanager
def empty_compile_caches(plan: AttemptPlan) -> Iterator[None]:
    """Give torch.compile empty caches, so that the `total` of every attempt includes compilation."""
    if not plan.settings.compile:
        yield
        return
    names = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
    outer_values = {name: os.environ[name] for name in names if name in os.environ}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ |= {name: str(Path(folder, name)) for name in names}
        try:
            yield
        finally:
            for name in names:
                del os.environ[name]
            os.environ |= outer_values
