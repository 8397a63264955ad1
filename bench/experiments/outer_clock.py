"""How a command hears the attempt that it started, and knows when each word was said.

On a busy machine the command may sleep through a word for tens of milliseconds, which would be the attempt's fault by
the outer clock. So the words come through a socket whose messages the kernel stamps as they are written, where it can
(Linux does); elsewhere a word counts from when it is read.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from bench.clock import OFF, ON, PHASES, STOP

CAN_HAND_OVER = os.name == "posix"  # a descriptor to a child process
LONGEST_MESSAGE = 2**16  # bytes
STAMPS = 35  # SO_TIMESTAMPNS of Linux's asm-generic/socket.h, for which Python has no name
TIMESPEC = struct.Struct("@ll")  # seconds and nanoseconds of CLOCK_REALTIME


class EdgeListener:
    """Listens, in a thread, to what a child process writes to `descriptor`."""

    def __init__(self, heed: Callable[[str, float], None]) -> None:
        """`heed` is told each line, and when it was written, seconds of `time.perf_counter`."""
        self.heed = heed
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # read without stamps, then
                self.ours.setsockopt(socket.SOL_SOCKET, STAMPS, 1)
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    @property
    def descriptor(self) -> int:
        return self.theirs.fileno()

    def listen(self) -> None:
        while True:
            message, beside, *_ = self.ours.recvmsg(LONGEST_MESSAGE, socket.CMSG_SPACE(TIMESPEC.size))
            if not message:
                return
            written = time.perf_counter() - delay_since_write(beside)
            for line in message.decode("utf-8", "replace").splitlines():
                self.heed(line, written)

    def close(self) -> None:
        """Once the child has ended: hear the rest of what it wrote."""
        self.theirs.send(b"")  # a grandchild may hold its end open, so that nothing else says that this was all
        self.thread.join()
        self.ours.close()
        self.theirs.close()


def delay_since_write(beside: list[tuple[int, int, bytes]]) -> float:
    """Seconds since a message was written, by the stamp that came beside it; 0 without one."""
    for level, kind, stamp in beside:
        if (level, kind) == (socket.SOL_SOCKET, STAMPS) and len(stamp) == TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack(stamp)
            return max(0.0, (time.time_ns() - seconds * 10**9 - nanoseconds) / 1e9)
    return 0.0


TOLERANCE, TOLERANCE_SECONDS = 0.02, 0.02  # between the two clocks, for each phase


# -----------------------------------------------------------------------------
# the outer clock


def outer_seconds(started: float, heard: Iterable[tuple[str, float]]) -> dict[str, float | None]:
    """The phases' seconds, and `total`, from the edges that an attempt announced.

    Args:
        started: when the process was started, seconds on the outer clock.
        heard: each announcement, and when it was made. What is no announcement is passed over.

    Returns:
        The seconds of each phase that was ended by the edge that should end it, of all together when the attempt
        stopped; else None.
    """
    seconds: dict[str, float | None] = dict.fromkeys((*PHASES, "total"))
    phase, edge, off_since, total = "import", started, None, 0.0
    for word, now in heard:
        if word == OFF and phase == "setup":  # the device's turn is waited for there, and nowhere else
            off_since = now
        elif word == ON and off_since is not None:
            edge, off_since = edge + now - off_since, None
        elif word in (*PHASES, STOP) and phase != STOP:
            seconds[phase] = now - edge
            total += now - edge
            phase, edge = word, now
    seconds["total"] = total if phase == STOP else None
    return seconds


def disagreements(inner: Mapping[str, float | None], outer: Mapping[str, float | None]) -> list[str]:
    """A sentence about each phase in which the two clocks differ by more than 2% + 20 ms, or that only one of them saw.

    The tolerance is taken of the outer clock's seconds, in both directions.
    """
    sentences = []
    for phase in (*PHASES, "total"):
        inside, outside = inner[phase], outer[phase]
        if inside is None and outside is None:
            continue
        if inside is None or outside is None:
            sentences.append(f"the clocks disagree about {phase}: only one of them saw it")
        elif abs(inside - outside) > TOLERANCE * outside + TOLERANCE_SECONDS:
            sentences.append(f"the clocks disagree about {phase}: {inside:.3f} s inside, {outside:.3f} s outside")
    return sentences
