"""Today's record and the leading default config, from records and journals made by hand."""

import dataclasses
from datetime import UTC, datetime

from bench.report.main_track import leading_default, record_lines, record_of_today, wait_sentence
from bench.storage.schema import Machine
from tests.support.examples import batch_runs, example_record, example_reproduction


def record(name, day=1, total=27.0, predecessor=None, machine_class="Example CPU", **changes):
    result = {"attempts": 10, "solved": 9, "clean": 10, "ert_train_seconds": 0.25, "ert_total_seconds": total}
    started_at = datetime(2026, 1, day, tzinfo=UTC)
    values = {"name": name, "clock": "total", "result": result, "machine_class": machine_class}
    return example_record(**values | {"predecessor": predecessor, "started_at": started_at} | changes)


def test_the_standing_record_is_the_latest_of_its_class_even_where_an_earlier_day_was_faster():
    assert record_of_today([record("new", 2, 5.0, "old"), record("old", 1, 4.0)]).name == "new"


def test_the_fastest_class_holds_the_record_of_today():
    records = [record("a", 1, 5.0, "x"), record("b", 2, 3.0, "y", "Fast CPU"), record("c", 3, 4.0, "z", "Other CPU")]
    assert record_of_today(records).name == "b"


def test_a_record_that_was_compared_with_nothing_stands_behind_those_that_won():
    records = [record("won", 1, 5.0, "x"), record("first", 2, 1.0, None, "Fast CPU")]
    assert record_of_today(records).name == "won"
    assert "solved, first of its class, compared with nothing ([the record](records/first/" in record_lines(
        records[1:], "records"
    )


def test_other_tracks_and_the_clock_train_are_left_out():
    assert record_of_today([record("a", track="add2"), record("b", clock="train")]) is None
    assert record_lines([], "records") == "No record of `add3` by `total` yet."


def test_the_records_of_today_are_one_line_a_clock(tmp_path):
    test = {"ert_ratio": 0.5, "ert_ratio_95": (0.4, 0.6), "p_value": 0.0123}
    total = record("total", 3, 2.5, "x", **test)
    total = dataclasses.replace(total, folder=tmp_path)
    total.reproductions.append(example_reproduction("1 error"))
    train = record("train", 2, predecessor="y", clock="train", **test)
    other = record("other", 4, predecessor="y", clock="train", machine_class="Another CPU")
    assert record_lines([train, total, other], "records").splitlines() == [
        "**Record today: `add3` in 2.50 s from process start to proof on Example CPU**, ERT by `total`, 9/10 solved, "
        "0.500 [0.400, 0.600] times the record before, p = 0.0123, reproduced 0/1 "
        "([the record](records/total/README.md))\\",
        "**Training alone: 0.25 s** on the same machine class, ERT by `train`, 9/10 solved, "
        "0.500 [0.400, 0.600] times the record before, p = 0.0123 ([the record](records/train/README.md))",
    ]


def test_the_leading_default_config_is_one_on_the_class_of_the_record():
    slow = batch_runs("add3-cpu", [3.0, 4.0] * 5)
    fast = batch_runs(
        "add3-cpu", [1.0] * 10, machine=Machine(class_="Fast CPU", clean=None, reasons=[]), config_hash="other"
    )
    challenger = batch_runs("challenger", [0.1] * 10)
    runs = slow + fast + challenger
    assert leading_default(runs, [record("won")]).runs == tuple(slow)
    assert leading_default(runs).runs == tuple(fast), "without a record the fastest one"
    assert leading_default(batch_runs("add3-cpu", [1.0] * 9), []) is None


def with_walls(runs, walls):
    """The runs as those of the default config, with seconds of `wall`."""
    return [
        run.model_copy(update={"config": "add3-cpu", "seconds": run.seconds.model_copy(update={"wall": wall})})
        for run, wall in zip(runs, walls, strict=True)
    ]


def test_the_wait_is_that_of_the_newest_ranked_batch_of_the_default_config_that_measured_it():
    older = with_walls(batch_runs("older", [1.0] * 10), [9.0] * 10)
    newer = with_walls(batch_runs("newer", [1.0] * 10), [2.0, *[3.0] * 8, 4.5])
    newer = [run.model_copy(update={"started_at": run.started_at.replace(year=2027)}) for run in newer]
    unmeasured = batch_runs("unmeasured", [1.0] * 10)
    other = [
        run.model_copy(update={"config": "other"}) for run in with_walls(batch_runs("other", [1.0] * 10), [1.0] * 10)
    ]
    sentence = wait_sentence([*older, *newer, *unmeasured, *other])
    assert "**3.0 s** after the command (2.0 to 4.5 s in 10 attempts on Example CPU, 2027-" in sentence
    assert "not been measured" in wait_sentence(unmeasured)
