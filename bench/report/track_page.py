"""One page a track: its single attempts, the attempts of each batch, and its comparisons."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.experiments.paired_plan import runs_by_side
from bench.formatting import commit_text
from bench.report.render import template_environment
from bench.report.rows import comparison_row, run_row, unranked_row
from bench.stats.ranking import RANKED_FROM, Entry, group_batches, group_entries
from bench.storage.results import FiledResults
from bench.storage.schema import Run

NEWEST_SINGLES = 200  # single attempts that a page shows


def page_path(results: Path, track: str) -> Path:
    return results / "tracks" / f"{track}.md"


def render_track_page(track: str, machines: Mapping[str, Sequence[Run]], results_data: FiledResults) -> str:
    """The page as Markdown.

    Args:
        machines: machine class -> the track's runs there.
    """
    singles = [run for runs in machines.values() for run in runs if run.batch is None]
    newest = sorted(singles, key=lambda run: (run.started_at, run.run_id), reverse=True)[:NEWEST_SINGLES]
    template = template_environment().get_template("track.md.jinja")
    return template.render(
        track=track,
        machines=[
            {
                "name": machine_class,
                "singles": [run_row(run) for run in newest if run.machine_class_name == machine_class],
                "comparisons": comparison_rows(track, machine_class, runs, results_data),
                **batch_tables(runs),
            }
            for machine_class, runs in machines.items()
        ],
        num_attempts=sum(map(len, machines.values())),
        num_singles=len(singles),
        num_shown=len(newest),
        is_ranked=any(batch.ranked for runs in machines.values() for batch in group_batches(runs)),
        ranked_from=RANKED_FROM,
    )


def batch_tables(runs: Sequence[Run]) -> dict[str, Any]:
    """The entries without a rank, and the attempts of every entry by batch, the latest entry first."""
    entries = group_entries(group_batches(runs))
    return {
        "unranked": [unranked_row(entry) for entry in entries if not entry.ranked],
        "entries": [entry_section(entry) for entry in reversed(entries)],
    }


def entry_section(entry: Entry) -> dict[str, Any]:
    first = entry.runs[0]
    return {
        "id": entry.id,
        "config": first.config,
        "date": f"{first.started_at:%Y-%m-%d}",
        "commit": commit_text(first.commit, first.dirty),
        "batches": [{"id": batch.id, "runs": [run_row(run) for run in batch.runs]} for batch in entry.batches],
    }


def comparison_rows(
    track: str, machine_class: str, runs: Sequence[Run], results_data: FiledResults
) -> list[dict[str, str]]:
    """The comparisons of one track on one machine class, newest first."""
    conclusions = {conclusion.id: conclusion for conclusion in results_data.conclusions}
    return [
        comparison_row(plan, conclusions.get(plan.id), sum(map(len, runs_by_side(plan, runs))))
        for plan in reversed(results_data.paired_plans)
        if plan.b is not None and (plan.track, plan.machine_class) == (track, machine_class)
    ]
