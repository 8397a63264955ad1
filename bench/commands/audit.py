"""`python -m bench audit`: look for known ways to cheat in a run or a record."""

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.audit.checks import CHECKS, Audit, CheckResult, CheckSkipped, Verdict
from bench.audit.target import find_target
from bench.cli import EXIT_INTERRUPTED, handle_interrupts, reject_unwritable
from bench.errors import UsageError, nearest_hint
from bench.formatting import terminal_table
from bench.provenance import ROOT
from bench.report import leaderboard
from bench.storage.journal import Journal

STYLES: dict[Verdict, str] = {"passed": "green", "CAUGHT": "bold red", "not carried out": "yellow"}


# -----------------------------------------------------------------------------
# the command


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Look for cheats in a run or a record: in its weights, and in what its trainer does where cheating would show.

    Makes about six attempts with the run's settings, up to fifteen when in doubt. They are journalled, and never stand
    on the board.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|RECORD")]
    """A run id, a path to weights, `latest`, or a record's name or folder."""
    checks: str = ",".join(CHECKS)
    """Which checks, with commas between them."""
    results: Path = ROOT / "results"
    """The folder of the journal and the records."""


def main(arguments: Arguments) -> int:
    chosen = [name.strip() for name in arguments.checks.split(",")]
    for name in chosen:
        if name not in CHECKS:
            raise UsageError(f"--checks: there is no check {name!r}{nearest_hint(name, CHECKS)}")
    handle_interrupts()
    with contextlib.ExitStack() as stack:
        subject = find_target(arguments.run, arguments.results, stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="addition-speedrun-")))
        with reject_unwritable(arguments.results):
            Journal(arguments.results).recover()
        try:
            findings = run_checks(Audit(subject, folder, arguments.results), chosen)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        finally:
            leaderboard.refresh(arguments.results)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"audit of {subject.name}", markup=False, soft_wrap=True)
    console.print(findings_table(findings))
    return 0 if all(finding.verdict == "passed" for finding in findings.values()) else 1


def run_checks(audit: Audit, chosen: Sequence[str]) -> dict[str, CheckResult]:
    """The findings of the chosen checks, in the order of CHECKS."""
    findings = {}
    for name in (name for name in CHECKS if name in chosen):
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            findings[name] = CHECKS[name](audit)
        except CheckSkipped as problem:
            findings[name] = CheckResult("not carried out", str(problem))
    return findings


def findings_table(findings: dict[str, CheckResult]) -> Table:
    headings = ("check", "verdict", "evidence")
    table = terminal_table(headings, text=headings, no_wrap=("check", "verdict"))
    for name, finding in findings.items():
        table.add_row(name, Text(finding.verdict, STYLES[finding.verdict]), Text(finding.evidence))
    return table
