"""The history of what was tried, `NEGATIVE.md`: all finished comparisons, those first that were not faster.

Side a of a comparison is the challenger. Side b is its opponent: the second argument of `compare`, or the standing
record of `record`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.formatting import changed_settings, commit_text, contestant_text, escape_markdown, number, ratio_text
from bench.report.render import template_environment
from bench.storage.records import RecordFolder
from bench.storage.schema import Conclusion, PairedPlan, Side


class Tried(NamedTuple):
    """A finished comparison."""

    plan: PairedPlan
    opponent: Side
    conclusion: Conclusion


def finished_comparisons(plans: Sequence[PairedPlan], conclusions: Sequence[Conclusion]) -> list[Tried]:
    """Newest first."""
    concluded = {conclusion.id: conclusion for conclusion in conclusions}
    finished = [
        Tried(plan, plan.b, concluded[plan.id]) for plan in plans if plan.b is not None and plan.id in concluded
    ]
    return sorted(finished, key=lambda tried: (tried.plan.started_at, tried.plan.id), reverse=True)


def render_tried(
    plans: Sequence[PairedPlan], conclusions: Sequence[Conclusion], records: Sequence[RecordFolder]
) -> str:
    """The page as Markdown.

    Args:
        records: used to name the comparisons that made a record.
    """
    comparisons = finished_comparisons(plans, conclusions)
    faster = [tried for tried in comparisons if tried.conclusion.verdict == "faster"]
    record_names = {folder.record.batch: folder.record.name for folder in records}
    return (
        template_environment()
        .get_template("negative.md.jinja")
        .render(
            others=sections([tried for tried in comparisons if tried.conclusion.verdict != "faster"], record_names),
            faster=sections(faster, record_names),
            num_tried=len(comparisons),
            num_faster=len(faster),
            num_records=sum(tried.plan.id in record_names for tried in faster),
        )
    )


def sections(comparisons: Sequence[Tried], record_names: Mapping[str, str]) -> list[dict[str, Any]]:
    """One section for each track and clock, tracks in numerical order; within a section the order stays.

    Args:
        record_names: comparison id -> name of the record that it made.
    """
    entries: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for tried in comparisons:
        entries[tried.plan.track, tried.plan.clock].append(entry(tried, record_names.get(tried.plan.id)))

    def order(key: tuple[str, str]) -> list[tuple[str, int]]:
        return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D+)(\d*)", " ".join(key))]

    return [{"track": key[0], "clock": key[1], "entries": entries[key]} for key in sorted(entries, key=order)]


def entry(tried: Tried, record: str | None) -> dict[str, Any]:
    plan, opponent, conclusion = tried
    a, b = conclusion.a, conclusion.b
    return {
        "id": plan.id,
        "date": f"{plan.started_at:%Y-%m-%d}",
        "why": plan.why and escape_markdown(plan.why),
        "changes": side_changes(opponent, plan.a),
        "verdict": conclusion.verdict,
        "ratio": ratio_text(conclusion.ert_ratio, conclusion.ert_ratio_95),
        "p_value": number(conclusion.p_value, ".4f"),
        "pairs": plan.pairs,
        "solved": f"{a.solved}/{a.attempts} against {b.solved}/{b.attempts}",
        "a": escape_markdown(contestant_text(plan.a)),
        "b": escape_markdown(contestant_text(opponent)),
        "opponent": "the standing record " if plan.command == "record" else "the record " if opponent.record else "",
        "machine_class": escape_markdown(plan.machine_class),
        "record": record,
    }


def side_changes(before: Side, after: Side) -> list[str]:
    """The differences between two sides: settings and source."""
    changes = changed_settings(before.settings, after.settings)
    if before.source_sha256 != after.source_sha256:
        commits = " → ".join(commit_text(side.commit, side.dirty) for side in (before, after))
        changes.append(f"source changed (commit {commits})")
    return changes
