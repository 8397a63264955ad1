"""One attempt from its plan to its run: failures, interrupts, time limits, and what is measured and saved."""

import dataclasses
import errno
import os
import signal
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.attempt import interface, lifecycle
from bench.attempt.plan import make_plan
from bench.cli import handle_interrupts
from bench.clock import Clock
from bench.entry import format_traceback, save_traceback
from bench.judge.initial_weights import initial_weights
from bench.judge.protocol import Channel
from bench.judge.session import Session
from bench.judge.verdict import lawful_sha256
from bench.machine import peaks
from bench.processes import BATCH_VARIABLE
from bench.provenance import ROOT
from bench.storage.journal import Journal, StartMark
from bench.storage.machines import machine_peaks_file
from bench.storage.schema import Batch
from settings import Settings
from tests.support.models import random_model
from tests.support.signals import signal_handlers_kept
from tracks.registry import get_track


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
def test_every_exception_has_an_outcome_and_a_message_of_one_line(problem, outcome, tmp_path, capsys):

    def keep_traceback(problem):
        return save_traceback(format_traceback(problem), tmp_path)

    name, line = lifecycle.classify_exception(problem, keep_traceback)
    assert name == outcome
    assert "\n" not in line
    shown = capsys.readouterr().err
    traces = [path.read_text() for path in tmp_path.glob("errors/*.txt")]
    assert all(f"the traceback is in {tmp_path}" in shown and line.split(":")[0] in trace for trace in traces)
    assert (outcome == "error" and "out of memory" not in line) == bool(traces)
    assert "Traceback" not in shown


class Stopped(RuntimeError):
    """A failure during which the process receives SIGTERM."""

    def __str__(self):
        signal.raise_signal(signal.SIGTERM)
        return "another process died"


class FakeTrainer:
    """Takes no steps; fails in the given phase."""

    def __init__(self, settings, track, *_, failing=None):
        self.model = random_model(block_size=track.prompt_length + track.answer_length - 1)
        self.track = track
        self.steps = self.examples = 0
        self.step_flops = 1000
        self.failing = failing

    def warm_up(self):
        if self.failing == "warmup":
            raise RuntimeError("broken in warm-up")

    def step(self):
        torch.ones(3).view(3, 1).add_(1)

    def train(self, watch, start):
        self.track = start.track
        config = dataclasses.asdict(self.model.config)
        self.model.load_state_dict(dict(initial_weights(config, "identity", config["embedding_std"], start.seed)))
        if self.failing == "other initial weights":
            with torch.no_grad():
                self.model.token[0, 0] += 1
        watch.initialized(self.model)
        self.steps, self.examples = 3, 30
        watch.check(3, 0.25, 5, {"sample80": False}, 9)
        if self.failing == "train":
            raise KeyboardInterrupt("SIGINT")
        if self.failing == "train, and is stopped":
            raise Stopped
        if self.failing == "time":
            raise interface.Timeout("late")


def run_of(tmp_path, failing, *more, judge=None):
    """The run of a fake trainer."""
    fake: Any = FakeTrainer
    arguments = f"--device cpu --shared --results {tmp_path} --threads 1 --track add2".split()
    plan = make_plan(Settings, [*arguments, *more], "")
    clock = Clock()
    clock.enter("setup")
    with signal_handlers_kept():
        return lifecycle.timed_attempt(plan, lambda *a: fake(*a, failing=failing), clock, judge)


@pytest.mark.parametrize(
    ("failing", "outcome", "reached"),
    [
        ("warmup", "error", ("import", "setup", "warmup")),
        ("train", "interrupted", ("import", "setup", "warmup", "train")),
    ],
)
def test_a_failed_attempt_is_filed_with_the_results_so_far(tmp_path, failing, outcome, reached):
    run = run_of(tmp_path, failing)
    assert Journal(tmp_path).read() == ([run], [])
    assert run.outcome == outcome
    assert run.certificate is None
    assert run.weights is None
    seconds = run.seconds.model_dump()
    assert {phase for phase, value in seconds.items() if value is not None} == {*reached, "total", "wall"}
    assert seconds["wall"] > seconds["total"]
    assert run.parameters is not None
    assert [check.errors for check in run.checks] == ([5] if failing == "train" else [])


