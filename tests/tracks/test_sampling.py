"""Samplers of listed problems; those of digits are tested with the tracks that use them."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from tracks.batches.sampling import EpochSampler, LevelSampler, ListSampler, distinct

CPU = torch.device("cpu")
ROWS = torch.tensor([[number, number * number] for number in range(30)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_list_is_drawn_from_uniformly_with_replacement() -> None:
    drawn = ListSampler(ROWS, CPU).draw(40, 750, generator())
    assert drawn.shape == (40, 750, 2)
    assert (drawn[..., 1] == drawn[..., 0] ** 2).all()
    counts = Counter(drawn[..., 0].flatten().tolist())
    assert set(counts) == set(range(30))
    assert all(800 < count < 1200 for count in counts.values())  # 1,000 each, standard deviation 31


def test_distinct_draws_of_a_list_are_no_more_than_all() -> None:
    sampler = ListSampler(ROWS, CPU)
    for count in (30, 31, 1000):
        assert torch.equal(sampler.draw_distinct(count, generator()), ROWS)
    some = sampler.draw_distinct(10, generator())
    assert 0 < len(some) == len(some.unique(dim=0)) <= 10


@given(st.integers(1, 25), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=6))
def test_an_epoch_has_every_problem_once(size: int, shapes: list[tuple[int, int]]) -> None:
    sampler, draws = EpochSampler(ROWS[:size], CPU), []
    state = generator()
    for num_batches, batch_size in shapes:
        drawn = sampler.draw(num_batches, batch_size, state)
        assert drawn.shape == (num_batches, batch_size, 2)
        draws += drawn[..., 0].flatten().tolist()
    for start in range(0, len(draws), size):
        epoch = draws[start : start + size]
        assert len(epoch) == len(set(epoch)) <= size


def test_epochs_have_different_orders_that_follow_from_the_generator() -> None:
    first, again, other = (EpochSampler(ROWS, CPU).draw(2, 30, generator(seed))[..., 0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert [*map(sorted, first.tolist())] == [[*range(30)]] * 2


def test_epochs_do_not_depend_on_how_many_steps_are_drawn_at_once() -> None:
    one, three = EpochSampler(ROWS, CPU), EpochSampler(ROWS, CPU)
    states = generator(), generator()
    singly = torch.cat([one.draw(1, 7, states[0]) for _ in range(9)])
    together = torch.cat([three.draw(3, 7, states[1]) for _ in range(3)])
    assert torch.equal(singly, together)


def test_many_epochs_of_a_short_list_are_drawn_at_once() -> None:
    drawn = EpochSampler(ROWS[:1], CPU).draw(10, 4000, generator())  # in milliseconds: time grows with the number drawn
    assert drawn.shape == (10, 4000, 2)
    assert not drawn.any()


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3)))
def test_repeated_rows_are_dropped(rows: list[list[int]]) -> None:
    found = distinct(torch.tensor(rows, dtype=torch.uint8).view(-1, 3))
    assert found.tolist() == sorted(map(list, set(map(tuple, rows))))


def test_a_share_is_drawn_evenly_from_levels_and_uniformly_within_them() -> None:
    levels = torch.tensor([0] * 3 + [1] * 7 + [-1] * 20)  # the last ones have no level
    for share in (0.0, 0.4, 1.0):
        drawn = LevelSampler(ROWS, levels, share, CPU).draw(60, 1000, generator())
        counts = Counter(drawn[..., 0].flatten().tolist())
        for number in range(30):
            of_level = 1 / 2 / 3 if number < 3 else 1 / 2 / 7 if number < 10 else 0
            expected = 60_000 * (share * of_level + (1 - share) / 30)
            assert abs(counts[number] - expected) <= 6 * expected**0.5
