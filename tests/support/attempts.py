"""Attempts in the process of the tests, without the second that importing torch takes."""

import pytest

import speedrun
from bench import attempt
from bench.clock import Clock
from settings import Settings
from tests.support.signals import signal_handlers_kept


def attempt_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit status, standard output and standard error of `speedrun.py --shared` with these arguments."""
    capsys.readouterr()
    with signal_handlers_kept():
        status = attempt.main(Settings, speedrun.Trainer, Clock(), ["--shared", *arguments], speedrun.__doc__ or "")
    return status, *capsys.readouterr()
