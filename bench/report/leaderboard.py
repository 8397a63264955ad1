"""The leaderboard and every other page that is rendered after an attempt, from the results folder alone."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.clock import ClockName
from bench.formatting import clean_text, commit_text, markdown_label, markdown_row, middle, number, spread_text
from bench.report.cold_starts import NOT_MEASURED, newest_cold_starts
from bench.report.main_track import FIRST_OF_CLASS, record_lines
from bench.report.negative import render_tried
from bench.report.peers import render_peers
from bench.report.plot_style import Figure
from bench.report.plots import Category, category_figures
from bench.report.records_plot import history_figure
from bench.report.render import attempts_text, render_template, solved_text
from bench.report.track_page import machine_order, page_path, render_track_page
from bench.stats.descriptive import peak_memory, utilisation
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import (
    CLOCKS,
    RANKED_FROM,
    ClassRuns,
    Entry,
    decided_pairs,
    describe_standing,
    shared_ranks,
    sorted_by_time,
)
from bench.storage.journal import Journal
from bench.storage.jsonl import print_faults, replace_file
from bench.storage.records import RecordFolder
from bench.storage.results import FiledResults, read_results
from bench.storage.samplings import samplings_file
from bench.storage.schema import Run

RunsByMachine = dict[str, ClassRuns]  # by machine class


def group_by_track(runs: Sequence[Run]) -> dict[str, RunsByMachine]:
    """Track -> machine class -> runs; tracks with a ranked batch come first, the fastest machine class first."""
    by_class: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.is_regular:
            by_class[run.track][run.machine_class_name].append(run)
    grouped = {
        track: {name: ClassRuns(of_class) for name, of_class in machines.items()}
        for track, machines in by_class.items()
    }

    def track_order(track: str) -> tuple[bool, list[str | int]]:
        is_ranked = any(entry.ranked for machine in grouped[track].values() for entry in machine.entries)
        return not is_ranked, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", track)]

    return {
        track: dict(sorted(grouped[track].items(), key=lambda machine: machine_order(*machine)))
        for track in sorted(grouped, key=track_order)
    }


def category_records(category: Category, folders: Sequence[RecordFolder]) -> list[RecordFolder]:
    """The records of one track, machine class and clock, oldest first."""
    return [
        folder
        for folder in folders
        if category == (folder.record.track, folder.record.machine_class, folder.record.clock)
    ]


def figures_of(category: Category, machine: ClassRuns, folders: Sequence[RecordFolder]) -> list[Figure]:
    records = [folder.record for folder in category_records(category, folders)]
    return category_figures(category, sorted_by_time(machine.entries, category.clock), records)


def all_figures(results_data: FiledResults) -> list[Figure]:
    """The figures that the leaderboard and README show."""
    figures = [
        figure
        for track, machines in group_by_track(results_data.runs).items()
        for machine_class, machine in machines.items()
        for clock in CLOCKS
        for figure in figures_of(Category(track, machine_class, clock), machine, results_data.records)
    ]
    history = history_figure(results_data.records)
    return figures if history is None else [history, *figures]


def render_leaderboard(results_data: FiledResults, tracks: Mapping[str, RunsByMachine]) -> str:
    """The leaderboard as Markdown; it links to the figures that `all_figures` draws.

    `tracks` is `group_by_track` of the runs.
    """
    return render_template(
        "leaderboard",
        record_lines=record_lines(results_data.records, "records"),
        history=history_figure(results_data.records),
        tracks=[track_section(track, machines, results_data) for track, machines in tracks.items()],
        ranking_row=ranking_row,
        disputed=[
            entry
            for machines in tracks.values()
            for machine in machines.values()
            for entry in machine.entries
            if entry.disputed
        ],
        cold_starts=newest_cold_starts(results_data.cold_starts),
        no_cold_start=NOT_MEASURED,
        faults=results_data.faults,
        ranked_from=RANKED_FROM,
        first_of_class=FIRST_OF_CLASS,
    )


def ranking_row(rank: int, entry: Entry, yardsticks: Sequence[Run], clock: ClockName) -> str:
    """The row of an entry."""
    runs, first = entry.runs, entry.runs[0]
    attempts_link = f"tracks/{first.track}.md#{entry.id}"
    cells = [
        rank,
        markdown_label(first),
        number(expected_time_to_success(runs, clock), ".2f"),
        solved_text(entry),
        spread_text([getattr(run.seconds, clock) for run in runs], ".2f"),
        clean_text(runs),
        middle([run.steps for run in runs], ",.0f"),
        middle([run.parameters for run in runs], ",.0f"),
        middle([memory / 2**20 for memory in map(peak_memory, runs) if memory is not None], ",.0f"),
        middle(map(utilisation, runs), ".1%"),
        middle([run.seconds.train for run in yardsticks], ".2f"),
        first.started_at.date(),
        commit_text(first.commit, first.dirty),
        "not rechecked" if entry.is_old else "passed",
        f"[{attempts_text(entry)}]({attempts_link})",
    ]
    return markdown_row(cells)


def track_section(track: str, machines: RunsByMachine, results_data: FiledResults) -> dict[str, Any]:
    """One track: its line in the index, and its machine classes with a ranked batch or a record."""
    entries = [entry for machine in machines.values() for entry in machine.entries]
    in_batches = [run for machine in machines.values() for run in machine.runs if run.batch is not None]
    runs = [run for run in in_batches if run.is_contest and not run.disputed]
    shown: dict[str, dict[ClockName, dict[str, Any]]] = {}
    for name, machine in machines.items():
        clocks = {clock: tables(Category(track, name, clock), machine, results_data) for clock in CLOCKS}
        if any(clock["entries"] or clock["won"] or clock["first"] for clock in clocks.values()):
            shown[name] = clocks
    return {
        "name": track,
        "num_attempts": len(runs),
        "num_solved": sum(run.outcome == "solved" for run in runs),
        "best": next(iter(sorted_by_time(entries, "total")), None),
        "machines": shown,
    }


def tables(category: Category, machine: ClassRuns, results_data: FiledResults) -> dict[str, Any]:
    """A category's ranking, with rank and yardsticks beside each entry, its records, newest first, and its figures."""
    yardsticks, entries = results_data.yardsticks, sorted_by_time(machine.entries, category.clock)
    folders = category_records(category, results_data.records)[::-1]
    plans = [plan for plan in results_data.paired_plans if (plan.track, plan.machine_class, plan.clock) == category]
    ranks = shared_ranks(entries, decided_pairs(plans, results_data.conclusions))
    return {
        "entries": [
            (rank, entry, [yardsticks[batch.id] for batch in entry.batches if batch.id in yardsticks])
            for rank, entry in zip(ranks, entries, strict=True)
        ],
        "won": [folder for folder in folders if folder.record.predecessor is not None],
        "first": [folder for folder in folders if folder.record.predecessor is None],
        "failed_replays": [
            (folder.record, replay)
            for folder in folders
            for replay in folder.reproductions.read()[0]
            if not replay.reproduced
        ],
        "figures": category_figures(category, entries, [folder.record for folder in folders[::-1]]),
    }


