"""The listener receives every line of a child process with the time of writing, however late it reads."""

import os
import socket
import subprocess
import sys
import time

import pytest

from bench.experiments import outer_clock
from bench.experiments.outer_clock import SO_TIMESTAMPNS, TIMESPEC, EdgeListener, delay_since_write

STAMPED = socket.SOL_SOCKET, SO_TIMESTAMPNS  # the level and type of a timestamp in ancillary data
WRITING = """
import os, sys, time
for word, seconds in (("setup", 0.15), ("train", 0.15), ("stop", 0.0)):
    os.write(int(sys.argv[1]), f"{word}\\n".encode())
    time.sleep(seconds)
"""


def lines_from(code: str, seconds_per_line: float = 0.0) -> list[tuple[str, float]]:
    """The lines that a child writes and their times, from a listener that is busy for some seconds with each line."""
    lines = []

    def on_line(line: str, written: float) -> None:
        lines.append((line, written))
        time.sleep(seconds_per_line)

    listener = EdgeListener(on_line)
    command = [sys.executable, "-c", code, str(listener.descriptor)]
    subprocess.run(command, pass_fds=[listener.descriptor], check=True)
    listener.close()
    return lines


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps messages")
def test_a_line_has_the_time_of_writing_not_of_reading() -> None:
    lines = lines_from(WRITING, seconds_per_line=0.4)
    assert [line for line, _ in lines] == ["setup", "train", "stop"]
    (_, first), (_, second), (_, third) = lines
    assert second - first == pytest.approx(0.15, abs=0.1)
    assert third - second == pytest.approx(0.15, abs=0.1)


def test_without_timestamps_a_line_has_the_time_of_reading(monkeypatch) -> None:
    monkeypatch.setattr(outer_clock.sys, "platform", "another")
    begun = time.perf_counter()
    lines = lines_from(WRITING)
    assert [line for line, _ in lines] == ["setup", "train", "stop"]
    times = [begun, *(written for _, written in lines), time.perf_counter()]
    assert times == sorted(times)


def test_a_message_may_hold_several_lines_and_invalid_utf_8() -> None:
    lines = lines_from("import os, sys; os.write(int(sys.argv[1]), b'setup\\nwarmup\\n\\xff')")
    assert [line for line, _ in lines] == ["setup", "warmup", "\ufffd"]


def test_a_grandchild_that_keeps_the_socket_open_does_not_block_closing() -> None:
    code = """
import os, subprocess, sys
subprocess.Popen(["sleep", "5"], pass_fds=[int(sys.argv[1])], stdout=subprocess.DEVNULL)
os.write(int(sys.argv[1]), b"stop\\n")
"""
    begun = time.perf_counter()
    assert [line for line, _ in lines_from(code)] == ["stop"]
    assert time.perf_counter() - begun < 4.0


def test_writing_after_the_listener_closed_is_an_error() -> None:
    listener = EdgeListener(lambda line, written: None)
    duplicate = os.dup(listener.descriptor)
    listener.close()
    with pytest.raises(ConnectionError):
        os.write(duplicate, b"stop\n")
    os.close(duplicate)


def test_a_timestamp_from_the_future_means_no_delay() -> None:
    """The wall clock may be set back between the two readings."""
    stamp = TIMESPEC.pack(int(time.time()) + 100, 0)
    assert delay_since_write([(*STAMPED, stamp)]) == 0.0
    assert delay_since_write([(*STAMPED, b"short"), (0, 0, stamp)]) == 0.0
    before = TIMESPEC.pack(int(time.time()) - 100, 0)
    assert delay_since_write([(*STAMPED, before)]) == pytest.approx(100, abs=2)
