"""The terminal summary of one attempt."""

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bench.clock import PHASES
from bench.formatting import errors_in_words, terminal_table
from bench.storage.schema import Run

COLORS = dict(zip(PHASES, ("blue", "cyan", "magenta", "green", "yellow"), strict=True))
OUTCOME_STYLES = {"solved": "bold green", "missed": "bold yellow"}


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
    table = terminal_table(("certificate", "problems", "errors", "right"), text=("certificate",))
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
