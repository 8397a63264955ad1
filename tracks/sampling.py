"""Drawing training problems where every one of them can be listed."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class PoolSampler:
    """Draws training problems with replacement; a share of them spread evenly over levels of difficulty."""

    def __init__(self, rows: Tensor, levels: Sequence[Tensor], level_share: float, device: torch.device) -> None:
        """The problems that are not drawn from their levels are drawn uniformly.

        Args:
            rows: all problems of the track, (num_problems, W) uint8.
            levels: numbers of rows, int64, each training problem's in one level.
            level_share: 0..1.
            device: where problems are drawn.
        """
        pools = [level for level in levels if len(level)]
        weights = [level_share / len(pools)] * len(pools) + [1 - level_share]
        sizes = [*map(len, pools), sum(map(len, pools))]
        starts = [sum(sizes[:i]) for i in range(len(pools))] + [0]  # the last pool is all of them
        self.rows = rows.to(device)
        self.numbers = torch.cat(pools).to(device)
        self.weights = torch.tensor(weights, device=device)
        self.sizes = torch.tensor(sizes, device=device)
        self.starts = torch.tensor(starts, device=device)

    @cached_property
    def problems(self) -> Tensor:
        """All training problems, (N, W) uint8, level by level."""
        return self.rows.index_select(0, self.numbers)

    def draw_numbers(self, count: int, generator: torch.Generator) -> Tensor:
        pool = self.weights.multinomial(count, replacement=True, generator=generator)
        raw = torch.randint(2**62, (count,), generator=generator, device=pool.device)
        places = self.starts.take(pool) + raw % self.sizes.take(pool)
        return self.numbers.index_select(0, places)

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Problems (num_batches, batch_size, W) uint8, on the sampler's device and from its generator."""
        numbers = self.draw_numbers(num_batches * batch_size, generator)
        return self.rows.index_select(0, numbers).view(num_batches, batch_size, -1)

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """As `draw`, with each problem once: at most `count` of them, (N, W) uint8, ascending."""
        return self.rows.index_select(0, self.draw_numbers(count, generator).unique())
