"""Training texts of the track of lines that copy letters."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from tracks.actions import FIXED_LINES, FIXED_SEED, copies_line_before, lines_of
from tracks.base import PADDING
from tracks.batches.lines import LineBatches
from tracks.batches.sampling import Sampler


class ActionBatches(LineBatches):
    """Texts of lines in which no line is held out after the line before."""

    lines_per_text = 4
    text_tokens = 41

    @property
    def sampler(self) -> Sampler:
        raise NotImplementedError("lines are drawn in the order of a text, see `draw_lines`")

    @cached_property
    def fixed_lines(self) -> Tensor:
        lines = self.track.draw_stream(FIXED_LINES + 100, torch.Generator().manual_seed(FIXED_SEED))
        start = int((~copies_line_before(lines[1:, -1])).nonzero()[0])  # the first line has none before it
        return with_lines_before(lines[start : start + FIXED_LINES + 1])

    def draw_lines(self, num_texts: int, generator: torch.Generator) -> Tensor:
        lines = self.track.draw_stream(num_texts * self.lines_per_text + 1, generator)
        return with_lines_before(lines).view(num_texts, self.lines_per_text, -1)

    def is_answerable(self, lines: Tensor, is_whole: Tensor) -> Tensor:
        has_line_before = F.pad(is_whole[:, :-1], (1, 0), value=False)
        return is_whole & (has_line_before | ~copies_line_before(lines[..., -1]))

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw training problems as they are asked; those with few lines come first, so that few texts are padded."""
        problems = self.track.draw_training(count, generator)
        num_blank = (lines_of(problems)[..., 0] == PADDING).sum(1)
        return problems[num_blank.sort(descending=True, stable=True).indices]


def with_lines_before(lines: Tensor) -> Tensor:
    """Return the problems (n - 1, 19) of the lines (n, 9) after the first, each with the line before it."""
    return torch.cat([lines.new_zeros((len(lines) - 1, 1)), lines[:-1], lines[1:]], 1)
