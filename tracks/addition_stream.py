"""Three-digit addition as a stream of lines, with the data set of a published report.

The report, "Arithmetic Training Speedrun: Final Report", trained nanoGPT on a text of 240,000 lines.
"""

import random
from functools import cached_property

import torch
from torch import Tensor

from tracks.addition import Addition, carry_counts
from tracks.descriptions import TRACKS, TrackDescription
from tracks.tokenizer import TokenMap

LINES_PER_CARRY = 60_000  # for each carry count, 0 to 3
TRAINING_SHARE = 0.9  # of the lines
OPERANDS = range(100, 1000)
SEPARATOR = "\n"  # after each line


class AdditionStream(Addition):
    """`ABC+DEF=GHIJ` and a line break: operands 100..999, most significant digit first, 810,000 problems.

    The text has 60,000 lines for each carry count, drawn with replacement, in a fixed random order. The first nine
    tenths, 216,000 lines of 13 characters, are the 2,808,000 training characters of the report. The last tenth, its
    validation set, is not trained on. A training text is a window of 17 characters that starts anywhere in a line.

    The report split by line, so that many problems of the last tenth are training problems too. Here a problem is held
    out if no training line contains it; these are about three quarters of all problems. The group `last tenth` is the
    held-out problems that the last tenth contains.
    """

    def __init__(self, description: TrackDescription, digits: int, reverse: bool) -> None:
        super().__init__(description, digits, reverse)
        self.token_map = TokenMap(TRACKS["add3"].vocabulary, self.vocabulary)

    def prompts(self, problems: Tensor) -> Tensor:
        """Map problems (..., 6) uint8 to the ids of their prompts (..., 8) uint8."""
        return self.token_map.to_target(super().prompts(problems))

    def answers(self, problems: Tensor) -> Tensor:
        """Map problems (..., 6) uint8 to the ids of their answers (..., 4) uint8, without the line break."""
        return self.token_map.to_target(super().answers(problems))

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Map prompts (N, 8) uint8 to problems (N, 6) uint8 and their validity (N,) bool."""
        problems, valid = super().problems(self.token_map.to_source(prompts))
        valid &= (problems[:, 0] > 0) & (problems[:, 3] > 0)
        return problems * valid[:, None], valid

    @cached_property
    def rows(self) -> Tensor:
        """All problems in ascending order, (810,000, 6) uint8."""
        return torch.cartesian_prod(*(torch.arange(low, 10, dtype=torch.uint8) for low in (1, 0, 0, 1, 0, 0)))

    def number(self, problems: Tensor) -> Tensor:
        """Return the positions of problems (..., 6) uint8 in `rows`, (...,) int64."""
        number = super().number(problems)
        return (number // 1000 - OPERANDS.start) * len(OPERANDS) + number % 1000 - OPERANDS.start

    @cached_property
    def text(self) -> Tensor:
        """The numbers of the problems in the lines of the text, (240,000,) int64.

        The report's script draws operands with Python's `random` and seed 42, rejects a problem when its carry count
        has enough lines, and shuffles the lines.
        """
        generator, lines = random.Random(42), []
        carries = carry_counts(self.rows.unbind(-1)).numpy().tobytes()
        left = [LINES_PER_CARRY] * 4
        while any(left):
            a, b = generator.randint(100, 999), generator.randint(100, 999)
            number = (a - 100) * len(OPERANDS) + b - 100
            if left[carries[number]]:
                left[carries[number]] -= 1
                lines.append(number)
        generator.shuffle(lines)
        return torch.tensor(lines)

    @property
    def training_numbers(self) -> Tensor:
        """The numbers of the problems in the training lines, (216,000,) int64."""
        return self.text[: int(TRAINING_SHARE * len(self.text))]

    @property
    def lines(self) -> Tensor:
        """The problems of the training lines, in order, (216,000, 6) uint8."""
        return self.rows[self.training_numbers]

    @cached_property
    def heldout(self) -> Tensor:
        """Which problems no training line contains, (810,000,) bool."""
        heldout = torch.ones(self.num_problems, dtype=torch.bool)
        heldout[self.training_numbers] = False
        return heldout

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        """Map each carry count, and `last tenth`, to its members among problems (N, 6), (N,) bool."""
        carries = carry_counts(problems.unbind(-1))
        in_last_tenth = torch.zeros(self.num_problems, dtype=torch.bool)
        in_last_tenth[self.text[len(self.training_numbers) :]] = True
        last_tenth = (in_last_tenth & self.heldout).to(problems.device)[self.number(problems)]
        return {f"carry {count}": carries == count for count in range(4)} | {"last tenth": last_tenth}
