"""`python -m bench board`: render every generated page, or check that it agrees with the journal."""

import dataclasses
from pathlib import Path

import tyro

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
    """Render the board, its plots and the history of what was tried.

    When the results are the project's own, the figures of README and docs too.
    """

    results: Path = ROOT / "results"
    """The folder of the journal."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write nothing; exit 1 when a file and the journal disagree."""


def main(arguments: Arguments) -> int:
    if not arguments.results.is_dir():
        raise UsageError(f"--results {arguments.results}: there is no such folder")
    evidence = read_results(arguments.results)
    wanted = texts(evidence, arguments.results)
    if arguments.results.resolve() == ROOT / "results":
        pages = (ROOT / name for name in PAGES)
        wanted |= {page: fill_page(page.read_text(encoding="utf-8"), evidence) for page in pages if page.exists()}
    plots = {arguments.results / "plots" / f"{figure.name}.svg": figure for figure in all_figures(evidence)}
    for path, figure in plots.items():
        wanted[path.with_suffix(".csv")] = figure.csv()
    scaling_texts, scaling_pictures = scaling_files(evidence, arguments.results)
    pictures = {path: figure.svg for path, figure in plots.items()} | scaling_pictures
    print_faults(evidence.faults)
    return write_or_check(wanted | scaling_texts, pictures, arguments.check, "board")
