"""The summary of an attempt, on a console that writes into a string."""

import re
from typing import Any

import pytest
from scipy.stats import binomtest

from bench.clock import PHASES
from bench.report.summary import interval_text, show_summary
from bench.storage.schema import Count, Run
from tests.support.consoles import plain_console, terminal, text_of, written
from tests.support.examples import example_certificate, example_check, example_run, example_seconds


def summary(run: Run, *sentences: str, width: int = 120) -> list[str]:
    console = plain_console(width)
    show_summary(run, list(sentences), "2nd of 3 on this machine", console)
    return written(console)


def row(lines: list[str], name: str) -> list[str]:
    """The cells of the row of this name in the certificate's table."""
    (found,) = [line for line in lines if line.strip().startswith(f"{name} ")]
    return found.split()[len(name.split()) :]


def test_the_summary_names_the_outcome_and_the_config() -> None:
    lines = summary(example_run())
    text = "\n".join(lines)
    assert "solved  0 errors in 1,000,000  add3-cpu, seed 7, 700 steps, 200,832 parameters" in text
    assert lines[-1] == "2nd of 3 on this machine"


def test_the_summary_has_every_phase_and_the_total_in_seconds() -> None:
    text = "\n".join(summary(example_run()))
    for phase, seconds in (
        ("import", 2),
        ("setup", 1),
        ("warmup", 0.5),
        ("train", 20),
        ("certify", 3),
        ("total", 26.5),
    ):
        assert f"{phase} {seconds:.2f} s" in text


def test_a_track_without_a_target_shows_its_measures_and_says_so_in_one_sentence() -> None:
    certificate = example_certificate(31, measures={"bits_per_byte": 1.25}, may_have_errors=True, has_target=False)
    run = example_run(
        track="text-0123",
        outcome="missed",
        certificate=certificate,
        settings={"track": "text", "track_settings.bits_per_byte": 0.0},
    )
    lines = summary(run)
    assert "missed  bits_per_byte 1.25; 31 errors in 1,000,000" in "\n".join(lines)
    reason = "missed: this track has no target: its measures are the result, it is never solved and never ranks"
    assert [line for line in lines if line.startswith("missed: ")] == [reason]
    assert run.unranked_because == "trained on a track without a target (track_settings.bits_per_byte)"
    assert not run.is_contest
    solvable = run.model_copy(update={"settings": {"track": "text", "track_settings.bits_per_byte": 1.5}})
    assert solvable.unranked_because is None


def test_phases_that_were_not_reached_are_not_shown() -> None:
    unreached = example_seconds(train=None, certify=None, total=None)
    text = "\n".join(
        summary(example_run(outcome="error", message="out of memory", seconds=unreached, certificate=None))
    )
    assert "warmup 0.50 s" in text
    assert "train" not in text
    assert "certify" not in text
    assert "total" not in text
    assert "None" not in text


def test_the_width_of_the_bar_is_divided_in_proportion_to_the_phases() -> None:
    seconds = example_seconds(**dict.fromkeys(PHASES, 0.0) | {"train": 30.0, "certify": 10.0})
    console = terminal(width=100)
    show_summary(example_run(seconds=seconds), [], "", console)
    styled = re.findall(r"(\x1b\[[0-9;]*m)(━+)", text_of(console))
    train, certify = (len(part) for _, part in styled)
    assert train == pytest.approx(3 * certify, abs=3)
    assert styled[0][0] != styled[1][0]


def test_the_table_has_a_row_for_each_number_of_carries() -> None:
    lines = summary(example_run(outcome="missed", certificate=example_certificate(errors=30)))
    assert row(lines, "all") == ["1,000,000", "30", "99.9970%"]
    assert row(lines, "held out") == ["99,771", "0", "100%"]
    assert row(lines, "carry 0") == ["166,375", "0", "100%"]
    assert row(lines, "carry 1") == ["358,875", "30", "99.9916%"]
    assert row(lines, "carry 3")[1:] == ["0", "100%"]
    assert row(lines, "100..999") == ["810,000", "0", "100%"]
    assert row(lines, "sample80") == ["80", "0", "100%"]


