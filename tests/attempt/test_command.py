"""The command line of an attempt: the edges that it announces to the command that started it."""

import os
import sys

import pytest

from bench.attempt import command
from bench.processes import PIPE_VARIABLE
from bench.streams import lenient
from tests.support.examples import example_run


def test_an_attempt_announces_its_edges_to_the_descriptor_in_the_environment(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setenv(PIPE_VARIABLE, str(writer))
    announce = command.edge_announcer()
    assert PIPE_VARIABLE not in os.environ, "child processes do not inherit it"
    announce("setup")
    announce("stop")
    assert os.read(reader, 100) == b"setup\nstop\n"
    os.close(reader)
    announce("after the reader has closed")
    os.close(writer)


@pytest.mark.parametrize("value", [None, "", "no number"])
def test_without_a_descriptor_nothing_is_announced(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv(PIPE_VARIABLE, value)
    command.edge_announcer()("setup")


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
