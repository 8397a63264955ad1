"""The listener has the time of writing of every line of a child process; the phases follow from these times."""

import os
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clock import PHASES, Clock
from bench.experiments.outer_clock import (
    SO_TIMESTAMPNS,
    TIMESPEC,
    EdgeListener,
    delay_since_write,
    disagreements,
    off_seconds,
    outer_seconds,
)

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
    code = "import os, sys, time\nfor _ in range(3): os.write(int(sys.argv[1]), f'{time.perf_counter()}\\n'.encode())"
    lines = lines_from(code, seconds_per_line=1.0)
    assert len(lines) == 3
    for line, written in lines:  # the third is read two seconds late; the child reads the same monotonic clock
        assert written == pytest.approx(float(line), abs=0.5)


def test_without_timestamps_a_line_has_the_time_of_reading(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "another")
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
subprocess.Popen(["sleep", "30"], pass_fds=[int(sys.argv[1])], stdout=subprocess.DEVNULL)
os.write(int(sys.argv[1]), b"stop\\n")
"""
    begun = time.perf_counter()
    assert [line for line, _ in lines_from(code)] == ["stop"]
    assert time.perf_counter() - begun < 20.0


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


# -----------------------------------------------------------------------------
# from edges to seconds

EDGES = [("setup", 12.0), ("warmup", 13.0), ("train", 15.0), ("certify", 19.0), ("stop", 27.0)]
PHASE_SECONDS = {"import": 2.0, "setup": 1.0, "warmup": 2.0, "train": 4.0, "certify": 8.0, "total": 17.0}


def test_the_seconds_of_a_phase_lie_between_two_announcements() -> None:
    assert outer_seconds(10.0, EDGES) == PHASE_SECONDS


def test_waiting_for_the_device_counts_on_neither_clock() -> None:
    waited = [("setup", 12.0), ("off", 12.25), ("on", 14.25), *((edge, now + 2) for edge, now in EDGES[1:])]
    assert outer_seconds(10.0, waited) == PHASE_SECONDS
    assert off_seconds(waited) == 2.0
    assert off_seconds(EDGES) == 0.0


def test_announcements_of_time_off_during_train_are_ignored() -> None:
    """They come from the process of the contestant, who would gain by them."""
    cheating = [*EDGES[:3], ("off", 15.5), ("on", 18.5), *EDGES[3:]]
    assert outer_seconds(10.0, cheating) == PHASE_SECONDS
    assert off_seconds(cheating) == 0.0


@pytest.mark.parametrize("num_edges", range(5))
def test_an_attempt_that_died_has_no_total_and_no_seconds_of_its_last_phase(num_edges: int) -> None:
    seconds = outer_seconds(10.0, EDGES[:num_edges])
    ended = PHASES[:num_edges]
    assert {phase for phase, value in seconds.items() if value is not None} == set(ended)


@given(st.lists(st.tuples(st.text(max_size=8) | st.sampled_from([*PHASES, "off", "on", "stop"]), st.floats(0, 1e6))))
def test_any_announcements_give_seconds_or_none_for_every_phase(edges: list[tuple[str, float]]) -> None:
    assert set(outer_seconds(0.0, edges)) == {*PHASES, "total"}


def test_the_outer_seconds_are_those_of_the_attempt_s_clock_if_announcements_take_no_time() -> None:
    now = 100.0
    edges: list[tuple[str, float]] = []

    def announce(edge: str) -> None:
        edges.append((edge, now))

    clock = Clock(age=lambda: (2.0, 0.01), now=lambda: now)
    clock.announce = announce
    for phase in PHASES[1:]:
        now += 1.5
        clock.enter(phase)
        if phase == "setup":
            with clock.off():
                now += 7.0
    now += 1.5
    clock.stop()
    assert outer_seconds(98.0, edges) == {**clock.seconds, "total": clock.total}


def seconds_with(**changes: float | None) -> dict[str, float | None]:
    return PHASE_SECONDS | changes


@pytest.mark.parametrize(("train", "agrees"), [(4.099, True), (3.901, True), (4.101, False), (3.899, False)])
def test_two_percent_and_twenty_milliseconds_are_tolerated_in_both_directions(train: float, agrees: bool) -> None:
    assert (disagreements(seconds_with(train=train), PHASE_SECONDS) == []) is agrees


def test_a_disagreement_names_the_phase_and_both_clocks() -> None:
    (sentence,) = disagreements(seconds_with(train=3.0), PHASE_SECONDS)
    assert sentence == "the clocks disagree about train: 3.000 s inside, 4.000 s outside"


def test_seconds_on_only_one_clock_are_a_disagreement() -> None:
    assert len(disagreements(seconds_with(certify=None), PHASE_SECONDS)) == 1
    assert len(disagreements(PHASE_SECONDS, seconds_with(certify=None))) == 1
    assert disagreements(seconds_with(certify=None), seconds_with(certify=None)) == []