def test_a_failure_is_filed_even_if_a_signal_arrives_meanwhile(tmp_path):
    with signal_handlers_kept():
        handle_interrupts()
        run = run_of(tmp_path, "train, and is stopped")
    assert (run.outcome, run.message) == ("error", "Stopped: another process died")
    assert Journal(tmp_path).read() == ([run], [])


def test_the_cost_of_a_step_and_the_initial_weights_are_filed(tmp_path):
    run = run_of(tmp_path, None)
    assert run.train_flops == 3 * 1000
    assert run.matmul_flops_per_second > 1e8
    assert run.step_launches == 2
    assert 1e-8 < run.launch_seconds < 1e-3
    assert run.initial_weights_sha256 == lawful_sha256(tmp_path / str(run.weights), run.seed)
    other = run_of(tmp_path, "other initial weights")
    assert other.outcome == "error"
    assert "its initial weights are not those of its seed" in other.message


def test_the_limits_of_a_machine_are_measured_once(tmp_path, monkeypatch):
    first = run_of(tmp_path, None)
    (peak,), faults = machine_peaks_file(tmp_path).read()
    assert not faults
    assert (peak.machine_class, peak.precision) == (first.machine.class_, first.precision)
    monkeypatch.setattr(peaks, "measure_peak", None)
    second = run_of(tmp_path, None)
    assert second.matmul_flops_per_second == first.matmul_flops_per_second == peak.matmul_flops_per_second
    assert second.launch_seconds == peak.launch_seconds


def test_the_verdict_is_shown_when_the_disk_is_full(tmp_path, monkeypatch, capsys):
    def full(self, run):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "runs.jsonl"))

    monkeypatch.setattr(StartMark, "file", full)
    with pytest.raises(OSError, match="No space left"):
        run_of(tmp_path, None)
    shown = capsys.readouterr().err
    assert "missed" in shown or "solved" in shown
    assert f"not filed: {tmp_path / 'runs.jsonl'}: No space left on device" in shown


