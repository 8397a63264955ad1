"""The identity of a process, by which another process can prove that it has ended.

A process id alone proves nothing: ids are used again after a restart, and each container has its own. So the identity
also names the boot of the system, the namespace of process ids, and the time at which the process started.
"""

import dataclasses
import os
import sys
from pathlib import Path

PROC = Path("/proc")


@dataclasses.dataclass(frozen=True)
class ProcessIdentity:
    """One process; equal identities are the same process. It names no host and no user."""

    boot: str
    namespace: str
    pid: int
    started: str


def current_process() -> ProcessIdentity | None:
    """The identity of this process; None where the system does not tell."""
    return identify(os.getpid())


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a running process of this system; None if there is none, or where the system does not tell."""
    system = current_system()
    started = None if system is None else start_time(pid)
    return None if system is None or started is None else ProcessIdentity(*system, pid, started)


def has_ended(process: ProcessIdentity) -> bool | None:
    """Whether a process has ended; None if that cannot be told from here: another boot, container or machine."""
    if current_system() != (process.boot, process.namespace):
        return None
    started = start_time(process.pid)
    if started is None and exists(process.pid):
        return None  # a process of another user may be hidden
    return started != process.started


def current_system() -> tuple[str, str] | None:
    """The boot of the system and the namespace of process ids that this process sees; None if unknown."""
    if sys.platform != "linux":
        import psutil

        return f"{psutil.boot_time():.0f}", ""
    try:
        if os.readlink(PROC / "self") != str(os.getpid()):  # the /proc of another namespace is mounted
            return None
        return (PROC / "sys/kernel/random/boot_id").read_text().strip(), os.readlink(PROC / "self/ns/pid")
    except OSError:
        return None


def start_time(pid: int) -> str | None:
    """When a process started, in the system's own unit; None if it has ended, or is hidden."""
    if sys.platform != "linux":
        import psutil

        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
        except psutil.Error:
            return None
    try:
        # The command, in parentheses, may contain anything. Behind it: 0 the state, 19 the start in clock ticks.
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    except (OSError, IndexError):
        return None


def exists(pid: int) -> bool:
    """Whether a process id is in use by a process that this one cannot look at."""
    if sys.platform == "win32":  # where signal 0 would end the process
        import psutil

        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False  # visible to this process, so its start time would be, too, unless it is a zombie