def test_one_error_in_a_million_is_not_rounded_to_100_percent() -> None:
    lines = summary(example_run(outcome="missed", certificate=example_certificate(errors=1)))
    assert row(lines, "all") == ["1,000,000", "1", "99.9999%"]
    assert re.search(r"missed  1 errors? in 1,000,000", "\n".join(lines))
    larger = example_certificate(errors=1, problems=100_000_000)
    assert row(summary(example_run(outcome="missed", certificate=larger)), "all") == ["100,000,000", "1", "99.9999%"]


def test_the_summary_says_why_a_missed_attempt_stopped_training() -> None:
    def check(errors):
        return {"step": 700, "train_seconds": 20.0, "loss": 0.1, "errors": errors, "asked": 100_000}

    lines = summary(example_run(outcome="missed", checks=[check(9), check(3)]))
    ended = "missed: training used up its rounds (max_rounds, num_steps); its last evaluation found 3 errors"
    assert f"{ended} in 100,000 training problems" in lines
    text = "\n".join(summary(example_run(outcome="missed", checks=[check(0)])))
    assert "missed: training ended before the model was right on all problems" in text
    assert "missed:" not in "\n".join(summary(example_run(checks=[check(3)])))


def test_the_summary_says_what_the_command_line_changed() -> None:
    text = "\n".join(summary(example_run(overrides={"batch_size": 192, "compile": True})))
    assert "add3-cpu + batch_size=192 compile=true, seed 7" in text
    assert "add3-cpu, seed 7" in "\n".join(summary(example_run(overrides={})))


def test_the_first_mistakes_are_shown_as_sentences() -> None:
    lines = summary(example_run(outcome="missed"), "7 + 85: got 91, expected 92", "1 + 1: got '[x]', expected 2")
    assert "  7 + 85: got 91, expected 92" in lines
    assert "  1 + 1: got '[x]', expected 2" in lines


def test_the_summary_of_an_attempt_without_a_certificate_says_why() -> None:
    run = example_run(outcome="timeout", message="train reached its limit of 5 s", certificate=None)
    lines = summary(run)
    assert any("timeout  train reached its limit of 5 s" in line for line in lines)
    assert not any("errors in" in line or "held out" in line for line in lines)


def test_an_attempt_that_built_no_model_has_no_steps_or_parameters() -> None:
    run = example_run(outcome="error", message="[Errno 5]", steps=None, parameters=None, certificate=None)
    text = "\n".join(summary(run))
    assert "error  [Errno 5]  add3-cpu, seed 7" in text
    assert "steps" not in text
    assert "None" not in text


def test_the_summary_fits_a_narrow_terminal() -> None:
    lines = summary(example_run(), width=60)
    bars = [line for line in lines if "━" in line]
    assert bars
    assert all(len(line) <= 60 for line in bars)


def test_the_summary_says_why_a_run_is_not_clean() -> None:
    noisy = {"class": "Example CPU", "clean": False, "reasons": ["other processes took 12% of the cores during train"]}
    assert "not clean: other processes took 12% of the cores during train" in summary(example_run(machine=noisy))


def test_a_certificate_of_held_out_problems_alone_has_one_row_beside_the_samples() -> None:
    samples = {"train": {"problems": 4642, "errors": 0}, "validation": {"problems": 928, "errors": 1}}
    counts = {"problems": 3742, "heldout_problems": 3742, "heldout_errors": 2, "groups": {}, "samples": samples}
    lines = summary(example_run(outcome="missed", certificate=example_certificate(2, **counts)))
    assert row(lines, "test, held out") == ["3,742", "2", "99.9466%"]
    assert row(lines, "train") == ["4,642", "0", "100%"]
    assert row(lines, "validation") == ["928", "1", "99.8922%"]
    assert not any(line.startswith(("all ", "held out ")) for line in lines)


def test_a_track_that_holds_nothing_out_has_no_such_row_and_shows_its_measures() -> None:
    counts = {"problems": 1, "heldout_problems": 0, "heldout_errors": 0, "groups": {}, "samples": {}}
    certificate = example_certificate() | counts | {"measures": {"loss": 0.00042}, "limits": {"loss": 0.001}}
    text = "\n".join(summary(example_run(certificate=certificate)))
    assert "solved  0 errors in 1; loss 0.00042, needed at most 0.001" in text
    assert "held out" not in text


