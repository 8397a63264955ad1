"""The clock of one attempt: named phases on a monotonic clock that begins with the process.

A judge has such a clock of its own for each attempt that it starts, whose process begins with it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import psutil

ClockName = Literal["train", "total"]  # the two clocks that attempts are ranked by
PHASES = ("import", "setup", "warmup", "train", "certify")
MAX_WARMUP_SECONDS = 120.0  # a longer warm-up is charged to `train`
TOLERANCE, TOLERANCE_SECONDS = 0.02, 0.02  # between the two clocks, for each phase
OFF, ON, STOP = "off", "on", "stop"  # announced in addition to the phases


def process_age() -> tuple[float, float | None]:
    """Seconds since this process was started, and the resolution of that value in seconds.

    On Linux from the start time in /proc/self/stat and CLOCK_BOOTTIME, which neither a suspend nor a change of the
    wall clock disturbs; elsewhere from psutil's creation time. Without /proc, the CPU time of the process, which it
    has lived for at least; the resolution is then None, not known.
    """
    try:
        if sys.platform != "linux":
            return time.time() - psutil.Process().create_time(), 1e-3
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()  # the command's name may contain spaces
        ticks_per_second = os.sysconf("SC_CLK_TCK")
        started = int(fields[19]) / ticks_per_second  # field 22 of proc(5), `starttime`
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started, 1 / ticks_per_second
    except (OSError, LookupError, ValueError, psutil.Error):
        return time.process_time(), None


def disagreements(inner: Mapping[str, float | None], outer: Mapping[str, float | None]) -> list[str]:
    """A sentence for each phase in which the clocks differ by more than 2% of the outer clock's seconds plus 20 ms.

    A phase that only one of the clocks has timed is a disagreement, too.
    """
    sentences = []
    for phase in (*PHASES, "total"):
        inside, outside = inner[phase], outer[phase]
        if inside is None or outside is None:
            if inside is not outside:
                sentences.append(f"the clocks disagree about {phase}: only one of them saw it")
        elif abs(inside - outside) > TOLERANCE * outside + TOLERANCE_SECONDS:
            sentences.append(f"the clocks disagree about {phase}: {inside:.3f} s inside, {outside:.3f} s outside")
    return sentences


class Clock:
    """Divides the lifetime of one attempt into phases; the device is synchronized at every edge.

    The first phase, `import`, begins with the process. Time inside `off()` counts in no phase and not in the total.
    """

    def __init__(
        self, age: Callable[[], tuple[float, float | None]] = process_age, now: Callable[[], float] = time.perf_counter
    ) -> None:
        """`now` is a monotonic time in seconds."""
        self.now = now
        self.synchronize: Callable[[], None] = lambda: None  # set as soon as the device is known
        self.announce: Callable[[str], None] = lambda edge: None  # called with the name of each edge
        seconds_since_start, self.resolution_seconds = age()
        self.started = self.edge = now() - seconds_since_start
        self.phase: str | None = "import"
        self.seconds: dict[str, float | None] = dict.fromkeys(PHASES)
        self.off_seconds = 0.0
        self.total: float | None = None

    def restart(self) -> None:
        """Begin the first phase again, for a process that is started now."""
        self.started = self.edge = self.now()

    def enter(self, phase: str) -> None:
        """End the current phase and begin `phase` at the same instant; raises ValueError if that is not possible."""
        if phase not in PHASES or self.phase in (None, phase) or self.seconds[phase] is not None:
            raise ValueError(f"cannot enter the phase {phase!r} now")
        self._end_phase(next_phase=phase)
        self.announce(phase)

    def stop(self) -> None:
        """End the current phase and the total; has no effect on a clock that has stopped."""
        if self.phase is None:
            return
        try:
            self._end_phase(next_phase=None)
        except RuntimeError:  # a failed device cannot be synchronized
            self.synchronize = lambda: None
            self._end_phase(next_phase=None)
        self.announce(STOP)
        self.total = self.edge - self.started - self.off_seconds

    def elapsed(self) -> float:
        """Seconds in the current phase, read without synchronizing the device."""
        return self.now() - self.edge

    def wall(self) -> float:
        """Seconds since the process started, less those that the clock was off; goes on after `stop`."""
        return self.now() - self.started - self.off_seconds

    @contextmanager
    def off(self) -> Iterator[None]:
        """Exclude the `with` block, which waits for the device's lock, from every phase and from the total."""
        begun = self.now()
        self.announce(OFF)
        try:
            yield
        finally:
            waited = self.now() - begun
            self.announce(ON)
            self.edge += waited
            self.off_seconds += waited

    def _end_phase(self, next_phase: str | None) -> None:
        self.synchronize()
        now = self.now()
        if self.phase is not None:
            self.seconds[self.phase] = now - self.edge
        self.edge, self.phase = now, next_phase
