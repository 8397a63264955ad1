"""`python -m bench board`: render every generated page, or check that each agrees with the journal."""

import dataclasses

import tyro

from bench.commands.options import DEFAULT_RESULTS, ResultsOption
from bench.errors import UsageError
from bench.provenance import ROOT
from bench.report.leaderboard import all_figures, texts
from bench.report.readme import PAGES, fill_page
from bench.report.render import write_or_check
from bench.report.scaling import scaling_files
from bench.storage.jsonl import print_faults
from bench.storage.results import read_results


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Render the leaderboard, its plots and the other pages of a results folder.

    For the project's own results folder, also update the figures in README and docs.
    """

    results: ResultsOption = DEFAULT_RESULTS
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write nothing; exit 1 when a page disagrees with the journal."""


def main(arguments: Arguments) -> int:
    if not arguments.results.is_dir():
        raise UsageError(f"--results {arguments.results}: there is no such folder")
    results_data = read_results(arguments.results)
    pages = texts(results_data, arguments.results)
    if arguments.results.resolve() == DEFAULT_RESULTS:
        for page in (ROOT / name for name in PAGES):
            if page.exists():
                pages[page] = fill_page(page.read_text(encoding="utf-8"), results_data)
    plots = {arguments.results / "plots" / f"{figure.name}.svg": figure for figure in all_figures(results_data)}
    tables = {path.with_suffix(".csv"): figure.csv() for path, figure in plots.items()}
    scaling_pages, scaling_plots = scaling_files(results_data, arguments.results)
    print_faults(results_data.faults)
    pictures = {path: figure.svg for path, figure in plots.items()} | scaling_plots
    return write_or_check(pages | tables | scaling_pages, pictures, arguments.check, "board")
