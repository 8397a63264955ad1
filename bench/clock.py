"""Named phases on one monotonic clock, counted from the start of the process.

A command that starts an attempt keeps a clock of its own, the outer one: the attempt announces each edge as it crosses
it, and the command notes when it did (bench.ear). The attempt's clock is the more exact; the outer one is out of its
reach.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import psutil

ClockName = Literal["train", "total"]  # the two that are ranked by
PHASES = ("import", "setup", "warmup", "train", "certify")
MAX_WARMUP_SECONDS = 120.0  # allowed before `train`, which more of it is charged to
OFF, ON, STOP = "off", "on", "stop"  # what is announced beside the phases


def process_age() -> tuple[float, float]:
    """Seconds since this process was started, and the resolution of that figure in seconds.

    On Linux from the start ticks of /proc/self/stat against CLOCK_BOOTTIME, which neither a suspend nor a
    change of the wall clock disturbs; elsewhere from psutil's creation time.
    """
    if sys.platform == "linux":
        with open("/proc/self/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()  # the command's name may hold spaces
        ticks_per_second = os.sysconf("SC_CLK_TCK")
        started = int(fields[19]) / ticks_per_second  # field 22 of proc(5), `starttime`
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started, 1 / ticks_per_second
    return time.time() - psutil.Process().create_time(), 1e-3


class Clock:
    """Splits the life of one attempt into phases; the device is idle at every edge.

    The first phase, `import`, begins with the process. Time spent in `off()` is on no phase and not in the total.
    """

    def __init__(
        self,
        age: Callable[[], tuple[float, float]] = process_age,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.now = now
        self.synchronize: Callable[[], None] = lambda: None  # set as soon as the device is known
        self.announce: Callable[[str], None] = lambda edge: None  # tells the outer clock of an edge
        seconds_since_start, self.resolution_seconds = age()
        self.started = self.edge = now() - seconds_since_start
        self.phase: str | None = "import"
        self.seconds: dict[str, float | None] = dict.fromkeys(PHASES)
        self.off_seconds = 0.0
        self.total: float | None = None

    def enter(self, phase: str) -> None:
        """End the running phase and begin `phase` at the same instant.

        Raises:
            ValueError: the phase is unknown or was entered before, or the clock has stopped.
        """
        if phase not in PHASES or self.phase in (None, phase) or self.seconds[phase] is not None:
            raise ValueError(f"cannot enter the phase {phase!r} now")
        self._close()
        self.phase = phase
        self.announce(phase)

    def stop(self) -> None:
        """End the running phase and the total; a clock that has stopped stays stopped."""
        if self.phase is not None:
            try:
                self._close()
            except RuntimeError:  # a device in error cannot be waited for
                self.synchronize = lambda: None
                self._close()
            self.phase = None
            self.announce(STOP)
            self.total = self.edge - self.started - self.off_seconds

    def elapsed(self) -> float:
        """Seconds in the running phase, read without waiting for the device."""
        return self.now() - self.edge

    @contextmanager
    def off(self) -> Iterator[None]:
        """Keep what happens inside off every clock: waiting for the device's turn."""
        begun = self.now()
        self.announce(OFF)
        try:
            yield
        finally:
            waited = self.now() - begun
            self.announce(ON)
            self.edge += waited
            self.off_seconds += waited

    def _close(self) -> None:
        self.synchronize()
        now = self.now()
        self.seconds[self.phase] = now - self.edge
        self.edge = now
