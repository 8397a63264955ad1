"""One page a track: its single attempts, the attempts of each batch, and its comparisons."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report.peers import may_be_in_a_session
from bench.report.render import render_template
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import (
    RANKED_COMMANDS,
    RANKED_FROM,
    describe_standing,
    group_batches,
    group_entries,
    ranked_entries,
)
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.results import FiledResults, conclusions_file, paired_plans_file
from bench.storage.schema import Conclusion, PairedPlan, Run

NEWEST_SINGLES = 200  # single attempts that a page shows


def page_path(results: Path, track: str) -> Path:
    return results / "tracks" / f"{track}.md"


def machine_order(machine_class: str, runs: Sequence[Run]) -> tuple[float, str]:
    """Sort key of the machine classes of a track: the class of the fastest ranked entry comes first."""
    best = ranked_entries(runs, "total")[:1]
    return expected_time_to_success(best[0].runs, "total") if best else math.inf, machine_class


def render_track_page(track: str, machines: Mapping[str, Sequence[Run]], results_data: FiledResults) -> str:
    """The page as Markdown, from the track's runs by machine class."""
    singles = [run for runs in machines.values() for run in runs if run.batch is None]
    newest = sorted(singles, key=lambda run: (run.started_at, run.run_id), reverse=True)[:NEWEST_SINGLES]
    compared = {plan.machine_class for plan in results_data.paired_plans if plan.track == track and plan.b is not None}
    sections: list[dict[str, Any]] = []
    names = machines.keys() | {name for name in compared if name is not None}
    for name in sorted(names, key=lambda name: machine_order(name, machines.get(name, ()))):
        runs = machines.get(name, ())
        section = {
            "singles": [run for run in newest if run.machine_class_name == name],
            "comparisons": comparisons(track, name, runs, results_data),
            "entries": group_entries(group_batches(runs)),
        }
        if any(section.values()):
            sections.append({"name": name} | section)
    return render_template(
        "track",
        track=track,
        machines=sections,
        num_singles=len(singles),
        num_shown=len(newest),
        is_ranked=any(entry.ranked for section in sections for entry in section["entries"]),
        ranked_from=RANKED_FROM,
    )


def comparisons(
    track: str, machine_class: str, runs: Sequence[Run], results_data: FiledResults
) -> list[tuple[PairedPlan, Conclusion | None, int | None]]:
    """The comparisons of one track on one machine class, newest first.

    Each is a plan, its conclusion (None if it is not finished), and then the number of attempts so far.
    """
    conclusions = {conclusion.id: conclusion for conclusion in results_data.conclusions}
    return [
        (plan, conclusions.get(plan.id), None if plan.id in conclusions else count_attempts(plan, runs))
        for plan in reversed(results_data.paired_plans)
        if plan.b is not None and (plan.track, plan.machine_class) == (track, machine_class)
    ]


def count_attempts(plan: PairedPlan, runs: Sequence[Run]) -> int:
    """The number of attempts that both sides of a comparison have made."""
    from bench.experiments.paired_plan import runs_by_side  # imported on use, because it takes time

    return sum(map(len, runs_by_side(plan, runs)))


def update_page(results: Path, run: Run) -> str | None:
    """Render the page of a run's track if no other page changes; returns the sentence that says where the run stands.

    That is so for a single attempt of a track that is on the board, except beside a run of a peer. Only the lines that
    the page shows are read, so that the prompt is back soon. Returns None, and does nothing, if other pages may change,
    or if a comparison of the track is not over, whose attempts the page counts.
    """
    path = page_path(results, run.track)
    if run.batch is not None or not path.exists() or not (results / "LEADERBOARD.md").exists():
        return None
    plans, conclusions = paired_plans_file(results).read()[0], conclusions_file(results).read()[0]
    concluded = {conclusion.id for conclusion in conclusions}
    if any(plan.id not in concluded for plan in plans if plan.track == run.track and plan.b is not None):
        return None
    journal = Journal(results)
    if may_be_in_a_session(run, journal):
        return None
    with journal.lock():
        runs = journal.read_track(run.track, RANKED_COMMANDS)
        machines: dict[str, list[Run]] = defaultdict(list)
        for other in runs:
            if other.is_contest:
                machines[other.machine_class_name].append(other)
        results_data = FiledResults(runs, paired_plans=plans, conclusions=conclusions)
        replace_file(path, render_track_page(run.track, machines, results_data))
    return describe_standing(run, runs)
