"""The judge's side of an attempt in another process, with contestants of a few lines."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.clock import Clock
from bench.judge import session
from bench.judge.protocol import DESCRIPTOR_VARIABLE, Channel
from bench.judge.session import Judged, Session
from tests.support.examples import ROOT
from tracks.registry import get_track

JUDGE = """
import json, socket, subprocess, sys
import torch
from bench.clock import Clock
from bench.judge.protocol import DESCRIPTOR_VARIABLE, Channel
from bench.judge.session import Session
from bench.provenance import ROOT, source_files
from tracks.registry import get_track

torch.set_num_threads(1)
ours, theirs = socket.socketpair()
clock = Clock(age=lambda: (0.0, None))
environment = {**__import__("os").environ, DESCRIPTOR_VARIABLE: str(theirs.fileno())}
process = subprocess.Popen(
    [sys.executable, *sys.argv[1:]], env=environment, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE
)
theirs.close()
judged = Session(Channel(ours), get_track("memorize"), 7, torch.device("cpu"), clock, 60.0).run()
process.communicate()
files = {str(path) for path in source_files()}
theirs = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) in files]
verdict = judged.verdict
print(json.dumps({
    "outcome": None if verdict is None else verdict.outcome,
    "problem": judged.problem,
    "seconds": clock.seconds,
    "total": clock.total,
    "modules": theirs,
}))
"""


def judge(contestant: Path) -> dict:
    """What a judge in a process of its own finds of a contestant's script."""
    command = [sys.executable, "-c", JUDGE, str(contestant)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict = json.loads(process.stdout)
    return found


def judge_here(contestant: Path, max_seconds: float = 60.0) -> tuple[Judged, Clock]:
    """What this process finds of a contestant's script as its judge."""
    ours, theirs = socket.socketpair()
    clock = Clock(age=lambda: (0.0, None))
    environment = {**os.environ, DESCRIPTOR_VARIABLE: str(theirs.fileno())}
    process = subprocess.Popen(
        [sys.executable, str(contestant)],
        env=environment,
        pass_fds=[theirs.fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    theirs.close()
    track = get_track("memorize")
    judged = Session(Channel(ours), track, 7, torch.device("cpu"), clock, max_seconds).run()
    process.wait()
    return judged, clock


def test_a_contestant_of_plain_numpy_is_judged_without_a_file_of_the_trainers_source() -> None:
    found = judge(ROOT / "tests" / "support" / "numpy_contestant.py")
    assert (found["outcome"], found["problem"]) == ("solved", None)
    assert found["modules"] == []
    phases = [found["seconds"][phase] for phase in ("import", "train", "certify")]
    assert all(seconds > 0 for seconds in phases)
    assert found["total"] == pytest.approx(sum(phases))
    assert len((ROOT / "tests" / "support" / "numpy_contestant.py").read_text().splitlines()) < 100


@pytest.mark.parametrize(
    ("replaced", "by", "problem"),
    [
        ("interface=1", "interface=0", "the contestant speaks version 0 of the protocol, the judge 1"),
        (
            'send("hello", interface=1, track="memorize")',
            'send("hello", interface=1, track="add3")',
            "prepared for add3",
        ),
        ("{seed} 0 {name}", "{seed} 1 {name}", "its initial weights are not those of its seed"),
        ("for _ in range(2000)", "for _ in range(0)", None),
        ('send("ready")', 'send("steady")', "the protocol has no message 'steady'"),
        ('send("ready")', 'send("ready"); send("ready")', "the contestant was ready a second time"),
        ('send("ready")', 'send("trained")', "weights came outside of training"),
        ('send("ready")', 'send("phase", name="train")', "a contestant cannot enter the phase 'train'"),
        ('send("ready")', 'send("ready"); send("phase", name="certify")', "cannot enter the phase 'certify'"),
        ('send("ready")', 'send("ready"); send("phase", name="warmup")', "weights came outside of training"),
        ('send("ready")', 'send("ready"); send("check", step="x")', "check: step: Input should be a valid integer"),
        ('send("ready")', 'send("checkpoint", step=3)', "a checkpoint is of a step during training, got 3"),
        ('send("ready")', 'send("ready"); send("checkpoint", step=-1)', "during training, got -1"),
        ('"n_hidden": 4', '"n_hidden": 5', "blocks.0.mlp.up is (4, 64)"),
        ("bytes=len(content)", "bytes=-1", "bytes must be a whole number up to"),
        ('"vocabulary": start["vocabulary"],', '"vocabulary": json.dumps(sorted(vocabulary)),', "of other ids"),
    ],
)
def test_what_breaks_the_protocol_is_named_in_one_line(replaced: str, by: str, problem: str | None, tmp_path) -> None:
    source = (ROOT / "tests" / "support" / "numpy_contestant.py").read_text()
    assert replaced in source
    changed = tmp_path / "contestant.py"
    changed.write_text(source.replace(replaced, by))
    judged, _ = judge_here(changed)
    if problem is None:
        assert judged.problem is None
        assert judged.verdict is not None
        assert judged.verdict.outcome == "missed"
    else:
        assert judged.verdict is None
        assert judged.problem is not None
        assert problem in judged.problem
        assert "\n" not in judged.problem


def test_weights_after_the_verdict_are_an_error(tmp_path) -> None:
    source = (ROOT / "tests" / "support" / "numpy_contestant.py").read_text()
    last = '    print(json.loads(lines.readline())["certified"]["outcome"])\n'
    assert last in source
    (tmp_path / "contestant.py").write_text(source.replace(last, "    lines.readline()\n    send('trained')\n"))
    judged, _ = judge_here(tmp_path / "contestant.py")
    assert judged.problem == "weights came outside of training"


def test_training_that_goes_on_after_the_end_was_announced_is_timed(tmp_path) -> None:
    """The message says how many bytes of weights follow; they follow half a second later."""
    source = (ROOT / "tests" / "support" / "numpy_contestant.py").read_text()
    send = 'judge.sendall(json.dumps({kind: values}).encode() + b"\\n" + payload)'
    assert send in source
    late = """judge.sendall(json.dumps({kind: values}).encode() + b"\\n")
        __import__("time").sleep(0.5 if payload else 0.0)
        judge.sendall(payload)"""
    (tmp_path / "contestant.py").write_text(source.replace(send, late))
    judged, clock = judge_here(tmp_path / "contestant.py")
    assert judged.verdict is not None
    assert judged.verdict.outcome == "solved"
    assert (clock.seconds["train"] or 0) >= 0.5


def test_a_contestant_that_says_nothing_is_given_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(session, "PATIENCE_SECONDS", 0.1)
    source = (ROOT / "tests" / "support" / "numpy_contestant.py").read_text()
    silent = tmp_path / "contestant.py"
    silent.write_text(source.replace('    start = json.loads(lines.readline())["start"]\n', "    lines.read()\n"))
    judged, clock = judge_here(silent, max_seconds=0.1)
    assert judged.verdict is None
    assert judged.problem == "the contestant was silent for longer than its limit"
    assert 0.2 <= (clock.seconds["train"] or 0) < 5


def test_a_contestant_that_only_reports_checks_is_given_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(session, "PATIENCE_SECONDS", 0.1)
    source = (ROOT / "tests" / "support" / "numpy_contestant.py").read_text()
    chatty = """
    while True:
        send("check", step=1, train_seconds=1.0, loss=1.0, errors=1)
"""
    (tmp_path / "contestant.py").write_text(
        source.replace('    start = json.loads(lines.readline())["start"]\n', chatty)
    )
    judged, clock = judge_here(tmp_path / "contestant.py", max_seconds=0.1)
    assert (judged.verdict, judged.problem) == (None, "the contestant was silent for longer than its limit")
    assert 0.2 <= (clock.seconds["train"] or 0) < 5


def test_a_contestant_that_ends_early_has_no_verdict(tmp_path) -> None:
    (tmp_path / "contestant.py").write_text("raise SystemExit(3)")
    judged, clock = judge_here(tmp_path / "contestant.py")
    assert (judged.verdict, judged.problem, clock.seconds["train"]) == (None, None, None)
