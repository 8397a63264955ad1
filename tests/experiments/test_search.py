"""The rules by which a search gives up trials and attempts."""

import pytest

from bench.experiments.search import EarlyChecks, lowest_ert
from bench.storage.schema import Check
from tests.support.examples import example_run


def test_the_lowest_ert_is_that_of_success_in_no_time():
    runs = [example_run(outcome="solved"), example_run(outcome="missed")]
    spent = sum(run.seconds.train for run in runs)
    assert lowest_ert(runs, 3, "train") == pytest.approx(spent / 4)
    assert lowest_ert(runs[1:], 0, "train") == float("inf")


def check(seconds, errors):
    return Check(step=1, train_seconds=seconds, loss=0.1, errors=errors)


def test_an_attempt_is_hopeless_when_no_solved_one_had_as_many_mistakes_in_half_the_time():
    checks = EarlyChecks()
    assert not checks.is_hopeless(check(100.0, 10**6))
    for errors in (10, 20, 30, 40, 50):
        lines = [{"step": 1, "train_seconds": 1.0, "loss": 0.1, "errors": errors}]
        lines.append({"step": 2, "train_seconds": 2.0, "loss": 0.1, "errors": 0})
        checks.add(example_run(checks=lines))
    checks.add(example_run(outcome="missed", checks=[{"step": 1, "train_seconds": 1.0, "loss": 0.1, "errors": 900}]))
    assert not checks.is_hopeless(check(1.5, 800)), "nothing is known of half that time"
    assert checks.is_hopeless(check(2.0, 51))
    assert not checks.is_hopeless(check(2.0, 50))
    assert not checks.is_hopeless(check(3.9, 50))
    assert checks.is_hopeless(check(4.0, 1))
    assert not checks.is_hopeless(check(4.0, 0))
    assert not checks.is_hopeless(check(4.0, None))
