"""Training texts of the track of words."""

from functools import cached_property

import torch
from torch import Tensor

from tracks.base import PADDING, Batch, chunk_rows, whole_texts
from tracks.batches.problems import ProblemBatches, drawn_windows
from tracks.describe_words import NUM_WORDS
from tracks.tokenizer import encode
from tracks.words import Words

SHORTEST_PROMPT = NUM_WORDS * (4 + 2)  # tokens


class WordBatches(ProblemBatches):
    """Texts of four words, followed by line breaks up to one length, or windows of a long text.

    Texts start with a word, so that the position of a token tells where in a word it can be.
    """

    @cached_property
    def sampler(self) -> "WordSampler":
        return WordSampler(self.track, self.device)

    @cached_property
    def text(self) -> Tensor:
        """The text whose windows train, (characters,) uint8 ids."""
        return torch.tensor(encode(self.track, self.track.text), dtype=torch.uint8, device=self.device)

    @property
    def answer_start(self) -> int:
        return SHORTEST_PROMPT - 1

    def draw(
        self, num_batches: int, batch_size: int, generator: torch.Generator, replayed: Tensor, share: float
    ) -> Batch:
        if self.options.window:
            return drawn_windows(self.text, (num_batches, batch_size), self.options.window + 1, generator)
        problems = self.sampler.draw(num_batches, batch_size, generator)
        parts = problems.flatten(0, 1).split(chunk_rows(self.device))  # of few rows, which need little memory
        return whole_texts(torch.cat([self.track.tokens(part) for part in parts]).view(num_batches, batch_size, -1))

    def batch(self, problems: Tensor, loss_on: str = "answer") -> Batch:
        """The loss is on the fourth word and its END, or on all words."""
        texts, parts = self.track.tokens(problems), (self.track.prompts(problems), self.track.answers(problems))
        prompt_length, answer_length = ((part != PADDING).sum(-1, keepdim=True) for part in parts)
        place = torch.arange(1, texts.size(-1), device=texts.device)  # of the targets
        is_target = place < prompt_length + answer_length
        if loss_on == "answer":
            is_target &= place >= prompt_length
        return whole_texts(texts)._replace(loss_mask=is_target)


class WordSampler:
    """Draws training problems by the rule."""

    def __init__(self, track: Words, device: torch.device) -> None:
        self.track, self.device = track, device

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        rows = self.track.draw(self.track.is_training, num_batches * batch_size, generator)
        return rows.view(num_batches, batch_size, -1)

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        return self.draw(1, count, generator)[0].unique(dim=0)
