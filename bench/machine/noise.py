"""Noise: other processes and machines that used the hardware during an attempt, and throttling of the hardware."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.machine.cpu import usable_cores, value_or_none
from bench.machine.hardware import nvml_handle, throttle_reasons

MAX_OTHERS = 0.05  # share of the cores; an idle machine uses less for itself
MIN_AVAILABLE = 0.10  # share of the memory
TICK_SECONDS = 1 / 64 if sys.platform == "win32" else 1 / 100  # resolution of the per-core times
THROTTLE_COUNT = "/sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
SLOWDOWNS = {
    "HwPowerBrakeSlowdown": "power brake",
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "heat, by the hardware",
    "SwPowerCap": "power cap",
    "SwThermalSlowdown": "heat, by the driver",
}  # NVML's clock event reasons that are not a user's choice

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Noise:
    """The activity of others in a window of time; None for what is not known."""

    others: float | None  # share of the cores used by other processes and other virtual machines, 0..1
    steal: float | None  # the part of it used by other virtual machines on the host
    reasons: list[str]  # why the window was not quiet, one sentence each

    @property
    def clean(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class CoreTimes:
    """Seconds since boot, summed over the cores that this process may use."""

    idle: float  # includes waiting for a disk
    steal: float  # runnable, but the hypervisor ran another virtual machine
    total: float


@dataclass(frozen=True)
class CounterReading:
    """All counters at one moment; None for what could not be read."""

    seconds: float  # on the host's monotonic clock
    core_times: CoreTimes | None
    own_seconds: float | None  # CPU time of this process, its descendants and the other processes of the attempt
    available: float | None  # share of the memory
    cpu_throttles: int | None  # thermal throttling events of our cores
    gpu_processes: int | None  # processes of others on the GPU
    gpu_event_reasons: int | None  # NVML's mask


class NoiseMonitor:
    """Measures the noise beside this process. Created once in advance, so that a reading is cheap.

    Nothing here raises: an attempt must not fail for lack of a counter. A counter that cannot be read is None and never
    a reason for a run to be not clean.
    """

    def __init__(self, device: "torch.device | None", process_ids: Sequence[int] = ()) -> None:
        """Without a device, no GPU is observed, and torch is not needed.

        `process_ids` are those of all processes on this machine that train together, this one included.
        """
        self.device = device
        self.partners = [process_id for process_id in process_ids if process_id != os.getpid()]
        self.cores = usable_cores()
        self.throttle_counts = [path for core in self.cores if os.path.exists(path := THROTTLE_COUNT.format(core))]
        self.gpu = value_or_none(lambda: nvml_handle(device)) if device is not None and device.type == "cuda" else None
        self.reading()  # the first reading takes several times as long as the following ones

    def observe(self, seconds: float) -> Noise:
        """The noise before the start of an attempt, measured while this process sleeps for `seconds`."""
        begin = self.reading()
        time.sleep(seconds)
        return self.since(begin, "before the start")

    def reading(self) -> CounterReading:
        """Read all counters; takes about a millisecond."""
        memory, gpu = value_or_none(psutil.virtual_memory), self.gpu
        return CounterReading(
            own_seconds=value_or_none(lambda: family_seconds() + sum(map(process_seconds, self.partners))),
            core_times=value_or_none(lambda: read_core_times(self.cores)),
            seconds=time.perf_counter(),  # the other two times are compared with this one
            available=None if memory is None else memory.available / memory.total,
            cpu_throttles=value_or_none(lambda: sum(int(Path(path).read_text()) for path in self.throttle_counts)),
            gpu_processes=gpu and value_or_none(lambda: other_gpu_processes(gpu, self.device, self.partners)),
            gpu_event_reasons=gpu and value_or_none(lambda: event_reasons(gpu)),
        )

    def since(self, begin: CounterReading, when: str) -> Noise:
        """The noise since an earlier reading; `when`, for example "during train", ends the sentences."""
        end = self.reading()
        others, steal, error = share_of_others(begin, end, len(self.cores))
        reasons = []
        if others is not None and steal is not None and others - error > MAX_OTHERS:
            other_machines = f", {steal:.0%} of them for other machines on the host" if steal >= 0.005 else ""
            reasons.append(f"other processes took {others:.0%} of the cores {when}{other_machines}")
        if end.available is not None and end.available < MIN_AVAILABLE:
            reasons.append(f"only {end.available:.0%} of the memory was available {when}")
        before, after = begin.cpu_throttles, end.cpu_throttles
        if before is not None and after is not None and after > before:
            reasons.append(f"the CPU slowed down for heat {when}, times: {after - before}")
        if processes := max(begin.gpu_processes or 0, end.gpu_processes or 0):
            reasons.append(f"the GPU was shared {when}, other processes: {processes}")
        names = value_or_none(lambda: throttle_reasons(end.gpu_event_reasons or 0)) or []
        if slowdowns := [SLOWDOWNS[name] for name in names if name in SLOWDOWNS]:
            reasons.append(f"the GPU was slowed down {when}: {'; '.join(slowdowns)}")
        return Noise(others, steal, reasons)


def share_of_others(
    begin: CounterReading, end: CounterReading, num_cores: int
) -> tuple[float | None, float | None, float]:
    """The shares of the CPU time that all others used and that the hypervisor stole, 0..1; the error of the first.

    Others used the time in which the cores were not idle, less our own. The kernel's accounting by sampling is wrong
    for short windows, but Linux measures idle time and the time of a process exactly. Idle time is printed in whole
    ticks, so a core may seem busy for up to one tick too long. Both shares are None if the counters are missing,
    contradictory, or too coarse for the window.
    """
    unknown, window = (None, None, 0.0), end.seconds - begin.seconds
    before, after = begin.core_times, end.core_times
    if before is None or after is None or begin.own_seconds is None or end.own_seconds is None:
        return unknown
    if window < TICK_SECONDS or not num_cores:
        return unknown
    capacity, error = window * num_cores, TICK_SECONDS / window
    if (after.total - before.total) / capacity < 0.5 - error:
        return unknown  # the counters stand still, as in some sandboxes
    busy = 1 - (after.idle - before.idle) / capacity
    others = busy - (end.own_seconds - begin.own_seconds) / capacity
    if others < -2 * error:
        return unknown  # we used more than our cores have: threads are bound to cores that are not counted
    steal = min(max(0.0, (after.steal - before.steal) / capacity), 1.0)
    return min(max(steal, others), 1.0), steal, error


def read_core_times(cores: Sequence[int]) -> CoreTimes:
    """The times of these cores; raises an exception where they cannot be read."""
    if sys.platform != "linux":
        every = psutil.cpu_times(percpu=True)
        times = [every[core] for core in cores]
        return CoreTimes(idle=sum(core.idle for core in times), steal=0.0, total=sum(map(sum, times)))
    with open("/proc/stat") as file:  # psutil drops the core numbers, which have gaps where cores are offline
        lines = dict(line.split(maxsplit=1) for line in file if line.startswith("cpu"))
    columns = zip(*(map(int, lines[f"cpu{core}"].split()) for core in cores), strict=True)
    # user, nice, system, idle, iowait, irq, softirq, steal; then guest times, which user and nice include
    seconds = [sum(column) * TICK_SECONDS for column in columns]
    return CoreTimes(idle=seconds[3] + seconds[4], steal=seconds[7], total=sum(seconds[:8]))


def family_seconds() -> float:
    """CPU time of this process, of its children that have ended, and of its running descendants."""
    seconds = time.process_time()
    if sys.platform != "win32":
        import resource

        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds += ended.ru_utime + ended.ru_stime
    return seconds + sum(map(process_seconds, descendants()))


def process_seconds(process_id: int) -> float:
    """CPU time of a process and of its children that have ended, user and system; 0 if the process has ended."""
    times = value_or_none(lambda: psutil.Process(process_id).cpu_times())
    return sum(times[:4]) if times else 0.0


def descendants() -> list[int]:
    """The ids of all descendants of this process."""
    family = [os.getpid()]
    if not os.path.exists(f"/proc/{family[0]}/task/{family[0]}/children"):
        return [process.pid for process in psutil.Process().children(recursive=True)]  # slower: reads every process
    for parent in family:  # grows in the loop
        for path in glob(f"/proc/{parent}/task/*/children"):
            family += map(int, (value_or_none(Path(path).read_text) or "").split())
    return family[1:]


def other_gpu_processes(gpu: Any, device: "torch.device | None", partners: Sequence[int]) -> int | None:
    """The number of processes on the GPU but this one, its descendants and `partners`; None if none of them is listed.

    In a container the driver may list processes under other ids. Then one of those that are listed is this one if it
    uses the GPU, and another one is the attempt that it has started, if it has any descendant.
    """
    import pynvml
    import torch

    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu) + pynvml.nvmlDeviceGetGraphicsRunningProcesses(gpu)
    listed = {process.pid for process in processes}
    started = descendants()
    family = {os.getpid(), *started, *partners}
    hidden = 0 if listed & family else (torch.cuda.memory_reserved(device) > 0) + bool(started)
    if hidden:
        return max(0, len(listed) - hidden) if listed else None
    return len(listed - family)


def event_reasons(gpu: Any) -> int:
    """NVML's mask of clock event reasons."""
    import pynvml

    return pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
