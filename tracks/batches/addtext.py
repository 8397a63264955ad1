"""Training texts of the track of sums as lines."""

from functools import cached_property

import torch
from torch import Tensor

from tracks.addtext import FIXED_LINES, FIXED_SEED
from tracks.batches.lines import LineBatches
from tracks.batches.sampling import LevelSampler, ListSampler
from tracks.describe_lines import LARGEST_OPERAND


class AddTextBatches(LineBatches):
    """Texts of training lines; replayed problems stand with their earlier lines.

    Levels are which operands have one digit, and lines with the operand 100: both are rare.
    """

    lines_per_text = 3
    text_tokens = 33

    @cached_property
    def sampler(self) -> ListSampler:
        return ListSampler(self.track.sets["train"], self.device)

    @property
    def fixed_lines(self) -> Tensor:
        draw = torch.Generator().manual_seed(FIXED_SEED)
        training = self.track.training_pairs
        return self.alone(training[torch.randint(len(training), (FIXED_LINES,), generator=draw)])

    def alone(self, numbers: Tensor) -> Tensor:
        """Return the problems of pairs at positions (...,) that stand alone, (..., 3)."""
        return self.track.rows.to(numbers.device)[2 * numbers]

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """As in the base class; the shorter prompts come first, so that few texts are padded."""
        problems = super().draw_distinct(count, generator)
        return problems[problems[:, 2].sort(stable=True).indices]

    def with_replayed(self, lines: Tensor, problems: Tensor) -> Tensor:
        """Put each problem into a text, as the first line, or as the second one after its earlier line."""
        earlier = self.alone(self.track.earlier.to(self.device)[self.track.number(problems) // 2])
        problem = torch.cat([problems[..., :2], torch.zeros_like(problems[..., 2:])], -1)
        is_after = problems[..., 2:] == 1
        first, second = torch.where(is_after, earlier, problem), torch.where(is_after, problem, lines[..., 1, :])
        return torch.cat([torch.stack([first, second], -2), lines[..., 2:, :]], -2)

    @cached_property
    def line_sampler(self) -> LevelSampler:
        """Draws lines that stand alone, by levels."""
        lines = self.alone(self.track.training_pairs)
        operands = lines[:, :2]
        levels = ((operands < 10) * torch.tensor([2, 1])).sum(1)
        levels = levels.masked_fill((operands == LARGEST_OPERAND).any(1), 4)
        return LevelSampler(lines, levels, self.options.level_share, self.device)

    def draw_lines(self, num_texts: int, generator: torch.Generator) -> Tensor:
        return self.line_sampler.draw(num_texts, self.lines_per_text, generator)
