"""The clock on a fake time, and the age of a process against its parent's clock."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clock import PHASES, Clock, process_age
from tests.support.examples import ROOT


def clock_at(*times: float, age: float = 0.0) -> Clock:
    """A clock that reads these times in sequence; it reads the first when it is created, at this age of the process."""
    return Clock(age=lambda: (age, 0.01), now=iter(times).__next__)


class FakeTime:
    """A time source that a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# -----------------------------------------------------------------------------
# phases


def test_each_phase_has_the_seconds_between_its_edges() -> None:
    clock = clock_at(10.0, 11.0, 13.0, 17.0, 25.0, 41.0, age=2.0)
    for phase in PHASES[1:]:
        clock.enter(phase)
    clock.stop()
    assert clock.seconds == {"import": 3.0, "setup": 2.0, "warmup": 4.0, "train": 8.0, "certify": 16.0}
    assert clock.total == 33.0
    assert clock.resolution_seconds == 0.01


def test_a_phase_that_was_not_reached_has_no_seconds() -> None:
    clock = clock_at(10.0, 11.0, 13.0)
    clock.enter("setup")
    clock.stop()
    assert clock.seconds == {"import": 1.0, "setup": 2.0, "warmup": None, "train": None, "certify": None}
    assert clock.total == 3.0


@given(
    age=st.floats(0, 1e3),
    steps=st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1e4)), min_size=5, max_size=5),
)
def test_phases_sum_to_the_total(age: float, steps: list[tuple[float, float, float]]) -> None:
    now = FakeTime()
    clock = Clock(age=lambda: (age, 0.01), now=now)
    for phase, (working, waiting, more_work) in zip([*PHASES[1:], None], steps, strict=True):
        now.now += working
        with clock.off():
            now.now += waiting
        now.now += more_work
        clock.enter(phase) if phase else clock.stop()
    worked = age + sum(working + more_work for working, _, more_work in steps)
    assert clock.total == pytest.approx(worked, abs=1e-6)
    assert sum(clock.seconds.values()) == pytest.approx(clock.total, abs=1e-6)


def test_stopping_a_stopped_clock_changes_nothing() -> None:
    now = FakeTime()
    clock = Clock(age=lambda: (1.0, 0.01), now=now)
    clock.enter("setup")
    now.now += 5.0
    clock.stop()
    first = dict(clock.seconds), clock.total
    now.now += 50.0
    clock.stop()
    assert (clock.seconds, clock.total) == first
    assert first == ({"import": 1.0, "setup": 5.0, "warmup": None, "train": None, "certify": None}, 6.0)


def test_no_phase_can_be_entered_after_the_stop() -> None:
    clock = clock_at(*map(float, range(9)))
    clock.stop()
    with pytest.raises(ValueError, match="'train'"):
        clock.enter("train")
    assert list(clock.seconds) == list(PHASES)


@pytest.mark.parametrize("phase", ["import", "setup", "train"])
def test_a_phase_cannot_be_entered_twice(phase: str) -> None:
    clock = clock_at(*map(float, range(9)))
    clock.enter("setup")
    clock.enter("train")
    with pytest.raises(ValueError, match=f"cannot enter the phase '{phase}' now"):
        clock.enter(phase)


@pytest.mark.parametrize("phase", ["total", "trian", ""])
def test_an_unknown_phase_cannot_be_entered(phase: str) -> None:
    clock = clock_at(*map(float, range(9)))
    with pytest.raises(ValueError, match="cannot enter"):
        clock.enter(phase)
    assert clock.phase == "import"


def test_elapsed_does_not_end_the_phase() -> None:
    now = FakeTime()
    clock = Clock(age=lambda: (1.0, 0.01), now=now)
    clock.enter("train")
    now.now += 2.0
    assert clock.elapsed() == 2.0
    now.now += 1.0
    assert clock.elapsed() == 3.0
    assert clock.seconds["train"] is None


# -----------------------------------------------------------------------------
# time off the clock


def test_time_off_counts_in_no_phase_and_not_in_the_total() -> None:
    now = FakeTime()
    clock = Clock(age=lambda: (1.0, 0.01), now=now)
    clock.enter("setup")
    now.now += 2.0
    with clock.off():
        now.now += 1000.0
    assert clock.elapsed() == 2.0
    now.now += 3.0
    clock.stop()
    assert clock.seconds["setup"] == 5.0
    assert clock.total == 6.0


