"""`python -m bench board`: render every generated page, or check that each agrees with the journal."""

import dataclasses

import tyro

from bench.commands.options import DEFAULT_RESULTS, ResultsOption
from bench.errors import UsageError
from bench.provenance import ROOT
from bench.report.leaderboard import all_figures, rendered_pages, stale_track_pages
from bench.report.readme import PAGE, fill_page
from bench.report.render import write_or_check
from bench.report.scaling import scaling_files
from bench.storage.jsonl import print_faults
from bench.storage.results import read_results


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Render the leaderboard, the track pages, the other generated pages and the plots of a results folder.

    For the project's own results folder, also update the generated blocks of README.
    """

    results: ResultsOption = DEFAULT_RESULTS
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write nothing; exit 1 when a page disagrees with the journal."""


def main(arguments: Arguments) -> int:
    results = arguments.results
    if not results.is_dir():
        raise UsageError(f"--results {results}: there is no such folder")
    results_data = read_results(results)
    pages = rendered_pages(results_data, results)
    stale = stale_track_pages(results, pages)
    readme = ROOT / PAGE
    if results.resolve() == DEFAULT_RESULTS and readme.exists():
        pages[readme] = fill_page(readme.read_text(encoding="utf-8"), results_data)
    figures = {results / "plots" / f"{figure.name}.svg": figure for figure in all_figures(results_data)}
    tables = {path.with_suffix(".csv"): figure.csv() for path, figure in figures.items()}
    scaling_pages, scaling_plots = scaling_files(results_data, results)
    print_faults(results_data.faults)
    pictures = {path: figure.svg for path, figure in figures.items()} | scaling_plots
    return write_or_check(pages | tables | scaling_pages, pictures, arguments.check, "board", stale)
