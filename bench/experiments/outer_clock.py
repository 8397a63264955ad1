"""The outer clock: it receives the phase edges that an attempt announces, with their times, and compares the clocks.

On a busy machine this process may read an edge tens of milliseconds late, and the attempt would be blamed for it. So
edges arrive over a datagram socket, on which Linux stamps every message at the moment of writing. On other systems the
time of an edge is the time of reading.
"""

import contextlib
import itertools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable

from bench.clock import OFF, ON, PHASES, STOP
from bench.clock import disagreements as disagreements

CAN_LISTEN = os.name == "posix"  # a child process can inherit a file descriptor
MAX_MESSAGE_BYTES = 2**16
SO_TIMESTAMPNS = 35  # of Linux's asm-generic/socket.h; Python's socket module does not define it
TIMESPEC = struct.Struct("@ll")  # seconds and nanoseconds of CLOCK_REALTIME


class EdgeListener:
    """A thread that reads the lines that a child process writes to `descriptor`."""

    def __init__(self, on_line: Callable[[str, float], None]) -> None:
        """Calls `on_line` with each line and the time of writing, in seconds of `time.perf_counter`."""
        self.on_line = on_line
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # then messages carry no timestamps
                self.ours.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    @property
    def descriptor(self) -> int:
        return self.theirs.fileno()

    def listen(self) -> None:
        while True:
            message, ancillary, *_ = self.ours.recvmsg(MAX_MESSAGE_BYTES, socket.CMSG_SPACE(TIMESPEC.size))
            if not message:
                return
            written = time.perf_counter() - delay_since_write(ancillary)
            for line in message.decode("utf-8", "replace").splitlines():
                self.on_line(line, written)

    def close(self) -> None:
        """Read the remaining lines; call this after the child has ended."""
        self.theirs.send(b"")  # the end mark: a grandchild may keep its end of the socket open
        self.thread.join()
        self.ours.close()
        self.theirs.close()


def delay_since_write(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Seconds since a message was written, from the timestamp in its ancillary data; 0 without one."""
    for level, kind, stamp in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(stamp) == TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack(stamp)
            return max(0.0, (time.time_ns() - seconds * 10**9 - nanoseconds) / 1e9)
    return 0.0


def outer_seconds(started: float, edges: Iterable[tuple[str, float]]) -> dict[str, float | None]:
    """The seconds of each phase that ended with an edge, and `total` if the attempt announced its stop; else None.

    `started` is the start of the process, and `edges` are the announced lines and their times, in seconds of the outer
    clock. Unknown lines are ignored.
    """
    seconds: dict[str, float | None] = dict.fromkeys((*PHASES, "total"))
    phase, edge, off_since, total = "import", started, None, 0.0
    for line, now in edges:
        if line == OFF and phase == "setup":  # the attempt waits for the device lock only in `setup`
            off_since = now
        elif line == ON and off_since is not None:
            edge, off_since = edge + now - off_since, None
        elif line in (*PHASES, STOP) and phase != STOP:
            seconds[phase] = now - edge
            total += now - edge
            phase, edge = line, now
    seconds["total"] = total if phase == STOP else None
    return seconds


def off_seconds(edges: Iterable[tuple[str, float]]) -> float:
    """The seconds that the attempt's clock was off, because it waited for the device lock in `setup`."""
    begun = dict(itertools.takewhile(lambda edge: edge[0] != "warmup", edges))
    return begun[ON] - begun[OFF] if begun.keys() >= {OFF, ON} else 0.0
