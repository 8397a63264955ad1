"""Training texts of the track of a file's text: windows of its training part."""

from functools import cached_property

import torch
from torch import Tensor

from tracks.base import Batch, whole_texts
from tracks.batches.base import Batches
from tracks.batches.problems import drawn_windows
from tracks.text import TRAINING


class TextBatches(Batches):
    """Windows of the training part, which can start at any token."""

    @cached_property
    def text(self) -> Tensor:
        """The tokens of the training part, (n,), from prompts side by side: a control may have changed the ids."""
        track, context = self.track, self.track.prompt_length
        last = track.num_places(TRAINING) - 1
        tiles = track.prompts(track.places(TRAINING, torch.arange(0, last + 1, context))).flatten()
        end = track.places(TRAINING, torch.tensor(last))
        rest = torch.cat([track.prompts(end), track.answers(end)])[len(tiles) - last - context - 1 :]
        return torch.cat([tiles, rest]).to(self.device)

    def draw(
        self, num_batches: int, batch_size: int, generator: torch.Generator, replayed: Tensor, share: float
    ) -> Batch:
        """Draw windows; nothing is replayed."""
        return drawn_windows(self.text, (num_batches, batch_size), self.training_length, generator)

    def batch(self, problems: Tensor, loss_on: str = "answer") -> Batch:
        return whole_texts(torch.cat([self.track.prompts(problems), self.track.answers(problems)], -1))

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        places = self.track.num_places(TRAINING)
        starts = torch.randint(places, (count,), generator=generator, device=self.device).unique()
        problems: Tensor = self.track.places(TRAINING, starts)
        return problems
