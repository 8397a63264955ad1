"""Counters made by hand, and real processes beside this one."""

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

from bench.machine import noise
from bench.machine import noise as noise_module
from bench.machine import noise as quiet
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
TWO_CORES = [0, 1]


def after(window: float, idle: float, own: float, steal: float = 0.0, **changes: Any) -> CounterReading:
    """The counters of two cores after so many seconds, of which they were idle and worked for us so many."""
    before = IDLE.core_times
    times = CoreTimes(before.idle + idle, before.steal + steal, before.total + 2 * window)
    later = {"seconds": IDLE.seconds + window, "core_times": times, "own_seconds": IDLE.own_seconds + own}
    return dataclasses.replace(IDLE, **later | changes)


def noise_between(begin: CounterReading, end: CounterReading) -> Noise:
    lookout = NoiseMonitor(CPU)
    lookout.cores, lookout.reading = TWO_CORES, lambda: end
    return lookout.since(begin, "during train")


# -----------------------------------------------------------------------------
# what the counters say


def test_what_the_cores_did_and_we_did_not_is_the_others() -> None:
    noise = noise_between(IDLE, after(10.0, idle=7.6, own=10.0))
    assert noise.others == pytest.approx(0.12)
    assert noise.steal == 0.0
    assert noise.reasons == ["other processes took 12% of the cores during train"]
    assert not noise.clean


@pytest.mark.parametrize("own", [0.0, 5.0, 20.0])
def test_cores_that_are_idle_or_work_for_us_are_quiet(own: float) -> None:
    noise = noise_between(IDLE, after(10.0, idle=20.0 - own, own=own))
    assert noise == Noise(pytest.approx(0.0), 0.0, [])
    assert noise.clean


def test_what_the_host_gives_to_other_machines_is_taken_by_others() -> None:
    sentence = "other processes took 20% of the cores during train, 10% of them for other machines on the host"
    noise = noise_between(IDLE, after(10.0, idle=0.0, own=16.0, steal=2.0))
    assert (noise.others, noise.steal) == pytest.approx((0.2, 0.1))
    assert noise.reasons == [sentence]


def test_steal_that_a_kernel_books_as_idle_or_as_ours_counts_all_the_same() -> None:
    assert noise_between(IDLE, after(10.0, idle=0.0, own=20.0, steal=2.0)).others == pytest.approx(0.1)


@pytest.mark.parametrize(("taken", "clean"), [(0.05, True), (0.0625, False)])
def test_a_second_may_lose_a_tick_a_core_beyond_the_threshold(taken: float, clean: bool) -> None:
    assert noise_between(IDLE, after(1.0, idle=2.0 * (1 - taken), own=0.0)).clean == clean


def test_a_tenth_of_a_second_is_too_short_to_tell_a_tick_from_another_process() -> None:
    assert noise_between(IDLE, after(0.1, idle=0.18, own=0.0)).clean
    assert not noise_between(IDLE, after(0.1, idle=0.16, own=0.0)).clean


@given(
    window=st.floats(0.01, 2.0),
    idle=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2),
    idle_before=st.lists(st.floats(0.0, 1e3), min_size=2, max_size=2),
)
def test_ticks_never_look_like_another_process(window: float, idle: list[float], idle_before: list[float]) -> None:
    """Idle time as the kernel prints it: each core's cut to whole ticks; the rest of the window is ours."""

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
        after(10.0, idle=0.0, own=0.0, core_times=IDLE.core_times),  # a file that never changes
        after(10.0, idle=10.0, own=20.0),  # more than the cores gave: ours ran on others
        after(10.0, idle=0.0, own=0.0, core_times=None),
        after(10.0, idle=0.0, own=0.0, own_seconds=None),
        after(0.001, idle=0.0, own=0.0),
        after(0.0, idle=0.0, own=0.0),
    ],
)
def test_counters_that_cannot_be_right_say_nothing(end: CounterReading) -> None:
    assert noise_between(IDLE, end) == Noise(None, None, [])


def test_what_cannot_be_read_marks_nothing() -> None:
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
        ({"gpu_event_reasons": 0x1 | 0x2 | 0x10 | 0x100}, []),  # idle, and what somebody chose
    ],
)
def test_each_reason_is_a_sentence_with_its_figure(changes: dict, reasons: list[str]) -> None:
    assert noise_between(IDLE, after(10.0, idle=10.0, own=10.0, **changes)).reasons == reasons


