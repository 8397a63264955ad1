"""Estimates of the duration of whole processes."""

from datetime import timedelta

import pytest

from bench.stats.estimates import USUAL_OVERHEAD, expected_seconds, paces
from tests.support.examples import example_run, example_seconds

START = example_run().started_at


def batch_of(starts, total=10.0, **changes):
    """Attempts of one batch that start at these seconds."""
    return [
        example_run(
            run_id=f"{index}",
            batch={"id": "batch", "command": "speedrun", "planned": len(starts), "index": index},
            started_at=START + timedelta(seconds=start),
            seconds=example_seconds(total=total),
            **changes,
        )
        for index, start in enumerate(starts)
    ]


def test_a_pace_is_the_time_from_one_start_to_the_next():
    assert [seconds for _, seconds in paces(batch_of([0, 12, 25]))] == [12, 13]
    assert list(paces(batch_of([0, 5, 9]))) == [], "they overlapped"
    assert [seconds for _, seconds in paces(batch_of([0, 4000, 4012]))] == [12], "the batch was resumed"
    assert list(paces([example_run()])) == []


def test_the_estimate_is_of_whole_processes_of_similar_runs():
    runs = batch_of([0, 14, 28])
    planned = [example_run()]
    assert expected_seconds(runs, planned) == 14
    single = example_run(seconds=example_seconds(total=10.0))
    assert expected_seconds([single], planned) == pytest.approx(10 + USUAL_OVERHEAD)
    other = batch_of([0, 14, 28], config="other", settings={"track": "add3", "n_layer": 9})
    assert expected_seconds([*other, single], planned) == pytest.approx(10 + 4)
    assert expected_seconds(other, planned) is None
    assert expected_seconds(batch_of([0, 14], settings={"n_layer": 9}), planned) == 14, "the config's earlier runs"
    elsewhere = batch_of([0, 14], machine={"class": "Other CPU", "clean": True, "reasons": []})
    assert expected_seconds(elsewhere, planned) is None
