"""Rows of token ids in which PADDING stands for no token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracks.base import PADDING


def left_aligned(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate ids (..., n) and move PADDING to the end, (..., sum of n)."""
    ids = torch.cat(list(parts), -1)
    return moved(ids, places_without_padding(ids != PADDING))


def places_without_padding(is_token: Tensor) -> Tensor:
    """Return the place of each token in its row (..., n) without padding; n for padding."""
    return (is_token.cumsum(-1) - 1).masked_fill_(~is_token, is_token.size(-1))


def moved(values: Tensor, places: Tensor, fill: int = PADDING) -> Tensor:
    """Move values (..., n) to places (..., n); those at place n are dropped, and empty places hold `fill`."""
    n = values.size(-1)
    rows = values.new_full((*values.shape[:-1], n + 1), fill)
    return rows.scatter_(-1, places, values)[..., :n]
