"""Training texts of the track of a published report: windows of its text."""

from functools import cached_property

import torch
from torch import Tensor

from tracks.addition_stream import SEPARATOR
from tracks.base import Batch
from tracks.batches.addition import AdditionBatches
from tracks.batches.problems import drawn_windows
from tracks.batches.sampling import ListSampler


class StreamBatches(AdditionBatches):
    """Windows of the training text; a window can start at any character. There are no levels."""

    @property
    def training_length(self) -> int:
        return self.track.block_size + 1

    @cached_property
    def sampler(self) -> ListSampler:
        """A uniform sampler of training problems, for evaluation."""
        return ListSampler(self.track.sets["train"], self.device)

    def is_training(self, rows: Tensor) -> Tensor:
        return (rows[:, 0] > 0) & (rows[:, 3] > 0) & ~self.track.is_heldout(rows)

    @cached_property
    def text(self) -> Tensor:
        """The training text, (characters,) uint8 ids."""
        lines = self.track.lines.to(self.device)
        tokens = torch.cat([self.track.prompts(lines), self.track.answers(lines)], -1)
        ends = tokens.new_full((len(tokens), 1), self.track.vocabulary.index(SEPARATOR))
        return torch.cat([tokens, ends], 1).flatten()

    def draw(
        self, num_batches: int, batch_size: int, generator: torch.Generator, replayed: Tensor, share: float
    ) -> Batch:
        """Draw windows; nothing is replayed."""
        return drawn_windows(self.text, (num_batches, batch_size), self.training_length, generator)
