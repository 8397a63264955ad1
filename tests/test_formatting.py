"""Values as text."""

import csv
import io
import math
import os
import subprocess

import pytest

from bench.formatting import (
    ask_command,
    attempt_line,
    batch_line,
    changed_settings,
    commit_text,
    contestant_text,
    csv_rows,
    duration,
    escape_markdown,
    interrupted_line,
    limit_text,
    markdown_code,
    markdown_label,
    markdown_table,
    middle,
    number,
    outcome_text,
    ratio_text,
    search_text,
    seconds_text,
    spread_text,
    terminal_table,
    yardstick_line,
)
from tests.support.examples import batch_runs, example_certificate, example_run, example_seconds, example_side


def test_an_unknown_number_is_a_dash_and_infinity_is_never():
    assert [number(value) for value in (None, float("inf"), 1234.4)] == ["—", "∞", "1,234"]
    assert (middle([], ".2f"), spread_text([], ".2f"), commit_text(None, True)) == ("—", "—", "—")


def test_seconds_have_two_decimals_and_their_unit():
    assert [seconds_text(value) for value in (1.5, None, math.inf)] == ["1.50 s", "unknown", "∞"]


def test_a_duration_has_the_unit_that_suits_it():
    assert [duration(seconds) for seconds in (45.0, 720.0, 12_600.0)] == ["45 s", "12 min", "3.5 h"]


def test_a_spread_is_median_and_extremes():
    assert spread_text([3.0, 1.0, 2.0, 9.0], ".1f") == "2.5 (1.0 … 9.0)"
    assert middle([3.0, 1.0, 2.0, 9.0], ".1f") == "2.5"


def test_the_limits_of_runs_are_ordered_by_value():
    runs = [example_run(settings={"track": "add3", "max_seconds": limit}) for limit in (120.0, 60.0, 90.0, 60.0)]
    assert limit_text(runs) == "limit of train 60 to 120 s"
    assert limit_text(runs[:1]) == "limit of train 120 s"


def test_a_ratio_has_its_interval_in_brackets():
    assert ratio_text(0.9124, (0.88, 0.95)) == "0.912 [0.880, 0.950]"
    assert [ratio_text(value, None) for value in (None, math.nan, math.inf, 1.0)] == ["—", "—", "∞", "1.000"]


def test_a_commit_is_short_and_tells_of_changes():
    assert [commit_text("0123456789abcdef", dirty) for dirty in (False, None, True)] == [
        *["0123456789"] * 2,
        "0123456789 + changes",
    ]
    assert contestant_text(example_side("new", dirty=True)) == "new (ffffffffff + changes)"
    assert contestant_text(example_side("new", commit=None)) == "new (no commit)"


def test_settings_that_differ_are_shown_as_old_and_new():
    old, new = {"a": 1, "b": True, "c": "x", "d": 0.5}, {"a": 1, "b": False, "c": "y", "e": 1e-5}
    assert changed_settings(old, new) == ["`b: true → false`", "`c: x → y`", "`d: 0.5 → —`", "`e: — → 1e-05`"]


def test_the_cost_of_a_search_is_a_phrase():
    assert search_text(None) is None
    cost = {"trials": 50, "attempts": 600, "seconds": 7200.0, "flops": 1.5e14}
    assert search_text(cost) == "found by a search of 50 trials, 600 attempts, 2.0 h, 1.5e+14 training FLOPs"
    assert search_text({"trials": 50}) == "found by a search of 50 trials, — attempts"


def test_an_attempt_in_one_line_tells_errors_and_seconds_or_why_it_failed():
    run = example_run(certificate=example_certificate(1), outcome="missed")
    assert attempt_line(run) == "seed 7  missed  1 error  train 20.00 s  total 26.50 s"
    for loss, text in ((0.002, "0.002"), (None, "not finite")):
        certificate = example_certificate(measures={"loss": loss}, limits={"loss": 0.001})
        run = example_run(certificate=certificate, outcome="missed")
        assert attempt_line(run).startswith(f"seed 7  missed  0 errors, loss {text}, needed at most 0.001  train")
    allowed = example_certificate(31, may_have_errors=True, measures={"invalid": 0.004}, limits={"invalid": 0.01})
    assert attempt_line(example_run(certificate=allowed)).startswith("seed 7  solved  31 errors, as allowed  train")
    lost = example_run(
        outcome="lost",
        message="it was killed",
        seconds=example_seconds(train=None, total=None),
        machine={"class": "Example CPU", "clean": False, "reasons": ["noise", "heat"]},
    )
    line = "seed 7  lost  it was killed  not clean: noise; heat"
    assert attempt_line(lost) == line


