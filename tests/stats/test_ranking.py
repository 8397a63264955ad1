"""Batches, entries, ranks and best entries of hand-written runs."""

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import ranking
from tests.support.examples import batch_runs, example_agenda, example_conclusion, example_run


def test_runs_are_ordered_by_index_and_batches_as_in_the_file():
    runs = batch_runs("b", [1.0, 2.0, 3.0])[::-1] + batch_runs("a", [4.0])
    batches = ranking.group_batches([*runs, example_run(batch=None)])
    assert [batch.id for batch in batches] == ["b", "a"]
    assert [run.run_id for run in batches[0].runs] == ["b-0", "b-1", "b-2"]


def test_only_finished_batches_of_enough_attempts_are_ranked():
    runs = [*batch_runs("few", [1.0] * 9), *batch_runs("cut", [1.0] * 10, planned=11), *batch_runs("ten", [1.0] * 10)]
    assert [batch.ranked for batch in ranking.group_batches(runs)] == [False, False, True]


def test_batches_of_other_commands_are_not_on_the_board():
    assert not ranking.group_batches(batch_runs("matrix", [1.0] * 10, command="matrix"))


def test_a_batch_with_different_sources_is_split():
    runs = batch_runs("a", [1.0] * 10)
    runs[5:] = [run.model_copy(update={"source_sha256": "other"}) for run in runs[5:]]
    assert sorted(len(batch.runs) for batch in ranking.group_batches(runs)) == [5, 5]
    assert not any(batch.ranked for batch in ranking.group_batches(runs))


def test_the_leader_is_the_ranked_entry_with_the_least_expected_time():
    runs = [
        *batch_runs("small", [1.0] * 9),
        *batch_runs("hopeless", [1.0] * 10, outcome=lambda i: "missed"),
        *batch_runs("unsure", [6.0] * 10, outcome=lambda i: "solved" if i % 2 else "missed"),
        *batch_runs("sure", [10.0] * 10),
        *batch_runs("elsewhere", [30.0] * 10, machine={"class": "another", "clean": None, "reasons": []}),
    ]
    assert [entry.id for entry in ranking.leaders(runs, "train")] == ["sure", "elsewhere"]


def test_repeated_batches_are_ranked_by_all_of_their_attempts():
    one: Any = {"config_hash": "one"}
    lucky, unlucky = batch_runs("first", [1.0] * 10, **one), batch_runs("second", [3.0] * 10, **one)
    cut = batch_runs("third", [8.0] * 4, outcome=lambda i: "missed", planned=20, **one)
    (entry,) = ranking.group_entries(ranking.group_batches([*lucky, *unlucky, *cut]))
    assert entry.ranked
    assert [batch.id for batch in entry.batches] == ["first", "second", "third"]
    assert (entry.num_seeds, len(entry.runs), entry.num_planned) == (10, 24, 40)
    assert entry.num_solved_seeds == pytest.approx(6 + 4 * 2 / 3)
    rival = batch_runs("rival", [2.5] * 10)
    assert [first.id for first in ranking.leaders([*lucky, *rival], "train")] == ["first"]
    assert [first.id for first in ranking.leaders([*lucky, *unlucky, *cut, *rival], "train")] == ["rival"]


def test_many_batches_that_are_too_small_are_not_ranked():
    one: Any = {"config_hash": "one"}
    runs = [*batch_runs("a", [1.0] * 9, **one), *batch_runs("b", [1.0] * 9, **one)]
    (entry,) = ranking.group_entries(ranking.group_batches(runs))
    assert not entry.ranked


def test_a_batch_ranks_by_its_number_of_seeds():
    runs = [run.model_copy(update={"seed": 7 + i % 9}) for i, run in enumerate(batch_runs("a", [1.0] * 12))]
    (entry,) = ranking.group_entries(ranking.group_batches(runs))
    assert (entry.num_seeds, entry.num_solved_seeds, entry.ranked) == (9, 9, False)


def entries_of(*names: str, **changes: Any) -> list[ranking.Entry]:
    """Ranked entries in this order of their ERTs."""
    runs = [run for i, name in enumerate(names) for run in batch_runs(name, [1.0 + i] * 10, **changes)]
    return ranking.ranked_entries(runs, "train")


