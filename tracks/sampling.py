"""Drawing training problems: digit by digit, or from a list."""

from collections.abc import Callable

import torch
from torch import Tensor


def rows_together(device: torch.device) -> int:
    """Problems to compute about at once: on a CPU as many as stay in its caches."""
    return 2**15 if device.type == "cpu" else 2**20


def distinct(rows: Tensor) -> Tensor:
    """Rows of digits (N, W) uint8, each once, in an order that is always the same; (M, W).

    Up to 18 digits it is that of the digits. Beyond, rows are told apart by a number modulo 2**64 that two may share:
    then one of them is lost, hardly ever and without harm.
    """
    keys = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for column in rows.unbind(-1):
        keys = keys * 11 + column
    keys, order = keys.sort()
    is_new = torch.cat([torch.ones_like(keys[:1], dtype=torch.bool), keys[1:] != keys[:-1]])
    return rows[order[is_new]]


class TrainingSampler:
    """Draws training problems with replacement; how, its subclasses say."""

    def __init__(self, is_training: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Args:
        is_training: rows of any digits (N, W) uint8 to (N,) bool.
        device: where problems are drawn.
        """
        self.is_training, self.device = is_training, device

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Problems (num_batches, batch_size, W) uint8, on the sampler's device and from its generator."""
        raise NotImplementedError

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """As `draw`, with each problem once: at most `count` of them, (N, W) uint8."""
        return distinct(self.draw(1, count, generator)[0])

    def nearby(self, problems: Tensor) -> Tensor:
        """Those that differ from one of `problems` (N, W) uint8 in one digit or in none, (M, W), each once."""
        W = problems.size(1)
        rows = problems[:, None, None].repeat(1, W, 10, 1)  # (N, W, 10, W): which one, which place, which digit
        places, digits = torch.arange(W), torch.arange(10, dtype=torch.uint8, device=problems.device)
        rows[:, places, :, places] = digits
        rows = distinct(rows.view(-1, W))
        return rows[self.is_training(rows)]


class ListSampler(TrainingSampler):
    """Draws the training problems of a list, each as often as any other."""

    def __init__(self, rows: Tensor, is_training: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """`rows` are the training problems, (n, W) uint8."""
        super().__init__(is_training, device)
        self.rows = rows.to(device)

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        shape = num_batches, batch_size
        return self.rows[torch.randint(len(self.rows), shape, generator=generator, device=self.device)]


class DigitSampler(TrainingSampler):
    """Draws the digits of two operands, so that no problem has to be listed.

    A level is a number of places, the units aside, whose digits sum to 9.
    """

    def __init__(
        self, digits: int, is_training: Callable[[Tensor], Tensor], level_share: float, device: torch.device
    ) -> None:
        """`level_share` of the problems, 0..1, are drawn from the levels, each alike, the others uniformly.

        An operand has so many `digits`.
        """
        super().__init__(is_training, device)
        self.digits, self.level_share = digits, level_share

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        count, together = num_batches * batch_size, rows_together(self.device)
        parts = [self.draw_rows(min(together, count - done), generator) for done in range(0, count, together)]
        return torch.cat(parts).view(num_batches, batch_size, -1)

    def draw_rows(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 2 * digits) uint8; what turns out to be held out is left out."""
        parts: list[Tensor] = []
        while (missing := count - sum(map(len, parts))) > 0:
            tries = missing + missing // 8 + 64  # a tenth is held out: once is enough, hardly ever twice
            from_level = torch.rand(tries, generator=generator, device=self.device) < self.level_share
            level = torch.randint(self.digits, (tries,), generator=generator, device=self.device)
            rows = self.fill(torch.where(from_level, level, -1), generator)
            parts.append(rows[self.is_training(rows)])
        return torch.cat(parts)[:count]

    def fill(self, levels: Tensor, generator: torch.Generator) -> Tensor:
        """For each level (count,) a problem that is uniform among those in it, or among all for level -1."""
        n, count, device = self.digits, len(levels), self.device
        digits = torch.randint(10, (2 * n, count), generator=generator, device=device, dtype=torch.uint8)
        others = torch.randint(1, 10, (n - 1, count), generator=generator, device=device, dtype=torch.uint8)
        chance = torch.rand((n - 1, count), generator=generator, device=device)
        is_uniform, wanted = levels < 0, levels.clone()
        for place in range(n - 1):  # most significant first; each set of as many places as are wanted is as likely
            is_nine = chance[place] * (n - 1 - place) < wanted
            wanted -= is_nine.long()
            nine = 9 - digits[place]
            other = torch.where(is_uniform, digits[n + place], (nine + others[place]) % 10)
            digits[n + place] = torch.where(is_nine, nine, other)
        return digits.t().contiguous()
