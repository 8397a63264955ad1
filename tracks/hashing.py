"""The hash by which problems are assigned to the sets of a track, the same on every device."""

from collections.abc import Iterable

import torch
from torch import Tensor


def shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift int64 right as if it were unsigned."""
    return (x >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """Return the output of SplitMix64 (Steele, Lea and Flood, 2014) for state x; both are 64 bits in an int64."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = x.bitwise_xor_(shift_right(x, 30)).mul_(0xBF58476D1CE4E5B9 - 2**64)
    x = x.bitwise_xor_(shift_right(x, 27)).mul_(0x94D049BB133111EB - 2**64)
    return x.bitwise_xor_(shift_right(x, 31))


def hash_columns(columns: Iterable[Tensor]) -> Tensor:
    """Hash numbers: h = 0, then h = splitmix64(h xor number) for each column; h is 64 bits in an int64."""
    h = torch.zeros(1, dtype=torch.int64)
    for column in columns:
        h = splitmix64(h.to(column.device) ^ column)
    return h


def hash_fraction(columns: Iterable[Tensor]) -> Tensor:
    """Return `hash_columns` as a fraction of 2**64, float64 in 0..1, below 1; from its highest 53 bits."""
    return shift_right(hash_columns(columns), 11).double() * 2.0**-53