def test_an_outcome_on_a_page_has_what_decided_it():
    measures = {"measures": {"invalid": 0.004, "other": 1.0}, "limits": {"invalid": 0.01}, "may_have_errors": True}
    certificate = example_certificate(31, targets={"0.5": True, "0.9": False}, **measures)
    text = "solved; invalid 0.004, needed at most 0.01; errors as allowed; targets met: 0.5; not met: 0.9"
    assert outcome_text(example_run(certificate=certificate)) == text
    assert outcome_text(example_run()) == "solved"
    assert outcome_text(example_run(certificate=None, outcome="lost")) == "lost"


def test_a_batch_in_one_line_has_both_clocks():
    runs = batch_runs("a", [1.0, 3.0], outcome=lambda i: "missed" if i else "solved")
    assert batch_line(runs) == (
        "batch a: solved 1/2, clean —; train median 2.00 s (1.00 … 3.00), ERT 4.00 s; "
        "total median 7.00 s (6.00 … 8.00), ERT 14.00 s"
    )
    assert batch_line(runs[1:]).endswith("ERT ∞")


def test_a_terminal_table_aligns_text_to_the_left_and_numbers_to_the_right():
    table = terminal_table(("name", "count"), text=("name",), no_wrap=("name",))
    assert [(column.justify, column.no_wrap) for column in table.columns] == [("left", True), ("right", False)]


def test_a_markdown_table_aligns_text_to_the_left_and_numbers_to_the_right():
    assert markdown_table(("name", "count"), [["a", 1], ["b", 2]], text=("name",)).splitlines() == [
        "| name | count |",
        "| --- | ---: |",
        "| a | 1 |",
        "| b | 2 |",
    ]


def test_a_cell_of_csv_is_never_a_formula_and_numbers_stay_numbers():
    texts = ["=1+1", "+1 of mine", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "a=1", "", "'quoted"]
    numbers = [-1, -0.5, "-0.5", "+3", "-1e-5", None]
    (read,) = csv.reader(io.StringIO(csv_rows([[*texts, *numbers]]), newline=""))
    assert read[: len(texts)] == [f"'{text}" for text in texts[:7]] + texts[7:]
    assert read[len(texts) :] == ["-1", "-0.5", "-0.5", "+3", "-1e-5", ""]


def test_an_interrupted_attempt_is_told_what_it_costs():
    runs = batch_runs("a", [1.0, 3.0])
    runs = [runs[0], runs[1].model_copy(update={"outcome": "interrupted"})]
    assert interrupted_line(2, runs, "train") == (
        "attempt 2 was interrupted; it counts as not solved (charged 3 s by train)"
    )


def test_the_yardstick_does_not_look_like_a_failure():
    run = example_run(outcome="missed", certificate=example_certificate(errors=9346))
    seconds = seconds_text(run.seconds.train)
    assert yardstick_line(run) == f"yardstick (fixed work, not meant to solve): train {seconds}"
    lost = run.model_copy(update={"outcome": "lost", "message": "why", "certificate": None})
    assert yardstick_line(lost).endswith("  lost: why")


def test_a_text_of_several_lines_is_one_line_of_markdown():
    overrides = {"track_settings.text": "one\n# two |\r\n`three` snake_case _four_"}
    label = markdown_label(example_run(overrides=overrides))
    assert label == "add3-cpu + track_settings.text=one \\# two \\| \\`three\\` snake_case \\_four\\_"
    (change,) = changed_settings({"text": "a"}, {"text": "b\n| c"})
    assert change == "text: a → b \\| c"


@pytest.mark.parametrize("text", ["a|b", "a`b", "a\nb", "back\\slash", "", " "])
def test_what_code_cannot_hold_is_escaped_instead(text):
    assert markdown_code(text) == escape_markdown(text)
    assert markdown_code("n_layer=2 *") == "`n_layer=2 *`"


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
@pytest.mark.parametrize(
    "prompt",
    ["381+350=", "", "it's", '"quoted"', "$HOME `id` !!", "-x", "--results", "two\nlines", "back\\slash", r"back\next"],
)
def test_the_command_that_asks_a_run_survives_a_shell(prompt):
    command = ask_command("some", prompt, ["--results", "a folder"])
    script = f"for word in {command}; do printf '%s\\0' \"$word\"; done"
    words = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    prompt = prompt.replace(r"\n", r"\\n").replace("\n", r"\n")  # as `ask` reads it
    assert words[:5] == ["python", "-m", "bench", "ask", "some"]
    assert sorted(words[5:]) == sorted(["--results", "a folder", prompt, *(["--"] if prompt.startswith("-") else [])])
    assert words[-2:] == ["--", prompt] or not prompt.startswith("-")
    assert prompt != "381+350=" or command == "python -m bench ask some \"381+350=\" --results 'a folder'"
