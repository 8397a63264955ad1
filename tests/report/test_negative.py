"""The history of what was tried, from comparisons made by hand."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from bench.formatting import escape_markdown
from bench.report.negative import render_tried
from bench.storage.results import FiledResults, paired_plans_file
from tests.support.examples import example_agenda as agenda
from tests.support.examples import example_conclusion as conclusion
from tests.support.examples import example_record
from tests.support.examples import example_side as side


def page(*tried, records=()):
    """The part about what was not faster and that about what was, of the page about (agenda, conclusion or None)."""
    plans, conclusions = [each for each, _ in tried], [end for _, end in tried if end is not None]
    text = render_tried(FiledResults([], records=records, paired_plans=plans, conclusions=conclusions))
    return text.split("## Faster")


def entries(part):
    """Each entry's lines, without their bullets."""
    found = re.findall(r"^- \*\*.*(?:\n  - .*)*", part, re.MULTILINE)
    return [[line.strip().removeprefix("- ") for line in entry.splitlines()] for entry in found]


def test_an_empty_history_says_so():
    (text,) = page()
    assert "no comparison is finished" in text
    assert entries(text) == []


def test_an_entry_tells_what_was_tried_and_what_it_came_to():
    slow = agenda(why="fewer steps cost less")
    others, faster = page((slow, conclusion(slow, solved=(9, 10))))
    assert entries(others) == [
        [
            "**2026-01-01: fewer steps cost less**",
            "`muon_iterations: 5 → 3`",
            "slower: ERT ratio 1.250 [1.100, 1.400], p = 0.0123, 10 pairs, solved 9/10 against 10/10",
            "new (ffffffffff) against now (ffffffffff); `comparison-1` on Example CPU",
        ]
    ]
    assert entries(faster) == []
    assert "None yet." in faster


def test_an_entry_tells_the_number_the_level_the_caps_and_why_nothing_was_decided():
    unclear = agenda()
    told: dict[str, Any] = {"level": 0.05 / 6, "number": 2, "capped": (1, 0), "reason": "6 pairs do not count"}
    others, _ = page((unclear, conclusion(unclear, "not decided", **told)))
    assert entries(others)[0][2:4] == [
        "not decided: ERT ratio 1.250 [1.100, 1.400] (1 and 0 attempts capped), p = 0.0123 (number 2, level 0.0083), "
        "10 pairs, solved 10/10 against 10/10",
        "not decided, because 6 pairs do not count",
    ]


def test_what_is_not_decided_is_not_faster():
    ended = [agenda(day) for day in (1, 2, 3)]
    verdicts = ("slower", "not decided", "faster")
    others, faster = page(*[(each, conclusion(each, verdict)) for each, verdict in zip(ended, verdicts, strict=True)])
    assert [lines[2].split(":")[0] for lines in entries(others)] == ["not decided", "slower"]
    assert [lines[2].split(":")[0] for lines in entries(faster)] == ["faster"]
    assert "3 tried, 1 faster, of which 0 became records." in others


def test_a_broken_off_comparison_and_a_batch_without_opponent_are_not_listed():
    alone = agenda(2, command="record", b=None)
    broken = agenda(1)
    (text,) = page((broken, None), (alone, None))
    assert "no comparison is finished" in text
    assert broken.id not in text


def test_the_newest_stands_first_whatever_the_order_of_the_lines():
    ended = [agenda(day) for day in (2, 3, 1)]
    others, _ = page(*[(each, conclusion(each)) for each in ended])
    assert [lines[0][2:12] for lines in entries(others)] == ["2026-01-03", "2026-01-02", "2026-01-01"]


def test_tracks_and_clocks_are_told_apart_and_stand_in_the_order_of_their_numbers():
    places = [("add10", "train"), ("add3", "train"), ("add3-reversed", "train"), ("add3", "total")]
    ended = [agenda(day, track=track, clock=clock) for day, (track, clock) in enumerate(places, start=1)]
    others, _ = page(*[(each, conclusion(each)) for each in ended])
    assert re.findall(r"^### (.*)$", others, re.MULTILINE) == [
        "add3 by `total`",
        "add3 by `train`",
        "add3-reversed by `train`",
        "add10 by `train`",
    ]