def test_a_missed_attempt_without_errors_says_which_measure_was_missed() -> None:
    for loss, words in ((0.0021, "0.0021"), (None, "not finite")):
        certificate = example_certificate(measures={"loss": loss}, limits={"loss": 0.001})
        text = "\n".join(summary(example_run(outcome="missed", certificate=certificate)))
        assert f"missed: every answer is right, but loss {words}, needed at most 0.001" in text


def test_a_missed_attempt_says_what_validation_found() -> None:
    check = example_check(700, 0, validation={"problems": 928, "errors": 3, "loss": 0.5})
    certificate = example_certificate(30)
    text = "\n".join(summary(example_run(outcome="missed", checks=[check], certificate=certificate)))
    assert "used up its rounds" in text
    assert "found 0 errors in 100 training problems and 3 in 928 validation problems" in text


def sampled_certificate(errors: int, measure: float, **changes: Any) -> dict[str, Any]:
    """The certificate of a track that may have errors and whose test is a sample of its problems."""
    groups = {"action 3": {"problems": 1000, "errors": 3}, "action 9": {"problems": 1000, "errors": 0}}
    values = {
        "problems": 10_000,
        "heldout_problems": 0,
        "groups": groups,
        "samples": {},
        "exhaustive": False,
        "measures": {"invalid, at most (95%)": measure, "entropy": 1.25},
        "limits": {"invalid, at most (95%)": 0.01},
        "may_have_errors": True,
        "targets": {"0.564": True, "0.943": True, "0.956": False},
    }
    return example_certificate(errors) | values | changes


def test_a_track_solved_with_errors_says_that_they_are_allowed() -> None:
    text = "\n".join(summary(example_run(certificate=sampled_certificate(31, 0.0041))))
    assert "solved  invalid, at most (95%) 0.0041, needed at most 0.01; 31 errors in 10,000, as allowed" in text
    assert "\nentropy 1.25\n" in text
    assert "\ntargets met: 0.564, 0.943; not met: 0.956\n" in text


def test_a_track_missed_by_a_measure_says_which_and_why_training_ended() -> None:
    for errors, rate, reason in (
        (2, 0.01, "training used up its rounds (max_rounds, num_steps)"),
        (2, 0.02, "training ended before the model was right on all problems"),
    ):
        lines = summary(
            example_run(
                outcome="missed",
                certificate=sampled_certificate(131, 0.0141),
                checks=[example_check(700, errors)],
                settings={"track": "words", "evaluation_max_error_rate": rate},
            )
        )
        verdict = "missed  invalid, at most (95%) 0.0141, needed at most 0.01; 131 errors in 10,000"
        assert any(verdict in line for line in lines)
        assert f"missed: {reason}; its last evaluation found 2 errors in 100 training problems" in lines
        assert not any("as allowed" in line for line in lines)


def test_shares_of_a_sample_have_the_interval_of_scipy_and_those_of_all_problems_have_none() -> None:
    lines = summary(example_run(certificate=sampled_certificate(31, 0.0041)))
    for name, errors, problems in (("test", 31, 10_000), ("action 3", 3, 1000), ("action 9", 0, 1000)):
        interval = binomtest(problems - errors, problems).proportion_ci(method="wilson")
        assert row(lines, name)[-3:] == [f"{100 * interval.low:.2f}", "…", f"{100 * interval.high:.2f}%"]
    assert not any("interval" in line for line in summary(example_run()))


def test_a_bound_is_not_rounded_to_100_percent() -> None:
    counts = {"problems": 1_000_000, "errors": 0}, {"problems": 1_000_000, "errors": 1}
    assert [interval_text(Count.model_validate(count)) for count in counts] == [
        "99.9996 … 100.0000%",
        "99.9994 … 99.9999%",
    ]


def test_the_measures_of_a_track_without_a_target_are_shown_once() -> None:
    changes = {"has_target": False, "limits": {}, "measures": {"bits per byte": 4.14}, "targets": {}}
    text = "\n".join(summary(example_run(outcome="missed", certificate=sampled_certificate(777, 0.5, **changes))))
    assert text.count("bits per byte 4.14") == 1
