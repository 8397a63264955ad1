"""The history of what was tried, `NEGATIVE.md`: all finished comparisons, those first that were not faster.

Side a of a comparison is the challenger. Side b is its opponent: the second argument of `compare`, or the standing
record of `record`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from bench.formatting import changed_settings, commit_text
from bench.report.render import render_template
from bench.storage.comparison_schema import Conclusion, PairedPlan, Side
from bench.storage.results import FiledResults


class Tried(NamedTuple):
    """A finished comparison."""

    plan: PairedPlan
    opponent: Side
    conclusion: Conclusion

    @property
    def changes(self) -> list[str]:
        """The differences from the opponent to the challenger: settings and source."""
        before, after = self.opponent, self.plan.a
        changes = changed_settings(before.settings, after.settings)
        if before.source_sha256 != after.source_sha256:
            commits = " → ".join(commit_text(side.commit, side.dirty) for side in (before, after))
            changes.append(f"source changed (commit {commits})")
        return changes


def finished_comparisons(plans: Sequence[PairedPlan], conclusions: Sequence[Conclusion]) -> list[Tried]:
    """Newest first."""
    concluded = {conclusion.id: conclusion for conclusion in conclusions}
    finished = [
        Tried(plan, plan.b, concluded[plan.id]) for plan in plans if plan.b is not None and plan.id in concluded
    ]
    return sorted(finished, key=lambda tried: (tried.plan.started_at, tried.plan.id), reverse=True)


def render_tried(results_data: FiledResults) -> str:
    """The page as Markdown."""
    comparisons = finished_comparisons(results_data.paired_plans, results_data.conclusions)
    faster = [tried for tried in comparisons if tried.conclusion.verdict == "faster"]
    record_names = {folder.record.batch: folder.record.name for folder in results_data.records}
    return render_template(
        "negative",
        others=sections([tried for tried in comparisons if tried.conclusion.verdict != "faster"]),
        faster=sections(faster),
        record_names=record_names,
        num_tried=len(comparisons),
        num_faster=len(faster),
        num_records=sum(tried.plan.id in record_names for tried in faster),
    )


def sections(comparisons: Sequence[Tried]) -> dict[tuple[str, str], list[Tried]]:
    """The comparisons by track and clock, tracks in numerical order; within a section the order stays."""
    grouped: dict[tuple[str, str], list[Tried]] = defaultdict(list)
    for tried in comparisons:
        grouped[tried.plan.track, tried.plan.clock or ""].append(tried)

    def order(key: tuple[str, str]) -> list[tuple[str, int]]:
        return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D+)(\d*)", " ".join(key))]

    return {key: grouped[key] for key in sorted(grouped, key=order)}