def test_time_off_does_not_count_if_the_wait_is_interrupted() -> None:
    now = FakeTime()
    clock = Clock(age=lambda: (1.0, 0.01), now=now)

    def wait() -> None:
        with clock.off():
            now.now += 1000.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait()
    clock.stop()
    assert clock.total == 1.0


# -----------------------------------------------------------------------------
# synchronization


def test_the_device_is_synchronized_before_the_time_is_read_at_every_edge() -> None:
    events = []

    def now() -> float:
        events.append("read")
        return float(len(events))

    clock = Clock(age=lambda: (0.0, 0.01), now=now)
    clock.synchronize = lambda: events.append("wait")
    events.clear()
    for phase in PHASES[1:]:
        clock.enter(phase)
    clock.stop()
    assert events == ["wait", "read"] * len(PHASES)
    events.clear()
    clock.elapsed()
    assert events == ["read"]


def test_pending_work_of_the_device_counts_in_the_phase_that_launched_it() -> None:
    now = FakeTime()
    clock = Clock(age=lambda: (0.0, 0.01), now=now)
    clock.enter("train")

    def synchronize() -> None:
        now.now += 7.0

    clock.synchronize = synchronize
    clock.enter("certify")
    assert clock.seconds["train"] == 7.0


def test_the_clock_stops_even_if_the_device_has_failed() -> None:
    now = FakeTime()
    clock = Clock(age=lambda: (1.0, 0.01), now=now)
    clock.enter("train")
    now.now += 4.0

    def synchronize() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    clock.synchronize = synchronize
    with pytest.raises(RuntimeError, match="illegal memory access"):
        clock.enter("certify")  # the attempt sees the error
    clock.stop()
    assert clock.seconds["train"] == 4.0
    assert clock.seconds["certify"] is None
    assert clock.total == 5.0


# -----------------------------------------------------------------------------
# the start of the process

NOW = "time.clock_gettime(time.CLOCK_BOOTTIME)" if sys.platform == "linux" else "time.time()"  # parent's and child's
PRINT_START = f"""
import time
from bench.clock import process_age
before = {NOW}
age, _ = process_age()
print(before - age, {NOW} - age)
"""


def test_the_start_of_a_process_agrees_with_its_parent_s_clock() -> None:
    now = eval(f"lambda: {NOW}", {"time": time})
    before = now()
    child = subprocess.Popen([sys.executable, "-c", PRINT_START], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    after = now()
    earliest, latest = map(float, child.communicate(timeout=60)[0].split())
    # Instants are compared, so the child's imports do not matter. The child reads its clock before and after its age,
    # so a busy machine does not matter either. 10 of the 50 ms are the kernel's tick.
    assert earliest - 0.05 < after
    assert latest + 0.05 > before
    assert child.returncode == 0


def test_the_age_of_a_process_grows_with_time() -> None:
    begun = time.perf_counter()
    age, resolution = process_age()
    read = time.perf_counter()
    while time.perf_counter() - read < 5 * resolution:
        pass
    before_later = time.perf_counter()
    later, _ = process_age()
    assert 0 < resolution <= 0.01
    assert before_later - read - resolution <= later - age <= time.perf_counter() - begun + resolution


def test_a_clock_counts_from_the_start_of_its_process() -> None:
    before, _ = process_age()
    clock = Clock()
    clock.stop()
    after, resolution = process_age()
    assert before - resolution <= clock.total <= after + resolution
    assert clock.seconds["import"] == clock.total


# -----------------------------------------------------------------------------
# announcements


def test_each_edge_is_announced_once() -> None:
    edges: list[str] = []
    clock = Clock(age=lambda: (2.0, 0.01), now=FakeTime())
    clock.announce = edges.append
    for phase in PHASES[1:]:
        clock.enter(phase)
        if phase == "setup":
            with clock.off():
                pass
    clock.stop()
    clock.stop()
    assert edges == ["setup", "off", "on", "warmup", "train", "certify", "stop"]
