"""Ctrl-C, SIGTERM and a closed terminal, from the first moment of a process to its last. Imports no other module."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import NoReturn

EXIT_INTERRUPTED = 130
NOTHING_FILED = "interrupted before the attempt began; nothing was filed"


def interrupts() -> list[signal.Signals]:
    """The signals that interrupt a command; SIGHUP unless it is ignored, as `nohup` does."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


def exit_on_interrupts(clean_up: Callable[[], None] = lambda: None, message: str = "") -> None:
    """Exit with status 130 and no traceback; for the time of the imports, in which an exception would not arrive.

    `message` is a line for standard error.
    """

    def leave(*_: object) -> NoReturn:
        clean_up()
        if message:
            with contextlib.suppress(OSError):
                os.write(2, f"{message}\n".encode())  # sys.stderr may be in use
        os._exit(EXIT_INTERRUPTED)

    for number in interrupts():
        signal.signal(number, leave)


def handle_interrupts() -> None:
    """Raise KeyboardInterrupt on an interrupt, once: a second must not disturb the filing that the first began."""

    def interrupt(signal_number: int, _: object) -> NoReturn:
        ignore_interrupts()
        raise KeyboardInterrupt(signal.Signals(signal_number).name)

    for number in interrupts():
        signal.signal(number, interrupt)


def ignore_interrupts() -> None:
    """Ignore all interrupts from now on."""
    for number in interrupts():
        signal.signal(number, signal.SIG_IGN)
