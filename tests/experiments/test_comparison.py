"""What a comparison decides and says about attempts that were stopped, disturbed or slow; from runs made by hand."""

from typing import Any

import pytest

from bench.experiments.comparison import description_lines, evaluate_comparison
from bench.storage.comparison_schema import PairedPlan
from bench.storage.schema import Run, SideName
from tests.support.examples import example_agenda, example_run, example_seconds

SECONDS = {"a": 9.0, "b": 10.0}


def plan_of(command: str = "compare", pairs: int = 10, number: int = 1, **changes: Any) -> PairedPlan:
    values: dict[str, Any] = {"command": command, "pairs": pairs, "number": number, "seeds": list(range(pairs))}
    values |= {"first": None, "level": 0.05}
    if command == "record":
        spare = list(range(100, 100 + pairs // 2))
        values |= {"spare_seeds": spare, "noisy": False, "level": 0.05 / (number * (number + 1))}
    return example_agenda(**values | changes)


def run_of(plan: PairedPlan, index: int, side: SideName, outcome: str = "solved", **changes: Any) -> Run:
    seconds = changes.pop("train", SECONDS[side] + index / 100)
    return example_run(
        run_id=f"{index}{side}",
        batch=plan.batch(index, side),
        seed=plan.seed(index),
        outcome=outcome,
        seconds=example_seconds(train=seconds),
        **{"machine": {"class": "Example CPU", "clean": True, "reasons": []}} | changes,
    )


def all_runs(
    plan: PairedPlan, changed: dict[tuple[int, str], dict[str, Any]], num_pairs: int | None = None
) -> list[Run]:
    """The runs of all pairs, in which side a is a tenth faster, with changes to some of them."""
    return [
        run_of(plan, index, side, **changed.get((index, side), {}))
        for index in range(plan.pairs if num_pairs is None else num_pairs)
        for side in ("a", "b")
    ]


LOST = {"outcome": "lost", "seconds": dict.fromkeys(("import", "setup", "warmup", "train", "certify", "total"))}


def lost(plan: PairedPlan, index: int, side: SideName, outcome: str = "lost") -> Run:
    return run_of(plan, index, side).model_copy(update={"outcome": outcome, "seconds": example_run(**LOST).seconds})


def with_lost(runs: list[Run], lost_runs: list[Run]) -> list[Run]:
    replaced = {run.run_id: run for run in lost_runs}
    return [replaced.get(run.run_id, run) for run in runs]


def test_a_side_that_lost_more_than_a_fifth_of_its_attempts_is_not_decided_by_compare() -> None:
    """Killing attempts of the opponent made a challenger faster."""
    plan = plan_of()
    runs = all_runs(plan, {})
    for side in ("a", "b"):
        killed = [lost(plan, index, side, outcome) for index, outcome in enumerate(("lost", "interrupted", "error"))]
        two = evaluate_comparison(plan, with_lost(runs, killed[:2]))
        assert two.reason is None
        three = evaluate_comparison(plan, with_lost(runs, killed))
        assert three.verdict == "not decided"
        assert three.reason == (
            f"3 of 10 attempts of side {side} have no result of their own, because they were killed, interrupted or "
            "did not start; that is more than a fifth"
        )
        assert f"not decided, because {three.reason}" in description_lines(three)
        assert three.conclusion().reason == three.reason


def test_crashes_with_seconds_of_their_own_are_misses() -> None:
    plan = plan_of()
    crashed = {(index, "b"): {"outcome": "error"} for index in range(5)}
    comparison = evaluate_comparison(plan, all_runs(plan, crashed))
    assert (comparison.verdict, comparison.reason) == ("faster", None)


def test_a_pair_in_which_the_opponent_was_disturbed_does_not_count_and_is_run_again() -> None:
    plan = plan_of("record")
    changed = {(4, "b"): {"train": 1.0, "machine": {"class": "x", "clean": False, "reasons": ["others"]}}}
    assert evaluate_comparison(plan, all_runs(plan, changed)).p_value is None
    comparison = evaluate_comparison(plan, all_runs(plan, changed, num_pairs=11))
    assert (comparison.verdict, comparison.p_value) == ("faster", 2 / 2**10)
    assert comparison.conclusion().repeated == 1
    assert comparison.conclusion().b.attempts == 10
    assert (
        "1 pair did not count, because the opponent's attempt was killed, interrupted or not clean"
        in description_lines(comparison)
    )


def test_killing_the_opponent_s_attempts_never_makes_a_challenger_faster() -> None:
    """It is a tenth slower; all but the pairs that it happened to win are undone."""
    plan = plan_of("record")
    slow = {(index, "a"): {"train": 11.0} for index in range(15)}
    killed = [lost(plan, index, "b") for index in range(6)]
    comparison = evaluate_comparison(plan, with_lost(all_runs(plan, slow, num_pairs=15), killed))
    assert comparison.verdict == "not decided"
    assert (
        comparison.reason == "6 pairs do not count, because the opponent's attempt was killed, interrupted or not clean"
    )


def test_killed_attempts_of_a_challenger_stand_and_are_charged() -> None:
    plan = plan_of("record")
    runs = all_runs(plan, {})
    clear = evaluate_comparison(plan, runs)
    assert clear.verdict == "faster"
    killed = evaluate_comparison(plan, with_lost(runs, [lost(plan, index, "a") for index in range(3)]))
    assert (killed.verdict, killed.filed.repeated) == ("not decided", [])
    assert killed.ratio > clear.ratio


def test_the_level_of_a_record_is_that_of_its_plan_and_told_with_its_number() -> None:
    """One contrary pair of ten has a p-value of 2.1%."""
    contrary = {(0, "a"): {"train": 12.0}}
    verdicts = []
    for number in (1, 2):
        plan = plan_of("record", number=number)
        comparison = evaluate_comparison(plan, all_runs(plan, contrary))
        verdicts.append(comparison.verdict)
        lines = "\n".join(description_lines(comparison))
        assert (
            f"comparison number {number} against this opponent in this folder: the level is 0.05 / ({number} ×" in lines
        )
        conclusion = comparison.conclusion()
        assert (conclusion.level, conclusion.number) == (pytest.approx(0.05 / (number * (number + 1))), number)
    assert verdicts == ["faster", "not decided"]
    compare = plan_of(number=9)
    assert evaluate_comparison(compare, all_runs(compare, contrary)).verdict == "faster"


def test_a_capped_attempt_is_told() -> None:
    plan = plan_of()
    comparison = evaluate_comparison(plan, all_runs(plan, {(0, "a"): {"train": 180.0}}))
    assert (comparison.capped, comparison.verdict) == ((1, 0), "not decided")
    assert any(
        line.startswith("in this ratio 1 attempts of a and 0 of b count with 3 times")
        for line in description_lines(comparison)
    )
    assert comparison.conclusion().capped == (1, 0)


def test_if_ranks_and_ratio_favour_different_sides_the_reason_is_told() -> None:
    plan = plan_of()
    rounds = {(0, "a"): {"train": 90.0, "steps": 7_000}}
    comparison = evaluate_comparison(plan, all_runs(plan, rounds))
    assert comparison.p_value < 0.05 < 1.0 < comparison.ratio
    assert comparison.reason == "most pairs favour one side, and the ratio of the ERTs the other"


def test_what_is_filed_about_a_comparison_is_not_computed_again() -> None:
    """The rules of older verdicts were others."""
    plan = plan_of()
    runs = all_runs(plan, {})
    filed = evaluate_comparison(plan, runs).conclusion()
    old = filed.model_copy(
        update={"verdict": "slower", "p_value": 0.04, "ert_ratio": 1.5, "level": None, "capped": None, "number": None}
    )
    shown = evaluate_comparison(plan, runs, old)
    assert (shown.verdict, shown.p_value, shown.ratio, shown.level, shown.capped) == ("slower", 0.04, 1.5, 0.05, None)
    assert evaluate_comparison(plan, runs, filed).conclusion() == filed


def test_an_older_plan_is_finished_by_the_order_and_level_that_it_was_filed_with() -> None:
    plan = example_agenda(command="record", number=7)
    comparison = evaluate_comparison(plan, all_runs(plan, {(0, "a"): {"train": 12.0}}))
    assert (comparison.level, comparison.verdict) == (0.05, "faster")


def test_a_batch_of_the_trainer_is_no_comparison() -> None:
    plan = example_agenda(command="speedrun", clock=None, b=None)
    with pytest.raises(ValueError, match="is no comparison"):
        evaluate_comparison(plan, [])
