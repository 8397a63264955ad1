"""Models for the certificate: of a few lines of Python, or those of the trainer as the judge computes them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.judge.forward import Model
from data import Track, decode
from model import Transformer


class FakeModel:
    """A model whose logits spell `answer(prompt)`, and are 0 for every other token."""

    batch_tokens = 100_000

    def __init__(self, track: Track, answer: Callable[[str], str], size: float = 4.0) -> None:
        """`size` is the logit of the token that is spelled."""
        self.track, self.answer, self.size = track, answer, size

    def logits(self, ids: Tensor, query_start: int = 0, positions: Tensor | None = None) -> Tensor:
        """Map ids (B, T) to the logits (B, T - query_start, V); the prompt ends at `query_start`."""
        vocabulary = self.track.vocabulary
        logits = torch.zeros(len(ids), ids.size(1) - query_start, len(vocabulary))
        for row, text in enumerate(decode(self.track, each) for each in ids.tolist()):
            answer = self.answer(text[: query_start + 1])
            for place in range(logits.size(1)):
                logits[row, place, vocabulary.index(answer[min(place, len(answer) - 1)])] = self.size
        return logits

    def next_logits(self) -> Callable[[Tensor], Tensor]:
        start = self.track.prompt_length - 1
        return lambda ids: self.logits(ids, start)[:, -1]


class Stepwise:
    """A model that is a function from ids (B, T) to the logits (B, V) of the next token."""

    batch_tokens = 100_000

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def logits(self, ids: Tensor, query_start: int = 0, positions: Tensor | None = None) -> Tensor:
        return torch.stack([self.function(ids[:, : end + 1]) for end in range(query_start, ids.size(1))], 1)

    def next_logits(self) -> Callable[[Tensor], Tensor]:
        return self.function


def judged_models(model: Transformer) -> Callable[[torch.dtype], Any]:
    """The judge's models with the weights of a trainer's."""
    config = dataclasses.asdict(model.config)
    weights = {name: weight.detach() for name, weight in model.state_dict().items()}
    return lambda dtype: Model(config, weights, dtype)
