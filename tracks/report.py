"""Three-digit addition as a published report posed it: a stream of lines, with a split of its own.

The report, "Arithmetic Training Speedrun: Final Report", trained nanoGPT on the text of 240,000 lines.
"""

import random
from functools import cached_property

import torch
from torch import Tensor

from tracks.addition import Addition, carry_counts, sample80
from tracks.sampling import ListSampler
from tracks.vocabulary import Renumbering

LINES_PER_CARRY = 60_000  # for each carry count, 0 to 3
TRAINING_SHARE = 0.9  # of the lines
OPERANDS = range(100, 1000)


class Report:
    """`ABC+DEF=GHIJ` and a line's end: operands 100..999, most significant digit first, 810,000 problems.

    The text has 60,000 lines for each carry count, drawn with replacement, in a random order that is always the same.
    Its first nine tenths, 216,000 lines of 13 characters, are the 2,808,000 training characters that the report tells
    of; the rest, which it validated on, trains nothing. A training text is a window of 16 characters and the one that
    follows; it begins anywhere in a line.

    The report split by line, so that many of the problems in its last tenth are training problems too. Held out here
    is what is in no training line, whether the last tenth has it or not: some three quarters of all problems. The group
    `last tenth` are those of them that it has.
    """

    name = "add3-report"
    vocabulary = "\n+0123456789="  # in the order in which nanoGPT numbers characters
    separator = "\n"
    is_stream = True
    exhaustive = True
    num_problems = len(OPERANDS) ** 2
    prompt_length, answer_length, block_size = 8, 4, 16
    problem_width = 6

    def __init__(self) -> None:
        self.plain = Addition(3)
        self.renumbering = Renumbering(Addition.vocabulary, self.vocabulary)

    # -------------------------------------------------------------------------
    # as characters

    def tokens(self, problems: Tensor) -> Tensor:
        """Problems (..., 6) uint8 to token ids (..., 12) uint8, on the same device, without the line's end."""
        return self.renumbering.there(self.plain.tokens(problems))

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (N, 8) uint8 to problems (N, 6) uint8, and whether each was a prompt of this track (N,)."""
        problems, valid = self.plain.problems(self.renumbering.back(prompts))
        valid &= (problems[:, 0] > 0) & (problems[:, 3] > 0)
        return problems * valid[:, None], valid

    @property
    def example(self) -> Tensor:
        return self.plain.example

    def sentence(self, problem: Tensor, answer: str) -> str:
        """A mistake in words; `problem` is one row (6,), `answer` what was written."""
        return self.plain.sentence(problem, answer)

    # -------------------------------------------------------------------------
    # the text

    @cached_property
    def rows(self) -> Tensor:
        """All problems in ascending order, (810,000, 6) uint8."""
        digits = [range(low, 10) for low in (1, 0, 0, 1, 0, 0)]
        return torch.cartesian_prod(*(torch.tensor(each, dtype=torch.uint8) for each in digits))

    def number(self, problems: Tensor) -> Tensor:
        """Where problems (..., 6) uint8 stand among all, (...,) int64."""
        number = self.plain.number(problems)
        return (number // 1000 - OPERANDS.start) * len(OPERANDS) + number % 1000 - OPERANDS.start

    @cached_property
    def text(self) -> Tensor:
        """The numbers of the problems in the text's lines, (240,000,) int64.

        As the report's script drew them: operands by Python's `random` from the seed 42, line after line; dropped is
        what carries as often as enough lines do already; then shuffled.
        """
        draw, lines = random.Random(42), []
        carries = carry_counts(self.rows.unbind(-1)).numpy().tobytes()
        left = [LINES_PER_CARRY] * 4
        while any(left):
            first, second = draw.randint(100, 999), draw.randint(100, 999)
            number = (first - 100) * len(OPERANDS) + second - 100
            if left[carries[number]]:
                left[carries[number]] -= 1
                lines.append(number)
        draw.shuffle(lines)
        return torch.tensor(lines)

    @property
    def training_numbers(self) -> Tensor:
        """The numbers of the problems in the training lines, (216,000,) int64."""
        return self.text[: int(TRAINING_SHARE * len(self.text))]

    @property
    def lines(self) -> Tensor:
        """The problems of the training lines, in order, (216,000, 6) uint8."""
        return self.rows[self.training_numbers]

    # -------------------------------------------------------------------------
    # what is held out

    @cached_property
    def heldout(self) -> Tensor:
        """`is_heldout` of `rows`, (810,000,) bool."""
        heldout = torch.ones(self.num_problems, dtype=torch.bool)
        heldout[self.training_numbers] = False
        return heldout

    def is_heldout(self, problems: Tensor) -> Tensor:
        """Whether problems (N, 6) uint8 are in no line of the training text, (N,) bool, on the same device."""
        return self.heldout.to(problems.device)[self.number(problems)]

    def is_training(self, rows: Tensor) -> Tensor:
        """Whether rows (N, 6) of any digits are problems of the training text, (N,) bool, on the same device."""
        return (rows[:, 0] > 0) & (rows[:, 3] > 0) & ~self.is_heldout(rows)

    @property
    def num_heldout(self) -> int:
        return int(self.heldout.sum())

    @property
    def sets(self) -> dict[str, Tensor]:
        """`train` and `heldout`: all such problems in ascending order, (n, 6) uint8."""
        return {"train": self.rows[~self.heldout], "heldout": self.rows[self.heldout]}

    # -------------------------------------------------------------------------
    # what is asked

    def exam(self, seed: int) -> Tensor:
        """All problems, (810,000, 6) uint8 on the CPU."""
        return self.rows

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        """Which of the problems (N, 6) are counted apart, by carry count and of the last tenth: name to (N,) bool."""
        carries = carry_counts(problems.unbind(-1))
        in_last_tenth = torch.zeros(self.num_problems, dtype=torch.bool)
        in_last_tenth[self.text[len(self.training_numbers) :]] = True
        last_tenth = (in_last_tenth & self.heldout).to(problems.device)[self.number(problems)]
        return {f"carry {count}": carries == count for count in range(4)} | {"last tenth": last_tenth}

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """`sample80`: the 80 problems that the report checked, (80, 6) uint8."""
        return {"sample80": sample80()}

    def sampler(self, level_share: float, device: torch.device) -> ListSampler:
        """The training problems, each as often as any other; there are no levels. Training draws windows instead."""
        return ListSampler(self.rows[~self.heldout], self.is_training, device)
