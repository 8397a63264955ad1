"""The machine-wide advisory lock of a device, which a timed attempt holds so that two never share the device."""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from bench.errors import UnavailableHere
from bench.process_identity import ProcessIdentity, current_process, has_ended

if TYPE_CHECKING:
    import torch

# The same folder for all users, whose folders for temporary files may differ.
LOCKS = Path(tempfile.gettempdir() if sys.platform == "win32" else "/tmp")


def device_lock_path(device: "torch.device") -> Path:
    """The lock file of a device; each GPU has its own."""
    name = device.type
    if device.type == "cuda":
        import torch

        if torch.cuda.is_available():
            name += f"-{torch.cuda.get_device_properties(device).uuid}"
    return LOCKS / f"addition-speedrun-{name}.lock"


@contextlib.contextmanager
def device_lock(device: "torch.device", on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a device; `on_wait` is called before waiting for another process that holds it.

    Raises UnavailableHere if it cannot be locked.
    """
    path = device_lock_path(device)
    descriptor = open_lock_file(path)
    try:
        try:
            if not filelock.lock_descriptor(descriptor, blocking=False):
                on_wait()
                filelock.lock_descriptor(descriptor)
        except OSError as problem:
            raise lock_problem(path, problem) from None
        write_holder(descriptor)
        yield
    finally:
        os.close(descriptor)


def write_holder(descriptor: int) -> None:
    """Name this process in the locked file, for those who wait. Another user's file cannot be written to."""
    process = current_process()
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        if process is not None:
            os.write(descriptor, json.dumps(dataclasses.asdict(process)).encode())


def find_holder(device: "torch.device") -> tuple[int, float] | None:
    """The id of the process that holds the lock of a device, and for how many seconds; None if unknown."""
    path = device_lock_path(device)
    with contextlib.suppress(OSError, ValueError, TypeError):
        process = ProcessIdentity(**json.loads(path.read_bytes()))
        if has_ended(process) is False:
            return process.pid, max(0.0, time.time() - path.stat().st_mtime)
    return None


def check_device_lock(device: "torch.device") -> None:
    """Raise UnavailableHere if the lock of a device cannot be opened. Does not wait for it."""
    os.close(open_lock_file(device_lock_path(device)))


def open_lock_file(path: Path) -> int:
    """A descriptor of the lock file of this or another user, which is created for all users.

    `filelock.FileLock` refuses another user's file in a folder like /tmp, because that user could remove it. Then two
    attempts would share the device, which the noise monitor reports; so nothing is lost by accepting it.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    try:
        with contextlib.suppress(FileNotFoundError):
            try:
                return os.open(path, flags)  # without O_CREAT, with which Linux refuses another user's file
            except PermissionError:
                return os.open(path, os.O_RDONLY)  # enough for a lock
        descriptor = os.open(path, flags | os.O_CREAT, 0o666)
    except OSError as problem:
        raise lock_problem(path, problem) from None
    if hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, 0o666)  # the umask has taken away the rights of other users
    return descriptor


def lock_problem(path: Path, problem: OSError) -> UnavailableHere:
    reason = problem.strerror or str(problem)
    return UnavailableHere(
        f"the lock of the device cannot be used ({path}: {reason}); "
        "make it usable, or give speedrun.py the option --shared, which runs without it; the run is not clean"
    )
