"""The figure of learning curves."""

import math

import pytest

from bench.report.curves_plot import SPLIT_COLORS, curves_canvas, draw_curves, palette
from bench.report.plot_style import COLORS, style
from bench.storage.schema import Evaluated
from tests.support.examples import example_check, example_run


def learning_run(seed=1, **changes):
    """Training is right after 20 steps, validation after 1,000."""
    checks = [
        example_check(
            step,
            errors=0 if step >= 20 else 100,
            validation=Evaluated(problems=200, errors=0 if step >= 1000 else 150, loss=1 / step),
            squared_norm=float(step),
        )
        for step in (1, 20, 400, 1000)
    ]
    return example_run(**{"run_id": f"run-{seed}", "seed": seed, "checks": checks} | changes)


def axes_of(runs):
    with style():
        canvas = curves_canvas(runs)
        canvas.draw_without_rendering()
    return canvas, canvas.get_axes()


def lines_of(axes):
    return [(line.get_color(), list(zip(*map(list, line.get_data()), strict=True))) for line in axes.get_lines()]


def test_a_run_has_accuracy_loss_and_norm_against_steps_on_a_logarithmic_axis() -> None:
    canvas, (accuracy, loss, norm) = axes_of([learning_run()])
    assert {axes.get_xscale() for axes in (accuracy, loss, norm)} == {"log"}
    assert loss.get_yscale() == "log"
    assert lines_of(accuracy) == [
        (SPLIT_COLORS["train"], [(1, 0.0), (20, 1.0), (400, 1.0), (1000, 1.0)]),
        (SPLIT_COLORS["validation"], [(1, 0.25), (20, 0.25), (400, 0.25), (1000, 1.0)]),
    ]
    assert lines_of(loss)[1][1] == [(1, 1.0), (20, 1 / 20), (400, 1 / 400), (1000, 1 / 1000)]
    assert [value for _, value in lines_of(norm)[0][1]] == pytest.approx(
        [math.sqrt(step) for step in (1, 20, 400, 1000)]
    )
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "train, a sample of 100: 95% after 20 steps, 100% after 20",
        "validation: 95% after 1,000 steps, 100% after 1,000",
    ]


def test_runs_of_one_config_share_the_axes() -> None:
    _, (accuracy, *_) = axes_of([learning_run(seed) for seed in range(3)])
    assert len(accuracy.get_lines()) == 6


def test_runs_of_several_configs_have_a_column_for_each_split_and_a_colour_for_each_config() -> None:
    runs = [learning_run(2 * i + j, overrides={"n_layer": i}) for i in range(2) for j in range(2)]
    canvas, axes = axes_of(runs)
    assert len(axes) == 4
    for each in axes[:2]:
        assert [color for color, _ in lines_of(each)] == [COLORS[0]] * 2 + [COLORS[1]] * 2
    assert [each.get_title("left") for each in axes[:2]] == ["train, a sample of 100", "validation"]
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "add3-cpu + n_layer=0, 2 runs",
        "add3-cpu + n_layer=1, 2 runs",
    ]


def test_more_configs_than_colours_are_still_told_apart() -> None:
    assert len({tuple(color) for color in palette(24)}) == 24


def test_axes_have_plain_numbers() -> None:
    _, axes = axes_of([learning_run()])
    for each in axes:
        texts = [label.get_text() for label in (*each.get_xticklabels(), *each.get_yticklabels())]
        assert not any("$" in text for text in texts)


@pytest.mark.parametrize("checks", [[], [example_check(50, 0).model_copy(update={"loss": None})]])
def test_a_run_with_little_to_show_is_drawn(checks) -> None:
    assert draw_curves([example_run(checks=checks)], "svg").startswith(b"<?xml")
    assert draw_curves([example_run(checks=checks)], "png").startswith(b"\x89PNG")


def test_the_same_data_gives_the_same_picture() -> None:
    assert draw_curves([learning_run()], "svg") == draw_curves([learning_run()], "svg")
