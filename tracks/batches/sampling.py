"""Samplers of training problems."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from tracks.base import chunk_rows


def distinct(rows: Tensor) -> Tensor:
    """Drop repeated rows of digits (N, W) uint8; the result (M, W) has a deterministic order.

    Up to 18 digits the order is lexicographic. Beyond, rows are compared by a key modulo 2**64. Two different rows can
    have the same key; then one of them is lost, which is rare and harmless.
    """
    is_short = 11 ** rows.size(-1) < 2**31  # then smaller keys do, which take less time
    keys = torch.zeros(len(rows), dtype=torch.int32 if is_short else torch.int64, device=rows.device)
    for column in rows.unbind(-1):
        keys = keys * 11 + column
    keys, order = keys.sort()
    is_new = torch.cat([torch.ones_like(keys[:1], dtype=torch.bool), keys[1:] != keys[:-1]])
    return rows[order[is_new]]


def one_digit_changed(rows: Tensor) -> Tensor:
    """Return rows of digits (N, W) uint8 and all rows with one digit changed, (M, W), each once."""
    W = rows.size(1)
    changed = rows[:, None, None].repeat(1, W, 10, 1)  # (N, W, 10, W): row, changed place, new digit
    places, digits = torch.arange(W), torch.arange(10, dtype=torch.uint8, device=rows.device)
    changed[:, places, :, places] = digits
    return distinct(changed.view(-1, W))


class Sampler(Protocol):
    """Draws training problems with replacement on its device; it never returns a held-out problem."""

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw problems (num_batches, batch_size, W); the generator is on the sampler's device."""

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` problems and drop repetitions: (N, W) with N <= count."""


class ListSampler:
    """Draws uniformly from a list of training problems."""

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        """`rows` are the training problems, (n, W)."""
        self.rows, self.device = rows.to(device), device

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        return self.rows[self.draw_index((num_batches, batch_size), generator)]

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """As `Sampler.draw_distinct`; all problems if there are no more than `count`."""
        if count >= len(self.rows):
            return self.rows
        return self.rows[self.draw_index((count,), generator).unique()]

    def draw_index(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(len(self.rows), shape, generator=generator, device=self.device)


class LevelSampler(ListSampler):
    """Draws a share of the problems evenly from levels, uniformly within a level; the others from the whole list."""

    def __init__(self, rows: Tensor, levels: Tensor, share: float, device: torch.device) -> None:
        """`levels` (n,) int64 are those of the training problems `rows` (n, W), -1 for none; `share` is in 0..1."""
        super().__init__(rows, device)
        self.share, levels = share, levels.to(device)
        num_without = int((levels < 0).sum())
        self.by_level = levels.argsort(stable=True)[num_without:]
        self.counts = levels[levels >= 0].bincount()

    def draw_index(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        uniform = super().draw_index(shape, generator)
        chance, place = torch.rand(2, *shape, generator=generator, device=self.device).unbind(0)
        level = torch.randint(len(self.counts), shape, generator=generator, device=self.device)
        start = (self.counts.cumsum(0) - self.counts)[level]
        index = self.by_level[start + (place * self.counts[level]).long()]
        return torch.where(chance < self.share, index, uniform)


class EpochSampler(ListSampler):
    """Draws from a list without replacement: each epoch has every problem once, in random order.

    A batch can hold the end of one epoch and the start of the next.
    """

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        super().__init__(rows, device)
        self.drawn = torch.empty(0, dtype=torch.int64, device=device)  # positions in the list, not used yet

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        count = num_batches * batch_size
        num_epochs = math.ceil((count - len(self.drawn)) / len(self.rows))
        size, device = len(self.rows), self.device
        epochs = [torch.randperm(size, generator=generator, device=device) for _ in range(num_epochs)]
        drawn = torch.cat([self.drawn, *epochs])
        index, self.drawn = drawn[:count], drawn[count:]
        return self.rows[index].view(num_batches, batch_size, -1)


class DigitSampler:
    """Draws the digits of two operands; needs no list of all problems.

    The level of a problem is the number of places, the units excepted, whose two digits sum to 9.
    """

    def __init__(
        self, digits: int, is_training: Callable[[Tensor], Tensor], level_share: float, device: torch.device
    ) -> None:
        """Args:

        is_training: maps rows of any digits (N, W) uint8 to whether each is a training problem, (N,) bool.
        level_share: 0..1 of the problems have a level that is drawn uniformly; the others are uniform.
        """
        self.digits, self.is_training, self.level_share, self.device = digits, is_training, level_share, device

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        count, chunk = num_batches * batch_size, chunk_rows(self.device)
        parts = [self.draw_rows(min(chunk, count - start), generator) for start in range(0, count, chunk)]
        return torch.cat(parts).view(num_batches, batch_size, -1)

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        return distinct(self.draw(1, count, generator)[0])

    def draw_rows(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw problems (count, 2 * digits) uint8; held-out ones are rejected."""
        parts: list[Tensor] = []
        while (missing := count - sum(map(len, parts))) > 0:
            num_candidates = missing + missing // 8 + 64  # a tenth is rejected: one pass is nearly always enough
            from_level = torch.rand(num_candidates, generator=generator, device=self.device) < self.level_share
            level = torch.randint(
                self.digits, (num_candidates,), generator=generator, device=self.device, dtype=torch.int8
            )
            rows = self.fill(torch.where(from_level, level, -1), generator)
            parts.append(rows[self.is_training(rows)])
        return torch.cat(parts)[:count]

    def fill(self, levels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw for each level (count,) a uniform problem of that level; level -1 stands for all problems."""
        n, count, device = self.digits, len(levels), self.device
        digits = torch.randint(10, (2 * n, count), generator=generator, device=device, dtype=torch.uint8)
        offsets = torch.randint(1, 10, (n - 1, count), generator=generator, device=device, dtype=torch.uint8)
        chance = torch.rand((n - 1, count), generator=generator, device=device)
        is_uniform, nines_left = levels < 0, levels.clone()
        # Selection sampling, most significant place first: every set of `level` places is equally likely.
        for place in range(n - 1):
            is_nine = chance[place] * (n - 1 - place) < nines_left
            nines_left -= is_nine.view(torch.int8)
            complement = 9 - digits[place]
            other = torch.where(is_uniform, digits[n + place], (complement + offsets[place]) % 10)
            digits[n + place] = torch.where(is_nine, complement, other)
        return digits.t().contiguous()
