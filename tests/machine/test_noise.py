"""Noise from hand-written counters, and from real processes beside this one."""

import dataclasses
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.machine import noise as noise_module
from bench.machine.cpu import value_or_none
from bench.machine.noise import CoreTimes, CounterReading, Noise, NoiseMonitor

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
IDLE = CounterReading(
    seconds=100.0,
    core_times=CoreTimes(idle=50.0, steal=0.0, total=200.0),
    own_seconds=3.0,
    available=0.5,
    cpu_throttles=7,
    gpu_processes=0,
    gpu_event_reasons=0,
)
TWO_CORES = (0, 1)


def after(window: float, idle: float, own: float, steal: float = 0.0, **changes: Any) -> CounterReading:
    """A reading `window` seconds after IDLE, in which the two cores were idle and worked for us so many seconds."""
    before = IDLE.core_times
    times = CoreTimes(before.idle + idle, before.steal + steal, before.total + 2 * window)
    later: dict[str, Any] = {
        "seconds": IDLE.seconds + window,
        "core_times": times,
        "own_seconds": IDLE.own_seconds + own,
    }
    return dataclasses.replace(IDLE, **later | changes)


def noise_between(begin: CounterReading, end: CounterReading) -> Noise:
    monitor = NoiseMonitor(CPU)
    monitor.cores, monitor.reading = TWO_CORES, lambda: end
    return monitor.since(begin, "during train")


# -----------------------------------------------------------------------------
# noise between two readings


def test_busy_time_of_the_cores_that_is_not_ours_is_the_others() -> None:
    noise = noise_between(IDLE, after(10.0, idle=7.6, own=10.0))
    assert noise.others == pytest.approx(0.12)
    assert noise.steal == 0.0
    assert noise.reasons == ["other processes took 12% of the cores during train"]
    assert not noise.clean


@pytest.mark.parametrize("own", [0.0, 5.0, 20.0])
def test_a_machine_whose_cores_are_idle_or_work_for_us_is_quiet(own: float) -> None:
    noise = noise_between(IDLE, after(10.0, idle=20.0 - own, own=own))
    assert (noise.others, noise.steal, noise.reasons) == (pytest.approx(0.0), 0.0, [])
    assert noise.clean


def test_stolen_time_counts_as_used_by_others() -> None:
    sentence = "other processes took 20% of the cores during train, 10% of them for other machines on the host"
    noise = noise_between(IDLE, after(10.0, idle=0.0, own=16.0, steal=2.0))
    assert (noise.others, noise.steal) == pytest.approx((0.2, 0.1))
    assert noise.reasons == [sentence]


def test_stolen_time_counts_even_if_the_kernel_accounts_it_as_idle_or_ours() -> None:
    assert noise_between(IDLE, after(10.0, idle=0.0, own=20.0, steal=2.0)).others == pytest.approx(0.1)


@pytest.mark.parametrize(("taken", "clean"), [(0.05, True), (0.0625, False)])
def test_the_threshold_is_widened_by_a_tick_for_each_core(taken: float, clean: bool) -> None:
    assert noise_between(IDLE, after(1.0, idle=2.0 * (1 - taken), own=0.0)).clean == clean


def test_a_tenth_of_a_second_is_too_short_to_tell_a_tick_from_another_process() -> None:
    assert noise_between(IDLE, after(0.1, idle=0.18, own=0.0)).clean
    assert not noise_between(IDLE, after(0.1, idle=0.16, own=0.0)).clean


@given(
    window=st.floats(0.01, 2.0),
    idle=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2),
    idle_before=st.lists(st.floats(0.0, 1e3), min_size=2, max_size=2),
)
def test_rounding_to_ticks_never_looks_like_another_process(
    window: float, idle: list[float], idle_before: list[float]
) -> None:
    """The kernel prints the idle time of each core in whole ticks; the rest of the window is ours."""

    def printed(times: list[float]) -> CoreTimes:
        return CoreTimes(sum(math.floor(time * 100) / 100 for time in times), 0.0, total=0.0)

    own = sum(window * (1 - share) for share in idle)
    idle_after = [before + window * share for before, share in zip(idle_before, idle, strict=True)]
    begin = dataclasses.replace(IDLE, core_times=printed(idle_before))
    times = dataclasses.replace(printed(idle_after), total=2 * window)
    noise = noise_between(begin, after(window, idle=0.0, own=own, core_times=times))
    assert noise.clean


