"""`python -m bench board`: render every generated page, or check that each agrees with the journal."""

import dataclasses
import shlex
from pathlib import Path

import tyro

from bench.audit.verification import Verification, verify
from bench.commands.options import DEFAULT_RESULTS, ResultsOption
from bench.config import track_of
from bench.errors import UsageError
from bench.provenance import ROOT
from bench.report.leaderboard import all_figures, rendered_pages, stale_track_pages
from bench.report.matrix_page import all_matrix_files
from bench.report.readme import PAGE, fill_page
from bench.report.record_page import record_pages
from bench.report.render import write_or_check
from bench.report.scaling import scaling_files
from bench.storage.comparison_schema import Record
from bench.storage.evidence import write_evidence
from bench.storage.journal import Journal
from bench.storage.jsonl import print_faults, replace_file
from bench.storage.results import FiledResults, read_results
from bench.streams import print_error
from tracks.descriptions import describe_track


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Render all generated pages and plots of a results folder: the leaderboard, tracks, records and others.

    For the project's own results folder, also update the generated blocks of README.
    """

    results: ResultsOption = DEFAULT_RESULTS
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write nothing; exit 1 when a page disagrees with the journal, or the journal with the commits and the weights
    that its lines name."""
    deep: tyro.conf.FlagCreatePairsOff[bool] = False
    """With --check, certify all archived weights again, not only those of one attempt."""


def text_pages(results_data: FiledResults, results: Path) -> dict[Path, str]:
    """The pages of Markdown, path -> text.

    They are the pages rendered after each attempt, those of the records and, for the project's own results, README.
    """
    pages = rendered_pages(results_data, results) | record_pages(results_data, example_prompt)
    readme = ROOT / PAGE
    if results.resolve() == DEFAULT_RESULTS and readme.exists():
        pages[readme] = fill_page(readme.read_text(encoding="utf-8"), results_data)
    return pages


def example_prompt(record: Record) -> str:
    """A problem of a record's track, without its answer."""
    return describe_track(*track_of(record.settings)).example_prompt


def write_texts(results: Path) -> None:
    """Write the pages of Markdown, without the figures, which take long to draw."""
    with Journal(results).lock():
        for path, text in text_pages(read_results(results), results).items():
            replace_file(path, text)


def main(arguments: Arguments) -> int:
    results = arguments.results
    if not results.is_dir():
        raise UsageError(f"--results {results}: there is no such folder")
    if arguments.deep and not arguments.check:
        raise UsageError("--deep: it needs --check, which certifies weights again")
    results_data = read_results(results)
    if not arguments.check:
        write_evidence(results, results_data.runs)  # of batches whose command was killed
    pages = text_pages(results_data, results)
    stale = stale_track_pages(results, pages)
    figures = {results / "plots" / f"{figure.name}.svg": figure for figure in all_figures(results_data)}
    tables = {path.with_suffix(".csv"): figure.csv() for path, figure in figures.items()}
    scaling_pages, scaling_plots = scaling_files(results_data, results)
    matrix_pages, matrix_plots = all_matrix_files(results_data.runs, results)
    print_faults(results_data.faults)
    pictures = {path: figure.svg for path, figure in figures.items()} | scaling_plots | matrix_plots
    own = results.resolve() == DEFAULT_RESULTS
    command = "board" if own else f"board --results {shlex.quote(str(results))}"
    texts = pages | tables | scaling_pages | matrix_pages
    status = write_or_check(texts, pictures, arguments.check, command, stale)
    if arguments.check:
        status = max(status, report_verification(verify(results, results_data.runs, arguments.deep)))
    return status


def report_verification(verification: Verification) -> int:
    """Print what fails, and what could not be checked; returns the exit status."""
    for reason in verification.not_done:
        print_error(reason)
    for batch_id, reasons in verification.faults.items():
        print_error(f"{batch_id}: {'; '.join(reasons)}")
    if verification.faults:
        print_error("restore what is missing, or take the rank of a batch: `python -m bench dispute BATCH --why TEXT`")
        return 1
    if verification.num_batches:
        print_error(
            f"batches that agree with their commits and weights: {verification.num_batches}; "
            f"attempts certified again: {verification.num_certified}"
        )
    return 0
