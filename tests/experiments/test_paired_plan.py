"""Plans of batches and comparisons: their seeds, levels and orders, and how they are resumed; with a fake trainer."""

import contextlib
import dataclasses
import random

import pytest

from bench.commands import compare, record
from bench.errors import UsageError
from bench.experiments import launcher
from bench.experiments.paired_plan import Experiment, draw_seeds, order_of_sides, plan_experiment, resolve_side
from bench.experiments.paired_runs import paired_runs
from bench.storage.journal import Journal
from bench.storage.results import conclusions_file, paired_plans_file
from tests.support.examples import example_agenda


def plans(arena):
    found, faults = paired_plans_file(arena.results).read()
    assert faults == []
    return found


def experiment(arena, command="record", pairs=10, **changes):
    with contextlib.ExitStack() as stack:
        a, b = (resolve_side(name, "auto", arena.results, stack) for name in ("fast", "slow"))
    values = {"clock": "train", "is_finished": lambda plan, runs: True, "results": arena.results}
    return Experiment(command, a, b, pairs=pairs, **{**values, **changes})


# -----------------------------------------------------------------------------
# seeds and levels


def test_seeds_are_distinct_have_31_bits_and_come_from_the_system():
    random.seed(1)
    first = draw_seeds(1_000)
    random.seed(1)
    again = draw_seeds(1_000)
    assert len(set(first) & set(again)) < 3, "no state of this process decides them"
    assert len(set(first)) == 1_000
    assert all(0 <= seed < 2**31 for seed in first)
    assert max(first) > 2**30


@pytest.mark.parametrize("command", ["compare", "record", "replay", "speedrun"])
def test_the_seeds_of_every_plan_are_drawn_anew(arena, command):
    make = experiment if command in ("compare", "record") else without_opponent
    (first, _), (second, resumed) = (plan_experiment(make(arena, command)) for _ in range(2))
    assert resumed == (first.id == second.id) == (command != "speedrun")
    assert (first.seeds == second.seeds) == resumed
    assert len(set(first.seeds)) == 10
    assert plans(arena)[0] == first
    assert first.first is None
    spare = first.spare_seeds or []
    assert len(spare) == (5 if command == "record" else 0)
    assert len({*first.seeds, *spare}) == 10 + len(spare)
    assert first.level == {"compare": 0.05, "record": 0.025}.get(command)


def without_opponent(arena, command):
    return dataclasses.replace(experiment(arena, command), b=None, clock=None if command == "speedrun" else "train")


def test_a_batch_is_never_resumed_and_may_be_on_an_unknown_machine(arena):
    batch = without_opponent(arena, "speedrun")
    contestant = batch.a.contestant
    unknown = contestant.planned.machine.model_copy(update={"class_": None})
    planned = contestant.planned.model_copy(update={"machine": unknown})
    for participant in (batch.a, batch.a._replace(contestant=dataclasses.replace(contestant, planned=planned))):
        assert not plan_experiment(dataclasses.replace(batch, a=participant))[1]
    assert [plan.machine_class for plan in plans(arena)] == ["Example CPU", "unknown machine"]
    with pytest.raises(UsageError, match="machine class is unknown"):
        plan_experiment(dataclasses.replace(batch, a=participant, command="replay", clock="train"))


def test_a_record_whose_pairs_cannot_reach_its_level_is_refused_before_it_starts(arena):
    """10 pairs reach 2 / 1024, which the fifth comparison's level, 0.05 / 30, is below."""
    made = experiment(arena)
    for _ in range(4):
        paired_plans_file(arena.results).append(example_agenda(a=made.a.side, b=made.b.side, command="compare"))
    with pytest.raises(UsageError, match=r"--pairs 10: as comparison number 5 against slow .*0\.0017.*add --pairs 11$"):
        plan_experiment(made)
    assert len(plans(arena)) == 4
    plan, _ = plan_experiment(experiment(arena, pairs=11))
    assert (plan.number, plan.level) == (5, pytest.approx(0.05 / 30))
    assert plan_experiment(experiment(arena, pairs=11)) == (plan, True), "the same plan, not a sixth one"


def test_an_unfinished_plan_keeps_whether_noise_counts(arena, capsys):
    plan, _ = plan_experiment(experiment(arena, noisy=True))
    assert plan_experiment(experiment(arena, noisy=False)) == (plan, True)
    assert "was filed with --noisy, which is kept" in capsys.readouterr().err


# -----------------------------------------------------------------------------
# the order within a pair


def test_the_order_of_a_pair_is_drawn_when_it_begins_and_finishes_what_was_begun(arena):
    plan = example_agenda(first=None)
    orders = {tuple(order_of_sides(plan, 0, set(), arena.journal)) for _ in range(40)}
    assert orders == {("a", "b"), ("b", "a")}  # one alone has a chance of 1 in 2**39
    for side in ("a", "b"):
        filed = {plan.batch(0, side)}
        assert {order_of_sides(plan, 0, filed, arena.journal)[0] for _ in range(20)} == {side}
        assert len({order_of_sides(plan, 1, filed, arena.journal)[0] for _ in range(40)}) == 2
    assert order_of_sides(plan.model_copy(update={"b": None}), 0, set(), arena.journal) == ["a"]


def test_an_older_plan_is_run_in_the_order_that_it_holds(arena):
    plan = example_agenda(pairs=2, seeds=[1, 2], first=["b", "a"])
    assert [order_of_sides(plan, index, set(), arena.journal) for index in (0, 1)] == [["b", "a"], ["a", "b"]]


