"""What an attempt shows on standard error while it runs, and its summary.

A terminal gets one live line, anything else plain lines. There is no refresh thread: the line changes only when a
phase begins or a check arrives, so showing it never touches the device. In the first second of `train` nothing is
written at all; what arrived is shown afterwards.
"""

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bench.storage.schema import Check

QUIET_SECONDS = 1.0


class Display:
    """Shows one attempt.

    Args:
        label: config and seed, at the head of every line.
        console: where to write; standard error unless a test says otherwise.
        processor_time: seconds of processor time of this thread.
    """

    def __init__(
        self,
        label: str,
        console: Console | None = None,
        processor_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self.label = label
        self.console = console or Console(stderr=True, highlight=False)
        self.processor_time = processor_time
        self.processor_seconds = 0.0  # spent in here while `train` ran
        self.live: Live | None = None
        self.withheld: str | None = None

    def phase(self, name: str, remark: str = "") -> None:
        self._flush()
        if name != "train":  # `train` announces itself by its first check
            self._show(f"{name}{remark and ', ' + remark}")

    def check(self, check: Check, steps_left: int) -> None:
        """One sparse evaluation, so many steps before the round ends and training may stop.

        `check.train_seconds` decides whether it is time to write.
        """
        begun = self.processor_time()
        loss = "not finite" if check.loss is None else f"{check.loss:.4f}"
        asked = "" if check.asked is None else f" in {check.asked:,}"
        errors = "" if check.errors is None else f"  errors {check.errors:,}{asked}"
        left = "a round ends"
        if steps_left:
            left = f"about {check.train_seconds / check.step * steps_left:.1f} s of the round left"
        line = (
            f"train  step {check.step:,} of {check.step + steps_left:,}  loss {loss}{errors}  "
            f"{check.train_seconds:.1f} s elapsed, {left}"
        )
        if check.train_seconds < QUIET_SECONDS:
            self.withheld = line
        else:
            self.withheld = None
            self._show(line)
        self.processor_seconds += self.processor_time() - begun

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._flush()
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _flush(self) -> None:
        if self.withheld is not None:
            self._show(self.withheld)
            self.withheld = None

    def _show(self, line: str) -> None:
        text = Text.assemble((self.label, "bold"), "  ", line)
        if not self.console.is_terminal:
            self.console.print(text, soft_wrap=True)
            return
        text.truncate(self.console.width, overflow="ellipsis")
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        self.live.update(text, refresh=True)