@pytest.mark.parametrize(
    "end",
    [
        after(10.0, idle=0.0, own=0.0, core_times=IDLE.core_times),  # counters that stand still
        after(10.0, idle=10.0, own=20.0),  # more than the cores have
        after(10.0, idle=0.0, own=0.0, core_times=None),
        after(10.0, idle=0.0, own=0.0, own_seconds=None),
        after(0.001, idle=0.0, own=0.0),
        after(0.0, idle=0.0, own=0.0),
    ],
)
def test_contradictory_counters_give_unknown(end: CounterReading) -> None:
    assert noise_between(IDLE, end) == Noise(None, None, [])


def test_unreadable_counters_give_no_reasons() -> None:
    nothing = CounterReading(
        **dict.fromkeys(field.name for field in dataclasses.fields(CounterReading)) | {"seconds": 1.0}
    )
    later = dataclasses.replace(nothing, seconds=9.0)
    for begin, end in ((nothing, later), (nothing, IDLE), (IDLE, dataclasses.replace(nothing, seconds=110.0))):
        assert noise_between(begin, end) == Noise(None, None, [])


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"available": 0.04}, ["only 4% of the memory was available during train"]),
        ({"available": 0.1}, []),
        ({"cpu_throttles": 9}, ["the CPU slowed down for heat during train, times: 2"]),
        ({"cpu_throttles": 7}, []),
        ({"gpu_processes": 3}, ["the GPU was shared during train, other processes: 3"]),
        ({"gpu_event_reasons": 0x4}, ["the GPU was slowed down during train: power cap"]),
        (
            {"gpu_event_reasons": 0x8 | 0x20 | 0x40 | 0x80},
            [
                "the GPU was slowed down during train: "
                "power brake; hardware slowdown; heat, by the hardware; heat, by the driver"
            ],
        ),
        ({"gpu_event_reasons": 0x1 | 0x2 | 0x10 | 0x100}, []),  # idle, and choices of users
    ],
)
def test_each_reason_is_a_sentence_with_its_value(changes: dict, reasons: list[str]) -> None:
    assert noise_between(IDLE, after(10.0, idle=10.0, own=10.0, **changes)).reasons == reasons


def test_a_process_that_has_left_the_gpu_counts() -> None:
    begin = dataclasses.replace(IDLE, gpu_processes=1)
    reasons = noise_between(begin, after(10.0, idle=10.0, own=10.0)).reasons
    assert reasons == ["the GPU was shared during train, other processes: 1"]


# -----------------------------------------------------------------------------
# reading the cores


STAT = """cpu  900 0 0 900 0 0 0 0 0 0
cpu0 100 10 20 300 40 5 6 7 50 8
cpu2 1000 0 0 0 0 0 0 0 0 0
intr 12 0 0
ctxt 5
"""


def open_stat(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> None:
    path.write_text(text)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("builtins.open", lambda name, *_, opened=open: opened(path if name == "/proc/stat" else name))


def test_on_linux_idle_and_stolen_time_are_read_by_core_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_stat(monkeypatch, tmp_path / "stat", STAT)
    times = noise_module.read_core_times([0])
    assert dataclasses.astuple(times) == pytest.approx((3.4, 0.07, 4.88))  # user includes guest
    assert noise_module.read_core_times([2]).total == pytest.approx(10.0)  # the second line, as core 1 is offline
    assert noise_module.read_core_times([0, 2]).total == pytest.approx(14.88)


@pytest.mark.parametrize("text", ["", "cpu0 1 2 3\n", "cpu0 a b c d e f g h\n", "cpu1 1 2 3 4 5 6 7 8\n"])
def test_a_malformed_list_of_cores_is_not_read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_stat(monkeypatch, tmp_path / "stat", text)
    assert value_or_none(lambda: noise_module.read_core_times([0])) is None


def test_elsewhere_psutil_gives_the_same_times(monkeypatch: pytest.MonkeyPatch) -> None:
    real = noise_module.read_core_times(TWO_CORES[:1])
    iowait = getattr(psutil.cpu_times(percpu=True)[TWO_CORES[0]], "iowait", 0.0)  # separate on Linux
    monkeypatch.setattr(sys, "platform", "darwin")
    times = noise_module.read_core_times(TWO_CORES[:1])
    assert times.idle == pytest.approx(real.idle - iowait, abs=5)
    assert times.total == pytest.approx(real.total, rel=0.1, abs=10)


def test_a_reading_of_a_machine_without_counters_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise psutil.AccessDenied

    for name in ("read_core_times", "family_seconds", "nvml_handle"):
        monkeypatch.setattr(noise_module, name, refuse)
    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    monitor = NoiseMonitor(CUDA)
    monitor.throttle_counts = ["/nowhere/core_throttle_count"]
    reading = monitor.reading()
    known = {name for name, value in dataclasses.asdict(reading).items() if value is not None}
    assert known == {"seconds"}
    assert monitor.observe(0.0) == Noise(None, None, [])


def test_throttling_is_summed_over_our_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_module, "THROTTLE_COUNT", str(tmp_path / "cpu{}"))
    monkeypatch.setattr(noise_module, "usable_cores", lambda: [0, 1, 2])
    for core, count in ((0, 3), (1, 4), (3, 100)):
        (tmp_path / f"cpu{core}").write_text(f"{count}\n")
    assert NoiseMonitor(CPU).reading().cpu_throttles == 7


