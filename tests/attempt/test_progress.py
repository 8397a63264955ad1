"""The progress display, on a console that writes into a string."""

import re

from bench.attempt.interface import TrainingMonitor
from bench.attempt.progress import Display
from bench.clock import Clock
from bench.storage.schema import Check, Evaluated
from tests.support.consoles import plain_console, terminal, text_of, written


def check(step: int, train_seconds: float, loss: float | None = 0.5, errors: int | None = 1234) -> Check:
    return Check(step=step, train_seconds=train_seconds, loss=loss, errors=errors)


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
    assert "\x1b" not in text_of(console)


def test_the_time_left_ends_at_the_limit() -> None:
    console = plain_console()
    display = Display("label", console, max_seconds=10.0)
    for step, seconds in ((100, 2.0), (200, 4.0), (300, 10.5)):
        display.check(check(step, seconds), 400)
    assert [line.rpartition(", ")[2] for line in written(console)] == [
        "about 8.0 s of the round left",
        "6.0 s until max_seconds",
        "0.0 s until max_seconds",
    ]


def test_long_steps_have_a_line_before_the_first_check() -> None:
    console = plain_console()
    display = Display("label", console)
    clock = Clock()
    clock.elapsed = iter([1.0, 4.5, 8.0, 9.0, 13.5]).__next__
    monitor = TrainingMonitor(clock, display, max_seconds=100.0)
    monitor.count_steps = iter([30, 90]).__next__
    for _ in range(3):
        monitor.tick()
    monitor.check(60, 0.5, 1234, {}, 100)
    monitor.tick()
    first, second, third = written(console)
    assert (first, third) == (
        "label  train  step 30  4.5 s elapsed",
        "label  train  step 90  13.5 s elapsed, errors 1,234 at step 60",
    )
    assert "step 60 of 160" in second


def test_a_check_in_the_first_second_of_train_is_shown_afterwards() -> None:
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


def test_closing_shows_a_withheld_check() -> None:
    console = plain_console()
    display = Display("label", console)
    display.phase("train")
    display.check(check(1, 0.5), 500)
    display.close()
    display.close()
    assert len(written(console)) == 1
    assert "step 1 of" in written(console)[0]


def test_a_loss_that_is_not_finite_is_shown_as_such() -> None:
    console = plain_console()
    Display("label", console).check(check(1, 2.0, loss=None), 500)
    assert "loss not finite" in written(console)[0]


def test_brackets_in_a_label_are_not_markup() -> None:
    console = plain_console()
    Display("[red]add3[/red]", console).phase("setup", "[bold]")
    assert written(console) == ["[red]add3[/red]  setup, [bold]"]


def test_the_cpu_time_of_checks_is_counted() -> None:
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


def test_a_terminal_shows_one_live_line_and_is_restored() -> None:
    console = terminal()
    display = Display("label", console)
    display.phase("setup")
    display.phase("train")
    display.check(check(100, 2.0), 500)
    display.close()
    output = text_of(console)
    assert "step 100 of 600" in output
    assert display.live is None
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l") >= 0  # the cursor is shown again
    visible = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
    assert visible.count("\n") <= 1


def test_a_line_longer_than_the_terminal_is_truncated() -> None:
    console = terminal(width=30)
    display = Display("label", console)
    display.check(check(100, 2.0), 500)
    display.close()
    visible = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text_of(console))
    assert "label  train" in visible
    assert all(len(line) <= 30 for line in re.split(r"[\r\n]", visible))


def test_a_check_with_a_validation_set_shows_the_shares_of_right_problems() -> None:
    console = plain_console()
    display = Display("label", console)
    validation = Evaluated(problems=3, errors=1, loss=0.5)
    display.check(check(100, 2.0, errors=1).model_copy(update={"asked": 100_000, "validation": validation}), 100)
    assert "  right: train 99.99%, validation 66.67%  2.0 s elapsed" in written(console)[0]
