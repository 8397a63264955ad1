"""The leaderboard and every other page that is rendered after an attempt, from the results folder alone."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.clock import ClockName
from bench.report.cold_starts import NOT_MEASURED, newest_cold_starts
from bench.report.main_track import FIRST_OF_CLASS, record_lines
from bench.report.negative import render_tried
from bench.report.peers import render_peers
from bench.report.plot_style import Figure
from bench.report.plots import Category, category_figures
from bench.report.records_plot import history_figure
from bench.report.render import render_template
from bench.report.track_page import machine_order, page_path, render_track_page
from bench.stats.ranking import (
    CLOCKS,
    RANKED_FROM,
    Entry,
    decided_pairs,
    describe_standing,
    group_batches,
    group_entries,
    ranked_entries,
    shared_ranks,
)
from bench.storage.journal import Journal
from bench.storage.jsonl import print_faults, replace_file
from bench.storage.records import RecordFolder
from bench.storage.results import FiledResults, read_results
from bench.storage.samplings import samplings_file
from bench.storage.schema import Run

RunsByMachine = dict[str, list[Run]]  # machine class -> runs


def group_by_track(runs: Sequence[Run]) -> dict[str, RunsByMachine]:
    """Track -> machine class -> runs; tracks with a ranked batch come first, the fastest machine class first."""
    grouped: dict[str, RunsByMachine] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.is_regular:
            grouped[run.track][run.machine_class_name].append(run)
    ranked = {batch.runs[0].track for batch in group_batches(runs) if batch.ranked}

    def track_order(track: str) -> tuple[bool, list[str | int]]:
        return track not in ranked, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", track)]

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


def figures_of(category: Category, runs: Sequence[Run], folders: Sequence[RecordFolder]) -> list[Figure]:
    records = [folder.record for folder in category_records(category, folders)]
    return category_figures(category, ranked_entries(runs, category.clock), records)


def all_figures(results_data: FiledResults) -> list[Figure]:
    """The figures that the leaderboard and README show."""
    figures = [
        figure
        for track, machines in group_by_track(results_data.runs).items()
        for machine_class, runs in machines.items()
        for clock in CLOCKS
        for figure in figures_of(Category(track, machine_class, clock), runs, results_data.records)
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
        disputed=disputed_entries(results_data.runs),
        cold_starts=newest_cold_starts(results_data.cold_starts),
        no_cold_start=NOT_MEASURED,
        faults=results_data.faults,
        ranked_from=RANKED_FROM,
        first_of_class=FIRST_OF_CLASS,
    )


def disputed_entries(runs: Sequence[Run]) -> list[Entry]:
    """The entries that lost their rank because a run of theirs is disputed."""
    disputed = {batch.id for batch in group_batches(runs) if batch.disputed}
    suspected = [run for run in runs if run.batch is not None and run.batch.id in disputed]
    return [entry for entry in group_entries(group_batches(suspected)) if entry.disputed]


def track_section(track: str, machines: RunsByMachine, results_data: FiledResults) -> dict[str, Any]:
    """One track: its line in the index, and its machine classes with a ranked batch or a record."""
    contest = [run for machine_runs in machines.values() for run in machine_runs if run.is_contest and not run.disputed]
    runs = [run for run in contest if run.batch is not None]
    shown: dict[str, dict[ClockName, dict[str, Any]]] = {}
    for name, machine_runs in machines.items():
        clocks = {clock: tables(Category(track, name, clock), machine_runs, results_data) for clock in CLOCKS}
        if any(clock["entries"] or clock["won"] or clock["first"] for clock in clocks.values()):
            shown[name] = clocks
    return {
        "name": track,
        "num_attempts": len(runs),
        "num_solved": sum(run.outcome == "solved" for run in runs),
        "best": next(iter(ranked_entries(runs, "total")), None),
        "machines": shown,
    }


def tables(category: Category, runs: Sequence[Run], results_data: FiledResults) -> dict[str, Any]:
    """A category's ranking, with rank and yardsticks beside each entry, its records, newest first, and its figures."""
    yardsticks, entries = results_data.yardsticks, ranked_entries(runs, category.clock)
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
