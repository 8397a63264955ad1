"""What an attempt shows on standard error while it runs, and its summary.

A terminal gets one live line, anything else plain lines. There is no refresh thread: the line changes only when a
phase begins or a check arrives, so showing it never touches the device. In the first second of `train` nothing is
written at all; what arrived is shown afterwards.
"""

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.clock import PHASES
from bench.journal import Check, Run

COLORS = dict(zip(PHASES, ("blue", "cyan", "magenta", "green", "yellow"), strict=True))
OUTCOME_STYLES = {"solved": "bold green", "missed": "bold yellow"}
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


# -----------------------------------------------------------------------------
# the summary


def errors_in_words(errors: int) -> str:
    return f"{errors:,} error{'' if errors == 1 else 's'}"


def phase_bar(run: Run, width: int) -> Group:
    """The phases as one bar, a colour each, with a legend in seconds; phases that were not reached are absent."""
    seconds = run.seconds.model_dump()
    known = {phase: seconds[phase] for phase in PHASES if seconds[phase] is not None}
    total = "" if run.seconds.total is None else f" total {run.seconds.total:.2f} s"
    whole = sum(known.values()) or 1.0
    columns = max(1, width - len(total))
    bar, legend, done = Text(), Text(), 0.0
    for phase, value in known.items():
        done += value
        bar.append("━" * (round(columns * done / whole) - len(bar)), style=COLORS[phase])
        legend.append(f"{phase} {value:.2f} s  ", style=COLORS[phase])
    bar.append(total, style="bold")
    return Group(bar, legend)


def certificate_table(run: Run) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("certificate", "problems", "errors", "right"):
        table.add_column(column, justify="left" if column == "certificate" else "right")
    certificate = run.certificate
    rows = {
        "all": (certificate.problems, certificate.errors),
        "held out": (certificate.heldout_problems, certificate.heldout_errors),
        **{
            name: (c.problems, c.errors) for name, c in (certificate.groups | certificate.samples).items() if c.problems
        },
    }
    for name, (problems, errors) in rows.items():
        right = 1 - errors / problems if problems else 1.0
        # Rounding must not turn one error in a million into 100%.
        percent = "100%" if not errors else f"{min(right, 0.999999):.4%}"
        table.add_row(name, f"{problems:,}", f"{errors:,}", percent, style=None if errors else "green")
    return table


def show_summary(run: Run, sentences: list[str], standing: str, console: Console | None = None) -> None:
    """The end of an attempt: verdict, phases, certificate, first mistakes, and where it stands on the board."""
    console = console or Console(stderr=True, highlight=False)
    verdict = Text(run.outcome, style=OUTCOME_STYLES.get(run.outcome, "bold red"))
    if run.certificate is not None:
        verdict.append(f"  {errors_in_words(run.certificate.errors)} in {run.certificate.problems:,}", style="default")
    if run.message is not None:
        verdict.append(f"  {run.message}", style="default")
    trained = f"  {run.config}, seed {run.seed}"
    if run.parameters is not None:
        trained += f", {run.steps:,} steps, {run.parameters:,} parameters"
    console.print()
    console.print(verdict, trained, sep="", soft_wrap=True, markup=False)
    console.print(phase_bar(run, min(console.width, 100)))
    if run.certificate is not None:
        console.print(certificate_table(run))
    for reason in run.machine.reasons:
        console.print(f"not clean: {reason}", style="yellow", soft_wrap=True, markup=False)
    for sentence in sentences:
        console.print(f"  {sentence}", style="yellow", soft_wrap=True, markup=False)
    console.print(standing, soft_wrap=True, markup=False)
