"""The ear: what a child process says, all of it, and when it was said, however late the command listens."""

import os
import subprocess
import sys
import time

import pytest

from bench.experiments import outer_clock
from bench.experiments.outer_clock import EdgeListener, delay_since_write

SAYING = """
import os, sys, time
for word, seconds in (("setup", 0.15), ("train", 0.15), ("stop", 0.0)):
    os.write(int(sys.argv[1]), f"{word}\\n".encode())
    time.sleep(seconds)
"""


def what_is_heard(code: str, seconds_for_each: float = 0.0) -> list[tuple[str, float]]:
    """What a child says, by a listener that is busy for some seconds with each line."""
    heard = []

    def heed(line: str, written: float) -> None:
        heard.append((line, written))
        time.sleep(seconds_for_each)

    listening = EdgeListener(heed)
    command = [sys.executable, "-c", code, str(listening.descriptor)]
    subprocess.run(command, pass_fds=[listening.descriptor], check=True)
    listening.close()
    return heard


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel stamps no messages here")
def test_a_line_counts_from_when_it_was_written_not_from_when_it_is_read() -> None:
    heard = what_is_heard(SAYING, seconds_for_each=0.4)
    assert [line for line, _ in heard] == ["setup", "train", "stop"]
    (_, first), (_, second), (_, third) = heard
    assert second - first == pytest.approx(0.15, abs=0.1)
    assert third - second == pytest.approx(0.15, abs=0.1)


def test_without_stamps_a_line_counts_from_when_it_is_read(monkeypatch) -> None:
    monkeypatch.setattr(outer_clock.sys, "platform", "another")
    begun = time.perf_counter()
    heard = what_is_heard(SAYING)
    assert [line for line, _ in heard] == ["setup", "train", "stop"]
    times = [begun, *(written for _, written in heard), time.perf_counter()]
    assert times == sorted(times)


def test_lines_of_one_message_are_heard_one_by_one_and_a_broken_one_too() -> None:
    heard = what_is_heard("import os, sys; os.write(int(sys.argv[1]), b'setup\\nwarmup\\n\\xff')")
    assert [line for line, _ in heard] == ["setup", "warmup", "\ufffd"]


def test_a_grandchild_that_keeps_its_end_open_keeps_nobody_waiting() -> None:
    code = """
import os, subprocess, sys
subprocess.Popen(["sleep", "5"], pass_fds=[int(sys.argv[1])], stdout=subprocess.DEVNULL)
os.write(int(sys.argv[1]), b"stop\\n")
"""
    begun = time.perf_counter()
    assert [line for line, _ in what_is_heard(code)] == ["stop"]
    assert time.perf_counter() - begun < 4.0


def test_who_writes_when_nobody_listens_any_more_is_told_so() -> None:
    listening = EdgeListener(lambda line, written: None)
    own = os.dup(listening.descriptor)
    listening.close()
    with pytest.raises(ConnectionError):
        os.write(own, b"stop\n")
    os.close(own)


def test_a_stamp_from_the_future_is_not_late() -> None:
    """The wall clock may be set back between the two readings."""
    stamp = outer_clock.TIMESPEC.pack(int(time.time()) + 100, 0)
    assert delay_since_write([(outer_clock.socket.SOL_SOCKET, outer_clock.STAMPS, stamp)]) == 0.0
    assert delay_since_write([(outer_clock.socket.SOL_SOCKET, outer_clock.STAMPS, b"short"), (0, 0, stamp)]) == 0.0
    before = outer_clock.TIMESPEC.pack(int(time.time()) - 100, 0)
    assert delay_since_write([(outer_clock.socket.SOL_SOCKET, outer_clock.STAMPS, before)]) == pytest.approx(100, abs=2)
