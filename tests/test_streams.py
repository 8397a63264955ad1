"""Standard streams whose reader has gone, that are closed, full, or of a narrow encoding."""

import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bench import streams
from bench.streams import LenientOutput, printable
from tests.support.examples import ROOT


def output_to(descriptor: int, encoding: str = "utf-8", errors: str = "replace") -> io.TextIOWrapper:
    """What `prepare_streams` puts in place of a standard stream with this file descriptor."""
    replaced = open(descriptor, "w", encoding=encoding)  # noqa: SIM115, it stays open, as sys.__stdout__ does
    output: Any = streams.lenient(replaced, descriptor, errors)
    output.replaced = replaced
    return output


def run(code: str, **options) -> subprocess.CompletedProcess:
    code = f"from bench.streams import prepare_streams; prepare_streams(); import os, sys; {code}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, **options)


@pytest.fixture
def broken_pipe() -> int:
    """The end for writing of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_what_nobody_reads_is_discarded(broken_pipe):
    output = output_to(broken_pipe)
    print("a", file=output, flush=True)
    print("b" * 10**6, file=output, flush=True)
    stream: Any = output
    assert stream.buffer.raw.problem.errno == errno.EPIPE
    os.write(broken_pipe, b"now the null device, also for child processes")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_full_disk_is_remembered(monkeypatch):
    monkeypatch.setattr(sys, "stdout", output_to(os.open("/dev/full", os.O_WRONLY)))
    print("lost")
    assert streams.lost_output().errno == errno.ENOSPC


def test_a_reader_that_has_seen_enough_is_no_problem(broken_pipe, monkeypatch):
    monkeypatch.setattr(sys, "stdout", output_to(broken_pipe))
    print("lost")
    assert streams.lost_output() is None


def test_a_pipe_that_another_program_made_non_blocking_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received = []

    def read():
        time.sleep(0.1)
        while block := os.read(reader, 2**16):
            received.append(block)

    thread = threading.Thread(target=read)
    thread.start()
    output = output_to(writer)
    print("x" * 300_000, file=output, flush=True)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert b"".join(received) == b"x" * 300_000 + b"\n"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "gr??e ?"), ("cp1252", "größe ?"), ("utf-8", "größe ━")])
def test_characters_that_a_terminal_lacks_are_replaced(encoding, shown, tmp_path):
    path = tmp_path / "output"
    output = output_to(os.open(path, os.O_CREAT | os.O_WRONLY), encoding)
    print("größe ━", file=output, flush=True)
    assert path.read_text(encoding) == f"{shown}\n"


def test_data_for_programs_is_utf_8_on_every_terminal(tmp_path, monkeypatch):
    path = tmp_path / "output"
    monkeypatch.setattr(sys, "stdout", output_to(os.open(path, os.O_CREAT | os.O_WRONLY), "ascii"))
    print("first")
    streams.print_data('{"note": "größe"}')
    assert path.read_bytes().decode() == 'first\n{"note": "größe"}\n'


def test_closed_streams_are_the_null_device():
    """Otherwise the file would take descriptor 1, and receive what is printed."""
    code = "sys.stdout.write('a'); sys.stderr.write('b'); print(sys.stdin.read()); os._exit(os.open('.', 0))"
    done = run(code, preexec_fn=lambda: [os.close(descriptor) for descriptor in (0, 1, 2)])
    assert done.returncode > 2


@pytest.mark.parametrize("options", [[], ["-u"]])
def test_streams_stay_as_they_were_otherwise(options):
    code = "from bench.streams import prepare_streams; prepare_streams(); print('ü', input()); import os; os._exit(0)"
    command = [sys.executable, *options, "-c", code.replace("; import os", "; sys.stdout.flush(); import os")]
    command[-1] = f"import sys; {command[-1]}"
    done = subprocess.run(command, cwd=ROOT, input="ä", capture_output=True, encoding="utf-8", timeout=60)
    assert (done.stdout, done.stderr) == ("ü ä\n", "")


def test_a_stream_that_is_not_real_is_left_to_its_file():
    assert not LenientOutput(io.BytesIO()).isatty()


def test_control_characters_are_escapes_that_json_and_toml_read_back():
    text = "a\x1b[31m\x9b2J\x7f\r\u202eb\tc\nd ü"
    shown = printable(text)
    assert shown == "a\\u001b[31m\\u009b2J\\u007f\\u000d\\u202eb\tc\nd ü"
    line = printable(json.dumps({"note": text}, ensure_ascii=False))
    assert json.loads(line) == {"note": text}
    assert tomllib.loads(printable(tomli_w.dumps({"note": text}))) == {"note": text}
