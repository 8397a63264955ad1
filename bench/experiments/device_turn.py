"""Holding the lock of a device, with a line for whoever has to wait for it."""

import contextlib
import functools
from collections.abc import Iterable, Iterator

import torch

from bench.cli import print_progress
from bench.formatting import duration
from bench.machine.device_lock import device_lock, device_lock_path, find_holder


@contextlib.contextmanager
def hold_devices(devices: Iterable[torch.device]) -> Iterator[None]:
    """Hold the locks of devices, in a fixed order, which excludes deadlocks; prints a line if it has to wait.

    Raises UnavailableHere if a lock cannot be used.
    """
    with contextlib.ExitStack() as held:
        for device in sorted(devices, key=device_lock_path):
            held.enter_context(device_lock(device, functools.partial(announce_wait, device)))
        yield


def announce_wait(device: torch.device) -> None:
    holder = find_holder(device)
    known = "another attempt holds it"
    if holder is not None:
        known = f"process {holder[0]} has held it for {duration(holder[1])}"
    print_progress(f"waiting for the {device.type} device: {known}")
