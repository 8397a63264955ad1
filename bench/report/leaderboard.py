"""The board: `LEADERBOARD.md` and its plots, rendered from the evidence alone.

With it go `NEGATIVE.md`, `PEERS.md` and the figures of README and docs, which are rendered from the same.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.clock import ClockName
from bench.experiments.paired_plan import runs_by_side
from bench.formatting import commit_text, contestant_text, middle, number, ratio_text, search_text, spread_text
from bench.report.negative import render_tried
from bench.report.peers import render_peers
from bench.report.plots import Category, Figure, RecordPoint, figures
from bench.report.render import template_environment
from bench.stats.descriptive import peak_memory, utilisation
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import CLOCKS, RANKED_FROM, Entry, RunBatch, describe_standing, group_batches, group_entries
from bench.storage.journal import Journal
from bench.storage.jsonl import print_faults, replace_file
from bench.storage.records import RecordFolder
from bench.storage.results import FiledResults, read_results
from bench.storage.schema import Conclusion, PairedPlan, Run

# -----------------------------------------------------------------------------
# rendering


def entry_row(entry: Entry, clock: ClockName, rank: int, yardsticks: Mapping[str, Run]) -> dict[str, Any]:
    """`yardsticks`: batch -> the yardstick's run beside it."""
    first = entry.runs[0]
    hardware = first.hardware
    beside = [yardsticks[batch.id] for batch in entry.batches if batch.id in yardsticks]
    is_whole = all(batch.finished for batch in entry.batches)
    return {
        "rank": str(rank) if entry.ranked else "—",
        "config": first.config,
        "ert": number(expected_time_to_success(entry.runs, clock), ".2f"),
        "solved": f"{entry.num_solved}/{len(entry.runs)}" + ("" if is_whole else f" of {entry.num_planned} planned"),
        "spread": spread_text(entry.values(lambda run: getattr(run.seconds, clock)), ".2f"),
        "steps": middle(entry.values(lambda run: run.steps), ",.0f"),
        "parameters": middle(entry.values(lambda run: run.parameters), ",.0f"),
        "memory": middle([value / 2**20 for value in entry.values(peak_memory)], ",.0f"),
        "clean": clean_text(entry.runs),
        "utilisation": middle(entry.values(utilisation), ".1%"),
        "yardstick": middle([run.seconds.train for run in beside if run.seconds.train is not None], ".2f"),
        "hardware": "—" if hardware is None else (hardware.gpu.name if hardware.gpu else hardware.cpu) or "—",
        "date": f"{first.started_at:%Y-%m-%d}",
        "commit": commit_text(first.commit, first.dirty),
        "batches": [batch.id for batch in entry.batches],
    }


def clean_text(runs: Sequence[Run]) -> str:
    """How many ran on a quiet machine; an em dash when nobody looked."""
    seen = [run.machine.clean for run in runs if run.machine.clean is not None]
    return f"{sum(seen)}/{len(runs)}" if seen else number(None)


def record_row(filed: RecordFolder) -> dict[str, Any]:
    record, result = filed.record, filed.record.result
    replays, _ = filed.reproductions.read()
    return {
        "name": record.name,
        "ert": number(record.ert_seconds, ".2f"),
        "ratio": ratio_text(record.ert_ratio, record.ert_ratio_95),
        "predecessor": record.predecessor or number(None),
        "solved": f"{result.solved}/{result.attempts}",
        "clean": f"{result.clean}/{result.attempts}" + (" (noisy)" if record.noisy else ""),
        "parameters": number(record.parameters),
        "date": f"{record.started_at:%Y-%m-%d}",
        "commit": record.commit[:10],
        "machine_classes": str(len(filed.machine_classes())),
        "replays": f"{sum(each.reproduced for each in replays)}/{len(replays)}" if replays else number(None),
        "doubts": [
            f"a replay of {each.started_at:%Y-%m-%d} did not reproduce {record.name}: {each.reason}; "
            f"{each.result.solved} of {each.result.attempts} solved, {each.certified} certified again"
            for each in replays
            if not each.reproduced
        ],
        "search": search_text(record.search) or number(None),
    }


def comparison_row(agenda: PairedPlan, conclusion: Conclusion | None, num_attempts: int) -> dict[str, str]:
    row = {
        "id": agenda.id,
        "clock": agenda.clock,
        "a": contestant_text(agenda.a),
        "b": contestant_text(agenda.b),
        "number": str(agenda.number),
        "pairs": str(agenda.pairs),
        "date": f"{agenda.started_at:%Y-%m-%d}",
    }
    if conclusion is None:
        unknown = dict.fromkeys(("ratio", "p_value", "drift", "solved"), number(None))
        return row | unknown | {"verdict": f"not finished: {num_attempts} of {2 * agenda.pairs} attempts"}
    return row | {
        "verdict": conclusion.verdict,
        "ratio": ratio_text(conclusion.ert_ratio, conclusion.ert_ratio_95),
        "p_value": number(conclusion.p_value, ".4f"),
        "drift": number(conclusion.drift, "+.1%"),
        "solved": f"{conclusion.a.solved}/{conclusion.a.attempts}, {conclusion.b.solved}/{conclusion.b.attempts}",
    }


