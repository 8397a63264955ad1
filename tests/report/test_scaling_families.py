"""Which attempts are alike, and the fit, against least squares written out and t quantiles from a table."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.scaling_families import FORWARDS, REVERSED, families, plotted, points
from bench.stats.power_law import Fit, exponent_text, fit
from tests.support.sweep import attempt, sweep

T_975 = {1: 12.7062047, 2: 4.30265273, 4: 2.77644511, 8: 2.30600414}  # by degrees of freedom
ELSEWHERE = {"class": "Another CPU", "clean": True, "reasons": []}


def sizes(runs):
    return [(family.machine_class, len(family.attempts)) for family in families(runs)]


def test_attempts_of_a_config_on_every_length_are_one_family_in_either_order():
    runs = [*sweep(suffix="-reversed"), *sweep(), attempt("add3", outcome="missed", errors=7)]
    forwards, reverse = families(runs)
    assert (forwards.order, reverse.order) == (FORWARDS, REVERSED)
    assert [(each.digits, each.solved) for each in forwards.attempts] == [
        *[(1, True), (2, True), (3, True), (3, False), (4, True)]
    ]
    assert [each.digits for each in reverse.attempts] == [1, 2, 3, 4]
    assert forwards.settings == reverse.settings == {"num_steps": 700}
    assert (forwards.num_solved, reverse.num_solved) == (4, 4)


def test_the_family_that_is_shown_may_be_another_in_each_order():
    deep = {"config": "scaling-forwards", "settings": {"n_layer": 2}}
    runs = [*sweep(lengths=(1, 2)), *sweep(lengths=(1, 2, 6), **deep), *sweep(suffix="-reversed")]
    runs += [attempt("add1-reversed", **deep)]
    shown = plotted(families(runs))
    assert [(family.order, family.attempts[0].run.config) for family in shown] == [
        (FORWARDS, "scaling-forwards"),
        (REVERSED, "scaling"),
    ]
    assert len(families(runs)) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "add3-cpu"},
        {"track": "multiply3"},
        {"track": "add3-reversed-twice"},
        {"settings": {"control": "permute"}},
        {"batch": {"id": "b", "command": "audit", "planned": 1, "index": 0}},
        {"batch": {"id": "b", "command": "yardstick", "planned": 1, "index": 0}},
    ],
)
def test_attempts_of_other_configs_tracks_and_purposes_are_none_of_them(changes):
    assert families([attempt(**{"track": "add3"} | changes)]) == []


@pytest.mark.parametrize(
    "changes", [{"settings": {"num_steps": 900}}, {"source_sha256": "e" * 64}, {"machine": ELSEWHERE}]
)
def test_attempts_with_other_settings_source_or_machine_are_a_family_of_their_own(changes):
    runs = [*sweep(), attempt("add3", **changes)]
    assert sorted(size for _, size in sizes(runs)) == [1, 4]


def test_the_limit_of_seconds_and_the_seed_make_no_other_family():
    assert sizes([*sweep(), attempt("add9", max_seconds=6000.0, seed=8)]) == [("Example CPU", 5)]


def test_the_family_that_was_asked_most_tracks_stands_first_on_its_machine_whatever_came_of_it():
    many_missed = sweep(lengths=(1, 2, 3), outcome="missed", source_sha256="1" * 64)
    often_solved = [attempt("add1") for _ in range(9)]
    runs = [*often_solved, *many_missed, attempt("add1", machine=ELSEWHERE)]
    assert sizes(runs) == [("Another CPU", 1), ("Example CPU", 3), ("Example CPU", 9)]


def test_of_families_that_were_asked_as_many_tracks_the_latest_stands_first():
    old, new = (
        sweep(source_sha256=digest * 64, started_at=datetime(2026, 1, day, tzinfo=UTC))
        for digest, day in (("1", 1), ("2", 2))
    )
    for runs in (old + new, new + old):
        assert [family.attempts[0].run.source_sha256[0] for family in families(runs)] == ["2", "1"]


def test_an_unknown_machine_has_families_too():
    assert sizes([attempt("add3", machine={"class": None, "clean": None, "reasons": []})]) == [("unknown machine", 1)]


# -----------------------------------------------------------------------------
# the fit


def naive_fit(measured):
    """Slope, half width of its 95% interval, and factor."""
    xs, ys = ([math.log(value) for value in values] for values in zip(*measured, strict=True))
    n = len(xs)
    x_mean, y_mean = sum(xs) / n, sum(ys) / n
    spread = sum((x - x_mean) ** 2 for x in xs)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    left = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    return slope, T_975[n - 2] * math.sqrt(left / (n - 2) / spread), math.exp(y_mean - slope * x_mean)


@pytest.mark.parametrize(
    "measured",
    [
        [(1, 3.0), (2, 9.0), (4, 40.0)],
        [(1, 3.0), (2, 9.0), (4, 40.0), (4, 55.0)],
        [(1, 5.0), (1, 4.0), (3, 30.0), (3, 35.0), (10, 290.0), (10, 410.0)],
        [(n, 7.0 + (-1) ** n) for n in range(1, 11)],
    ],
)
def test_the_exponent_and_its_interval_are_those_of_least_squares_on_logarithms(measured):
    slope, half, factor = naive_fit(measured)
    fitted = fit(measured)
    assert (fitted.exponent, fitted.factor) == pytest.approx((slope, factor), rel=1e-9)
    assert (fitted.low, fitted.high) == pytest.approx((slope - half, slope + half), rel=1e-7)
    assert fitted.num_attempts == len(measured)


@given(st.floats(-3, 3), st.floats(0.01, 100.0))
def test_a_power_law_is_found_again(exponent, factor):
    fitted = fit([(n, factor * n**exponent) for n in (1, 2, 3, 5, 8)])
    assert (fitted.exponent, fitted.factor) == pytest.approx((exponent, factor), rel=1e-6, abs=1e-6)
    assert fitted.low == pytest.approx(fitted.exponent, abs=1e-5)


def test_fewer_than_three_numbers_of_digits_are_too_few_however_many_attempts():
    assert fit([]) is None
    assert fit([(1, 1.0)] * 9 + [(2, 2.0)] * 9) is None
    assert exponent_text(None) == "too few"
    assert exponent_text(fit([(1, 2.0), (2, 8.0), (4, 32.0)])) == "2.00 [2.00, 2.00]"


def test_points_are_of_solved_attempts_whose_quantity_is_known():
    runs = [*sweep(lengths=(1, 2)), attempt("add3", outcome="missed"), attempt("add4", train_flops=None)]
    (family,) = families(runs)
    assert points(family.attempts, "seconds") == [(1, 5.0), (2, 20.0), (4, 10.0)]
    assert points(family.attempts, "steps") == [(1, 700), (2, 700), (4, 700)]
    assert points(family.attempts, "FLOPs") == [(1, 1e12), (2, 1e12)]


def test_a_quantity_that_never_changes_has_the_exponent_zero():
    fitted = fit([(n, 500.0) for n in (1, 2, 3, 5)])
    assert exponent_text(fitted) == "0.00 [0.00, 0.00]"
    assert fitted.factor == pytest.approx(500.0)


def test_an_exponent_that_is_next_to_zero_has_no_sign():
    assert exponent_text(Fit(-1e-9, -0.004, 0.004, 1.0, 4)) == "0.00 [0.00, 0.00]"
