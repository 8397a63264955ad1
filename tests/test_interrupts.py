"""Interrupts, in processes of their own."""

import os
import subprocess
import sys

import pytest

from tests.support.examples import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


def status_of(code: str, *options: str, **more) -> tuple[int, str]:
    heard = "signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # this process may ignore it, as under nohup
    code = f"import os, signal, sys; from bench.interrupts import *; {heard}; {code}"
    done = subprocess.run([sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True, **more)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_during_the_imports_exits_130(name):
    assert status_of(f"exit_on_interrupts(message='stopped'); signal.raise_signal(signal.{name})") == (130, "stopped\n")


def test_a_closed_terminal_is_an_interrupt_that_is_handled_once():
    code = """
handle_interrupts()
try:
    signal.raise_signal(signal.SIGHUP)
except KeyboardInterrupt as problem:
    signal.raise_signal(signal.SIGINT)
    sys.exit(str(problem))
"""
    assert status_of(code) == (1, "SIGHUP\n")


def test_nohup_is_respected():
    code = "signal.signal(signal.SIGHUP, signal.SIG_IGN); handle_interrupts(); signal.raise_signal(signal.SIGHUP)"
    assert status_of(code) == (0, "")


def test_ctrl_c_while_the_commands_are_imported_exits_130_without_a_traceback(tmp_path):
    (tmp_path / "tyro.py").write_text(
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)"
    )
    command = [sys.executable, "-m", "bench", "tracks"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
