"""The clock on times from a list, and the age of a process by its parent's clock."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clock import PHASES, Clock, process_age
from bench.experiments.outer_clock import disagreements, outer_seconds
from tests.support.examples import ROOT


def clock_at(*times: float, age: float = 0.0) -> Clock:
    """A clock that reads these times, one a call; the first is read when it is made, `age` seconds into the process."""
    return Clock(age=lambda: (age, 0.01), now=iter(times).__next__)


class Steps:
    """A clock of which a test says how far it moves."""

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
    now = Steps()
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


def test_a_clock_that_has_stopped_stays_stopped() -> None:
    now = Steps()
    clock = Clock(age=lambda: (1.0, 0.01), now=now)
    clock.enter("setup")
    now.now += 5.0
    clock.stop()
    first = dict(clock.seconds), clock.total
    now.now += 50.0
    clock.stop()
    assert (clock.seconds, clock.total) == first
    assert first == ({"import": 1.0, "setup": 5.0, "warmup": None, "train": None, "certify": None}, 6.0)


def test_no_phase_begins_after_the_stop() -> None:
    clock = clock_at(*map(float, range(9)))
    clock.stop()
    with pytest.raises(ValueError, match="'train'"):
        clock.enter("train")
    assert list(clock.seconds) == list(PHASES)


@pytest.mark.parametrize("phase", ["import", "setup", "train"])
def test_a_phase_is_not_entered_twice(phase: str) -> None:
    clock = clock_at(*map(float, range(9)))
    clock.enter("setup")
    clock.enter("train")
    with pytest.raises(ValueError, match=f"cannot enter the phase '{phase}' now"):
        clock.enter(phase)


@pytest.mark.parametrize("phase", ["total", "trian", ""])
def test_an_unknown_phase_is_not_entered(phase: str) -> None:
    clock = clock_at(*map(float, range(9)))
    with pytest.raises(ValueError, match="cannot enter"):
        clock.enter(phase)
    assert clock.phase == "import"


def test_elapsed_reads_the_running_phase_and_ends_nothing() -> None:
    now = Steps()
    clock = Clock(age=lambda: (1.0, 0.01), now=now)
    clock.enter("train")
    now.now += 2.0
    assert clock.elapsed() == 2.0
    now.now += 1.0
    assert clock.elapsed() == 3.0
    assert clock.seconds["train"] is None


# -----------------------------------------------------------------------------
# off the clock


def test_time_off_is_on_no_phase_and_not_in_the_total() -> None:
    now = Steps()
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


def test_time_off_stays_off_when_the_wait_is_interrupted() -> None:
    now = Steps()
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
# the device


def test_the_device_is_waited_for_before_the_time_is_read_at_every_edge() -> None:
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


def test_work_that_the_device_has_not_done_yet_is_on_the_phase_that_asked_for_it() -> None:
    now = Steps()
    clock = Clock(age=lambda: (0.0, 0.01), now=now)
    clock.enter("train")

    def synchronize() -> None:
        now.now += 7.0

    clock.synchronize = synchronize
    clock.enter("certify")
    assert clock.seconds["train"] == 7.0


def test_a_device_in_error_does_not_keep_the_clock_from_stopping() -> None:
    now = Steps()
    clock = Clock(age=lambda: (1.0, 0.01), now=now)
    clock.enter("train")
    now.now += 4.0

    def synchronize() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    clock.synchronize = synchronize
    with pytest.raises(RuntimeError, match="illegal memory access"):
        clock.enter("certify")  # this is how the attempt learns of it
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


def test_a_process_knows_when_it_was_started() -> None:
    now = eval(f"lambda: {NOW}", {"time": time})
    before = now()
    child = subprocess.Popen([sys.executable, "-c", PRINT_START], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    after = now()
    earliest, latest = map(float, child.communicate(timeout=60)[0].split())
    # Comparing instants leaves the child's imports out of it, and reading the child's clock on both sides of its age
    # leaves out how long the machine was busy elsewhere. Of the 50 ms, 10 are the kernel's tick, rounded down.
    assert earliest - 0.05 < after
    assert latest + 0.05 > before
    assert child.returncode == 0


def test_the_age_of_a_process_grows_with_time() -> None:
    begun = time.perf_counter()
    age, resolution = process_age()
    read = time.perf_counter()
    while time.perf_counter() - read < 5 * resolution:
        pass
    asked = time.perf_counter()
    later, _ = process_age()
    assert 0 < resolution <= 0.01
    assert asked - read - resolution <= later - age <= time.perf_counter() - begun + resolution


def test_a_clock_counts_from_the_start_of_its_process() -> None:
    before, _ = process_age()
    clock = Clock()
    clock.stop()
    after, resolution = process_age()
    assert before - resolution <= clock.total <= after + resolution
    assert clock.seconds["import"] == clock.total


# -----------------------------------------------------------------------------
# the outer clock

EDGES = [("setup", 12.0), ("warmup", 13.0), ("train", 15.0), ("certify", 19.0), ("stop", 27.0)]
PHASE_SECONDS = {"import": 2.0, "setup": 1.0, "warmup": 2.0, "train": 4.0, "certify": 8.0, "total": 17.0}


def test_the_outer_clock_has_the_seconds_between_what_it_heard() -> None:
    assert outer_seconds(10.0, EDGES) == PHASE_SECONDS


def test_waiting_for_the_device_s_turn_is_on_neither_clock() -> None:
    waited = [("setup", 12.0), ("off", 12.25), ("on", 14.25), *((edge, now + 2) for edge, now in EDGES[1:])]
    assert outer_seconds(10.0, waited) == PHASE_SECONDS


def test_nothing_is_taken_off_the_outer_clock_while_an_attempt_trains() -> None:
    """Who says so is the contestant's process, which would gain by it."""
    cheating = [*EDGES[:3], ("off", 15.5), ("on", 18.5), *EDGES[3:]]
    assert outer_seconds(10.0, cheating) == PHASE_SECONDS


