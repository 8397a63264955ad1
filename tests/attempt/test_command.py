"""The command line of an attempt: what it tells the judge, the plan of a batch, and what it prints."""

import os
import socket
import sys
from pathlib import Path

import pytest

from bench.attempt import command
from bench.attempt.plan import make_plan
from bench.experiments.launcher import Contestant, Task
from bench.judge.protocol import DESCRIPTOR_VARIABLE, Channel, Message, judge_channel
from bench.storage.results import paired_plans_file
from bench.storage.schema import Batch
from bench.streams import lenient
from settings import Settings
from tests.support.examples import example_run


def test_an_attempt_tells_the_judge_its_first_phases(monkeypatch):
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(DESCRIPTOR_VARIABLE, str(theirs.detach()))
    judge = judge_channel()
    assert judge is not None
    assert DESCRIPTOR_VARIABLE not in os.environ, "child processes do not inherit it"
    for edge in ("setup", "warmup", "train", "stop"):
        command.announce(judge, edge)
    judge.send("ready")
    channel = Channel(ours)
    assert [channel.receive() for _ in range(3)] == [
        Message("phase", {"name": "setup"}),
        Message("phase", {"name": "warmup"}),
        Message("ready", {}),
    ]
    channel.close()
    command.announce(judge, "setup")  # nobody listens
    judge.close()


@pytest.mark.parametrize("value", [None, "", "no number"])
def test_without_a_descriptor_there_is_no_judge(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv(DESCRIPTOR_VARIABLE, value)
    assert judge_channel() is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux")
def test_a_plan_that_is_cut_off_by_a_full_disk_is_an_error_and_one_that_nobody_reads_is_not(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    for descriptor, status in ((os.open("/dev/full", os.O_WRONLY), 1), (writer, 0)):
        replaced = open(descriptor, "w")  # noqa: SIM115, it stays open, as sys.__stdout__ does
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", lenient(replaced, descriptor, "replace"))
            assert command.print_answer("speedrun.py", example_run()) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "speedrun.py: standard output is incomplete: No space left on device"


def test_a_batch_files_its_plan_with_drawn_seeds_before_its_first_attempt(tmp_path, monkeypatch, capsys):
    options = ["--device", "cpu", "--kernel", "torch", "--attempts", "3", "--results", str(tmp_path)]
    plan, begun = make_plan(Settings, options, ""), []

    def run_tasks(tasks, journal, on_filed):
        begun.append((tasks, paired_plans_file(journal.results).read()[0]))
        raise KeyboardInterrupt

    def yardstick_task(script, device, batch_id):
        batch = Batch(id=batch_id, command="yardstick", planned=1, index=0)
        return Task(Contestant(Path(script), (), example_run()), 0, batch)

    monkeypatch.setattr(command, "run_tasks", run_tasks)
    monkeypatch.setattr(command, "yardstick_task", yardstick_task)
    for _ in range(2):
        assert command.run_batch(plan, 3, options) == 130
    (first, (filed,)), (second, (_, again)) = begun
    for (yardstick, *tasks), batch_plan in ((first, filed), (second, again)):
        assert (batch_plan.command, batch_plan.clock, batch_plan.b, batch_plan.level) == ("speedrun", None, None, None)
        assert yardstick.batch.id == batch_plan.id
        assert [task.seed for task in tasks] == batch_plan.seeds
        assert [task.batch.index for task in tasks] == [0, 1, 2]
        assert {(task.batch.id, task.batch.planned, task.batch.side) for task in tasks} == {(batch_plan.id, 3, None)}
    assert filed.id != again.id, "a batch that was broken off is not continued"
    assert not set(filed.seeds) & set(again.seeds)
    assert plan.seed not in filed.seeds
    assert "0 of 3 attempts were started" in capsys.readouterr().err
