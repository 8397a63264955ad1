"""A quiet machine: what else ran beside an attempt, and what held its hardware back."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from bench.machine.hardware import nvml_handle, throttle_reasons

MAX_OTHERS = 0.05  # share of the cores; a machine at rest takes less for itself
MIN_AVAILABLE = 0.10  # share of the memory
TICK_SECONDS = 1 / 64 if sys.platform == "win32" else 1 / 100  # the unit that the times of a core are given in
THROTTLE_COUNT = "/sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
SLOWDOWNS = {
    "HwPowerBrakeSlowdown": "power brake",
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "heat, by the hardware",
    "SwPowerCap": "power cap",
    "SwThermalSlowdown": "heat, by the driver",
}  # the clock event reasons that nobody chose

T = TypeVar("T")


@dataclass(frozen=True)
class Noise:
    """What went on in a window of time besides ourselves."""

    others: float | None  # share of the cores that other processes and other machines on the host took, 0..1
    steal: float | None  # what of it the other machines took
    reasons: list[str]  # why the window was not quiet, a sentence each

    @property
    def clean(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class CoreTimes:
    """Seconds of the cores since the machine was started, summed over those that this process may use."""

    idle: float  # or waiting for a disk
    steal: float  # wanted by a process, and given to another machine by the host
    total: float


@dataclass(frozen=True)
class CounterReading:
    """Every counter at one moment; None for what could not be read."""

    seconds: float  # on the host's clock
    core_times: CoreTimes | None
    own_seconds: float | None  # processor time of this process and its descendants
    available: float | None  # share of the memory
    cpu_throttles: int | None  # times that our cores slowed down for heat
    gpu_processes: int | None  # of others
    gpu_event_reasons: int | None  # NVML's mask


class NoiseMonitor:
    """Reads what goes on beside this process. Made once, so that a reading is cheap enough for the edge of a phase.

    Nothing here raises: an attempt must not fail because nobody could look. What cannot be read marks nothing.
    """

    def __init__(self, device: torch.device, team: Sequence[int] = ()) -> None:
        """`team` are the process ids of those on this machine that this attempt is made by, this one among them."""
        self.device = device
        self.others = [process_id for process_id in team if process_id != os.getpid()]
        self.cores = usable_cores()
        self.throttle_counts = [path for core in self.cores if os.path.exists(path := THROTTLE_COUNT.format(core))]
        self.gpu = value_or_none(lambda: nvml_handle(device)) if device.type == "cuda" else None
        self.reading()  # the first one takes several times as long as those that follow

    def look(self, seconds: float = 1.0) -> Noise:
        """What goes on before the start, while this process sleeps for so many seconds."""
        begin = self.reading()
        time.sleep(seconds)
        return self.since(begin, "before the start")

    def reading(self) -> CounterReading:
        """Takes about a millisecond."""
        own_seconds = value_or_none(lambda: family_seconds() + sum(map(seconds_of, self.others)))
        core_times = value_or_none(lambda: read_core_times(self.cores))
        seconds = time.perf_counter()
        memory = value_or_none(psutil.virtual_memory)
        on_gpu = self.gpu is not None
        return CounterReading(
            seconds=seconds,
            core_times=core_times,
            own_seconds=own_seconds,
            available=None if memory is None else memory.available / memory.total,
            cpu_throttles=value_or_none(lambda: sum(int(Path(path).read_text()) for path in self.throttle_counts)),
            gpu_processes=value_or_none(lambda: other_gpu_processes(self.gpu, self.device, self.others))
            if on_gpu
            else None,
            gpu_event_reasons=value_or_none(lambda: event_reasons(self.gpu)) if on_gpu else None,
        )

    def since(self, begin: CounterReading, when: str) -> Noise:
        """What went on since `begin`; `when` ends the sentences, as in "during train"."""
        end = self.reading()
        others, steal, allowance = share_of_other_processes(begin, end, len(self.cores))
        reasons = []
        if others is not None and others - allowance > MAX_OTHERS:
            other_machines = f", {steal:.0%} of them for other machines on the host" if steal >= 0.005 else ""
            reasons.append(f"other processes took {others:.0%} of the cores {when}{other_machines}")
        if end.available is not None and end.available < MIN_AVAILABLE:
            reasons.append(f"only {end.available:.0%} of the memory was available {when}")
        if None not in (begin.cpu_throttles, end.cpu_throttles) and end.cpu_throttles > begin.cpu_throttles:
            reasons.append(f"the CPU slowed down for heat {when}, times: {end.cpu_throttles - begin.cpu_throttles}")
        if processes := max(begin.gpu_processes or 0, end.gpu_processes or 0):
            reasons.append(f"the GPU was shared {when}, other processes: {processes}")
        names = value_or_none(lambda: throttle_reasons(end.gpu_event_reasons or 0)) or []
        if slowdowns := [SLOWDOWNS[name] for name in names if name in SLOWDOWNS]:
            reasons.append(f"the GPU was slowed down {when}: {'; '.join(slowdowns)}")
        return Noise(others, steal, reasons)


def value_or_none(question: Callable[[], T]) -> T | None:
    """The answer, or None where there is none, in whatever way a machine says so."""
    try:
        return question()
    except Exception:
        return None


# -----------------------------------------------------------------------------
# the cores


def share_of_other_processes(
    begin: CounterReading, end: CounterReading, num_cores: int
) -> tuple[float | None, float | None, float]:
    """The share of the cores that others took, what of it the host gave away, and how much of it may be none.

    Others' is what the cores were not idle, less our own. A kernel that samples at each tick whom a core works for
    knows little of a tenth of a second in which we sleep and wake; Linux measures idle time, and the time of a
    process, exactly. Only to be printed is idle time cut to whole ticks, so a core may seem busier by up to one tick.
    """
    unknown = None, None, 0.0
    window = end.seconds - begin.seconds
    if None in (begin.core_times, begin.own_seconds, end.core_times, end.own_seconds) or window < TICK_SECONDS:
        return unknown
    capacity, allowance = window * num_cores, TICK_SECONDS / window
    before, after = begin.core_times, end.core_times
    if (after.total - before.total) / capacity < 0.5 - allowance:
        return unknown  # nobody counts: some sandboxes show a file that never changes
    not_idle = 1 - (after.idle - before.idle) / capacity
    others = not_idle - (end.own_seconds - begin.own_seconds) / capacity
    if others < -2 * allowance:
        return unknown  # we took more than there is: threads are bound to cores that are not counted
    steal = min(max(0.0, (after.steal - before.steal) / capacity), 1.0)
    return min(max(steal, others), 1.0), steal, allowance


def usable_cores() -> list[int]:
    """The numbers of the cores that the scheduler may give to this process."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))


