"""Training batches of tracks whose problems have one right answer each."""

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from tracks.base import PADDING, Batch, whole_texts
from tracks.batches.base import Batches
from tracks.batches.sampling import EpochSampler, ListSampler, Sampler


def drawn_windows(text: Tensor, shape: tuple[int, ...], length: int, generator: torch.Generator) -> Batch:
    """Draw windows (*shape, length) of a text (characters,) that can start at any token of it."""
    starts = torch.randint(len(text) - length + 1, (*shape, 1), generator=generator, device=text.device)
    return whole_texts(text[starts + torch.arange(length, device=text.device)])


class ProblemBatches(Batches):
    """Texts of drawn problems: a prompt and its answer.

    Prompts of different lengths are padded on the left, answers on the right, so that all answers start at the same
    position of the batch.
    """

    @property
    @abstractmethod
    def sampler(self) -> Sampler:
        """Draws training problems; made on first use, because it may read the track's problems."""

    def draw(
        self, num_batches: int, batch_size: int, generator: torch.Generator, replayed: Tensor, share: float
    ) -> Batch:
        problems = self.draw_problems(num_batches, batch_size, generator, replayed, share)
        return self.batch(problems, self.options.loss_on)

    def draw_problems(
        self, num_batches: int, batch_size: int, generator: torch.Generator, replayed: Tensor, share: float
    ) -> Tensor:
        """Draw the problems (num_batches, batch_size, W) of `draw`."""
        num_replayed = 0
        if len(replayed):  # at least one problem of each batch is drawn
            num_replayed = min(round(batch_size * share), batch_size - 1)
        problems = self.sampler.draw(num_batches, batch_size - num_replayed, generator)
        if num_replayed:
            shape = num_batches, num_replayed
            index = torch.randint(len(replayed), shape, generator=generator, device=self.device)
            problems = torch.cat([problems, replayed[index]], 1)
        return problems

    def batch(self, problems: Tensor, loss_on: str = "answer") -> Batch:
        prompts, answers = self.track.prompts(problems), self.track.answers(problems)
        if self.track.description.is_one_length:
            return whole_texts(torch.cat([prompts, answers], -1))
        P = prompts.size(-1)
        lengths = (prompts != PADDING).sum(-1, keepdim=True)  # (..., 1)
        place = torch.arange(P, device=prompts.device) - (P - lengths)  # in the prompt; negative in the padding
        aligned = prompts.gather(-1, place.clamp(min=0))  # (..., P)
        positions = torch.cat([place, lengths + torch.arange(answers.size(-1) - 1, device=prompts.device)], -1)
        texts = torch.cat([aligned, answers], -1)  # (..., T + 1)
        is_target = torch.cat([place >= (P if loss_on == "answer" else 1), answers != PADDING], -1)[..., 1:]
        return Batch(texts[..., :-1].clamp(min=0), texts[..., 1:].clamp(min=0), is_target, positions.clamp(min=PADDING))

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        return self.sampler.draw_distinct(count, generator)


class ListBatches(ProblemBatches):
    """Texts of the problems in the track's training set, drawn uniformly or in epochs."""

    @cached_property
    def sampler(self) -> Sampler:
        return list_sampler(self.track.sets["train"], self.options.sampling, self.device)


def list_sampler(rows: Tensor, sampling: str, device: torch.device) -> ListSampler:
    """Return a sampler of the problems `rows` (n, W), by the setting `sampling`."""
    return (EpochSampler if sampling == "epochs" else ListSampler)(rows, device)
