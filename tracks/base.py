"""The interface between the tracks, the trainer and the harness."""

from typing import Protocol

import torch
from torch import Tensor


class Track(Protocol):
    """A task with a target.

    A problem is a row of `problem_width` uint8; only the track knows what the values mean. The text of a problem is a
    prompt followed by its answer; all texts of a track have the same length. Most tracks train on such texts. A stream
    trains on windows that start anywhere in one long text. The harness always prompts the model from position 0.
    """

    name: str
    vocabulary: str  # character i has token id i
    prompt_length: int  # characters given to the model
    answer_length: int  # characters that the model must produce
    block_size: int  # positions of the model: the length of a training text less one
    is_stream: bool
    separator: str  # streams only: the character after each problem
    problem_width: int  # W, the length of a problem's row
    num_problems: int  # size of the whole problem space
    num_heldout: int  # held-out problems among them; the expected number if they cannot be counted
    exhaustive: bool  # whether the test set is the whole problem space
    example: Tensor  # (W,) uint8, a problem for display
    samples: dict[str, Tensor]  # name -> (n, W) uint8, problems counted in addition to the test set
    sets: dict[str, Tensor]  # `train` and `heldout`, (n, W) uint8: complete, or fixed samples of both

    @property
    def lines(self) -> Tensor:
        """Streams only: the problems of the training text in order, (n, W) uint8, each followed by `separator`."""

    def tokens(self, problems: Tensor) -> Tensor:
        """Map problems (..., W) uint8 to token ids (..., prompt_length + answer_length) uint8 on the same device."""

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Map prompts (N, prompt_length) uint8 to problems (N, W) uint8 and their validity (N,) bool.

        The row of an invalid prompt is zeros.
        """

    def is_heldout(self, problems: Tensor) -> Tensor:
        """Return which problems (N, W) uint8 must never be in a training batch, (N,) bool on the same device."""

    def test_set(self, seed: int) -> Tensor:
        """Return the problems of the certificate, (N, W) uint8 on the CPU.

        All problems in ascending order if `exhaustive`, else held-out problems drawn from `seed`.
        """

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        """Map the name of each group that the certificate counts to its members among problems (N, W), (N,) bool."""

    def number(self, problems: Tensor) -> Tensor:
        """Return the positions of problems (..., W) uint8 in an exhaustive test set, (...,) int64."""

    def sampler(self, level_share: float, device: torch.device) -> "Sampler":
        """Return a sampler of training problems on `device`.

        `level_share` (0..1) of the problems are spread evenly over the track's levels of difficulty.
        """

    def sentence(self, problem: Tensor, answer: str) -> str:
        """Describe an error; `problem` is one row (W,) uint8, `answer` the characters that the model produced."""


class Sampler(Protocol):
    """Draws training problems with replacement on its device; it never returns a held-out problem."""

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw problems (num_batches, batch_size, W) uint8; the generator is on the sampler's device."""

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` problems and drop repetitions: (N, W) uint8 with N <= count."""

    def nearby(self, problems: Tensor) -> Tensor:
        """Return problems (N, W) uint8 and all training problems one change away, (M, W), without repetitions."""