def run_row(run: Run) -> dict[str, Any]:
    certificate = run.certificate
    return {
        "id": run.run_id,
        "config": run.config,
        "seed": run.seed,
        "outcome": run.outcome,
        "errors": number(certificate and certificate.errors),
        "heldout_errors": number(certificate and certificate.heldout_errors),
        "steps": number(run.steps),
        "commit": commit_text(run.commit, run.dirty),
        "message": (run.message or "").replace("|", "\\|"),
        **{name: number(value, ".2f") for name, value in run.seconds.model_dump().items()},
    }


def by_machine(runs: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    """Track -> machine class -> runs, both in order of their names; tracks with a ranked batch come first."""
    found: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in (run for run in runs if run.is_contest):
        found[run.track][run.machine_class_name].append(run)
    ranked = {batch.runs[0].track for batch in group_batches(runs) if batch.ranked}

    def order(track: str) -> tuple[bool, list[str | int]]:
        return track not in ranked, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", track)]

    return {track: dict(sorted(found[track].items())) for track in sorted(found, key=order)}


def records_at(place: Category, records: Sequence[RecordFolder]) -> list[RecordFolder]:
    """The records of one board."""
    return [filed for filed in records if place == (filed.record.track, filed.record.machine_class, filed.record.clock)]


def figures_at(place: Category, batches: Sequence[RunBatch], records: Sequence[RecordFolder]) -> list[Figure]:
    points = [
        RecordPoint(
            name=filed.record.name,
            date=filed.record.started_at,
            ert_seconds=filed.record.ert_seconds,
            low_seconds=None,
            high_seconds=None,
            solved=filed.record.result.solved,
            attempts=filed.record.result.attempts,
        )
        for filed in records_at(place, records)
    ]
    return figures(place, batches, points)


def machine_section(track: str, name: str, runs: Sequence[Run], evidence: FiledResults) -> dict[str, Any]:
    batches, yardsticks = group_batches(runs), evidence.yardsticks()
    tables, plots, records = {}, {}, {}
    for clock in CLOCKS:
        place = Category(track, name, clock)
        plots[clock] = figures_at(place, batches, evidence.records)
        records[clock] = [record_row(filed) for filed in reversed(records_at(place, evidence.records))]
        in_order = sorted(group_entries(batches), key=lambda entry: entry.order(clock))
        tables[clock] = [entry_row(entry, clock, rank, yardsticks) for rank, entry in enumerate(in_order, start=1)]
    singles = [run for run in runs if run.batch is None]
    concluded = {conclusion.id: conclusion for conclusion in evidence.conclusions}
    return {
        "name": name,
        "tables": tables,
        "plots": plots,
        "records": records,
        "comparisons": [
            comparison_row(agenda, concluded.get(agenda.id), sum(map(len, runs_by_side(agenda, runs))))
            for agenda in reversed(evidence.paired_plans)
            if agenda.b is not None and (agenda.track, agenda.machine_class) == (track, name)
        ],
        "singles": [run_row(run) for run in sorted(singles, key=lambda run: run.started_at, reverse=True)],
        "batches": [{"id": batch.id, "runs": [run_row(run) for run in batch.runs]} for batch in reversed(batches)],
    }


def render(evidence: FiledResults) -> str:
    """The whole board as Markdown; it names its plots, which `all_figures` makes."""
    tracks = [
        {"name": track, "machines": [machine_section(track, name, its, evidence) for name, its in machines.items()]}
        for track, machines in by_machine(evidence.runs).items()
    ]
    template = template_environment().get_template("board.md.jinja")
    return template.render(tracks=tracks, faults=evidence.faults, ranked_from=RANKED_FROM)


def all_figures(evidence: FiledResults) -> list[Figure]:
    """The plots that the board names."""
    places = [
        (Category(track, name, clock), group_batches(its))
        for track, machines in by_machine(evidence.runs).items()
        for name, its in machines.items()
        for clock in CLOCKS
    ]
    return [figure for place, batches in places for figure in figures_at(place, batches, evidence.records)]


# -----------------------------------------------------------------------------
# after an attempt, and the command


def texts(evidence: FiledResults, results: Path) -> dict[Path, str]:
    """The files that are rendered after every attempt."""
    tried = render_tried(evidence.paired_plans, evidence.conclusions, evidence.records)
    return {
        results / "LEADERBOARD.md": render(evidence),
        results / "NEGATIVE.md": tried,
        results / "PEERS.md": render_peers(evidence.runs),
    }


def refresh(results: Path) -> FiledResults:
    """Render the board's texts; the plots wait for `bench board`, as drawing takes longer than reading."""
    with Journal(results).lock():
        evidence = read_results(results)
        for path, text in texts(evidence, results).items():
            replace_file(path, text)
    return evidence


def update(results: Path, run: Run) -> str:
    """Render the board after an attempt; returns where the attempt stands."""
    evidence = refresh(results)
    print_faults(evidence.faults)
    return describe_standing(run, evidence.runs)
