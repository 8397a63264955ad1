"""Altered attempts in every record: their number, their places, and what is made of them; with a fake trainer."""

import collections
import dataclasses
import math
import re
from pathlib import Path

import pytest

from bench.commands import record
from bench.experiments import launcher
from bench.experiments.altered import Altered, altered_of, altered_task, is_altered_next
from bench.experiments.launcher import Contestant
from bench.report.record_page import record_pages
from bench.storage.records import read_records
from bench.storage.results import FiledResults, paired_plans_file
from bench.storage.schema import AUDIT, YARDSTICK, Batch
from tests.support.examples import example_agenda, example_record, example_run, example_seconds

PLAN = example_agenda(command="record", altered=3, spare_seeds=[])


def ordinary(*trains, outcome="solved"):
    return [
        example_run(run_id=f"a{i}", batch=PLAN.batch(i, "a"), seconds=example_seconds(train=train), outcome=outcome)
        for i, train in enumerate(trains)
    ]


def altered(*trains, outcome="solved", **changes):
    return [
        example_run(
            run_id=f"x{i}",
            batch=Batch(id=PLAN.id, command=AUDIT, planned=3, index=i),
            altered=True,
            outcome=outcome,
            **{"seconds": example_seconds(train=train), **changes},
        )
        for i, train in enumerate(trains)
    ]


@pytest.mark.parametrize(
    ("runs", "fault"),
    [
        (altered(25.0, 90.0), None),
        (altered(90.0) + altered(39.0), None),
        (altered(41.0, 90.0), "answers that are written in other ids take it 2.0 times as long to learn"),
        (altered(20.0, 21.0, outcome="missed"), "it does not learn answers that are written in other ids"),
        ([run.model_copy(update={"altered": False}) for run in altered(20.0)], "it does not learn"),
        ([], "it does not learn"),
    ],
)
def test_an_altered_attempt_must_solve_the_track_in_at_most_twice_the_median(runs, fault):
    """The median of 10, 20, 99 s is 20 s; a miss of 1 s is none of them."""
    found = Altered(runs, [*ordinary(10.0, 20.0, 99.0), *ordinary(1.0, outcome="missed")]).fault
    assert found is None if fault is None else fault in found


def test_the_evidence_tells_the_seconds_of_both():
    assert Altered(altered(25.0, 90.0), ordinary(20.0)).text == (
        "2 of 2 attempts with other ids of answers solved the track, the fastest in 25.00 s of `train`; ordinary "
        "attempts take 20.00 s"
    )
    missed = Altered(altered(25.0, outcome="missed"), ordinary(20.0)).text
    assert missed == "0 of 1 attempt with other ids of answers solved the track"


@pytest.mark.parametrize(
    ("runs", "others", "left"),
    [
        ([], [], 3),
        (altered(20.0), ordinary(20.0), 2),
        (altered(20.0, 20.0, 20.0), ordinary(20.0), 0),
        (altered(20.0, 20.0, 20.0, outcome="missed"), ordinary(20.0), 7),
        (altered(*[20.0] * 3, outcome="missed") + altered(20.0), ordinary(20.0), 0),
        (altered(20.0, 20.0, 20.0, outcome="missed"), ordinary(20.0, outcome="missed"), 0),
        (altered(*[20.0] * 10, outcome="missed"), ordinary(20.0), 0),
    ],
)
def test_more_altered_attempts_than_planned_follow_until_one_solves_or_they_are_as_many_as_pairs(runs, others, left):
    assert Altered(runs, others).num_left(PLAN) == left
    for none in (0, None):
        assert Altered(runs[:0], others).num_left(PLAN.model_copy(update={"altered": none})) == 0


def test_all_orders_of_altered_attempts_and_pairs_are_equally_likely():
    """Of 2 altered attempts and 3 pairs there are 10 orders; 3,000 draws of each have a standard deviation of 16."""

    def drawn_order():
        left, order = [2, 3], ""
        while any(left):
            is_altered = is_altered_next(*left)
            left[0 if is_altered else 1] -= 1
            order += "x" if is_altered else "p"
        return order

    counts = collections.Counter(drawn_order() for _ in range(3_000))
    assert len(counts) == math.comb(5, 2)
    assert all(abs(count - 300) < 6 * 16.5 for count in counts.values())


def test_seed_and_ids_of_an_altered_attempt_are_drawn_when_it_begins():
    contestant = Contestant(Path("speedrun.py"), (), example_run())
    tasks = [altered_task(contestant, "batch", 3, 0) for _ in range(20)]
    assert len({task.seed for task in tasks} | {task.relabelling for task in tasks}) > 30
    assert {task.batch for task in tasks} == {Batch(id="batch", command=AUDIT, planned=3, index=0)}


