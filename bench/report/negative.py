"""The history of what was tried: `NEGATIVE.md`, rendered from filed comparisons, those first that were not faster.

Side a of a comparison is the challenger, side b what it was measured against: the second name that `compare` was given,
or the standing record of `record`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bench.formatting import changed_settings, commit_text, contestant_text, escape_markdown, number, ratio_text
from bench.report.render import template_environment
from bench.storage.records import RecordFolder
from bench.storage.schema import Conclusion, PairedPlan, Side

Tried = tuple[PairedPlan, Conclusion]


def finished(agendas: Sequence[PairedPlan], conclusions: Sequence[Conclusion]) -> list[Tried]:
    """Each comparison that has come to its end, and what it came to; newest first."""
    concluded = {conclusion.id: conclusion for conclusion in conclusions}
    ended = [(agenda, concluded[agenda.id]) for agenda in agendas if agenda.b is not None and agenda.id in concluded]
    return sorted(ended, key=lambda tried: (tried[0].started_at, tried[0].id), reverse=True)


def render_tried(
    agendas: Sequence[PairedPlan], conclusions: Sequence[Conclusion], records: Sequence[RecordFolder]
) -> str:
    """The page as Markdown.

    Args:
        records: tell which of the comparisons made a record.
    """
    tried = finished(agendas, conclusions)
    faster = [each for each in tried if each[1].verdict == "faster"]
    filed = {each.record.batch: each.record.name for each in records}
    return (
        template_environment()
        .get_template("negative.md.jinja")
        .render(
            others=sections([each for each in tried if each[1].verdict != "faster"], filed),
            faster=sections(faster, filed),
            num_tried=len(tried),
            num_faster=len(faster),
            num_records=sum(agenda.id in filed for agenda, _ in faster),
        )
    )


def sections(tried: Sequence[Tried], filed: Mapping[str, str]) -> list[dict[str, Any]]:
    """One for each track and clock, tracks in the order of their numbers; each keeps the order of `tried`.

    Args:
        filed: from a comparison's id to the name of the record that it made.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for agenda, conclusion in tried:
        found[agenda.track, agenda.clock].append(entry(agenda, conclusion, filed.get(agenda.id)))

    def order(key: tuple[str, str]) -> list[tuple[str, int]]:
        return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D+)(\d*)", " ".join(key))]

    return [{"track": key[0], "clock": key[1], "entries": found[key]} for key in sorted(found, key=order)]


def entry(agenda: PairedPlan, conclusion: Conclusion, record: str | None) -> dict[str, Any]:
    a, b = conclusion.a, conclusion.b
    return {
        "id": agenda.id,
        "date": f"{agenda.started_at:%Y-%m-%d}",
        "why": agenda.why and escape_markdown(agenda.why),
        "changes": side_changes(agenda.b, agenda.a),
        "verdict": conclusion.verdict,
        "ratio": ratio_text(conclusion.ert_ratio, conclusion.ert_ratio_95),
        "p_value": number(conclusion.p_value, ".4f"),
        "pairs": agenda.pairs,
        "solved": f"{a.solved}/{a.attempts} against {b.solved}/{b.attempts}",
        "a": escape_markdown(contestant_text(agenda.a)),
        "b": escape_markdown(contestant_text(agenda.b)),
        "opponent": "the standing record " if agenda.command == "record" else "the record " if agenda.b.record else "",
        "machine_class": escape_markdown(agenda.machine_class),
        "record": record,
    }


def side_changes(old: Side, new: Side) -> list[str]:
    """In what the new side differs from the old one: its settings, and its source."""
    found = changed_settings(old.settings, new.settings)
    if old.source_sha256 != new.source_sha256:
        before, after = (commit_text(side.commit, side.dirty) for side in (old, new))
        found.append(f"source changed (commit {before} → {after})")
    return found
