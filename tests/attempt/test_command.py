"""The command line of an attempt: the edges that it announces to the command that started it."""

import os

import pytest

from bench.attempt import command
from bench.processes import PIPE_VARIABLE


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
