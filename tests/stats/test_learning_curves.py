"""The steps to 95% and 100% of a split."""

import itertools

import pytest

from bench.stats.learning_curves import reached_steps, split_label, step_span, thinned_checks
from bench.storage.schema import Check, Count, Evaluated
from tests.support.examples import example_check, example_run


def test_the_first_check_that_is_right_enough_counts() -> None:
    checks = [example_check(10, 40), example_check(20, 5), example_check(30, 6), example_check(40, 0)]
    assert reached_steps(checks) == {"train 95%": 20, "train 100%": 40}


def test_exactly_95_percent_is_enough_whatever_the_number_of_problems() -> None:
    for problems in range(20, 2001, 20):
        assert Count(problems=problems, errors=problems // 20).is_right(95)
        assert not Count(problems=problems, errors=problems // 20 + 1).is_right(95)


def test_each_evaluated_split_has_its_own_steps() -> None:
    validation, test = Evaluated(problems=50, errors=2, loss=0.1), Evaluated(problems=70, errors=0, loss=0.1)
    checks = [example_check(10, 0), example_check(20, 0, validation=validation, test=test)]
    assert reached_steps(checks) == {
        "train 95%": 10,
        "train 100%": 10,
        "validation 95%": 20,
        "validation 100%": None,
        "test 95%": 20,
        "test 100%": 20,
    }


def test_training_accuracy_of_a_sample_is_labelled_so() -> None:
    settings = {"track": "moddiv", "track_settings.p": 97}  # 4,642 training pairs
    whole = Evaluated(problems=4642, errors=0, loss=0.1)

    def label(*checks, **changes):
        return split_label("train", [example_run(settings=settings | changes, checks=checks)])

    assert label(example_check(10, 0, asked=512)) == "train, a sample of 512"
    assert label(example_check(10, 0, asked=512), example_check(20, 0, asked=900)) == "train, samples of 512 or more"
    assert label(example_check(10, 0, asked=4642)) == label(example_check(10, 0, training=whole)) == label() == "train"
    assert label(example_check(10, 0, asked=4642), track="no more") == "train, a sample of 4,642"
    assert split_label("validation", [example_run()]) == "validation"
    assert reached_steps([example_check(10, 50, training=whole)]) == {"train 95%": 10, "train 100%": 10}


def test_checks_of_older_runs_do_not_say_how_many_problems_they_asked() -> None:
    assert reached_steps([Check(step=10, train_seconds=1.0, loss=0.5, errors=0)]) == {}


@pytest.mark.parametrize(
    ("train", "validation", "milestones", "text"),
    [
        ([9, 0, 0, 0], [9, 9, 9, 0], ["train 100%", "validation 100%"], "20"),
        ([9, 9, 9, 0], [9, 0, 0, 0], ["train 100%", "validation 100%"], "-20"),
        ([9, 0, 0, 0], [9, 9, 9, 9], ["train 100%", "validation 100%"], "> 20"),
        ([9, 9, 9, 9], [9, 9, 9, 0], ["train 100%", "validation 100%"], "not begun in 40"),
        ([9, 9, 9, 9], [9, 9, 0, 0], ["validation 100%"], "30"),
        ([9, 9, 9, 9], [9, 9, 9, 9], ["validation 95%"], "> 40"),
        ([], [], ["validation 95%"], "> 0"),
    ],
)
def test_steps_between_milestones(train, validation, milestones, text) -> None:
    checks = [
        example_check(10 * (i + 1), errors, validation=Evaluated(problems=100, errors=others, loss=0.1))
        for i, (errors, others) in enumerate(zip(train, validation, strict=True))
    ]
    assert str(step_span(example_run(checks=checks), milestones)) == text


def test_a_list_of_checks_that_is_not_long_is_kept_whole() -> None:
    checks = [example_check(10 * i, errors=1) for i in range(1, 901)]
    assert thinned_checks(checks, {}) == checks


def test_of_a_long_list_the_first_the_last_and_those_that_reached_a_target_or_spiked_are_kept() -> None:
    checks = [example_check(i, errors=6 if i < 3_001 else 0) for i in range(1, 4_001)]
    checks[1_332] = example_check(1_333, errors=6, loss=2.0)
    kept = thinned_checks(checks, {"sample80": checks[2_442].train_seconds, "99%": None})
    steps = [check.step for check in kept]
    assert {1, 2, 3, 1_333, 2_443, 3_001, 4_000} <= set(steps)
    assert steps == sorted(steps)
    assert 700 < len(kept) <= 1000
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 4_000 / 449 + 1
    assert reached_steps(kept) == reached_steps(checks)