def stopped_after(monkeypatch, number):
    """Let the command be interrupted after this many attempts have been filed, before the next one begins."""
    original, started = launcher.run_attempt, []

    def run_attempt(task, journal, *options):
        if len(started) == number:
            raise launcher.NotBegun
        started.append(task)
        return original(task, journal, *options)

    monkeypatch.setattr(launcher, "run_attempt", run_attempt)


def test_a_resumed_comparison_finishes_the_half_run_pair_first(arena, monkeypatch):
    arguments = compare.Arguments(a="fast", b="slow", pairs=3, results=arena.results)
    with monkeypatch.context() as patch:
        stopped_after(patch, 1 + 3)  # the yardstick, a pair and a half
        with pytest.raises(KeyboardInterrupt):
            compare.main(arguments)
    (half,) = [run for run in arena.attempts() if run.batch.index == 1]
    assert compare.main(arguments) == 0
    runs = arena.attempts()
    assert [run.batch.index for run in runs] == [0, 0, 1, 1, 2, 2]
    assert runs[2] == half
    assert {runs[2].batch.side, runs[3].batch.side} == {"a", "b"}
    (plan,) = plans(arena)
    assert [run.seed for run in runs[::2]] == plan.seeds
    assert [run.seed for run in runs[1::2]] == plan.seeds


# -----------------------------------------------------------------------------
# pairs that are run again


@pytest.fixture
def disturbed(arena, monkeypatch):
    """Let the runs of some attempts be changed before they are filed; by index and side of the pair."""
    changes, original = {}, launcher.run_attempt

    def run_attempt(task, journal, *options):
        run, interrupted = original(task, journal, *options)
        return run.model_copy(update=changes.get((task.batch.index, task.batch.side), {})), interrupted

    filed = Journal.append

    def append(self, line):
        batch = line.batch
        key = None if batch is None or batch.command != "record" else (batch.index, batch.side)
        filed(self, line.model_copy(update=changes.get(key, {})))

    monkeypatch.setattr(launcher, "run_attempt", run_attempt)
    monkeypatch.setattr(Journal, "append", append)
    return changes


def run_record(arena, config="fast"):
    return record.main(record.Arguments(config=config, clock="train", results=arena.results))


def test_a_pair_whose_opponent_was_disturbed_is_run_again_with_a_spare_seed_also_after_an_interrupt(
    arena, monkeypatch, disturbed, capsys
):
    assert run_record(arena, "slow") == 0
    disturbed[2, "b"] = {"outcome": "lost", "message": "killed"}
    with monkeypatch.context() as patch:
        stopped_after(patch, 1 + 21)  # the yardstick, all pairs, and half of the pair that is run again
        with pytest.raises(KeyboardInterrupt):
            run_record(arena)
    shown = capsys.readouterr().err
    assert "pair 3 does not count, because the opponent's attempt was killed" in shown
    assert "it is run again with another seed" in shown
    assert "interrupted after 21 of 22 attempts" in shown
    assert run_record(arena) == 0
    plan = plans(arena)[-1]
    filed = paired_runs(plan, arena.attempts())
    assert (filed.repeated, len(filed.a), len(filed.b)) == ([2], 11, 11)
    assert {side[10].seed for side in (filed.a, filed.b)} == {plan.spare_seeds[0]}
    assert conclusions_file(arena.results).read()[0][-1].repeated == 1
    won = sorted((arena.results / "records").glob("*fast*"))[0]
    text = (won / "README.md").read_text()
    assert (
        "Pairs that did not count, because the predecessor's attempt was killed, interrupted or not clean: 1." in text
    )
    assert "| 1 | fast |" in (arena.results / "LEADERBOARD.md").read_text(), "with 11 attempts of 10 planned it ranks"


@pytest.mark.slow
def test_after_half_as_many_pairs_as_planned_the_verdict_is_not_decided(arena, disturbed, capsys):
    assert run_record(arena, "slow") == 0
    quiet = {"machine": arena.attempts()[0].machine.with_reasons(["others"])}
    disturbed.update({(index, "b"): quiet for index in (0, 1, 2, 10, 11, 12)})
    assert run_record(arena) == 1
    out = capsys.readouterr().out
    assert (
        "no record: the verdict against the standing record is: not decided (comparison number 1, level 0.025)" in out
    )
    assert "6 pairs do not count" in out
    plan = plans(arena)[-1]
    filed = paired_runs(plan, arena.attempts())
    assert filed.num_runs == filed.num_attempts == 30


@pytest.mark.slow
def test_a_challenger_s_interrupted_attempt_stands(arena, disturbed):
    assert run_record(arena, "slow") == 0
    disturbed.update({(index, "a"): {"outcome": "interrupted"} for index in range(4)})
    assert run_record(arena) == 1
    plan = plans(arena)[-1]
    assert paired_runs(plan, arena.attempts()).num_runs == 20
    assert conclusions_file(arena.results).read()[0][-1].verdict == "not decided"


@pytest.mark.slow
def test_a_comparison_that_was_broken_off_before_its_verdict_is_concluded_by_the_same_command(arena, monkeypatch):
    assert run_record(arena, "fast") == 0
    with monkeypatch.context() as patch:
        patch.setattr(record, "decide", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_record(arena, "slow")
    calls = arena.calls()
    assert run_record(arena, "slow") == 1
    assert arena.calls() == calls, "no attempt is repeated"
    assert [conclusion.id for conclusion in conclusions_file(arena.results).read()[0]] == [plans(arena)[-1].id]


def interrupted(*arguments, **options):
    raise KeyboardInterrupt
