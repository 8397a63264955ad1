"""The tables of `SCALING.md`, from journals made by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from bench.report.scaling import digits_table, overhead_table, processes_table
from bench.stats.descriptive import overheads
from tests.support.examples import example_run, example_seconds

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def attempt(index, at, total=10.0, command="matrix", batch="b", **changes):
    told = {"id": batch, "command": command, "planned": 9, "index": index}
    seconds = example_seconds() | {"total": total}
    return example_run(batch=told, started_at=NOON + timedelta(seconds=at), seconds=seconds, **changes)


def test_the_overhead_is_what_lies_between_two_attempts():
    runs = [attempt(1, 12.5), attempt(0, 0.0), attempt(2, 24.5)]
    assert overheads(runs) == {("local", "Example CPU"): [pytest.approx(2.5), pytest.approx(2.0)]}
    assert "| local | Example CPU | 2 | 2.25 (2.00 … 2.50) |" in overhead_table(runs)


def test_engines_and_batches_are_kept_apart():
    runs = [attempt(0, 0.0), attempt(0, 100.0, batch="c"), attempt(1, 113.0, batch="c")]
    runs += [attempt(0, 200.0, batch="r", engine="ray"), attempt(1, 214.0, batch="r", engine="ray")]
    assert overheads(runs) == {("local", "Example CPU"): [3.0], ("ray", "Example CPU"): [4.0]}


def test_attempts_of_several_nodes_tell_nothing():
    runs = [attempt(0, 0.0), attempt(1, 1.0), attempt(2, 13.0)]
    assert overheads(runs) == {}
    assert overhead_table(runs) == "Not measured yet."


def test_neither_does_what_was_killed_or_interrupted_nor_what_no_matrix_made():
    assert overheads([attempt(0, 0.0, total=None, outcome="lost"), attempt(1, 500.0)]) == {}
    assert overheads([attempt(0, 0.0, outcome="interrupted"), attempt(1, 500.0)]) == {}
    assert overheads([attempt(0, 0.0, command="speedrun"), attempt(1, 12.0, command="speedrun")]) == {}


def test_the_exponents_are_those_of_the_solved_lengths():
    settings = example_run().settings
    runs = [
        example_run(
            track=f"add{digits}",
            config="scaling",
            settings=settings | {"track": f"add{digits}"},
            seconds=example_seconds(train=float(digits**2)),
            steps=digits,
            train_flops=100.0,
        )
        for digits in (1, 2, 4, 8)
    ]
    runs.append(runs[-1].model_copy(update={"track": "add9", "outcome": "missed"}))
    row = digits_table(runs).splitlines()[2]
    assert row.startswith(
        "| Example CPU | most significant first | scaling | 4/5 | 2.00 [2.00, 2.00] | 1.00 [1.00, 1.00] | 0.00"
    )
    assert digits_table([]) == "Not measured yet."


def test_processes_stand_beside_one_with_the_same_settings():
    settings = example_run().settings
    two = {"processes": 2, "threads": 1, "machine": {"class": "Example CPU, 2 processes", "clean": None, "reasons": []}}
    runs = [
        example_run(threads=2, settings=settings | {"threads": 2}),
        example_run(**two, settings=settings | {"threads": 1}, seconds=example_seconds(train=30.0)),
        example_run(**two, settings=settings | {"threads": 1}, outcome="missed"),
        example_run(threads=2, settings=settings | {"threads": 2, "batch_size": 7}),
    ]
    table = processes_table(runs).splitlines()[2:]
    assert [row.split(" | ")[3:7] for row in table] == [
        ["1", "2", "1/1", "20.00 (20.00 … 20.00)"],
        ["2", "1", "1/2", "30.00 (30.00 … 30.00)"],
    ]
    assert processes_table(runs[:1]) == "Not measured yet."
