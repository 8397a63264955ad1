"""Addition as a text of lines, `13 + 29 = 42;`, after a published training log."""

import re
from functools import cached_property

import torch
from torch import Tensor

from tracks.addition import Addition
from tracks.base import PADDING, AnswerTrack, DecodedProblems, Decoding
from tracks.describe_lines import LARGEST_OPERAND
from tracks.descriptions import TRACKS
from tracks.hashing import hash_columns, shift_right
from tracks.padding import left_aligned

FIXED_LINES, FIXED_SEED = 8_000, 3  # of the text of which windows are training texts
NUMBERS = LARGEST_OPERAND + 1
OPERAND = "(?:0|[1-9][0-9]?|100)"
PROMPT = re.compile(rf"(?:{OPERAND} \+ {OPERAND} = (?:0|[1-9][0-9]*);\n)*{OPERAND} \+ {OPERAND} = ")


class AddText(AnswerTrack):
    """`13 + 29 = 42;` and a line break: operands 0..100, without leading zeros.

    A problem is the row (a, b, 0) of a line that stands alone, or (a, b, 1) of one after an earlier line. That line is
    a training line, chosen by a hash of the pair. A completion is right if it is the sum and `;`, which ends it; the
    line break is not asked for. A pair is held out by the rule of three-digit addition, applied to its operands with
    zeros in front.
    """

    problem_width = 3
    reads_completions = True
    shortest_prompt = len("0 + 0 = ")

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.answer_length, stop_token=self.vocabulary.index(";"))

    # -------------------------------------------------------------------------
    # text

    @cached_property
    def numbers(self) -> Tensor:
        """The digits of each number up to 200, (201, 3) int8, after which PADDING follows."""
        texts = [str(number).ljust(3) for number in range(2 * LARGEST_OPERAND + 1)]
        ids = [[PADDING if digit == " " else int(digit) for digit in text] for text in texts]
        return torch.tensor(ids, dtype=torch.int8)

    @cached_property
    def questions(self) -> Tensor:
        """The ids of `a + b = ` for each pair, (10,201, 12) int8, after which PADDING follows."""
        a, b = self.pairs.unbind(-1)
        plus, equals = (
            self.numbers.new_tensor([self.vocabulary.index(character) for character in text]).expand(len(a), -1)
            for text in (" + ", " = ")
        )
        return left_aligned([self.numbers[a], plus, self.numbers[b], equals])

    @cached_property
    def prompt_table(self) -> Tensor:
        """The ids of the prompts of all problems, (num_problems, 29) int8, after which PADDING follows."""
        earlier = self.earlier
        sums = self.numbers[self.pairs[earlier].sum(-1)]
        ends = sums.new_tensor([self.vocabulary.index(character) for character in ";\n"]).expand(len(earlier), -1)
        after = left_aligned([self.questions[earlier], sums, ends, self.questions])
        alone = torch.nn.functional.pad(self.questions, (0, after.size(1) - self.questions.size(1)), value=PADDING)
        return torch.stack([alone, after], 1).flatten(0, 1)

    def prompts(self, problems: Tensor) -> Tensor:
        return self.prompt_table.to(problems.device)[self.number(problems)]

    def answers(self, problems: Tensor) -> Tensor:
        sums = self.numbers.to(problems.device)[problems[..., 0] + problems[..., 1]]
        stop = sums.new_full((*sums.shape[:-1], 1), self.vocabulary.index(";"))
        return left_aligned([sums, stop])

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt such as `13 + 29 = `, alone or after lines that fit into the longest prompt."""
        is_problem = PROMPT.fullmatch(text) and len(text) <= self.prompt_length
        return [self.vocabulary.index(character) for character in text] if is_problem else []

    def sentence(self, problem: Tensor, answer: str) -> str:
        a, b, is_after = problem.tolist()
        earlier = ""
        if is_after:
            c, d = self.pairs[self.earlier[a * NUMBERS + b]].tolist()
            earlier = f" after {c} + {d}"
        got = answer if answer.isdecimal() else repr(answer) if answer else "nothing"
        return f"{a} + {b}{earlier}: got {got}, expected {a + b}"

    # -------------------------------------------------------------------------
    # which problems

    @cached_property
    def pairs(self) -> Tensor:
        """All pairs of operands in ascending order, (10,201, 2) int64."""
        return torch.cartesian_prod(*[torch.arange(NUMBERS)] * 2)

    @cached_property
    def heldout_pairs(self) -> Tensor:
        """Which pairs are held out, (10,201) bool."""
        rule = Addition(TRACKS["add3"], digits=3, reverse=False).is_heldout_by_rule
        digits = [self.pairs // place % 10 for place in (100, 10, 1)]  # (10,201, 2) each
        return rule(torch.stack(digits, -1).flatten(1).to(torch.uint8))

    @cached_property
    def training_pairs(self) -> Tensor:
        """The positions in `pairs` of those that train, (9,181,) int64."""
        return (~self.heldout_pairs).nonzero()[:, 0]

    @cached_property
    def earlier(self) -> Tensor:
        """The position in `pairs` of the line before each pair, (10,201,) int64: a training pair, by a hash."""
        index = shift_right(hash_columns(self.pairs.unbind(-1)), 1) % len(self.training_pairs)
        return self.training_pairs[index]

    @cached_property
    def rows(self) -> Tensor:
        """All problems in ascending order, (20,402, 3) int64."""
        return torch.cartesian_prod(torch.arange(NUMBERS), torch.arange(NUMBERS), torch.arange(2))

    def number(self, problems: Tensor) -> Tensor:
        a, b, is_after = problems.unbind(-1)
        return (a * NUMBERS + b) * 2 + is_after

    @cached_property
    def sets(self) -> dict[str, Tensor]:
        is_heldout = self.is_heldout(self.rows)
        return {"train": self.rows[~is_heldout], "heldout": self.rows[is_heldout]}

    def test_set(self, seed: int) -> Tensor:
        return self.rows

    def is_heldout(self, problems: Tensor) -> Tensor:
        return self.heldout_pairs.to(problems.device)[problems[:, 0] * NUMBERS + problems[:, 1]]

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        is_after = problems[:, 2] == 1
        return {"after a line": is_after, "alone": ~is_after}

    def named_targets(self, results: DecodedProblems) -> dict[str, bool]:
        """Return whether every completion has the form of a sum, digits and `;`: the published log's own target."""
        completions = results.completions
        is_digit, is_stop = completions <= 9, completions == self.vocabulary.index(";")
        has_form = is_digit[:, 0] & is_stop.any(1) & (is_digit | is_stop).all(1)  # PADDING is below 9
        return {"form": bool((has_form & (completions[:, 0] != PADDING)).all())}
