"""`python -m bench board`: render every generated page, or check that each agrees with the journal."""

import dataclasses
import shlex
from pathlib import Path

import tyro

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
from bench.storage.journal import Journal
from bench.storage.jsonl import print_faults, replace_file
from bench.storage.results import FiledResults, read_results
from tracks.descriptions import describe_track


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Render all generated pages and plots of a results folder: the leaderboard, tracks, records and others.

    For the project's own results folder, also update the generated blocks of README.
    """

    results: ResultsOption = DEFAULT_RESULTS
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write nothing; exit 1 when a page disagrees with the journal."""


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
    results_data = read_results(results)
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
    return write_or_check(pages | tables | scaling_pages | matrix_pages, pictures, arguments.check, command, stale)