@pytest.mark.parametrize("num_edges", range(5))
def test_an_attempt_that_fell_silent_has_no_total_and_no_seconds_of_the_phase_it_died_in(num_edges: int) -> None:
    seconds = outer_seconds(10.0, EDGES[:num_edges])
    ended = PHASES[:num_edges]
    assert {phase for phase, value in seconds.items() if value is not None} == set(ended)


@given(st.lists(st.tuples(st.text(max_size=8) | st.sampled_from([*PHASES, "off", "on", "stop"]), st.floats(0, 1e6))))
def test_whatever_comes_through_the_pipe_the_outer_clock_has_an_answer(heard: list[tuple[str, float]]) -> None:
    assert set(outer_seconds(0.0, heard)) == {*PHASES, "total"}


def test_an_attempt_announces_each_edge_when_it_crosses_it() -> None:
    steps = Steps()
    clock, heard = Clock(age=lambda: (2.0, 0.01), now=steps), []
    clock.announce = lambda edge: heard.append((edge, steps.now))
    started = steps.now - 2.0
    for phase in PHASES[1:]:
        steps.now += 1.5
        clock.enter(phase)
        if phase == "setup":
            with clock.off():
                steps.now += 7.0
    steps.now += 1.5
    clock.stop()
    clock.stop()
    assert [edge for edge, _ in heard] == ["setup", "off", "on", "warmup", "train", "certify", "stop"]
    assert outer_seconds(started, heard) == {**clock.seconds, "total": clock.total}


def told(**changes: float | None) -> dict[str, float | None]:
    return PHASE_SECONDS | changes


@pytest.mark.parametrize(("train", "agrees"), [(4.099, True), (3.901, True), (4.101, False), (3.899, False)])
def test_two_percent_and_twenty_milliseconds_are_forgiven_in_both_directions(train: float, agrees: bool) -> None:
    assert (disagreements(told(train=train), PHASE_SECONDS) == []) is agrees


def test_a_disagreement_names_the_phase_and_both_clocks() -> None:
    (sentence,) = disagreements(told(train=3.0), PHASE_SECONDS)
    assert sentence == "the clocks disagree about train: 3.000 s inside, 4.000 s outside"


def test_seconds_that_only_one_clock_saw_are_a_disagreement() -> None:
    assert len(disagreements(told(certify=None), PHASE_SECONDS)) == 1
    assert len(disagreements(PHASE_SECONDS, told(certify=None))) == 1
    assert disagreements(told(certify=None), told(certify=None)) == []