def test_a_process_that_left_the_gpu_meanwhile_was_there() -> None:
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


def test_linux_tells_idle_and_stolen_time_of_the_cores_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_stat(monkeypatch, tmp_path / "stat", STAT)
    times = noise.read_core_times([0])
    assert dataclasses.astuple(times) == pytest.approx((3.4, 0.07, 4.88))  # guests are users already
    assert noise.read_core_times([2]).total == pytest.approx(10.0)  # though it stands second: core 1 is offline
    assert noise.read_core_times([0, 2]).total == pytest.approx(14.88)


@pytest.mark.parametrize("text", ["", "cpu0 1 2 3\n", "cpu0 a b c d e f g h\n", "cpu1 1 2 3 4 5 6 7 8\n"])
def test_a_list_of_cores_that_makes_no_sense_is_not_read(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_stat(monkeypatch, tmp_path / "stat", text)
    assert noise.value_or_none(lambda: noise.read_core_times([0])) is None


def test_elsewhere_psutil_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = noise.read_core_times(TWO_CORES[:1])
    waited = getattr(psutil.cpu_times(percpu=True)[TWO_CORES[0]], "iowait", 0.0)  # counted apart on Linux
    monkeypatch.setattr(sys, "platform", "darwin")
    times = noise.read_core_times(TWO_CORES[:1])
    assert times.idle == pytest.approx(real.idle - waited, abs=5)
    assert times.total == pytest.approx(real.total, rel=0.1, abs=10)


def test_a_machine_that_answers_nothing_is_read_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise psutil.AccessDenied

    for name in ("read_core_times", "family_seconds", "nvml_handle"):
        monkeypatch.setattr(quiet, name, refuse)
    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    lookout = NoiseMonitor(CUDA)
    lookout.throttle_counts = ["/nowhere/core_throttle_count"]
    reading = lookout.reading()
    known = {name for name, value in dataclasses.asdict(reading).items() if value is not None}
    assert known == {"seconds"}
    assert lookout.look(0.0) == Noise(None, None, [])


def test_throttling_is_counted_over_our_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A child of ours that takes so many seconds of processor time once told to, and then stays."""

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
def test_children_are_counted_while_they_live_and_when_they_have_ended(nested: bool) -> None:
    begin = noise.family_seconds()
    with Burner(0.5, nested=nested) as child:
        burnt = child.burn()
        alive = noise.family_seconds()
        child.leave()
        ended = noise.family_seconds()
    assert alive - begin >= burnt - 0.04  # of each process, user's and system's seconds are cut to ticks
    assert ended >= alive - 0.02
    assert ended - begin < burnt + 0.4  # and none is counted twice


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists children")
def test_all_descendants_are_found_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with Burner(0.01, nested=True) as child:
        child.burn()
        listed = noise.descendants()
        monkeypatch.setattr(os.path, "exists", lambda path: False)
        assert sorted(noise.descendants()) == sorted(listed)
        assert child.process.pid in listed
        assert len(listed) >= 2
        child.leave()


@pytest.mark.skipif(sys.platform != "linux", reason="asks for the cores of this process")
def test_a_busy_process_beside_us_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    lookout = NoiseMonitor(CPU)
    with Burner(30.0) as stranger:
        monkeypatch.setattr(noise_module, "descendants", lambda: [])  # it is a child of ours, but for this
        stranger.process.stdin.write("go\n")
        stranger.process.stdin.flush()
        time.sleep(0.2)
        program = psutil.Process(stranger.process.pid)
        before = sum(program.cpu_times()[:2])
        begin, started = lookout.reading(), time.perf_counter()
        time.sleep(1.0)
        noise, window = lookout.since(begin, "during train"), time.perf_counter() - started
        taken = (sum(program.cpu_times()[:2]) - before) / window / len(lookout.cores)
    ticks = 0.04 / window
    assert noise.others > taken - ticks
    if taken > noise_module.MAX_OTHERS + ticks:
        assert noise.reasons[0].startswith(f"other processes took {noise.others:.0%} of the cores during train")
    else:
        assert len(lookout.cores) > 10  # one process is no noise among many cores


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


def seconds_of_strangers() -> float:
    """Processor time of every process that is not of our family, with its ended children's."""
    ours = {os.getpid(), *noise.descendants()}
    times = [noise.value_or_none(process.cpu_times) for process in psutil.process_iter() if process.pid not in ours]
    return sum(sum(time[:4]) for time in times if time)


def unexplained(lookout: NoiseMonitor, work: Callable[[], None]) -> float:
    """The share of the cores that is said to be others' while we work, less what psutil knows of strangers."""
    before, begin = seconds_of_strangers(), lookout.reading()
    work()
    noise, end = lookout.since(begin, "during work"), time.perf_counter()
    strangers = seconds_of_strangers() - before
    assert noise.others is not None
    return noise.others - strangers / (end - begin.seconds) / len(lookout.cores)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere strangers may not be asked")
@pytest.mark.parametrize("work", [work_with_threads, work_by_children_that_end, work_and_sleep])
def test_our_own_work_is_not_the_others(work: Callable[[], None]) -> None:
    """Were it counted, every window would show it; a stranger that psutil cannot see spoils but some."""
    lookout = NoiseMonitor(CPU)
    work()  # libraries start
    if all(unexplained(lookout, work) > noise_module.MAX_OTHERS for _ in range(8)):
        if all(unexplained(lookout, lambda: time.sleep(0.3)) > noise_module.MAX_OTHERS for _ in range(4)):
            pytest.skip("strangers take this machine's cores who cannot be seen")
        pytest.fail("our own work was counted")


def test_a_reading_is_quick() -> None:
    lookout, seconds = NoiseMonitor(CPU), []
    for _ in range(50):
        begun = time.perf_counter()
        lookout.reading()
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.005


# -----------------------------------------------------------------------------
# the GPU


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU that exists in NVML alone: who computes and who draws on it, the event mask, and what we hold there."""
    state = SimpleNamespace(compute=[os.getpid()], graphics=[], reasons=0, reserved=2**20, handles=0)

    def handle(device: torch.device) -> str:
        state.handles += 1
        return "handle"

    def processes(of: str) -> Callable[[str], list[SimpleNamespace]]:
        return lambda handle: [SimpleNamespace(pid=number) for number in getattr(state, of)]

    module = ModuleType("pynvml")
    module.nvmlDeviceGetComputeRunningProcesses = processes("compute")
    module.nvmlDeviceGetGraphicsRunningProcesses = processes("graphics")
    module.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: state.reasons
    module.nvmlClocksEventReasonSwPowerCap = 0x4
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(noise_module, "nvml_handle", handle)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: state.reserved)
    return state


@pytest.mark.parametrize(
    ("compute", "graphics", "reserved", "expected"),
    [
        ([0], [], 2**20, 0),  # 0 stands for us
        ([0, 7], [7, 8], 2**20, 2),
        ([], [8], 0, 1),
        ([], [], 0, 0),
        ([4711], [], 2**20, 0),  # a container: we are on the GPU, so this is us by another number
        ([4711, 7], [], 2**20, 1),
        ([], [], 2**20, None),  # a container that shows nobody
    ],
)
def test_the_others_on_the_gpu_are_counted_without_us(
    compute: list, graphics: list, reserved: int, expected: int | None, gpu: SimpleNamespace
) -> None:
    gpu.compute = [number or os.getpid() for number in compute]
    gpu.graphics, gpu.reserved = graphics, reserved
    assert NoiseMonitor(CUDA).reading().gpu_processes == expected


def test_a_gpu_that_shares_and_throttles_gives_its_reasons(gpu: SimpleNamespace) -> None:
    lookout = NoiseMonitor(CUDA)
    begin = lookout.reading()
    gpu.compute, gpu.reasons = [os.getpid(), 7], 0x4
    reasons = lookout.since(begin, "during train").reasons
    assert "the GPU was shared during train, other processes: 1" in reasons
    assert "the GPU was slowed down during train: power cap" in reasons


def test_the_handle_is_looked_for_once(gpu: SimpleNamespace) -> None:
    NoiseMonitor(CUDA).look(0.0)
    assert gpu.handles == 1


def test_a_driver_that_answers_nothing_marks_nothing(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    reading = NoiseMonitor(CUDA).reading()
    assert (reading.gpu_processes, reading.gpu_event_reasons) == (None, None)


def test_on_a_cpu_nobody_asks_for_a_gpu(gpu: SimpleNamespace) -> None:
    reading = NoiseMonitor(CPU).reading()
    assert (gpu.handles, reading.gpu_processes, reading.gpu_event_reasons) == (0, None, None)