# -----------------------------------------------------------------------------
# real processes

BURN = """
import sys, time
input()
while time.process_time() < float(sys.argv[1]): pass
print(time.process_time(), flush=True)
input()
"""
NESTED = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', *sys.argv[1:]]).returncode)"


class Burner:
    """A child process that uses so much CPU time on request, and then waits."""

    def __init__(self, seconds: float, *, nested: bool = False) -> None:
        command = [sys.executable, "-c", *([NESTED] if nested else []), BURN, str(seconds)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def burn(self) -> float:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def leave(self) -> None:
        self.process.communicate("leave\n", timeout=60)

    def __enter__(self) -> "Burner":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("nested", [False, True])
def test_children_are_counted_while_they_run_and_after_they_end(nested: bool) -> None:
    begin = noise_module.family_seconds()
    with Burner(0.5, nested=nested) as child:
        burnt = child.burn()
        alive = noise_module.family_seconds()
        child.leave()
        ended = noise_module.family_seconds()
    assert alive - begin >= burnt - 0.04  # user and system time of each process are rounded to ticks
    assert ended >= alive - 0.02
    assert ended - begin < burnt + 0.4  # none is counted twice


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the children of a process")
def test_both_ways_to_list_descendants_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    with Burner(0.01, nested=True) as child:
        child.burn()
        listed = noise_module.descendants()
        monkeypatch.setattr(os.path, "exists", lambda path: False)
        assert sorted(noise_module.descendants()) == sorted(listed)
        assert child.process.pid in listed
        assert len(listed) >= 2
        child.leave()


@pytest.mark.skipif(sys.platform != "linux", reason="needs the counters of single cores")
def test_a_busy_process_beside_us_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = NoiseMonitor(CPU)
    with Burner(30.0) as burner:
        monkeypatch.setattr(noise_module, "descendants", lambda: [])  # so that our child counts as another process
        burner.process.stdin.write("go\n")
        burner.process.stdin.flush()
        time.sleep(0.2)
        program = psutil.Process(burner.process.pid)
        before = sum(program.cpu_times()[:2])
        begin, started = monitor.reading(), time.perf_counter()
        time.sleep(1.0)
        noise, window = monitor.since(begin, "during train"), time.perf_counter() - started
        taken = (sum(program.cpu_times()[:2]) - before) / window / len(monitor.cores)
    ticks = 0.04 / window
    assert noise.others > taken - ticks
    if taken > noise_module.MAX_OTHERS + ticks:
        assert noise.reasons[0].startswith(f"other processes took {noise.others:.0%} of the cores during train")
    else:
        pytest.skip(f"the process could use only {taken:.0%} of the cores: too many cores, or a busy machine")


def work_with_threads() -> None:
    a = torch.randn(384, 384)
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        a @ a


def work_by_children_that_end() -> None:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", "for _ in range(5_000_000): pass"], check=True)


def work_and_sleep() -> None:
    for _ in range(40):
        end = time.perf_counter() + 0.003
        while time.perf_counter() < end:
            pass
        time.sleep(0.003)


def seconds_of_others() -> float:
    """CPU time of all processes that are not our descendants, and of their ended children."""
    ours = {os.getpid(), *noise_module.descendants()}
    times = [value_or_none(process.cpu_times) for process in psutil.process_iter() if process.pid not in ours]
    return sum(sum(time[:4]) for time in times if time)


def unexplained_share(monitor: NoiseMonitor, work: Callable[[], None]) -> float:
    """The measured share of others during `work`, less what other virtual machines and, by psutil, processes took.

    Linux counts the time of other virtual machines only while this one has work, so a window of sleep does not show it.
    """
    before, begin = seconds_of_others(), monitor.reading()
    work()
    noise, end = monitor.since(begin, "during work"), time.perf_counter()
    others = seconds_of_others() - before
    assert noise.others is not None
    return noise.others - (noise.steal or 0.0) - others / (end - begin.seconds) / len(monitor.cores)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the CPU time of the processes of other users")
@pytest.mark.parametrize("work", [work_with_threads, work_by_children_that_end, work_and_sleep])
def test_our_own_work_does_not_count_as_others(work: Callable[[], None]) -> None:
    """A process that psutil does not see spoils some windows; counting our own work would spoil all."""
    monitor = NoiseMonitor(CPU)
    work()  # initialises the libraries
    if all(unexplained_share(monitor, work) > noise_module.MAX_OTHERS for _ in range(8)):
        if all(unexplained_share(monitor, lambda: time.sleep(0.3)) > noise_module.MAX_OTHERS for _ in range(4)):
            pytest.skip("other virtual machines or hidden processes use the cores of this machine")
        pytest.fail("our own work was counted")


def test_a_reading_takes_a_few_milliseconds() -> None:
    monitor, seconds = NoiseMonitor(CPU), []
    for _ in range(50):
        begun = time.perf_counter()
        monitor.reading()
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.005


# -----------------------------------------------------------------------------
# the GPU


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A fake GPU: ids of its compute and graphics processes, the event mask, our reserved memory and descendants."""
    state = SimpleNamespace(compute=[os.getpid()], graphics=[], reasons=0, reserved=2**20, started=[], handles=0)

    def handle(device: torch.device) -> str:
        state.handles += 1
        return "handle"

    def processes(kind: str) -> Callable[[str], list[SimpleNamespace]]:
        return lambda handle: [SimpleNamespace(pid=number) for number in getattr(state, kind)]

    module: Any = ModuleType("pynvml")
    module.nvmlDeviceGetComputeRunningProcesses = processes("compute")
    module.nvmlDeviceGetGraphicsRunningProcesses = processes("graphics")
    module.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: state.reasons
    module.nvmlClocksEventReasonSwPowerCap = 0x4
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(noise_module, "nvml_handle", handle)
    monkeypatch.setattr(noise_module, "descendants", lambda: state.started)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: state.reserved)
    return state


@pytest.mark.parametrize(
    ("compute", "graphics", "reserved", "expected"),
    [
        ([0], [], 2**20, 0),  # 0 stands for this process
        ([0, 7], [7, 8], 2**20, 2),
        ([], [8], 0, 1),
        ([], [], 0, 0),
        ([4711], [], 2**20, 0),  # in a container: this process under another id
        ([4711, 7], [], 2**20, 1),
        ([], [], 2**20, None),  # in a container that lists no processes
    ],
)
def test_other_processes_on_the_gpu_are_counted_without_this_one(
    compute: list, graphics: list, reserved: int, expected: int | None, gpu: SimpleNamespace
) -> None:
    gpu.compute = [number or os.getpid() for number in compute]
    gpu.graphics, gpu.reserved = graphics, reserved
    assert NoiseMonitor(CUDA).reading().gpu_processes == expected


@pytest.mark.parametrize(
    ("compute", "reserved", "expected"),
    [
        ([11], 0, 0),  # the attempt alone
        ([11, 0], 2**20, 0),  # and the judge, 0 stands for it, which has certified earlier ones
        ([11, 0, 7], 2**20, 1),
        ([4711], 0, 0),  # in a container: the attempt under another id
        ([4711, 4712], 2**20, 0),  # and the judge
        ([4711, 4712, 7], 2**20, 1),
        ([4712], 2**20, 0),  # the attempt does not use the GPU yet
        ([], 0, None),
    ],
)
def test_an_attempt_that_this_process_has_started_is_no_stranger(
    compute: list, reserved: int, expected: int | None, gpu: SimpleNamespace
) -> None:
    gpu.compute, gpu.started = [number or os.getpid() for number in compute], [10, 11]
    gpu.reserved = reserved
    assert NoiseMonitor(CUDA).reading().gpu_processes == expected


def test_a_shared_and_throttled_gpu_gives_two_reasons(gpu: SimpleNamespace) -> None:
    monitor = NoiseMonitor(CUDA)
    begin = monitor.reading()
    gpu.compute, gpu.reasons = [os.getpid(), 7], 0x4
    reasons = monitor.since(begin, "during train").reasons
    assert "the GPU was shared during train, other processes: 1" in reasons
    assert "the GPU was slowed down during train: power cap" in reasons


def test_the_nvml_handle_is_obtained_once(gpu: SimpleNamespace) -> None:
    NoiseMonitor(CUDA).observe(0.0)
    assert gpu.handles == 1


def test_a_driver_without_counters_gives_unknown(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    reading = NoiseMonitor(CUDA).reading()
    assert (reading.gpu_processes, reading.gpu_event_reasons) == (None, None)


def test_on_a_cpu_nvml_is_not_used(gpu: SimpleNamespace) -> None:
    reading = NoiseMonitor(CPU).reading()
    assert (gpu.handles, reading.gpu_processes, reading.gpu_event_reasons) == (0, None, None)
