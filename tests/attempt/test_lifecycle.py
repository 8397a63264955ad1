"""The order of one attempt, its limits, and what each way of ending is called."""

import contextlib
import io
import os
import signal

import pytest
import torch
from rich.console import Console

from bench.attempt import command, interface, lifecycle
from bench.attempt.plan import make_plan
from bench.attempt.progress import Display
from bench.cli import handle_interrupts
from bench.clock import Clock
from bench.experiments.launcher import BATCH_VARIABLE, PIPE_VARIABLE
from bench.storage.journal import Journal
from bench.storage.schema import Batch
from speedrun import Settings
from tests.support.examples import random_model


class FakeTime:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def watch(time):
    clock = Clock(age=lambda: (1.0, 0.01), now=time)
    for phase in ("setup", "warmup", "train"):
        clock.enter(phase)
    display = Display("label", Console(file=io.StringIO()))
    return interface.TrainingMonitor(clock, display, max_seconds=5.0)


def test_the_time_limit_is_read_from_the_clock_of_train(watch, time):
    watch.tick()
    time.now += 4.9
    watch.tick()
    time.now += 0.2
    with pytest.raises(interface.Timeout, match="5 s"):
        watch.tick()


def test_a_trainer_may_take_more_steps_between_two_ticks_the_faster_they_are(watch, time):
    allowed = []
    for step_seconds in [0.001] * 8 + [0.01] * 4 + [0.2] * 8:
        allowed.append(watch.patience)
        time.now += watch.patience * step_seconds
        watch.tick()
    assert allowed[:6] == [1, 2, 4, 8, 16, 32]
    assert allowed[12] * 0.01 <= interface.TICK_SECONDS
    assert allowed[-1] == 1


def test_a_check_is_stamped_with_the_seconds_of_train(watch, time):
    time.now += 2.5
    watch.check(10, 0.5, 7, {}, 90)
    (check,) = watch.checks
    assert (check.step, check.train_seconds, check.loss, check.errors) == (10, 2.5, 0.5, 7)


def test_a_target_is_reached_when_it_is_first_met(watch, time):
    for seconds, met in ((1.0, False), (1.0, True), (1.0, False), (1.0, True)):
        time.now += seconds
        watch.check(1, 0.5, 0, {"sample80": met, "99%": False}, 9)
    assert watch.reached == {"sample80": 2.0, "99%": None}


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_attempt_and_is_filed_as_null(watch, loss):
    with pytest.raises(interface.Diverged):
        watch.check(3, loss, 7, {}, 9)
    assert watch.checks[0].loss is None


@pytest.mark.parametrize(
    ("problem", "outcome"),
    [
        (interface.Timeout("late"), "timeout"),
        (interface.Diverged("nan"), "diverged"),
        (KeyboardInterrupt("SIGTERM"), "interrupted"),
        (MemoryError(), "error"),
        (torch.OutOfMemoryError("CUDA out of memory"), "error"),
        (RuntimeError("two\nlines"), "error"),
    ],
)
def test_every_ending_has_its_name_and_one_line(problem, outcome, capsys):
    name, line = lifecycle.classify_exception(problem)
    assert name == outcome
    assert "\n" not in line


class Stopped(RuntimeError):
    """A failure during whose handling the process is told to stop."""

    def __str__(self):
        signal.raise_signal(signal.SIGTERM)
        return "another process died"


class FakeTrainer:
    """Takes no step; fails in the phase it is told to."""

    def __init__(self, settings, track, *_, failing=None):
        self.model = random_model(block_size=track.prompt_length + track.answer_length - 1)
        self.steps = self.examples = 0
        self.step_flops = 1000
        self.failing = failing

    def warm_up(self):
        if self.failing == "warmup":
            raise RuntimeError("broken in warm-up")
        if self.failing == "honesty":
            with torch.no_grad():
                self.model.token.add_(1)

    def step(self):
        torch.ones(3).view(3, 1).add_(1)

    def train(self, watch):
        self.steps, self.examples = 3, 30
        watch.check(3, 0.25, 5, {"sample80": False}, 9)
        if self.failing == "train":
            raise KeyboardInterrupt("SIGINT")
        if self.failing == "train, and is stopped":
            raise Stopped
        if self.failing == "time":
            raise interface.Timeout("late")


