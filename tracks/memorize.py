"""One text to learn by heart, which tests a trainer: the loss must fall to zero."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tracks.base import AnswerTrack, Batch, DecodedProblems, Decoding
from tracks.description import TrackDescription

MAX_LOSS = 1e-3  # of a solved track, nats a character
BOS, EOS = 0, 1  # token ids


class Memorize(AnswerTrack):
    """A text after BOS and before EOS; the prompt is BOS, and the first characters if they have no loss.

    There is one problem, the row (0,).
    """

    problem_width = 1
    limits: Mapping[str, float] = {"loss": MAX_LOSS}

    def __init__(self, description: TrackDescription, text: str) -> None:
        super().__init__(description)
        ids = [description.vocabulary.index(character) for character in text]
        dtype = torch.uint8 if len(description.vocabulary) <= 256 else torch.int32
        self.data = text.encode()
        self.text = torch.tensor([BOS, *ids, EOS], dtype=dtype)

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.answer_length, stop_token=EOS)

    def prompts(self, problems: Tensor) -> Tensor:
        prompt = self.text[: self.prompt_length].to(problems.device)
        return prompt.expand(*problems.shape[:-1], -1)

    def answers(self, problems: Tensor) -> Tensor:
        answer = self.text[self.prompt_length :].to(problems.device)
        return answer.expand(*problems.shape[:-1], -1)

    def encode_prompt(self, text: str) -> list[int]:
        return self.prompts(self.rows[0]).tolist() if text == self.description.example_prompt else []

    def sentence(self, problem: Tensor, answer: str) -> str:
        return f"{self.description.example_prompt!r}: got {answer!r}, expected {self.description.example_answer!r}"

    @property
    def rows(self) -> Tensor:
        """The only problem, (1, 1) int64."""
        return torch.zeros(1, 1, dtype=torch.int64)

    def number(self, problems: Tensor) -> Tensor:
        return problems[..., 0]

    @property
    def sets(self) -> dict[str, Tensor]:
        return {"train": self.rows, "heldout": self.rows[:0]}

    def test_set(self, seed: int) -> Tensor:
        return self.rows

    def is_heldout(self, problems: Tensor) -> Tensor:
        return torch.zeros(len(problems), dtype=torch.bool, device=problems.device)

    def measures(self, results: DecodedProblems, loss: Callable[[Batch], float | None]) -> dict[str, float | None]:
        """Return the mean loss of the characters after the prompt, nats."""
        mask = torch.arange(len(self.text) - 1) >= self.prompt_length - 1
        return {"loss": loss(Batch(self.text[None, :-1], self.text[None, 1:], mask[None]))}