def test_a_line_that_nobody_gave_a_reason_for_is_listed_all_the_same():
    silent = agenda()
    others, _ = page((silent, conclusion(silent)))
    assert entries(others)[0][0] == "**2026-01-01: no reason was given**"


def test_a_line_of_the_agenda_from_before_there_were_reasons_still_reads(tmp_path):
    old = json.loads(agenda().model_dump_json())
    del old["why"]
    (tmp_path / "agenda.jsonl").write_text(json.dumps(old) + "\n")
    (read,), faults = paired_plans_file(tmp_path).read()
    assert faults == []
    assert read == agenda()
    assert read.why is None


def test_settings_that_one_side_does_not_have_are_shown_as_unknown_and_flags_as_a_config_writes_them():
    changed = agenda(a=side("new", compile=True, new_key=0.5))
    others, _ = page((changed, conclusion(changed)))
    assert entries(others)[0][1] == "`compile: false → true`, `new_key: — → 0.5`"


def test_another_source_is_told_with_both_commits():
    changed = agenda(a=side("new", source="e" * 64, commit="1" * 40, dirty=True))
    others, _ = page((changed, conclusion(changed)))
    assert entries(others)[0][1] == "source changed (commit ffffffffff → 1111111111 + changes)"
    unknown = agenda(a=side("new", source="e" * 64, commit=None))
    others, _ = page((unknown, conclusion(unknown)))
    assert entries(others)[0][1] == "source changed (commit ffffffffff → —)"


def test_a_contestant_against_itself_has_changed_nothing():
    same = agenda(a=side())
    others, _ = page((same, conclusion(same, "not decided")))
    assert entries(others)[0][1] == "nothing changed: same settings, same source"


def test_a_ratio_that_there_is_none_of_is_a_dash():
    hopeless = agenda()
    others, _ = page((hopeless, conclusion(hopeless, solved=(0, 10), ert_ratio=None, ert_ratio_95=None)))
    assert "ERT ratio —, p = 0.0123, 10 pairs, solved 0/10 against 10/10" in entries(others)[0][2]


def test_the_standing_record_is_named_as_such_and_a_record_that_was_made_is_linked():
    made = agenda(command="record", b=side("old-record", record="old-record"))
    record = example_record(batch=made.id, name="new-record")
    others, faster = page((made, conclusion(made, "faster")), records=[record])
    assert "1 tried, 1 faster, of which 1 became a record." in others
    assert entries(faster)[0][3:] == [
        "filed as the record [new-record](records/new-record/README.md)",
        "new (ffffffffff) against the standing record old-record (ffffffffff); `comparison-1` on Example CPU",
    ]
    compared = agenda(b=side("old-record", record="old-record"))
    others, _ = page((compared, conclusion(compared)))
    assert "against the record old-record" in entries(others)[0][3]


@pytest.mark.parametrize("text", ["a | b", "*a* _b_ `c`", "[a](b) <b> 2 < 3", "50% of $a$ & b", "back\\slash"])
def test_markup_in_a_reason_reads_as_it_was_typed(text):
    typed = agenda(why=text)
    others, _ = page((typed, conclusion(typed)))
    (line,) = [lines[0] for lines in entries(others)]
    assert line == f"**2026-01-01: {escape_markdown(text)}**"
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*_`\[\]<>$&]", escape_markdown(text)), (
        "each has a backslash of its own before it"
    )
    assert re.sub(r"\\(.)", r"\1", escape_markdown(text)) == text


def test_the_same_lines_make_the_same_page():
    ended = [agenda(day, started_at=datetime(2026, 1, 1, tzinfo=UTC)) for day in (1, 2, 3)]
    tried = [(each, conclusion(each)) for each in ended]
    assert page(*tried) == page(*tried[::-1])
