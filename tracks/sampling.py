"""Samplers of training problems, and of windows of a stream's training text."""

from collections.abc import Callable

import torch
from torch import Tensor

from tracks.base import Sampler, Track


def chunk_rows(device: torch.device) -> int:
    """Return how many problems to process at once: on a CPU as many as fit into its caches."""
    return 2**15 if device.type == "cpu" else 2**20


def distinct(rows: Tensor) -> Tensor:
    """Drop repeated rows of digits (N, W) uint8; the result (M, W) has a deterministic order.

    Up to 18 digits the order is lexicographic. Beyond, rows are compared by a key modulo 2**64. Two different rows can
    have the same key; then one of them is lost, which is rare and harmless.
    """
    keys = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for column in rows.unbind(-1):
        keys = keys * 11 + column
    keys, order = keys.sort()
    is_new = torch.cat([torch.ones_like(keys[:1], dtype=torch.bool), keys[1:] != keys[:-1]])
    return rows[order[is_new]]


class TrainingSampler(Sampler):
    """Base of the samplers of problems that are rows of digits."""

    def __init__(self, is_training: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """`is_training` maps rows of any digits (N, W) uint8 to whether each is a training problem, (N,) bool."""
        self.is_training, self.device = is_training, device

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        return distinct(self.draw(1, count, generator)[0])

    def nearby(self, problems: Tensor) -> Tensor:
        """Return problems (N, W) uint8 and all training problems with one digit changed, (M, W), each once."""
        W = problems.size(1)
        rows = problems[:, None, None].repeat(1, W, 10, 1)  # (N, W, 10, W): problem, changed place, new digit
        places, digits = torch.arange(W), torch.arange(10, dtype=torch.uint8, device=problems.device)
        rows[:, places, :, places] = digits
        rows = distinct(rows.view(-1, W))
        return rows[self.is_training(rows)]


class ListSampler(TrainingSampler):
    """Draws uniformly from a list of training problems."""

    def __init__(self, rows: Tensor, is_training: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """`rows` are the training problems, (n, W) uint8."""
        super().__init__(is_training, device)
        self.rows = rows.to(device)

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(self.rows), (num_batches, batch_size), generator=generator, device=self.device)
        return self.rows[index]


class DigitSampler(TrainingSampler):
    """Draws the digits of two operands; needs no list of all problems.

    The level of a problem is the number of places, the units excepted, whose two digits sum to 9.
    """

    def __init__(
        self, digits: int, is_training: Callable[[Tensor], Tensor], level_share: float, device: torch.device
    ) -> None:
        """`level_share` (0..1) of the problems have a level that is drawn uniformly; the others are uniform."""
        super().__init__(is_training, device)
        self.digits, self.level_share = digits, level_share

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        count, chunk = num_batches * batch_size, chunk_rows(self.device)
        parts = [self.draw_rows(min(chunk, count - start), generator) for start in range(0, count, chunk)]
        return torch.cat(parts).view(num_batches, batch_size, -1)

    def draw_rows(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw problems (count, 2 * digits) uint8; held-out ones are rejected."""
        parts: list[Tensor] = []
        while (missing := count - sum(map(len, parts))) > 0:
            num_candidates = missing + missing // 8 + 64  # a tenth is rejected: one pass is nearly always enough
            from_level = torch.rand(num_candidates, generator=generator, device=self.device) < self.level_share
            level = torch.randint(self.digits, (num_candidates,), generator=generator, device=self.device)
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
            nines_left -= is_nine.long()
            complement = 9 - digits[place]
            other = torch.where(is_uniform, digits[n + place], (complement + offsets[place]) % 10)
            digits[n + place] = torch.where(is_nine, complement, other)
        return digits.t().contiguous()


class Windows:
    """Draws windows of a stream's training text; a window can start at any character."""

    def __init__(self, track: Track, device: torch.device) -> None:
        tokens = track.tokens(track.lines.to(device))
        ends = tokens.new_full((len(tokens), 1), track.vocabulary.index(track.separator))
        self.text = torch.cat([tokens, ends], 1).flatten()  # (characters,) uint8 token ids
        self.length = track.block_size + 1

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw token ids (num_batches, batch_size, block_size + 1) uint8; the generator is on the text's device."""
        shape, device = (num_batches, batch_size, 1), self.text.device
        starts = torch.randint(len(self.text) - self.length + 1, shape, generator=generator, device=device)
        return self.text[starts + torch.arange(self.length, device=device)]
