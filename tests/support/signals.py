"""The signal handlers of the process of the tests."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Restore the handlers at the end: commands and attempts replace them, and an attempt ends by ignoring signals."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