def decided(entries: list[ranking.Entry], *pairs: tuple[int, int]) -> set[Any]:
    """The decided pairs of these entries, the faster one first."""
    return {(entries[faster].contestant, entries[slower].contestant) for faster, slower in pairs}


@pytest.mark.parametrize(
    ("pairs", "ranks"),
    [
        ([], [1, 1, 1, 1]),
        ([(0, 1)], [1, 2, 2, 2]),
        ([(0, 3)], [1, 1, 1, 2]),
        ([(0, 2), (1, 3)], [1, 1, 2, 2]),
        ([(0, 1), (1, 2), (2, 3)], [1, 2, 3, 4]),
        ([(0, 1), (0, 2), (0, 3)], [1, 2, 2, 2]),
        ([(3, 0)], [1, 1, 1, 1]),
    ],
)
def test_a_new_rank_begins_with_the_first_entry_that_was_found_slower_than_one_of_the_rank_above(pairs, ranks):
    entries = entries_of("a", "b", "c", "d")
    assert ranking.shared_ranks(entries, decided(entries, *pairs)) == ranks


@functools.cache
def six_entries() -> list[ranking.Entry]:
    return entries_of(*"abcdef")


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_a_rank_holds_no_two_entries_that_were_told_apart_and_no_step_is_without_a_comparison(pairs):
    entries = six_entries()
    ranks = ranking.shared_ranks(entries, decided(entries, *pairs))
    assert ranks[0] == 1
    for slower in range(1, 6):
        above = [faster for faster in range(slower) if (faster, slower) in pairs]
        assert all(ranks[faster] < ranks[slower] for faster in above)
        step = ranks[slower] - ranks[slower - 1]
        assert step == any(ranks[faster] == ranks[slower - 1] for faster in above)


def test_entries_that_solved_nothing_share_the_last_rank():
    runs = [
        *batch_runs("good", [9.0] * 10),
        *batch_runs("a", [1.0] * 10, outcome=lambda i: "missed"),
        *batch_runs("b", [1.0] * 10, outcome=lambda i: "missed"),
    ]
    entries = ranking.ranked_entries(runs, "train")
    assert [entry.id for entry in entries] == ["good", "a", "b"]
    assert ranking.shared_ranks(entries, set()) == [1, 2, 2]


def test_finished_comparisons_tell_their_contestants_apart_unless_they_contradict_each_other():
    plans = [example_agenda(day) for day in (1, 2, 3)]
    plan, *_ = plans
    key_a, key_b = (ranking.contestant_key(side, "Example CPU") for side in (plan.a, plan.b))

    def pairs(*verdicts: str) -> set[Any]:
        conclusions = [example_conclusion(plan, verdict) for plan, verdict in zip(plans, verdicts, strict=False)]
        return ranking.decided_pairs([*plans, example_agenda(4, b=None)], conclusions)

    assert pairs() == set()
    assert pairs("not decided") == set()
    assert pairs("faster", "not decided", "faster") == {(key_a, key_b)}
    assert pairs("slower") == {(key_b, key_a)}
    assert pairs("faster", "not decided", "slower") == set()


def test_an_entry_is_the_contestant_of_a_comparison_with_equal_settings_source_and_machine_class():
    side = example_agenda().a
    same: Any = {"settings": side.settings | {"muon_iterations": 3.0}, "source_sha256": side.source_sha256}
    (entry,) = entries_of("a", **same)
    assert entry.contestant == ranking.contestant_key(side, "Example CPU")
    assert entry.contestant != ranking.contestant_key(side, "Another CPU")


def test_the_standing_of_an_attempt_is_one_line():
    runs = batch_runs("a", [1.0] * 10)
    single = example_run(run_id="single", batch=None)
    assert "not ranked" in ranking.describe_standing(single, [single])
    assert "no ranked batch" in ranking.describe_standing(single, [single])
    line = ranking.describe_standing(single, [*runs, single])
    assert line.endswith("; best ERT by train: 1.00 s, a; best ERT by total: 6.00 s, a")
    assert "\n" not in line


