"""The training monitor: its time limit, the distance of its ticks, and the checks that it records."""

import io

import pytest
from rich.console import Console

from bench.attempt import interface
from bench.attempt.progress import Display
from bench.clock import Clock


class FakeTime:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def monitor(time):
    clock = Clock(age=lambda: (1.0, 0.01), now=time)
    for phase in ("setup", "warmup", "train"):
        clock.enter(phase)
    display = Display("label", Console(file=io.StringIO()))
    return interface.TrainingMonitor(clock, display, max_seconds=5.0)


def test_the_time_limit_is_read_from_the_clock_of_train(monitor, time):
    monitor.tick()
    time.now += 4.9
    monitor.tick()
    time.now += 0.2
    with pytest.raises(interface.Timeout, match="5 s"):
        monitor.tick()


def test_a_trainer_may_take_more_steps_between_two_ticks_the_faster_they_are(monitor, time):
    allowed = []
    for step_seconds in [0.001] * 8 + [0.01] * 4 + [0.2] * 8:
        allowed.append(monitor.patience)
        time.now += monitor.patience * step_seconds
        monitor.tick()
    assert allowed[:6] == [1, 2, 4, 8, 16, 32]
    assert allowed[12] * 0.01 <= interface.TICK_SECONDS
    assert allowed[-1] == 1


def test_a_check_records_the_seconds_of_train(monitor, time):
    time.now += 2.5
    monitor.check(10, 0.5, 7, {}, 90)
    (check,) = monitor.checks
    assert (check.step, check.train_seconds, check.loss, check.errors) == (10, 2.5, 0.5, 7)


def test_a_target_is_reached_when_it_is_first_met(monitor, time):
    for seconds, met in ((1.0, False), (1.0, True), (1.0, False), (1.0, True)):
        time.now += seconds
        monitor.check(1, 0.5, 0, {"sample80": met, "99%": False}, 9)
    assert monitor.reached == {"sample80": 2.0, "99%": None}


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_attempt_and_is_recorded_as_null(monitor, loss):
    with pytest.raises(interface.Diverged):
        monitor.check(3, loss, 7, {}, 9)
    assert monitor.checks[0].loss is None
