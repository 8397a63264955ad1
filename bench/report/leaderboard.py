"""The leaderboard and every other page that is rendered after an attempt, from the results folder alone."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.formatting import number
from bench.report.main_track import FIRST_OF_CLASS, record_of_today, record_sentence
from bench.report.negative import render_tried
from bench.report.peers import render_peers
from bench.report.plot_style import Figure
from bench.report.plots import Category, category_figures
from bench.report.records_plot import history_figure
from bench.report.render import template_environment
from bench.report.rows import entry_row, record_row
from bench.report.track_page import page_path, render_track_page
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import CLOCKS, RANKED_FROM, Entry, RunBatch, describe_standing, group_batches, group_entries
from bench.storage.journal import Journal
from bench.storage.jsonl import print_faults, replace_file
from bench.storage.records import RecordFolder
from bench.storage.results import FiledResults, read_results
from bench.storage.schema import Run

RunsByMachine = dict[str, list[Run]]  # machine class -> runs

# -----------------------------------------------------------------------------
# grouping


def group_by_track(runs: Sequence[Run]) -> dict[str, RunsByMachine]:
    """Track -> machine class -> runs; tracks with a ranked batch come first, the fastest machine class first."""
    grouped: dict[str, RunsByMachine] = defaultdict(lambda: defaultdict(list))
    for run in (run for run in runs if run.is_contest):
        grouped[run.track][run.machine_class_name].append(run)
    ranked = {batch.runs[0].track for batch in group_batches(runs) if batch.ranked}

    def track_order(track: str) -> tuple[bool, list[str | int]]:
        return track not in ranked, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", track)]

    def machine_order(machine: tuple[str, list[Run]]) -> tuple[float, str]:
        erts = (expected_time_to_success(entry.runs, "total") for entry in ranked_entries(machine[1]))
        return min(erts, default=float("inf")), machine[0]

    return {
        track: dict(sorted(grouped[track].items(), key=machine_order)) for track in sorted(grouped, key=track_order)
    }


def ranked_entries(runs: Sequence[Run]) -> list[Entry]:
    return [entry for entry in group_entries(group_batches(runs)) if entry.ranked]


def category_records(category: Category, folders: Sequence[RecordFolder]) -> list[RecordFolder]:
    """The records of one track, machine class and clock, oldest first."""
    return [
        folder
        for folder in folders
        if category == (folder.record.track, folder.record.machine_class, folder.record.clock)
    ]


def figures_of(category: Category, batches: Sequence[RunBatch], folders: Sequence[RecordFolder]) -> list[Figure]:
    return category_figures(category, batches, [folder.record for folder in category_records(category, folders)])


def all_figures(results_data: FiledResults) -> list[Figure]:
    """The figures that the leaderboard and README show."""
    figures = [
        figure
        for track, machines in group_by_track(results_data.runs).items()
        for machine_class, runs in machines.items()
        for clock in CLOCKS
        for figure in figures_of(Category(track, machine_class, clock), group_batches(runs), results_data.records)
    ]
    history = history_figure(results_data.records)
    return figures if history is None else [history, *figures]


# -----------------------------------------------------------------------------
# the leaderboard


def render_leaderboard(results_data: FiledResults) -> str:
    """The leaderboard as Markdown; it links to the figures that `all_figures` draws."""
    tracks = group_by_track(results_data.runs)
    record = record_of_today(results_data.records)
    template = template_environment().get_template("leaderboard.md.jinja")
    return template.render(
        record_sentence=record_sentence(results_data.records),
        record_name=record and record.name,
        history=history_figure(results_data.records),
        tracks=[track_section(track, machines, results_data) for track, machines in tracks.items()],
        faults=results_data.faults,
        ranked_from=RANKED_FROM,
        first_of_class=FIRST_OF_CLASS,
    )


def track_section(track: str, machines: Mapping[str, Sequence[Run]], results_data: FiledResults) -> dict[str, Any]:
    """One track: its line in the index, and its machine classes with a ranked batch or a record."""
    runs = [run for its_runs in machines.values() for run in its_runs]
    best = min(
        ((expected_time_to_success(entry.runs, "total"), entry.runs[0].config) for entry in ranked_entries(runs)),
        default=None,
    )
    sections = [
        machine_section(track, machine_class, its_runs, results_data) for machine_class, its_runs in machines.items()
    ]
    return {
        "name": track,
        "num_attempts": number(len(runs)),
        "num_solved": number(sum(run.outcome == "solved" for run in runs)),
        "best": best and f"fastest {best[1]}, ERT {number(best[0], '.2f')} s by `total`",
        "machines": [section for section in sections if section["is_shown"]],
    }


def machine_section(track: str, machine_class: str, runs: Sequence[Run], results_data: FiledResults) -> dict[str, Any]:
    """A track on a machine class: for each clock the ranking, the records and the figures."""
    batches, yardsticks = group_batches(runs), results_data.yardsticks()
    clocks = {}
    for clock in CLOCKS:
        category = Category(track, machine_class, clock)
        entries = sorted(ranked_entries(runs), key=lambda entry: entry.order(clock))
        records = [record_row(folder) for folder in reversed(category_records(category, results_data.records))]
        clocks[clock] = {
            "entries": [entry_row(entry, clock, rank, yardsticks) for rank, entry in enumerate(entries, start=1)],
            "won": [row for row in records if row["predecessor"] is not None],
            "first": [row for row in records if row["predecessor"] is None],
            "failed_replays": [sentence for row in records for sentence in row["failed_replays"]],
            "figures": figures_of(category, batches, results_data.records),
        }
    is_shown = any(tables["entries"] or tables["won"] or tables["first"] for tables in clocks.values())
    return {"name": machine_class, "clocks": clocks, "is_shown": is_shown}


# -----------------------------------------------------------------------------
# all pages, and the refresh after an attempt


def rendered_pages(results_data: FiledResults, results: Path) -> dict[Path, str]:
    """The pages that are rendered after every attempt: path -> Markdown."""
    pages = {
        results / "LEADERBOARD.md": render_leaderboard(results_data),
        results / "NEGATIVE.md": render_tried(
            results_data.paired_plans, results_data.conclusions, results_data.records
        ),
        results / "PEERS.md": render_peers(results_data.runs),
    }
    for track, machines in group_by_track(results_data.runs).items():
        pages[page_path(results, track)] = render_track_page(track, machines, results_data)
    return pages


def stale_track_pages(results: Path, pages: Mapping[Path, str]) -> list[Path]:
    """The track pages whose track has no attempt in the journal."""
    return [path for path in sorted((results / "tracks").glob("*.md")) if path not in pages]


def refresh(results: Path) -> FiledResults:
    """Render the pages and write those that changed; figures are drawn by `bench board` alone, as drawing is slow."""
    with Journal(results).lock():
        results_data = read_results(results)
        for path, text in rendered_pages(results_data, results).items():
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                replace_file(path, text)
    return results_data


def update(results: Path, run: Run) -> str:
    """Render the pages after an attempt; returns the sentence that says where the attempt stands."""
    results_data = refresh(results)
    print_faults(results_data.faults)
    return describe_standing(run, results_data.runs)