@pytest.mark.parametrize(
    ("track", "judge", "expected"),
    [("add3", "self", True), ("moddiv", "self", True), ("add3", None, False), ("memorize", "self", False)],
)
def test_a_track_whose_answers_can_have_other_ids_and_a_trainer_that_knows_the_judge_are_needed(track, judge, expected):
    settings = {"track": track} | ({"track_settings.p": 97} if track == "moddiv" else {})
    assert record.can_alter(example_run(settings=settings, judge=judge)) is expected


# -----------------------------------------------------------------------------
# in a record


@pytest.fixture
def altering(arena, monkeypatch):
    """Let the fake trainer have altered attempts; `changes` are made to each before it is filed."""
    changes, complete_run = {}, launcher.complete_run

    def complete(task, *arguments, **options):
        run = complete_run(task, *arguments, **options)
        return run if task.relabelling is None else run.model_copy(update={"altered": True, **changes})

    monkeypatch.setattr(record, "can_alter", lambda planned: True)
    monkeypatch.setattr(launcher, "complete_run", complete)
    return changes


def run_record(arena, config="fast"):
    return record.main(record.Arguments(config=config, clock="train", results=arena.results))


def commands_in_order(arena):
    return [run.command for run in arena.attempts()]


def test_a_record_has_altered_attempts_that_are_none_of_its_batch(arena, altering, capsys):
    assert run_record(arena) == 0
    (plan,) = paired_plans_file(arena.results).read()[0]
    found = [run for run in arena.attempts() if run.command == AUDIT]
    assert (plan.altered, [run.batch.index for run in found], {run.config for run in found}) == (3, [0, 1, 2], {"fast"})
    assert not {run.seed for run in found} & set(plan.seeds)
    assert not any(run.is_contest for run in found)
    (folder,) = read_records(arena.results)[0]
    assert (folder.record.result.attempts, len(altered_of(plan, arena.attempts()).ordinary)) == (10, 10)
    page = (folder.folder / "README.md").read_text()
    assert "3 of 3 attempts with other ids of answers solved the track, the fastest in" in page
    assert page.count(f"\n| {found[0].seed} | solved |") == 1
    shown = capsys.readouterr().err
    assert "10 attempts, 3 with other ids of answers and the yardstick" in shown
    assert shown.count("other ids of answers  seed ") == 3
    assert "| 1 | fast |" in (arena.results / "LEADERBOARD.md").read_text()


def test_a_record_that_learns_no_altered_answers_is_refused(arena, altering, capsys):
    altering["outcome"] = "missed"
    assert run_record(arena) == 1
    assert not read_records(arena.results)[0]
    assert collections.Counter(commands_in_order(arena)) == {"record": 10, AUDIT: 10}
    output = capsys.readouterr()
    assert output.out.splitlines()[-1] == "no record: it does not learn answers that are written in other ids"
    assert "0 of 10 attempts with other ids of answers solved the track" in output.err


def test_a_record_that_learns_altered_answers_slowly_is_refused(arena, altering, capsys):
    altering["seconds"] = example_run(seconds=example_seconds(train=90.0)).seconds
    assert run_record(arena) == 1
    assert collections.Counter(commands_in_order(arena)) == {"record": 10, AUDIT: 3}
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"no record: answers .* other ids take it (9|10)\.\d times as long to learn", last_line)


@pytest.mark.slow
def test_an_interrupted_record_makes_the_altered_attempts_that_are_left(arena, altering, monkeypatch):
    for number in (3, 6, 9):
        with monkeypatch.context() as patch:
            stop_after(patch, number - len(arena.attempts()))
            with pytest.raises(KeyboardInterrupt):
                run_record(arena)
    assert run_record(arena) == 0
    assert collections.Counter(commands_in_order(arena)) == {"record": 10, AUDIT: 3}


def stop_after(monkeypatch, number):
    """Let the command be interrupted after so many attempts beside the yardstick."""
    original, started = launcher.run_attempt, []

    def run_attempt(task, journal, *options):
        if len(started) == number:
            raise launcher.NotBegun
        started.extend([task] * (task.batch.command != YARDSTICK))
        return original(task, journal, *options)

    monkeypatch.setattr(launcher, "run_attempt", run_attempt)


def test_a_track_without_them_is_told(tmp_path):
    folder = dataclasses.replace(example_record(), folder=tmp_path)
    plan = example_agenda(id=folder.record.batch, command="record", altered=0)
    results = FiledResults([], records=[folder], paired_plans=[plan])
    assert "It does not apply: " in record_pages(results, lambda _: "")[tmp_path / "README.md"]
    before = dataclasses.replace(results, paired_plans=[plan.model_copy(update={"altered": None})])
    assert "Other ids of answers" not in record_pages(before, lambda _: "")[tmp_path / "README.md"]