@contextlib.contextmanager
def signals_kept():
    """An attempt ends by ignoring signals, which a test must not leave behind."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_second_of_silence(monkeypatch):
    monkeypatch.setattr(lifecycle, "QUIET_SECONDS", 0.0)


def attempted(tmp_path, failing, *more):
    """The run of a fake trainer."""
    arguments = f"--device cpu --shared --results {tmp_path} --threads 1 --track add2".split()
    plan = make_plan(Settings, [*arguments, *more], "")
    clock = Clock()
    clock.enter("setup")
    with signals_kept():
        return lifecycle.timed_attempt(plan, lambda *a: FakeTrainer(*a, failing=failing), clock)


@pytest.mark.parametrize(
    ("failing", "outcome", "reached"),
    [
        ("warmup", "error", ("import", "setup", "warmup")),
        ("train", "interrupted", ("import", "setup", "warmup", "train")),
    ],
)
def test_an_attempt_that_fails_is_filed_with_what_is_known(tmp_path, failing, outcome, reached):
    run = attempted(tmp_path, failing)
    assert Journal(tmp_path).read() == ([run], [])
    assert run.outcome == outcome
    assert run.certificate is None
    assert run.weights is None
    seconds = run.seconds.model_dump()
    assert {phase for phase, value in seconds.items() if value is not None} == {*reached, "total"}
    assert run.parameters is not None
    assert [check.errors for check in run.checks] == ([5] if failing == "train" else [])


def test_a_signal_keeps_no_failure_from_being_filed(tmp_path):
    with signals_kept():
        handle_interrupts()
        run = attempted(tmp_path, "train, and is stopped")
    assert (run.outcome, run.message) == ("error", "Stopped: another process died")
    assert Journal(tmp_path).read() == ([run], [])


def test_what_the_steps_cost_and_whether_the_warm_up_taught_anything_is_filed(tmp_path):
    run = attempted(tmp_path, None)
    assert run.train_flops == 3 * 1000
    assert run.matmul_flops_per_second > 1e8
    assert run.step_launches == 2
    assert 1e-8 < run.launch_seconds < 1e-3
    assert run.initial_weights_sha256 == run.warmed_weights_sha256 is not None
    assert attempted(tmp_path, "honesty").warmed_weights_sha256 != run.initial_weights_sha256


def test_what_is_measured_after_the_verdict_cannot_change_it(tmp_path, monkeypatch, capsys):
    def broken(device):
        raise RuntimeError("no launches today")

    monkeypatch.setattr(lifecycle, "launch_seconds", broken)
    run = attempted(tmp_path, None)
    assert run.outcome in ("solved", "missed")
    assert run.certificate is not None
    assert run.message is run.launch_seconds is run.step_launches is None
    assert "no launches today" in capsys.readouterr().err
    assert Journal(tmp_path).read() == ([run], [])


def test_a_control_is_certified_at_its_limit_and_an_attempt_is_not(tmp_path):
    assert attempted(tmp_path, "time").outcome == "timeout"
    run = attempted(tmp_path, "time", "--control", "shuffle")
    assert run.outcome == "missed"
    assert run.certificate.errors > 0


def test_an_attempt_that_a_command_started_leaves_its_line_and_files_nothing(tmp_path, monkeypatch):
    batch = Batch(id="batch", command="compare", planned=2, index=1, side="b")
    monkeypatch.setenv(BATCH_VARIABLE, batch.model_dump_json())
    run = attempted(tmp_path, "train")
    journal = Journal(tmp_path)
    assert journal.read() == ([], [])
    assert not (tmp_path / "LEADERBOARD.md").exists()
    assert journal.collect(batch, lambda left: left) == run


def test_an_attempt_announces_its_edges_on_the_pipe_it_was_given(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setenv(PIPE_VARIABLE, str(writer))
    announce = command.announcer()
    assert PIPE_VARIABLE not in os.environ, "what this process starts has no business with it"
    announce("setup")
    announce("stop")
    assert os.read(reader, 100) == b"setup\nstop\n"
    os.close(reader)
    announce("nobody listens any more")
    os.close(writer)


@pytest.mark.parametrize("told", [None, "", "no number"])
def test_an_attempt_that_nobody_listens_to_announces_nothing(monkeypatch, told):
    if told is not None:
        monkeypatch.setenv(PIPE_VARIABLE, told)
    command.announcer()("setup")


def test_a_message_in_the_journal_names_no_folder_of_this_machine(tmp_path, monkeypatch):
    def load(path, device):
        raise ValueError(f"{path}: broken, says {lifecycle.ROOT / 'bench'}")

    monkeypatch.setattr(lifecycle.weights, "load", load)
    run = attempted(tmp_path, None)
    assert run.outcome == "error"
    assert run.message == f"ValueError: results/{run.weights}: broken, says ./bench"


def test_what_is_certified_is_what_was_saved(tmp_path, monkeypatch):
    """The trainer's own model may change after saving; the verdict must not."""
    seen = []
    loaded = lifecycle.weights.load

    def load(path, device):
        seen.append(path)
        return loaded(path, device)

    monkeypatch.setattr(lifecycle.weights, "load", load)

    def certify(next_logits, track, device, seed):
        seen.append(seed)
        raise interface.Timeout("enough seen")

    monkeypatch.setattr(lifecycle, "certify", certify)
    run = attempted(tmp_path, None)
    assert seen == [tmp_path / run.weights, run.seed]
    assert run.outcome == "timeout"