def rendered_pages(results_data: FiledResults, results: Path) -> dict[Path, str]:
    """The pages that are rendered after every attempt: path -> Markdown."""
    tracks = group_by_track(results_data.runs)
    pages = {
        results / "LEADERBOARD.md": render_leaderboard(results_data, tracks),
        results / "NEGATIVE.md": render_tried(results_data),
        results / "PEERS.md": render_peers(results_data.runs, samplings_file(results).read()[0]),
    }
    for track, machines in tracks.items():
        pages[page_path(results, track)] = render_track_page(track, machines, results_data)
    return pages


def stale_track_pages(results: Path, pages: Mapping[Path, str]) -> list[Path]:
    """The track pages whose track has no attempt in the journal."""
    return [path for path in sorted((results / "tracks").glob("*.md")) if path not in pages]


def refresh(results: Path) -> FiledResults:
    """Render the pages and write those that changed; figures take longer, see `refresh_figures`."""
    with Journal(results).lock():
        results_data = read_results(results)
        for path, text in rendered_pages(results_data, results).items():
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                replace_file(path, text)
    return results_data


def refresh_figures(results: Path) -> None:
    """Draw the figures of the leaderboard that are missing or whose data has changed."""
    for figure in all_figures(read_results(results)):
        table, picture = (results / "plots" / f"{figure.name}.{suffix}" for suffix in ("csv", "svg"))
        data = figure.csv()
        if not (table.exists() and picture.exists()) or table.read_text(encoding="utf-8") != data:
            replace_file(picture, figure.svg())
            replace_file(table, data)


def update(results: Path, run: Run) -> str:
    """Render the pages after an attempt; returns the sentence that says where the attempt stands."""
    results_data = refresh(results)
    print_faults(results_data.faults)
    return describe_standing(run, results_data.runs)
