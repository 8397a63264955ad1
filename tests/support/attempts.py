"""Attempts in the process of the tests, without the second that importing torch takes."""

import contextlib
import signal
from collections.abc import Iterator

import pytest

import speedrun
from bench import attempt
from bench.clock import Clock
from settings import Settings


@contextlib.contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Restore the signal handlers, because an attempt replaces them, and ends by ignoring signals."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def attempt_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit status, standard output and standard error of `speedrun.py --shared` with these arguments."""
    capsys.readouterr()
    with signal_handlers_kept():
        status = attempt.main(Settings, speedrun.Trainer, Clock(), ["--shared", *arguments], speedrun.__doc__ or "")
    return status, *capsys.readouterr()
