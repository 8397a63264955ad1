"""`python -m bench audit`: check a run or a record for known ways to cheat."""

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.text import Text

from bench.audit.target import find_target
from bench.cli import handle_interrupts, reject_unwritable
from bench.commands.options import DEFAULT_RESULTS, ResultsOption
from bench.config import track_of
from bench.console import output_console
from bench.errors import UsageError, nearest_hint
from bench.formatting import terminal_table
from bench.report import leaderboard
from bench.storage.journal import Journal
from tracks.descriptions import describe_track

if TYPE_CHECKING:
    from bench.audit.checks import Verdict

STYLES: "dict[Verdict, str]" = {
    "passed": "green",
    "CAUGHT": "bold red",
    "not carried out": "yellow",
    "does not apply": "",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Check a run or a record for cheats: its weights, and its trainer under conditions where cheats would show.

    Runs about four attempts with the run's settings, and up to eight when the outcome is in doubt. They are in the
    journal, and never on the board. Exits 0 if every check that applies to the track passed.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|RECORD")]
    """A run id, a path to weights, `latest`, or a record's name or folder."""
    checks: str = "all"
    """Names of the checks to run, separated by commas."""
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    from bench.audit.checks import CHECKS, run_checks  # imports torch, which takes a second
    from bench.audit.session import Audit

    names = list(CHECKS) if arguments.checks == "all" else [name.strip() for name in arguments.checks.split(",")]
    for name in names:
        if name not in CHECKS:
            raise UsageError(f"--checks: there is no check {name!r}{nearest_hint(name, CHECKS)}")
    handle_interrupts()
    with contextlib.ExitStack() as stack:
        target = find_target(arguments.run, arguments.results, stack)
        if problem := describe_track(*track_of(target.run.settings)).problem:
            raise UsageError(problem)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="addition-speedrun-")))
        with reject_unwritable(arguments.results):
            Journal(arguments.results).recover()
        audit = Audit(target, folder, arguments.results)
        try:
            check_results = run_checks(audit, names)
        finally:
            leaderboard.refresh(arguments.results)
    console = output_console(piped_width=160)
    console.print("; ".join([f"audit of {target.name}", *audit.remarks]), soft_wrap=True)
    headings = ("check", "verdict", "evidence")
    table = terminal_table(headings, text=headings, no_wrap=("check", "verdict"))
    for name, result in check_results.items():
        table.add_row(name, Text(result.verdict, STYLES[result.verdict]), Text(result.evidence))
    console.print(table)
    return 0 if all(result.verdict in ("passed", "does not apply") for result in check_results.values()) else 1
