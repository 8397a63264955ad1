"""The display on a console that writes into a string."""

import io
import re

import pytest
from rich.console import Console

from bench.attempt.progress import Display
from bench.clock import PHASES
from bench.report.summary import show_summary
from bench.storage.schema import Check, Run
from tests.support.examples import example_certificate, example_run, example_seconds


def plain_console(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)


def written(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def check(step: int, train_seconds: float, loss: float | None = 0.5, errors: int | None = 1234) -> Check:
    return Check(step=step, train_seconds=train_seconds, loss=loss, errors=errors)


# -----------------------------------------------------------------------------
# while it runs


def test_without_a_terminal_every_event_is_one_plain_line() -> None:
    console = plain_console(width=40)  # narrower than the lines: a log must not be broken
    display = Display("cpu seed 7", console)
    display.phase("setup", "cpu, 2 threads")
    display.phase("warmup")
    display.phase("train")
    display.check(check(100, 2.0), 600)
    display.check(check(200, 4.0, loss=0.00012, errors=None), 500)
    display.check(check(700, 14.0, errors=3).model_copy(update={"asked": 20_000}), 0)
    display.phase("certify")
    display.close()
    assert written(console) == [
        "cpu seed 7  setup, cpu, 2 threads",
        "cpu seed 7  warmup",
        "cpu seed 7  train  step 100 of 700  loss 0.5000  errors 1,234  2.0 s elapsed, about 12.0 s of the round left",
        "cpu seed 7  train  step 200 of 700  loss 0.0001  4.0 s elapsed, about 10.0 s of the round left",
        "cpu seed 7  train  step 700 of 700  loss 0.5000  errors 3 in 20,000  14.0 s elapsed, end of the round",
        "cpu seed 7  certify",
    ]
    assert "\x1b" not in console.file.getvalue()


def test_nothing_is_written_in_the_first_second_of_train_and_then_it_is() -> None:
    console = plain_console()
    display = Display("label", console)
    display.phase("train")
    display.check(check(1, 0.1), 500)
    display.check(check(2, 0.999), 500)
    assert written(console) == []
    display.phase("certify")
    assert len(written(console)) == 2
    assert "step 2 of" in written(console)[0]  # what arrived last
    assert written(console)[1] == "label  certify"


def test_a_check_after_the_first_second_replaces_what_was_withheld() -> None:
    console = plain_console()
    display = Display("label", console)
    display.phase("train")
    display.check(check(1, 0.5), 500)
    display.check(check(2, 1.0), 500)
    display.phase("certify")
    assert ["step 2 of" in line for line in written(console)] == [True, False]


def test_closing_shows_what_was_withheld() -> None:
    console = plain_console()
    display = Display("label", console)
    display.phase("train")
    display.check(check(1, 0.5), 500)
    display.close()
    display.close()
    assert len(written(console)) == 1
    assert "step 1 of" in written(console)[0]


def test_a_loss_that_is_not_finite_is_said_so() -> None:
    console = plain_console()
    Display("label", console).check(check(1, 2.0, loss=None), 500)
    assert "loss not finite" in written(console)[0]


def test_a_label_with_brackets_is_no_markup() -> None:
    console = plain_console()
    Display("[red]add3[/red]", console).phase("setup", "[bold]")
    assert written(console) == ["[red]add3[/red]  setup, [bold]"]


def test_processor_time_is_counted_where_train_pays_for_it() -> None:
    times = iter([10.0, 10.25, 20.0, 20.5])
    display = Display("label", plain_console(), processor_time=times.__next__)
    display.phase("setup")  # would ask the clock in vain if it counted
    display.phase("train")
    assert display.processor_seconds == 0.0
    display.check(check(1, 0.5), 500)
    assert display.processor_seconds == 0.25
    display.check(check(2, 3.0), 500)
    assert display.processor_seconds == 0.75
    display.phase("certify")
    assert display.processor_seconds == 0.75


def test_a_terminal_has_one_live_line_and_is_left_as_it_was_found() -> None:
    console = terminal()
    display = Display("label", console)
    display.phase("setup")
    display.phase("train")
    display.check(check(100, 2.0), 500)
    display.close()
    output = console.file.getvalue()
    assert "step 100 of 600" in output
    assert display.live is None
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l") >= 0  # the cursor is shown again
    visible = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
    assert visible.count("\n") <= 1


def test_a_line_longer_than_the_terminal_is_cut_to_one() -> None:
    console = terminal(width=30)
    display = Display("label", console)
    display.check(check(100, 2.0), 500)
    display.close()
    visible = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "label  train" in visible
    assert all(len(line) <= 30 for line in re.split(r"[\r\n]", visible))


# -----------------------------------------------------------------------------
# the summary


def summary(run: Run, *sentences: str, width: int = 120) -> list[str]:
    console = plain_console(width)
    show_summary(run, list(sentences), "2nd of 3 on this machine", console)
    return written(console)


def row(lines: list[str], name: str) -> list[str]:
    """The cells of the certificate's row of that name."""
    (found,) = [line for line in lines if line.strip().startswith(f"{name} ")]
    return found.split()[len(name.split()) :]


def test_the_summary_says_how_it_ended_and_what_it_was() -> None:
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


def test_the_bar_shares_its_width_as_the_phases_share_the_total() -> None:
    seconds = example_seconds(**dict.fromkeys(PHASES, 0.0) | {"train": 30.0, "certify": 10.0})
    console = terminal(width=100)
    show_summary(example_run(seconds=seconds), [], "", console)
    styled = re.findall(r"(\x1b\[[0-9;]*m)(━+)", console.file.getvalue())
    train, certify = (len(part) for _, part in styled)
    assert train == pytest.approx(3 * certify, abs=3)
    assert styled[0][0] != styled[1][0]


def test_the_table_counts_each_carry_apart() -> None:
    lines = summary(example_run(outcome="missed", certificate=example_certificate(errors=30)))
    assert row(lines, "all") == ["1,000,000", "30", "99.9970%"]
    assert row(lines, "held out") == ["99,771", "0", "100%"]
    assert row(lines, "carry 0") == ["166,375", "0", "100%"]
    assert row(lines, "carry 1") == ["358,875", "30", "99.9916%"]
    assert row(lines, "carry 3")[1:] == ["0", "100%"]
    assert row(lines, "100..999") == ["810,000", "0", "100%"]
    assert row(lines, "sample80") == ["80", "0", "100%"]


def test_one_error_in_a_million_is_not_rounded_to_all_right() -> None:
    lines = summary(example_run(outcome="missed", certificate=example_certificate(errors=1)))
    assert row(lines, "all") == ["1,000,000", "1", "99.9999%"]
    assert re.search(r"missed  1 errors? in 1,000,000", "\n".join(lines))
    larger = example_certificate(errors=1, problems=100_000_000)
    assert row(summary(example_run(outcome="missed", certificate=larger)), "all") == ["100,000,000", "1", "99.9999%"]


def test_the_first_mistakes_are_shown_as_sentences() -> None:
    lines = summary(example_run(outcome="missed"), "7 + 85: got 91, expected 92", "1 + 1: got '[x]', expected 2")
    assert "  7 + 85: got 91, expected 92" in lines
    assert "  1 + 1: got '[x]', expected 2" in lines


def test_an_attempt_without_a_certificate_says_why() -> None:
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
