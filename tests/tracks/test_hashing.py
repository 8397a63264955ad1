"""The hash of columns against Python's own integers."""

import random

import torch

from tests.support.digits import MASK, splitmix64_of_integers
from tracks.hashing import hash_columns, hash_fraction


def hash_of_integers(numbers: tuple[int, ...]) -> int:
    h = 0
    for number in numbers:
        h = splitmix64_of_integers(h ^ number)
    return h


def test_columns_are_hashed_one_after_the_other() -> None:
    draw = random.Random(0)
    for width in (1, 2, 5):
        rows = [tuple(draw.randrange(1009) for _ in range(width)) for _ in range(300)]
        hashes = hash_columns(torch.tensor(rows).unbind(-1))
        assert [h & MASK for h in hashes.tolist()] == [hash_of_integers(row) for row in rows]


def test_a_fraction_is_made_of_the_highest_53_bits() -> None:
    draw = random.Random(1)
    rows = [(draw.randrange(113), draw.randrange(113)) for _ in range(2000)]
    fractions = hash_fraction(torch.tensor(rows).unbind(-1))
    assert fractions.dtype == torch.float64
    assert fractions.tolist() == [(hash_of_integers(row) >> 11) / 2**53 for row in rows]
    assert 0 <= fractions.min() < 0.01
    assert 0.99 < fractions.max() < 1


def test_columns_broadcast() -> None:
    a, b = torch.arange(5)[:, None], torch.arange(7)
    expected = [[hash_of_integers((x, y)) for y in range(7)] for x in range(5)]
    assert [[h & MASK for h in row] for row in hash_columns([a, b]).tolist()] == expected
