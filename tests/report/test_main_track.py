"""Today's record and the leading default config, from records and journals made by hand."""

from datetime import UTC, datetime

from bench.report.main_track import leading_default, record_of_today, record_sentence, wait_sentence
from bench.storage.schema import Machine
from tests.support.examples import batch_runs, example_record


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
    assert "(first of its class, compared with nothing)**" in record_sentence(records[1:])


def test_other_tracks_and_the_clock_train_are_left_out():
    assert record_of_today([record("a", track="add2"), record("b", clock="train")]) is None
    assert record_sentence([]) == "No record of `add3` by `total` yet."


def test_the_record_of_today_is_one_bold_line():
    assert record_sentence([record("won", 3, 2.5, "x")]) == (
        "**Record today: `add3` in 0.25 s of training, 2.50 s from process start to proof (ERT, 9 of 10 solved) on "
        "Example CPU, 2026-01-03**"
    )


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
