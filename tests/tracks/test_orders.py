"""Orders of generation: each is drawn by its law, and a batch holds the tokens in that order."""

import itertools
from collections import Counter

import pytest
import torch

from tracks.orders import draw_orders, in_order

ORDERS = ("left-to-right", "right-to-left", "alternating", "pseudo-random", "uniform")


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_is_a_permutation_that_starts_at_position_0(order: str) -> None:
    drawn = draw_orders(order, (4, 100), 9, torch.Generator().manual_seed(1))
    assert drawn.shape == (4, 100, 9)
    assert (drawn[..., 0] == 0).all()
    assert (drawn.sort(-1).values == torch.arange(9)).all()


def test_fixed_orders_and_the_coin_of_alternating_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    forwards, backwards = [0, 1, 2, 3], [0, 3, 2, 1]
    assert draw_orders("left-to-right", (2,), 4, generator).tolist() == [forwards] * 2
    assert draw_orders("right-to-left", (2,), 4, generator).tolist() == [backwards] * 2
    counts = Counter(map(tuple, draw_orders("alternating", (10_000,), 4, generator).tolist()))
    assert set(counts) == {tuple(forwards), tuple(backwards)}
    assert abs(counts[tuple(forwards)] - 5_000) < 300


def test_every_uniform_order_is_equally_likely() -> None:
    counts = Counter(map(tuple, draw_orders("uniform", (24_000,), 5, torch.Generator().manual_seed(1)).tolist()))
    assert set(counts) == {(0, *rest) for rest in itertools.permutations(range(1, 5))}
    assert all(abs(count - 1000) < 200 for count in counts.values())


def test_pseudo_random_orders_move_to_nearer_positions_than_uniform_ones() -> None:
    def mean_distance(order: str) -> float:
        drawn = draw_orders(order, (5_000,), 16, torch.Generator().manual_seed(1))[:, 1:]
        return float(drawn.diff().abs().float().mean())

    assert mean_distance("uniform") == pytest.approx(16 / 3, rel=0.03)  # of two of 15 positions
    assert 3 < mean_distance("pseudo-random") < 4


def test_a_batch_holds_tokens_with_their_positions_and_those_of_their_targets() -> None:
    texts, order = torch.tensor([[10, 11, 12, 13]]), torch.tensor([[0, 3, 1, 2]])
    batch = in_order(texts, order)
    assert batch.tokens.tolist() == [[10, 13, 11]]
    assert batch.targets.tolist() == [[13, 11, 12]]
    assert batch.positions is not None
    assert batch.next_positions is not None
    assert batch.positions.tolist() == [[0, 3, 1]]
    assert batch.next_positions.tolist() == [[3, 1, 2]]
