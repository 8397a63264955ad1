"""Stuck stretches and spikes of the loss."""

import inspect
import itertools
import json
import random
from collections.abc import Sequence

import pytest

from bench.commands import show
from bench.stats.loss_curve import (
    LEARNED_PERCENT,
    SPIKE_BACK,
    SPIKE_RATIO,
    SPIKE_RISE,
    STUCK_CHECKS,
    STUCK_FALL,
    STUCK_SHARE,
    WINDOW,
    LossSpike,
    loss_spikes,
    stuck_stretches,
)
from bench.storage.schema import Check
from tests.support.examples import ROOT, example_check


def curve(*points: tuple[int, float], every: int = 10, noise: float = 0.02) -> list[Check]:
    """Checks with losses on straight lines between points (step, loss), with uniform noise; all problems wrong."""
    chance, checks = random.Random(1), []
    for step in range(every, points[-1][0] + 1, every):
        (a, low), (b, high) = next(pair for pair in itertools.pairwise(points) if step <= pair[1][0])
        loss = low + (high - low) * (step - a) / (b - a)
        checks.append(example_check(step, errors=100, loss=loss * (1 + chance.uniform(-noise, noise))))
    return checks


# The training log behind the tracks of texts noted these curves of the loss by hand, in its entries 22 to 26.
LOG_22 = curve((0, 5.5), (28, 5.5), (160, 2.7), (1143, 2.7))
LOG_23 = curve(
    *((0, 5.5), (28, 5.5), (140, 2.7), (290, 2.7), (475, 2.2), (857, 2.2)),
    *((1523, 1.9), (1884, 1.8), (4229, 1.7)),
)
LOG_24 = curve(
    *((0, 5.5), (32, 5.5), (160, 2.7), (446, 2.7), (1760, 1.7), (3291, 1.7)),
    *((3292, 2.15), (3503, 1.7), (3756, 1.7)),
    every=4,
)
LOG_25 = curve((0, 5.5), (27, 5.5), (262, 2.7), (1234, 2.7))
LOG_26 = curve((0, 5.5), (26, 5.5), (201, 2.7), (933, 2.7))


@pytest.mark.parametrize(("checks", "first", "last"), [(LOG_22, 160, 1143), (LOG_25, 262, 1234), (LOG_26, 201, 933)])
def test_a_loss_that_stays_at_a_local_optimum_is_stuck(checks: Sequence[Check], first: int, last: int) -> None:
    (stretch,) = stuck_stretches(checks)
    assert abs(stretch.first_step - first) <= 20
    assert abs(stretch.last_step - last) <= 10
    assert stretch.loss == pytest.approx(2.7, rel=0.02)
    assert loss_spikes(checks) == []


def test_a_loss_that_falls_very_slowly_is_stuck() -> None:
    stretches = stuck_stretches(LOG_23)
    assert stretches
    assert all(stretch.first_step > 1500 for stretch in stretches)
    assert stretches[-1].loss == pytest.approx(1.7, rel=0.04)
    assert loss_spikes(LOG_23) == []


def test_a_sudden_rise_is_a_spike_and_the_stretch_around_it_is_stuck() -> None:
    (spike,) = loss_spikes(LOG_24)
    assert spike.step == 3292
    assert spike.loss == pytest.approx(2.15, rel=0.02)
    assert spike.loss_before == pytest.approx(1.7, rel=0.02)
    assert spike.step_back is not None
    assert 3400 < spike.step_back <= 3503
    (stretch,) = stuck_stretches(LOG_24)
    assert abs(stretch.first_step - 1761) < 100
    assert stretch.last_step == 3756


def test_a_falling_loss_is_neither_stuck_nor_has_spikes() -> None:
    checks = curve((0, 5.5), (1000, 0.5), noise=0.05)
    assert (stuck_stretches(checks), loss_spikes(checks)) == ([], [])


def test_a_loss_at_its_floor_is_not_stuck_once_99_percent_of_a_check_are_right() -> None:
    checks = curve((0, 5.5), (100, 1.4), (1000, 1.4))
    assert stuck_stretches(checks)
    learned = [check if check.step < 120 else check.model_copy(update={"errors": 1}) for check in checks]
    assert stuck_stretches(learned) == []


def test_checks_of_tracks_without_grades_are_judged_by_their_losses() -> None:
    checks = [check.model_copy(update={"errors": None, "asked": None}) for check in LOG_22]
    assert stuck_stretches(checks) == stuck_stretches(LOG_22)


def test_short_runs_tiny_losses_and_losses_that_are_not_finite_are_no_alarm() -> None:
    assert (stuck_stretches([]), loss_spikes([])) == ([], [])
    flat = curve((0, 2.7), (80, 2.7))
    assert stuck_stretches(flat) == []  # fewer than ten checks
    tiny = [example_check(step, errors=1, loss=10.0**-step) for step in range(1, 9)]
    assert loss_spikes([*tiny, example_check(9, errors=1, loss=0.02)]) == []  # a millionfold rise, by 0.02 nats
    assert loss_spikes([*flat, example_check(90, errors=100, loss=None)]) == []


def test_a_spike_that_does_not_end_has_no_step_at_which_it_is_over() -> None:
    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 2.0, 1.8]
    checks = [example_check(10 * i, errors=100, loss=loss) for i, loss in enumerate(losses, 1)]
    assert loss_spikes(checks) == [LossSpike(60, 2.0, 1.0, None)]


def test_hardly_any_solved_run_of_add3_in_the_journal_was_stuck_or_spiked() -> None:
    """The few that were restarted from new weights, or with the first rate, after a round with many errors."""
    num_runs = num_named = 0
    for line in (ROOT / "results" / "runs.jsonl").read_text(encoding="utf-8").splitlines():
        if '"outcome":"solved"' in line and '"track":"add3","config"' in line:
            checks = [Check.model_validate(check) for check in json.loads(line)["checks"]]
            num_runs += 1
            num_named += bool(stuck_stretches(checks) or loss_spikes(checks))
    assert num_runs > 1000
    assert num_named <= 0.005 * num_runs


@pytest.mark.parametrize("text", [inspect.getdoc(show.Arguments), (ROOT / "docs" / "COMMANDS.md").read_text()])
def test_the_rules_are_stated_as_they_are(text: str) -> None:
    stuck = (
        f"Stuck: over {STUCK_SHARE:.0%} of the steps or more, and {STUCK_CHECKS} checks or more, the lowest loss so "
        f"far (of medians of {WINDOW} checks) fell by at most {STUCK_FALL:.0%}, before {LEARNED_PERCENT}% of a check's "
        "problems were right."
    )
    spike = (
        f"Spike: a loss above {SPIKE_RATIO:g} times the median of the {WINDOW} checks before it, and {SPIKE_RISE:g} "
        f"nats above it; it is over at the first check with at most {SPIKE_BACK:g} times that median."
    )
    assert stuck in " ".join(text.split())
    assert spike in " ".join(text.split())
