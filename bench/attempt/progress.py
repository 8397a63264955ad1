"""The progress of an attempt on standard error.

A terminal shows one line that is updated in place; other outputs, and dumb terminals, get plain lines. There is no
refresh thread: the line changes only at the start of a phase, at a check, and at a step after TICK_SECONDS without a
line. Checks in the first second of `train` are not shown at once; the latest of them is shown afterwards.
"""

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bench.console import error_console
from bench.formatting import right_text
from bench.storage.schema import Check

WITHHOLD_SECONDS = 1.0  # from the start of `train`
TICK_SECONDS = 4.0  # of `train` without a check, before a line about the steps
SHARE_SECONDS, PLAIN_SHARE_SECONDS = 1.0, 10.0  # between two lines about the certificate


def describe_errors(check: Check) -> str:
    """The errors of a check; with a validation set, the shares of right problems of all evaluated splits."""
    if check.validation is not None:
        shares = (f"{name} {right_text(count)}" for name, count in check.splits.items())
        return f"  right: {', '.join(shares)}"
    problems = "" if check.asked is None else f" in {check.asked:,}"
    return "" if check.errors is None else f"  errors {check.errors:,}{problems}"


class Display:
    """Shows the progress of one attempt."""

    def __init__(
        self,
        label: str,
        console: Console | None = None,
        processor_time: Callable[[], float] = time.thread_time,
        max_seconds: float = math.inf,
    ) -> None:
        """`label`, config and seed, starts every line.

        `processor_time` is the CPU time of this thread, `max_seconds` the limit of `train`, both in seconds.
        """
        self.label = label
        self.console = console or error_console()
        self.processor_time, self.max_seconds = processor_time, max_seconds
        self.processor_seconds = 0.0  # CPU time of `check` and `tick` during `train`
        self.next_tick = TICK_SECONDS  # seconds of `train` at which `tick` is due
        self.last_errors = ""  # of the last check
        self.live: Live | None = None
        self.withheld: str | None = None
        self.next_share = 0.0  # time of the next line about the certificate

    def phase(self, name: str, remark: str = "") -> None:
        self._flush()
        if name != "train":  # shown by its first check
            self._show(f"{name}{remark and ', ' + remark}")

    def check(self, check: Check, steps_left: int) -> None:
        """Show a check; `steps_left` is the number of steps until the end of the round."""
        started = self.processor_time()
        loss = "not finite" if check.loss is None else f"{check.loss:.4f}"
        errors = describe_errors(check)
        remaining = "end of the round"
        if steps_left:
            seconds, until_limit = check.train_seconds / check.step * steps_left, self.max_seconds - check.train_seconds
            remaining = f"about {seconds:.1f} s of the round left"
            if seconds > until_limit:
                remaining = f"{max(0.0, until_limit):.1f} s until max_seconds"
        line = (
            f"train  step {check.step:,} of {check.step + steps_left:,}  loss {loss}{errors}  "
            f"{check.train_seconds:.1f} s elapsed, {remaining}"
        )
        self.withheld = line
        self.last_errors = errors and f",{errors[1:]} at step {check.step:,}"
        self.next_tick = check.train_seconds + TICK_SECONDS
        if check.train_seconds >= WITHHOLD_SECONDS:
            self._flush()
        self.processor_seconds += self.processor_time() - started

    def tick(self, train_seconds: float, steps: int) -> None:
        """Show the steps taken so far; to be called from `next_tick` on, which each line postpones."""
        started = self.processor_time()
        self._flush()
        self._show(f"train  step {steps:,}  {train_seconds:.1f} s elapsed{self.last_errors}")
        self.next_tick = train_seconds + TICK_SECONDS
        self.processor_seconds += self.processor_time() - started

    def certified(self, share: float) -> None:
        """Show the share of the problems that the certificate has decoded, 0..1, if it takes long."""
        now = time.monotonic()
        if now >= self.next_share:
            seconds = SHARE_SECONDS if self.console.is_terminal else PLAIN_SHARE_SECONDS
            if self.next_share:  # the first call starts the wait
                self._show(f"certify  {share:.0%} of the problems decoded")
            self.next_share = now + seconds

    def close(self) -> None:
        """Show a withheld line and restore the terminal."""
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
        if not self.console.is_interactive:
            self.console.print(text, soft_wrap=True)
            return
        text.truncate(self.console.width, overflow="ellipsis")
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        self.live.update(text, refresh=True)
