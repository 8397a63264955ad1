"""The interface between the trainer and what makes the training batches of a track."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from tracks.base import Batch
from tracks.description import BatchOptions


class Batches(ABC):
    """Makes the training batches of a track, on one device. It never returns a held-out problem."""

    # Whether the texts of many steps are drawn in several parts, because they take much memory while they are drawn.
    draws_parts = False

    def __init__(self, track: Any, options: BatchOptions, device: torch.device) -> None:
        """`track` is as built by `data.get_track`, possibly changed by a control; no problem of it is read yet."""
        self.track, self.options, self.device = track, options, device

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of `Batch`, beside `tokens`, that the batches of a training run have unless they are uniform."""
        return ("targets", "loss_mask", "positions")

    @property
    def is_uniform(self) -> bool:
        """Whether all texts have one length, tokens from left to right, and a target from `query_start` on."""
        description = self.track.description
        return bool(description.is_one_length or description.has_uniform_texts or self.options.window)

    @property
    def training_length(self) -> int:
        """The number of tokens T + 1 of the longest training text."""
        return self.options.window + 1 if self.options.window else self.text_length

    @property
    def text_length(self) -> int:
        """The number of tokens of the longest prompt with its answer."""
        length: int = self.track.prompt_length + self.track.answer_length
        return length

    @property
    def query_start(self) -> int:
        """The first position of a batch that has a target."""
        return 0 if self.options.loss_on == "all" else self.answer_start

    @property
    def answer_start(self) -> int:
        """The position of a batch at which the first token of an answer is predicted."""
        return self.track.prompt_length - 1

    @abstractmethod
    def draw(
        self, num_batches: int, batch_size: int, generator: torch.Generator, replayed: Tensor, share: float
    ) -> Batch:
        """Draw the batches of several steps, (num_batches, batch_size, T); the generator is on the same device.

        A `share` (0..1) of each batch is drawn from the problems `replayed` (n, W), unless n is 0.
        """

    @abstractmethod
    def batch(self, problems: Tensor, loss_on: str = "answer") -> Batch:
        """Return the texts of problems (..., W) as a batch (..., T), with targets as by the setting `loss_on`."""

    @abstractmethod
    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` training problems and drop repetitions: (N, W) with N <= count."""

    def nearby(self, problems: Tensor) -> Tensor:
        """Return problems (N, W) and all training problems one change away, (M, W), without repetitions."""
        return problems
