"""Which pairs of a plan count, which are run again, and when a plan is complete; from runs made by hand."""

from typing import Any

import pytest

from bench.experiments.paired_runs import is_disturbed, paired_runs, runs_by_side
from bench.storage.comparison_schema import PairedPlan
from bench.storage.schema import Run, SideName
from tests.support.examples import example_agenda, example_run

CLEAN = {"class": "Example CPU", "clean": True, "reasons": []}
NOISY = {"class": "Example CPU", "clean": False, "reasons": ["others"]}


def record_plan(pairs: int = 4, **changes: Any) -> PairedPlan:
    """A record's plan with seeds 0, 1, … and as many spare ones from 100 as the rules allow."""
    spare = list(range(100, 100 + pairs // 2))
    values = {"command": "record", "pairs": pairs, "seeds": list(range(pairs)), "spare_seeds": spare, "first": None}
    return example_agenda(**{**values, "level": 0.025, "noisy": False, **changes})


def run_of(plan: PairedPlan, index: int, side: SideName, outcome: str = "solved", **changes: Any) -> Run:
    """An attempt of a pair, with its seed, on a quiet machine."""
    values = {"batch": plan.batch(index, side), "seed": plan.seed(index), "outcome": outcome, "machine": CLEAN}
    return example_run(run_id=f"{plan.id}-{index}{side}", **values | changes)


def both(plan: PairedPlan, indices: range, **changes: Any) -> list[Run]:
    return [run_of(plan, index, side, **changes) for index in indices for side in ("a", "b")]


def test_attempts_are_found_by_batch_and_command_in_the_order_of_their_pairs() -> None:
    plan = record_plan()
    yardstick = run_of(plan, 0, "a", batch=plan.batch(0, "a").model_copy(update={"command": "yardstick"}))
    other = run_of(plan.model_copy(update={"id": "other"}), 0, "a")
    runs = [yardstick, other, *both(plan, range(3))[::-1], run_of(plan, 3, "b")]
    filed = paired_runs(plan, runs)
    assert (list(filed.a), list(filed.b), filed.counted) == ([0, 1, 2], [0, 1, 2, 3], [0, 1, 2])
    assert (filed.num_runs, filed.num_attempts, filed.is_complete) == (7, 8, False)
    assert runs_by_side(plan, runs) == (list(filed.a.values()), list(filed.b.values()))


def test_the_attempts_of_a_batch_have_no_side() -> None:
    plan = example_agenda(command="speedrun", clock=None, b=None, pairs=2, seeds=[7, 8], first=None)
    assert plan.batch(0, "a").side is None
    filed = paired_runs(plan, [run_of(plan, 0, "a"), run_of(plan, 1, "a")])
    assert (filed.num_runs, filed.num_attempts, filed.is_complete) == (2, 2, True)


@pytest.mark.parametrize(
    ("changes", "disturbed", "disturbed_if_noise_counts"),
    [
        ({}, False, False),
        ({"outcome": "missed"}, False, False),
        ({"outcome": "error"}, False, False),
        ({"outcome": "lost"}, True, True),
        ({"outcome": "interrupted"}, True, True),
        ({"machine": NOISY}, True, False),
        ({"machine": {**NOISY, "clean": None}}, True, False),
    ],
    ids=str,
)
def test_an_opponent_is_disturbed_if_it_was_stopped_or_its_machine_was_not_quiet(
    changes: dict[str, Any], disturbed: bool, disturbed_if_noise_counts: bool
) -> None:
    run = run_of(record_plan(), 0, "b", **changes)
    assert (is_disturbed(run, False), is_disturbed(run, True)) == (disturbed, disturbed_if_noise_counts)


def test_a_pair_is_run_again_after_the_planned_ones_if_the_opponent_was_disturbed() -> None:
    plan = record_plan()
    runs = [*both(plan, range(3)), run_of(plan, 3, "a"), run_of(plan, 3, "b", machine=NOISY)]
    filed = paired_runs(plan, runs)
    assert (filed.repeated, filed.num_pairs, filed.is_complete) == ([3], 5, False)
    again = paired_runs(plan, [*runs, *both(plan, range(4, 5))])
    assert (again.counted, again.num_pairs, again.is_complete) == ([0, 1, 2, 4], 5, True)
    assert again.a[4].seed == 100
    assert len(again.without_repeated("b")) == 4
    assert runs_by_side(plan, runs)[0][3].seed == 3, "every attempt of the challenger stays in its batch"


@pytest.mark.parametrize("outcome", ["lost", "interrupted", "error", "missed"])
def test_a_pair_that_the_challenger_did_not_solve_counts_whatever_happened_to_the_opponent(outcome: str) -> None:
    plan = record_plan()
    runs = [*both(plan, range(3)), run_of(plan, 3, "a", outcome), run_of(plan, 3, "b", "lost", machine=NOISY)]
    filed = paired_runs(plan, runs)
    assert (filed.repeated, filed.counted, filed.is_complete) == ([], [0, 1, 2, 3], True)


def test_a_noisy_or_failed_challenger_is_never_a_reason_to_run_a_pair_again() -> None:
    plan = record_plan()
    runs = [*both(plan, range(2)), *(run_of(plan, index, "b") for index in (2, 3))]
    runs += [run_of(plan, 2, "a", machine=NOISY), run_of(plan, 3, "a", "lost")]
    assert paired_runs(plan, runs).repeated == []


def test_at_most_half_as_many_pairs_are_run_again() -> None:
    plan = record_plan()
    runs = [*both(plan, range(1)), *(run_of(plan, index, "a") for index in range(1, 6))]
    runs += [run_of(plan, index, "b", "lost") for index in range(1, 6)]
    filed = paired_runs(plan, runs)
    assert (filed.num_pairs, filed.is_complete, filed.counted) == (6, True, [0])
    with pytest.raises(IndexError):
        plan.seed(6)


def test_in_other_plans_no_pair_is_run_again() -> None:
    lost = {"outcome": "lost"}
    for changes in ({"command": "compare", "spare_seeds": None}, {"spare_seeds": None, "first": ["a"] * 4}):
        plan = record_plan(**changes)
        assert paired_runs(plan, both(plan, range(4), **lost)).is_complete


def test_if_no_pair_counts_all_attempts_are_shown() -> None:
    plan = record_plan(pairs=2)
    runs = [run_of(plan, index, side, "lost" if side == "b" else "solved") for index in range(3) for side in ("a", "b")]
    filed = paired_runs(plan, runs)
    assert filed.counted == []
    assert len(filed.without_repeated("b")) == 3
