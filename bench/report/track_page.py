"""One page a track: its single attempts, the attempts of each batch, and its comparisons."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.experiments.paired_runs import PairedRuns, paired_runs
from bench.formatting import (
    commit_text,
    escape_markdown,
    heldout_errors_text,
    markdown_label,
    markdown_row,
    number,
    outcome_text,
)
from bench.report.peers import is_on_page
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import (
    RANKED_COMMANDS,
    RANKED_FROM,
    ClassRuns,
    describe_standing,
    sorted_by_time,
)
from bench.storage.comparison_schema import Conclusion, PairedPlan
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.results import FiledResults
from bench.storage.schema import Run

NEWEST_SINGLES = 200  # single attempts that a page shows
SINGLES_HEAD = """### Single attempts, newest first

| run | config | seed | outcome | errors | train | total | wall | steps | commit |
| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |
"""


def page_path(results: Path, track: str) -> Path:
    return results / "tracks" / f"{track}.md"


def machine_order(machine_class: str, machine: ClassRuns) -> tuple[float, str]:
    """Sort key of the machine classes of a track: the class of the fastest ranked entry comes first."""
    best = sorted_by_time(machine.entries, "total")[:1]
    return expected_time_to_success(best[0].runs, "total") if best else math.inf, machine_class


def render_track_page(track: str, machines: Mapping[str, ClassRuns], results_data: FiledResults) -> str:
    """The page as Markdown, from the track's runs by machine class, in the order of `machine_order`."""
    singles = [run for machine in machines.values() for run in machine.runs if run.batch is None]
    newest = sorted(singles, key=lambda run: (run.started_at, run.run_id), reverse=True)[:NEWEST_SINGLES]
    compared = {plan.machine_class for plan in results_data.paired_plans if plan.track == track and plan.b is not None}
    sections: list[dict[str, Any]] = []
    for name in [*machines, *sorted(name for name in compared if name is not None and name not in machines)]:
        machine = machines.get(name, ClassRuns(()))
        section = {
            "singles": [run for run in newest if run.machine_class_name == name],
            "comparisons": comparisons(track, name, machine.runs, results_data),
            "entries": machine.entries,
        }
        if any(section.values()):
            sections.append({"name": name} | section)
    from bench.report.render import render_template  # imported on use, because it takes time

    return render_template(
        "track",
        singles_head=SINGLES_HEAD,
        single_row=single_row,
        batch_row=batch_row,
        track=track,
        machines=sections,
        num_singles=len(singles),
        num_shown=len(newest),
        is_ranked=any(entry.ranked for section in sections for entry in section["entries"]),
        ranked_from=RANKED_FROM,
    )


def comparisons(
    track: str, machine_class: str, runs: Sequence[Run], results_data: FiledResults
) -> list[tuple[PairedPlan, Conclusion | None, PairedRuns | None]]:
    """The comparisons of one track on one machine class, newest first.

    Each is a plan, its conclusion (None if it is not finished), and then its attempts so far.
    """
    conclusions = {conclusion.id: conclusion for conclusion in results_data.conclusions}
    return [
        (plan, conclusions.get(plan.id), None if plan.id in conclusions else paired_runs(plan, runs))
        for plan in reversed(results_data.paired_plans)
        if plan.b is not None and (plan.track, plan.machine_class) == (track, machine_class)
    ]


def single_row(run: Run) -> str:
    """The row of a single attempt."""
    certificate, seconds = run.certificate, run.seconds
    cells = [
        f'<a id="{run.run_id}"></a>{run.run_id}',
        markdown_label(run),
        run.seed,
        outcome_text(run),
        number(None if certificate is None else certificate.errors),
        *(number(value, ".2f") for value in (seconds.train, seconds.total, seconds.wall)),
        number(run.steps),
        commit_text(run.commit, run.dirty),
    ]
    return markdown_row(cells)


def batch_row(run: Run) -> str:
    """The row of an attempt of a batch."""
    certificate = run.certificate
    cells = [
        run.run_id,
        run.seed,
        outcome_text(run),
        number(None if certificate is None else certificate.errors),
        heldout_errors_text(certificate),
        *(number(seconds, ".2f") for seconds in run.seconds.model_dump().values()),
        number(run.steps),
        escape_markdown(run.message or ""),
    ]
    return markdown_row(cells)


def update_page(results: Path, run: Run) -> str | None:
    """Add the row of a single attempt to the page of its track; returns the sentence that says where the run stands.

    So the prompt is back soon. Returns None, and does nothing, unless the result is the page that would be rendered: it
    has to show all earlier single attempts, and this one has to be the newest; and no other page may change.
    """
    path, journal = page_path(results, run.track), Journal(results)
    if run.batch is not None or not path.exists() or not (results / "LEADERBOARD.md").exists():
        return None
    with journal.lock():
        page = path.read_text(encoding="utf-8")
        num_shown = page.count('\n| <a id="')
        is_complete = num_shown + 1 == journal.count_singles(run.track) <= NEWEST_SINGLES
        if not is_complete or is_on_page(run, journal):
            return None
        start = page.find(f"\n## {run.track} on {run.machine_class_name}\n")
        table = page.find(SINGLES_HEAD, start)
        if start < 0 or table < 0 or page.find("\n## ", start + 1, table) >= 0:
            return None
        place = table + len(SINGLES_HEAD)
        if not page.startswith('| <a id="', place) or page[place:].split('"', 2)[1] > run.run_id:  # ids sort by time
            return None
        replace_file(path, f"{page[:place]}{single_row(run)}\n{page[place:]}")
    return describe_standing(run, journal.read_category(run.track, run.machine.class_, RANKED_COMMANDS))
