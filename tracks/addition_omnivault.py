"""Two-digit addition with the texts and the split of a published trainer, omnivault's adder."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tracks.addition import Addition
from tracks.base import AnswerTrack, Decoding
from tracks.descriptions import TRACKS, TrackDescription
from tracks.tokenizer import TokenMap

SIZES = {"train": 7000, "validation": 2000, "heldout": 1000}
SPLIT_SEED = 42


class AdditionOmnivault(AnswerTrack):
    """`<BOS>13+48=061<EOS>`: 11 tokens of a vocabulary of 18.

    The 10,000 problems are split at random, the same for every run: 7,000 train, 2,000 are validated, 1,000 are tested.
    The certificate decodes all of them; held out are the 1,000.
    """

    problem_width = 4

    def __init__(self, description: TrackDescription) -> None:
        super().__init__(description)
        plain = TRACKS["add2"]
        self.plain = Addition(plain, **plain.parameters)
        self.token_map = TokenMap(plain.vocabulary, description.vocabulary)
        self.bos, self.eos = (description.vocabulary.index(token) for token in ("<BOS>", "<EOS>"))

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.answer_length, stop_token=self.eos)

    def prompts(self, problems: Tensor) -> Tensor:
        prompts = self.token_map.to_target(self.plain.prompts(problems))
        return torch.cat([torch.full_like(prompts[..., :1], self.bos), prompts], -1)

    def answers(self, problems: Tensor) -> Tensor:
        answers = self.token_map.to_target(self.plain.answers(problems))
        return torch.cat([answers, torch.full_like(answers[..., :1], self.eos)], -1)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt such as `13+48=`, after BOS; empty if it is not one of this track."""
        prompt = self.plain.encode_prompts([text])
        if (prompt < 0).any():
            return []
        return [self.bos, *self.token_map.to_target(prompt)[0].tolist()]

    def sentence(self, problem: Tensor, answer: str) -> str:
        return self.plain.sentence(problem, answer)

    @property
    def rows(self) -> Tensor:
        """All problems in ascending order, (10,000, 4) uint8."""
        return self.plain.rows

    def number(self, problems: Tensor) -> Tensor:
        return self.plain.number(problems)

    @cached_property
    def sets(self) -> dict[str, Tensor]:
        order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(self.num_problems))
        parts = order.split(list(SIZES.values()))
        return {name: self.rows[part.sort().values] for name, part in zip(SIZES, parts, strict=True)}

    @property
    def validation(self) -> Tensor:
        return self.sets["validation"]

    @cached_property
    def heldout(self) -> Tensor:
        """Which problems are held out, (10,000,) bool."""
        heldout = torch.zeros(self.num_problems, dtype=torch.bool)
        heldout[self.number(self.sets["heldout"])] = True
        return heldout

    def is_heldout(self, problems: Tensor) -> Tensor:
        return self.heldout.to(problems.device)[self.number(problems)]

    def test_set(self, seed: int) -> Tensor:
        return self.rows