def read_core_times(cores: list[int]) -> CoreTimes:
    if sys.platform != "linux":
        every = psutil.cpu_times(percpu=True)
        times = [every[core] for core in cores]
        return CoreTimes(idle=sum(core.idle for core in times), steal=0.0, total=sum(map(sum, times)))
    with open("/proc/stat") as file:  # psutil drops the numbers of the cores, of which some may be offline
        lines = dict(line.split(maxsplit=1) for line in file if line.startswith("cpu"))
    rows = [[int(ticks) * TICK_SECONDS for ticks in lines[f"cpu{core}"].split()] for core in cores]
    # user, nice, system, idle, iowait, irq, softirq, steal; then the guests', which user and nice contain
    return CoreTimes(
        idle=sum(row[3] + row[4] for row in rows),
        steal=sum(row[7] for row in rows),
        total=sum(sum(row[:8]) for row in rows),
    )


def family_seconds() -> float:
    """Processor time of this process, of its children that have ended, and of its descendants that have not."""
    seconds = time.process_time()
    if sys.platform != "win32":
        import resource

        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds += ended.ru_utime + ended.ru_stime
    return seconds + sum(map(seconds_of, descendants()))


def seconds_of(process_id: int) -> float:
    """Processor time of a process and of its children that have ended, user and system; 0 where it is gone."""
    times = value_or_none(lambda: psutil.Process(process_id).cpu_times())
    return sum(times[:4]) if times else 0.0


def descendants() -> list[int]:
    """The numbers of all processes below this one, however deep.

    Linux keeps a list of the children of each thread; psutil asks every process of the machine for its parent.
    """
    own = os.getpid()
    if not os.path.exists(f"/proc/{own}/task/{own}/children"):
        return [process.pid for process in psutil.Process().children(recursive=True)]
    family = [own]
    for parent in family:  # which grows meanwhile
        for path in glob(f"/proc/{parent}/task/*/children"):
            family += map(int, (value_or_none(Path(path).read_text) or "").split())
    return family[1:]


# -----------------------------------------------------------------------------
# the GPU


def other_gpu_processes(gpu: Any, device: torch.device, team: Sequence[int] = ()) -> int | None:
    """How many processes other than ours use the GPU; None where the driver shows us none, not even this one.

    In a container the driver may know us by another number; then one of those that it shows is still ours.
    """
    import pynvml

    shown = {
        process.pid
        for ask in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses)
        for process in ask(gpu)
    }
    if os.getpid() not in shown and torch.cuda.memory_reserved(device):  # we are on the GPU
        return len(shown) - 1 if shown else None
    return len(shown - {os.getpid(), *team})


def event_reasons(gpu: Any) -> int:
    import pynvml

    return pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
