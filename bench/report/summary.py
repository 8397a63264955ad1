"""The terminal summary of one attempt."""

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bench.clock import PHASES
from bench.console import error_console
from bench.formatting import (
    certificate_text,
    errors_in_words,
    measure_text,
    right_text,
    seconds_text,
    targets_text,
    terminal_table,
)
from bench.stats.descriptive import wilson_interval
from bench.storage.schema import Certificate, Count, Run

COLORS = dict(zip(PHASES, ("blue", "cyan", "magenta", "green", "yellow"), strict=True))
OUTCOME_STYLES = {"solved": "bold green", "missed": "bold yellow"}


def phase_bar(run: Run, width: int) -> Group:
    """The phases as one coloured bar with a legend in seconds; phases that were not reached are left out."""
    seconds = run.seconds.model_dump()
    known = {phase: seconds[phase] for phase in PHASES if seconds[phase] is not None}
    total = "" if run.seconds.total is None else f" total {seconds_text(run.seconds.total)}"
    if run.seconds.wall is not None:
        total += f", wall {seconds_text(run.seconds.wall)}"
    whole = sum(known.values()) or 1.0
    columns = max(1, width - len(total))
    bar, legend, done = Text(), Text(), 0.0
    for phase, value in known.items():
        done += value
        bar.append("━" * (round(columns * done / whole) - len(bar)), style=COLORS[phase])
        legend.append(f"{phase} {seconds_text(value)}  ", style=COLORS[phase])
    bar.append(total, style="bold")
    return Group(bar, legend)


def certificate_table(certificate: Certificate) -> Table:
    """Problems and errors of all problems, the held-out ones, and each group and sample.

    One row where all problems are held out; none for held-out problems where there are none. Where the problems are a
    sample of those that there are, each share of right ones has its 95% interval.
    """
    intervals = () if certificate.exhaustive else ("95% interval",)
    table = terminal_table(("certificate", "problems", "errors", "right", *intervals), text=("certificate",))
    heldout = Count(problems=certificate.heldout_problems, errors=certificate.heldout_errors)
    rows: dict[str, Count] = {"test, held out": certificate}
    if heldout.problems < certificate.problems:
        rows = {"all" if certificate.exhaustive else "test": certificate, "held out": heldout}
    for name, count in (rows | certificate.groups | certificate.samples).items():
        if count.problems:
            cells = [name, f"{count.problems:,}", f"{count.errors:,}", right_text(count, decimals=4)]
            cells += [interval_text(count)] * len(intervals)
            table.add_row(*cells, style=None if count.errors else "green")
    return table


def interval_text(count: Count) -> str:
    """The 95% interval of the share of right problems, `99.12 … 99.90%`; a bound below 100% is not rounded to it."""
    low, high = wilson_interval(count.problems - count.errors, count.problems)
    decimals = 2 if count.problems < 10**5 else 4
    most = 100 - 10.0**-decimals
    upper = 100 * high if not count.errors else min(100 * high, most)
    return f"{min(100 * low, most):.{decimals}f} … {upper:.{decimals}f}%"


def missed_reason(run: Run) -> str | None:
    """Why the training of an attempt that missed ended; None for another outcome, or if it is not known."""
    if run.outcome != "missed" or not run.checks:
        return None
    last, certificate = run.checks[-1], run.certificate
    if certificate is not None and not certificate.has_target:
        return "this track has no target: its measures are the result, it is never solved and never ranks"
    if certificate is not None and not certificate.errors and certificate.unmet_limits:
        measures = "; ".join(measure_text(certificate, name) for name in certificate.unmet_limits)
        return f"every answer is right, but {measures}"
    if last.errors is None:
        return None
    asked = "" if last.asked is None else f" in {last.asked:,} training problems"
    found = f"its last evaluation found {errors_in_words(last.errors)}{asked}"
    if last.validation is not None:
        found += f" and {last.validation.errors:,} in {last.validation.problems:,} validation problems"
    rate = float(run.settings.get("evaluation_max_error_rate") or 0.0)
    evaluations = [last.validation, Count(problems=last.asked or 0, errors=last.errors)]
    if any(count is not None and count.errors > rate * count.problems for count in evaluations):
        return f"training used up its rounds (max_rounds, num_steps); {found}"
    return f"training ended before the model was right on all problems; {found}"


def show_summary(
    run: Run, sentences: list[str], standing: str, console: Console | None = None, no_kernel: str | None = None
) -> None:
    """Print the result of an attempt: verdict, phases, certificate and the place on the leaderboard.

    Args:
        sentences: the first mistakes of the model, as sentences.
        standing: the line that says where the attempt stands.
        no_kernel: why the attempt was slower than this machine allows.
    """
    console = console or error_console()
    verdict = Text(run.outcome, style=OUTCOME_STYLES.get(run.outcome, "bold red"))
    if run.certificate is not None:
        verdict.append(f"  {certificate_text(run.certificate)}", style="default")
    if run.message is not None:
        verdict.append(f"  {run.message}", style="default")
    trained = f"  {run.label}, seed {run.seed}"
    if run.parameters is not None:
        trained += f", {run.steps:,} steps, {run.parameters:,} parameters"
    console.print()
    console.print(verdict, trained, sep="", soft_wrap=True)
    console.print(phase_bar(run, min(console.width, 100)))
    if run.certificate is not None:
        console.print(certificate_table(run.certificate))
        others = [name for name in run.certificate.measures if name not in run.certificate.decisive_measures]
        lines = ["; ".join(measure_text(run.certificate, name) for name in others), targets_text(run.certificate)]
        for line in filter(None, lines):
            console.print(line, soft_wrap=True)
    if (reason := missed_reason(run)) is not None:
        console.print(f"missed: {reason}", style="yellow", soft_wrap=True)
    for reason in run.machine.reasons:
        console.print(f"not clean: {reason}", style="yellow", soft_wrap=True)
    for sentence in sentences:
        console.print(f"  {sentence}", style="yellow", soft_wrap=True)
    if no_kernel is not None:
        console.print(f"computed by torch, which is slower: {no_kernel}", style="yellow", soft_wrap=True)
    console.print(standing, soft_wrap=True)