def test_batches_of_equal_settings_are_one_entry_where_source_and_machine_class_agree():
    old = {"track": "add3", "max_seconds": 600, "adam_weight_decay": -0.0, "survey_problems": 9}
    new = {"track": "add3", "max_seconds": 600.0, "adam_weight_decay": 0.0, "evaluation_problems": 9, "bias": "none"}
    one = batch_runs("one", [1.0] * 10, settings=old)
    runs = [*one, *batch_runs("two", [2.0] * 10, settings=new)]
    (entry,) = ranking.group_entries(ranking.group_batches(runs))
    assert entry.config_hashes == ["one", "two"]
    others = [
        *batch_runs("three", [2.0] * 10, settings=new, source_sha256="e" * 64),
        *batch_runs("four", [2.0] * 10, settings=new | {"max_seconds": 601.0}),
        *batch_runs("six", [2.0] * 10, settings=new | {"bias": "all"}),
        *batch_runs("five", [2.0] * 10, settings=new, machine={"class": "another", "clean": None, "reasons": []}),
    ]
    assert len(ranking.group_entries(ranking.group_batches([*runs, *others]))) == 5


def test_the_current_runs_of_a_config_are_those_of_its_latest_entry():
    def days(day, runs):
        moved = {"config": "add3-cpu", "started_at": runs[0].started_at.replace(day=day)}
        return [run.model_copy(update=moved) for run in runs]

    old = days(1, batch_runs("old", [1.0] * 10, source_sha256="e" * 64))
    new = days(2, batch_runs("new", [1.0] * 10))
    settings = new[0].settings
    again = days(3, batch_runs("again", [1.0] * 10, settings=settings))
    others = [
        *days(4, batch_runs("changed", [1.0], settings=settings, overrides={"batch_size": 1})),
        *days(5, batch_runs("matrix", [1.0], command="matrix", settings=settings)),
        *days(6, [example_run(settings=settings)]),
    ]
    assert ranking.current_runs([*old, *new, *again, *others]) == [*new, *again]
    single = days(7, [example_run()])
    assert ranking.current_runs([*others[:2], *single]) == single


@pytest.mark.parametrize("settings", [{"curves": True}, {"control": "permute"}])
def test_runs_that_looked_at_the_test_problems_and_controls_are_batched_and_never_ranked(settings):
    runs = batch_runs("a", [1.0] * 10, settings={"track": "add3", **settings})
    (entry,) = ranking.group_entries(ranking.group_batches(runs))
    assert (len(entry.runs), entry.ranked) == (10, False)
    assert not ranking.ranked_entries(runs, "train")
    assert not ranking.leaders(runs, "train")
    assert not ranking.current_runs(runs)
    assert ranking.describe_standing(runs[0], runs) == f"this run {runs[0].unranked_because} and never ranks"


def test_settings_of_older_runs_lack_the_keys_and_may_rank():
    assert example_run(settings={"track": "add3"}).unranked_because is None


def test_a_batch_with_a_disputed_run_has_no_rank_and_is_an_entry_of_its_own():
    runs = batch_runs("a", [1.0] * 10)
    runs[3] = runs[3].with_status(("one", "two"))
    runs[4] = runs[4].with_status(("two",))
    again = batch_runs("again", [2.0] * 10, config_hash="a")
    disputed, ranked = ranking.group_entries(ranking.group_batches([*runs, *again]))
    assert (disputed.id, disputed.ranked, disputed.disputed) == ("a", False, ["one", "two"])
    assert (ranked.id, ranked.ranked, ranked.disputed) == ("again", True, [])
    assert [entry.id for entry in ranking.leaders([*runs, *again], "train")] == ["again"]
    assert ranking.current_runs(runs) == []
    assert ranking.current_runs([*runs, *again]) == again
    assert ranking.describe_standing(runs[3], runs).endswith("its batch does not rank: one; two")


def test_old_runs_keep_their_rank():
    runs = [run.with_status(is_old=True) for run in batch_runs("a", [1.0] * 10)]
    (entry,) = ranking.ranked_entries(runs, "train")
    assert entry.is_old


def test_a_batch_never_ranks_if_any_of_its_runs_does_not():
    """The lines of runs that never rank are not checked, so they may not stand behind an honest first one."""
    runs = batch_runs("a", [1.0] * 10)
    runs[7] = runs[7].model_copy(update={"settings": runs[7].settings | {"curves": True}})
    assert not ranking.ranked_entries(runs, "train")