def test_a_failure_after_the_certificate_does_not_change_the_outcome(tmp_path, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("no launches today")

    monkeypatch.setattr(peaks, "measure_peak", broken)
    run = run_of(tmp_path, None)
    assert run.outcome in ("solved", "missed")
    assert run.certificate is not None
    assert run.message is run.launch_seconds is run.step_launches is None
    assert "no launches today" in capsys.readouterr().err
    assert Journal(tmp_path).read() == ([run], [])


def test_a_control_is_certified_at_its_time_limit_and_an_attempt_is_not(tmp_path):
    assert run_of(tmp_path, "time").outcome == "timeout"
    run = run_of(tmp_path, "time", "--control", "shuffle")
    assert run.outcome == "missed"
    assert run.certificate.errors > 0


def test_an_attempt_of_a_batch_leaves_its_run_in_the_start_mark(tmp_path, monkeypatch):
    batch = Batch(id="batch", command="compare", planned=2, index=1, side="b")
    monkeypatch.setenv(BATCH_VARIABLE, batch.model_dump_json())
    run = run_of(tmp_path, "train")
    journal = Journal(tmp_path)
    assert journal.read() == ([], [])
    assert not (tmp_path / "LEADERBOARD.md").exists()
    assert journal.collect(batch, lambda run: run) == run


def judged_run_of(tmp_path, failing, *more):
    """The run of a fake trainer that a thread judges, and what that thread received: verdict, report, checkpoints."""
    ours, theirs = socket.socketpair()
    clock, saved = Clock(), []
    session = Session(
        Channel(ours), get_track("add2"), 7, torch.device("cpu"), clock, 60.0,
        on_checkpoint=lambda step, content: saved.append((step, content)),
    )  # fmt: skip
    thread = threading.Thread(target=session.run)
    thread.start()
    channel = Channel(theirs)
    try:
        run = run_of(tmp_path, failing, *more, judge=channel)
    finally:
        channel.close()
        thread.join()
    return run, session.judged, saved


@pytest.mark.parametrize(
    ("failing", "outcome", "message"),
    [
        (None, "missed", None),
        ("warmup", "error", "RuntimeError: broken in warm-up"),
        ("train", "interrupted", "SIGINT"),
        ("time", "timeout", "late"),
    ],
)
def test_a_judged_attempt_reports_its_run_and_writes_nothing(failing, outcome, message, tmp_path):
    run, judged, saved = judged_run_of(tmp_path, failing, "--check-every", "3", "--checkpoint-every", "3")
    assert not any(tmp_path.iterdir())
    assert (judged.problem, judged.verdict is None) == (None, failing is not None)
    trace = judged.report.pop("traceback")
    assert judged.report == run.model_dump(mode="json")
    assert (run.outcome, run.message) == (outcome, message)
    assert run.seed == (run.seed if failing == "warmup" else 7)
    assert (trace is not None and message in trace) == (failing == "warmup")
    assert [(step, content[8:20]) for step, content in saved] == ([] if failing == "warmup" else [(3, b'{"__metadata')])


def test_a_message_in_the_journal_has_no_absolute_paths(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise ValueError(f"{path}: broken, says {ROOT / 'bench'}")

    monkeypatch.setattr(lifecycle, "judge_weights", refuse)
    run = run_of(tmp_path, None)
    assert run.outcome == "error"
    assert run.message == f"ValueError: results/{run.weights}: broken, says ./bench"


def test_the_saved_weights_are_certified(tmp_path, monkeypatch):
    """The trainer's model may change after saving; the certificate must not."""
    calls = []

    def judge_weights(path, initial, track, start, *_):
        calls.append((path, start["seed"]))
        raise interface.Timeout("enough")

    monkeypatch.setattr(lifecycle, "judge_weights", judge_weights)
    run = run_of(tmp_path, None)
    assert calls == [(tmp_path / run.weights, run.seed)]
    assert run.outcome == "timeout"


@pytest.mark.parametrize(("command", "num_saved"), [(None, 2), ("speedrun", 2), ("audit", 1), ("matrix", 0)])
def test_weights_after_a_step_are_saved_unless_the_attempt_is_an_audits_or_a_matrix(
    command, num_saved, tmp_path, monkeypatch
):
    """Beside the final weights, which a matrix does not keep either."""
    if command is not None:
        batch = Batch(id="batch", command=command, planned=1, index=0)
        monkeypatch.setenv(BATCH_VARIABLE, batch.model_dump_json())
    run_of(tmp_path, None, "--check-every", "3", "--checkpoint-every", "3")
    assert len(list(tmp_path.glob("weights/*.safetensors"))) == num_saved


def test_weights_are_saved_at_the_first_check_after_each_multiple_also_in_later_rounds(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("bench.storage.weights.save", lambda path, *_: saved.append(path.name))
    plan = SimpleNamespace(
        settings_dict={"checkpoint_every": 100}, request=SimpleNamespace(results=tmp_path), track=None
    )
    attempt: Any = SimpleNamespace(plan=plan, lost=SimpleNamespace(run_id="run"), saved_multiple=0, judge=None)
    for step in (50, 100, 130, 180, 230, 260, 290, 340):  # rounds end at 130 and 260
        lifecycle.Attempt.save_checkpoint(attempt, SimpleNamespace(model=None, track=None), step)
    assert saved == [f"run-step-{step:06}.safetensors" for step in (100, 230, 340)]
