"""Arithmetic modulo a prime (Power et al., Grokking, 2022): `a o b = c` with one token a number, or characters."""

from functools import cached_property

import torch
from torch import Tensor

from tracks.base import PADDING, AnswerTrack, Decoding
from tracks.description import TrackDescription
from tracks.hashing import hash_fraction
from tracks.padding import left_aligned


class Modular(AnswerTrack):
    """All pairs of numbers below p, with one token a number: `93/5=38` is five tokens.

    A pair is assigned to a set by a hash of its two numbers: `h = splitmix64(splitmix64(a) xor b)`, as a fraction of
    2**64. Below `training_share` it trains, below `training_share + validation_share` it validates, else it is a test
    pair. The certificate decodes all test pairs, and counts the other two sets beside them.
    """

    problem_width = 2

    def __init__(
        self, description: TrackDescription, sign: str, p: int, training_share: float, validation_share: float
    ) -> None:
        super().__init__(description)
        self.sign, self.p = sign, p
        self.shares = {"train": training_share, "validation": validation_share}

    # -------------------------------------------------------------------------
    # text

    def results(self, problems: Tensor) -> Tensor:
        """Map problems (..., 2) int64 to their results (...,) int64."""
        a, b = problems.unbind(-1)
        match self.sign:
            case "+":
                return (a + b) % self.p
            case "-":
                return (a - b) % self.p
            case _:  # by the inverse, from Fermat's little theorem
                return a * self.inverses.to(b.device)[b] % self.p

    @cached_property
    def inverses(self) -> Tensor:
        """The inverse of each number modulo p, (p,) int64; 0 for 0."""
        return torch.tensor([pow(number, self.p - 2, self.p) for number in range(self.p)])

    def prompts(self, problems: Tensor) -> Tensor:
        a, b = problems.unbind(-1)
        sign, equals = (torch.full_like(a, self.vocabulary.index(token)) for token in (self.sign, "="))
        return torch.stack([a, sign, b, equals], -1)

    def answers(self, problems: Tensor) -> Tensor:
        return self.results(problems)[..., None]

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt such as `12/5=`; empty if it is not one of this track."""
        a, sign, b = text.removesuffix("=").partition(self.sign)
        numbers = [int(number) if number.isdecimal() and number.isascii() else self.p for number in (a, b)]
        is_problem = sign and text.endswith("=") and max(numbers) < self.p and (numbers[1] or self.sign != "/")
        if not is_problem or text != f"{numbers[0]}{self.sign}{numbers[1]}=":
            return []
        ids: list[int] = self.prompts(torch.tensor(numbers)).tolist()
        return ids

    def sentence(self, problem: Tensor, answer: str) -> str:
        a, b = problem.tolist()
        return f"{a} {self.sign} {b} modulo {self.p}: got {answer or 'nothing'}, expected {int(self.results(problem))}"

    # -------------------------------------------------------------------------
    # which problems

    @cached_property
    def rows(self) -> Tensor:
        """All problems in ascending order, (num_problems, 2) int64; there is no division by 0."""
        numbers = torch.arange(self.p)
        return torch.cartesian_prod(numbers, numbers[self.sign == "/" :])

    def number(self, problems: Tensor) -> Tensor:
        """Return the positions of problems (..., 2) in `rows`, (...,) int64."""
        a, b = problems.unbind(-1)
        return a * (self.p - 1) + b - 1 if self.sign == "/" else a * self.p + b

    def split(self, problems: Tensor) -> Tensor:
        """Return 0 for training, 1 for validation and 2 for test problems (N, 2), (N,) int64."""
        bounds = torch.tensor([self.shares["train"], sum(self.shares.values())], device=problems.device)
        return torch.bucketize(hash_fraction(problems.unbind(-1)), bounds.double(), right=True)

    @cached_property
    def sets(self) -> dict[str, Tensor]:
        split = self.split(self.rows)
        return {name: self.rows[split == index] for index, name in enumerate(("train", "validation", "heldout"))}

    @property
    def validation(self) -> Tensor:
        return self.sets["validation"]

    @property
    def samples(self) -> dict[str, Tensor]:
        return {name: self.sets[name] for name in ("train", "validation")}

    def test_set(self, seed: int) -> Tensor:
        return self.sets["heldout"]

    def is_heldout(self, problems: Tensor) -> Tensor:
        return self.split(problems) == 2


class ModularCharacters(Modular):
    """The same with one token a character; a result ends with `;`: `93/5=38;`. Texts have different lengths."""

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.answer_length, stop_token=self.vocabulary.index(";"))

    @cached_property
    def numbers(self) -> Tensor:
        """The digits of each number below p, (p, digits) int64, after which PADDING follows."""
        digits = len(str(self.p - 1))
        rows = [[int(digit) for digit in str(number)] for number in range(self.p)]
        return torch.tensor([row + [PADDING] * (digits - len(row)) for row in rows])

    def prompts(self, problems: Tensor) -> Tensor:
        numbers = self.numbers.to(problems.device)
        (a, b), signs = problems.unbind(-1), numbers.new_tensor([self.vocabulary.index(self.sign)])
        equals = numbers.new_tensor([self.vocabulary.index("=")])
        return left_aligned([numbers[a], signs.expand(*a.shape, 1), numbers[b], equals.expand(*a.shape, 1)])

    def answers(self, problems: Tensor) -> Tensor:
        results = self.numbers.to(problems.device)[self.results(problems)]
        stop = results.new_tensor([self.vocabulary.index(";")])
        return left_aligned([results, stop.expand(*results.shape[:-1], 1)])

    def encode_prompt(self, text: str) -> list[int]:
        return [self.vocabulary.index(character) for character in text] if super().encode_prompt(text) else []
