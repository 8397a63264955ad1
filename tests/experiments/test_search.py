"""The rules by which a search gives up trials and attempts."""

import dataclasses
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from bench.experiments.search import PROCESS, EarlyChecks, Search, lowest_ert
from bench.process_identity import current_process
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


@pytest.mark.parametrize(
    ("change", "minutes", "expected"),
    [
        ({}, 1000, False),  # it lives, although its lock is free
        ({"started": "1"}, 0, True),
        ({"boot": "another"}, 43, False),  # two attempts of 10 minutes, with 2 of warm-up and 10 of grace each
        ({"boot": "another"}, 45, True),
        (None, 43, False),  # a trial of an older harness
        (None, 45, True),
    ],
)
def test_a_trial_is_abandoned_when_its_process_has_provably_ended(
    change: dict[str, str] | None, minutes: float, expected: bool
) -> None:
    identity: Any = current_process()
    process = None if change is None else dataclasses.asdict(identity) | change
    trial = SimpleNamespace(user_attrs={PROCESS: process}, datetime_start=datetime.now() - timedelta(minutes=minutes))
    search: Any = SimpleNamespace(seeds=range(2), planned=example_run(settings={"max_seconds": 600.0}))
    assert Search.is_abandoned(search, trial) is expected
