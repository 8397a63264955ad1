"""Sum equalities `a±b==c±d`, from experiments with random-order autoregressive models: many completions are right."""

import re
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from bench.stats.descriptive import clopper_pearson_upper
from tracks.base import PADDING, Batch, DecodedProblems, Decoding, Track, whole_texts
from tracks.describe_sumeq import LARGEST, LONGEST_LINE, NUMBERS, TEST_PROMPTS, TRAINING_LINES, VALIDATION_PROMPTS
from tracks.description import TrackDescription
from tracks.hashing import hash_fraction
from tracks.padding import left_aligned

PAD = 0  # token id, before and after each line
TEXT_LENGTH = LONGEST_LINE + 2  # tokens
SOURCE_PROMPT = 7  # characters of a line that the source gave as a prompt
DRAWN_LINES = {"train": TRAINING_LINES, "validation": 10_000, "heldout": 200_000}  # in the order of their seeds
LOSS_LINES = 1_024  # test lines of the loss that is shown beside the verdict
BOUND = "invalid, at most (95%)"
PUBLISHED = (0.564, 0.943, 0.956)  # best shares of left to right, alternating and pseudo-random training


class Sumeq(Track):
    """Lines `a±b==c±d` of four integers from -99 to 99, both sides equal, such as `-7+32==41-16`.

    The second number of a side is its sign and its absolute value; zero is `0` as the first number and `+0` as the
    second. Padded numbers are a sign and two digits, `-07+32==+41-16`. A text is 16 tokens: PAD, the characters, and
    PAD to the end. A completion is right if the whole line is written in this way, both sides are equal, and PAD
    follows.

    A problem is the row (a, b, c, d, n): a line and the number of its characters that are the prompt. Training lines
    are the same for every run. Validation and test prompts `a±b==` are left sides of other lines that stand on neither
    side of a training line.
    """

    problem_width = 5
    limits: Mapping[str, float] = {BOUND: 0.01}
    may_have_errors = True
    validation_targets: Mapping[str, float] = {f"validation {share:.1%}": share for share in PUBLISHED}

    def __init__(self, description: TrackDescription, padded: bool) -> None:
        super().__init__(description)
        self.padded = padded

    # -------------------------------------------------------------------------
    # text

    @property
    def second_texts(self) -> list[str]:
        """The numbers from -LARGEST to LARGEST as the second number of a side."""
        return [f"{number:{'+03d' if self.padded else '+d'}}" for number in range(-LARGEST, LARGEST + 1)]

    @property
    def first_texts(self) -> list[str]:
        """The same numbers as the first number of a side."""
        texts = self.second_texts
        return texts if self.padded else [text.removeprefix("+") for text in texts]

    @cached_property
    def sides(self) -> Tensor:
        """The ids of each side, (NUMBERS ** 2, 6) int8, after which PADDING follows; see `side_number`."""
        first, second = (
            torch.tensor([self.ids_of(f"{text:<3}") for text in texts], dtype=torch.int8)
            for texts in (self.first_texts, self.second_texts)
        )
        return left_aligned([first.repeat_interleave(NUMBERS, 0), second.repeat(NUMBERS, 1)])

    def ids_of(self, text: str) -> list[int]:
        """The ids of characters; PADDING for a blank."""
        return [PADDING if character == " " else self.vocabulary.index(character) for character in text]

    def tokens(self, problems: Tensor) -> Tensor:
        """Map problems (..., 5) to the ids of their lines (..., 16)."""
        sides = self.sides.to(problems.device)
        left, right = sides[side_number(problems[..., :2])], sides[side_number(problems[..., 2:4])]
        pad, equals = left.new_tensor([PAD]), left.new_tensor(self.ids_of("=="))
        shape = left.shape[:-1]
        ids = left_aligned([pad.expand(*shape, -1), left, equals.expand(*shape, -1), right, pad.expand(*shape, -1)])
        return ids.where(ids != PADDING, PAD)

    def parts(self, problems: Tensor) -> Tensor:
        """Number the parts of lines (..., 16): 0 the first PAD, 1, 2, 4, 5 the numbers in text order, 3 ==, 6 PAD."""
        first, second = (
            torch.tensor([*map(len, texts)], device=problems.device) for texts in (self.first_texts, self.second_texts)
        )
        a, b, c, d = (problems[..., :4] + LARGEST).unbind(-1)
        lengths = torch.zeros_like(a), first[a], second[b], torch.full_like(a, 2), first[c], second[d]
        ends = torch.stack(lengths, -1).cumsum(-1)
        return (torch.arange(TEXT_LENGTH, device=problems.device)[:, None] > ends[..., None, :]).sum(-1)

    def prompts(self, problems: Tensor) -> Tensor:
        ids = self.tokens(problems)[..., : self.prompt_length]
        is_prompt = torch.arange(self.prompt_length, device=ids.device) <= problems[..., 4:]
        return ids.where(is_prompt, PADDING)

    def answers(self, problems: Tensor) -> Tensor:
        """Map problems (..., 5) to the rests of their lines (..., 8): one right completion of each prompt."""
        index = problems[..., 4:] + 1 + torch.arange(self.answer_length, device=problems.device)
        ids = self.tokens(problems).gather(-1, index.clamp(max=TEXT_LENGTH - 1))
        return ids.where((ids == PAD).cumsum(-1) <= (ids == PAD), PADDING)

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.answer_length, stop_token=PAD)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a left side with `==`, such as `93-32==`; empty if it is not written as in a line."""
        match = re.fullmatch(r"([+-]?[0-9]{1,2})([+-][0-9]{1,2})==", text)
        if match is None:
            return []
        row = torch.tensor([*map(int, match.groups()), 0, 0, len(text)])
        ids: list[int] = self.tokens(row)[: len(text) + 1].tolist()
        return ids if ids == [PAD, *self.ids_of(text)] else []

    def encode_text(self, text: str) -> list[int]:
        return [PAD, *super().encode_text(text)]

    def encode_blanks(self, text: str) -> list[int]:
        if len(text) > LONGEST_LINE:
            raise ValueError(f"it has {len(text):,} characters, more than {LONGEST_LINE}")
        parts = [super(Sumeq, self).encode_text(part) for part in text.split("?")]
        ids = [i for part in parts for i in (*part, PADDING)][:-1]
        return [PAD, *ids] + [PAD] * (LONGEST_LINE + 1 - len(ids))

    def sentence(self, problem: Tensor, answer: str) -> str:
        ids = [i for i in self.prompts(problem).tolist() if i != PADDING]
        left, right = f"{self.decode_completion(ids)}{answer}".partition("==")[::2]
        return f"{left}: got {right or 'nothing'}, expected two numbers with the sum {int(problem[:2].sum())}"

    # -------------------------------------------------------------------------
    # which problems

    @cached_property
    def sets(self) -> dict[str, Tensor]:
        lines = {name: draw_lines(seed, count) for seed, (name, count) in enumerate(DRAWN_LINES.items(), start=1)}
        train = lines["train"]
        validation = first_prompts(lines["validation"], self.training_sides(train), VALIDATION_PROMPTS)
        asked = torch.cat([self.training_sides(train), side_number(validation[:, :2])])
        test = first_prompts(lines["heldout"], asked, TEST_PROMPTS)
        sets = zip(lines, (train, validation, test), strict=True)
        return {name: torch.cat([rows, self.left_lengths(rows)], 1) for name, rows in sets}

    def left_lengths(self, lines: Tensor) -> Tensor:
        """Return the number of characters of the left sides with `==` of lines (N, 4 or more), (N, 1) int64."""
        return (self.sides.to(lines.device)[side_number(lines[:, :2])] != PADDING).sum(-1, keepdim=True) + 2

    @staticmethod
    def training_sides(train: Tensor) -> Tensor:
        """Return the numbers of the sides of training lines (N, 4 or more), left and right, (2 * N,) int64."""
        return torch.cat([side_number(train[:, :2]), side_number(train[:, 2:4])])

    def overlap(self, one: str, other: str) -> int:
        """Return how many left sides of one set stand on a side of the other, or are left sides of both."""
        shown = side_number(self.sets[one][:, :2])
        if one == "train":
            shown = self.training_sides(self.sets[one])
        return int(torch.isin(side_number(self.sets[other][:, :2]), shown).sum())

    @property
    def validation(self) -> Tensor:
        return self.sets["validation"]

    def test_set(self, seed: int) -> Tensor:
        return self.sets["heldout"]

    @property
    def samples(self) -> dict[str, Tensor]:
        """The test lines, asked by their first characters as the source did."""
        lines = self.sets["heldout"][:, :4]
        return {f"first {SOURCE_PROMPT} characters": torch.nn.functional.pad(lines, (0, 1), value=SOURCE_PROMPT)}

    def is_heldout(self, problems: Tensor) -> Tensor:
        shown = self.training_sides(self.sets["train"]).to(problems.device)
        return ~torch.isin(side_number(problems[:, :2]), shown)

    # -------------------------------------------------------------------------
    # grade and verdict

    @cached_property
    def side_keys(self) -> tuple[Tensor, Tensor]:
        """The keys of all sides in ascending order, and the number of each side; both (NUMBERS ** 2,) int64."""
        keys, numbers = text_keys(self.sides).sort()
        return keys, numbers

    def grade(self, problems: Tensor, completions: Tensor) -> Tensor:
        keys, numbers = (table.to(problems.device) for table in self.side_keys)
        lines = left_aligned([self.prompts(problems).long(), completions.long()])  # (N, 17)
        left = self.left_lengths(problems)  # the position of the last =, too
        equals = lines.gather(1, torch.cat([left - 1, left], 1)) == self.vocabulary.index("=")
        index = left + 1 + torch.arange(self.answer_length, device=lines.device)
        found = text_keys(lines.gather(1, index.clamp(max=lines.size(1) - 1)))
        place = torch.searchsorted(keys, found).clamp(max=len(keys) - 1)
        is_equal = side_sum(numbers[place]) == problems[:, :2].sum(1)
        return equals.all(1) & (keys[place] == found) & is_equal & (completions == PAD).any(1)

    def measures(self, results: DecodedProblems, loss: Callable[[Batch], float | None]) -> dict[str, float | None]:
        """Return the upper 95% bound of the share of wrong completions, and the loss of test lines, nats a token."""
        errors = int((~results.right).sum())
        lines = whole_texts(self.tokens(results.problems[:LOSS_LINES]))
        return {BOUND: clopper_pearson_upper(errors, len(results.right)), "test loss, left to right": loss(lines)}

    def named_targets(self, results: DecodedProblems) -> dict[str, bool]:
        share = float(results.right.double().mean())
        return {f"{target:.1%} valid": share >= target for target in PUBLISHED}


def side_number(numbers: Tensor) -> Tensor:
    """Map the two numbers of a side (..., 2) to its position (...,) in the list of all sides."""
    return (numbers[..., 0] + LARGEST) * NUMBERS + numbers[..., 1] + LARGEST


def side_sum(side: Tensor) -> Tensor:
    """Return the sum of the two numbers of a side from its position in the list of all sides."""
    return side // NUMBERS + side % NUMBERS - 2 * LARGEST


def text_keys(ids: Tensor) -> Tensor:
    """Map ids (N, n) of up to 8 tokens, PAD and PADDING alike, to keys (N,) int64 that differ between texts."""
    place = torch.arange(ids.size(1), device=ids.device)
    return (ids.clamp(min=PAD) << 5 * place).sum(1)


def draw_lines(seed: int, count: int) -> Tensor:
    """Draw `count` lines (count, 4) int64, each one equally likely; the same on every machine.

    Three of the numbers are uniform by a hash of seed and candidate; the fourth must be in range.
    """
    candidates = torch.arange(2 * count)  # two thirds are lines
    columns = (hash_fraction([torch.tensor([seed]), candidates, torch.tensor([column])]) for column in range(3))
    a, b, c = ((fraction * NUMBERS).long() - LARGEST for fraction in columns)
    d = a + b - c
    return torch.stack([a, b, c, d], 1)[d.abs() <= LARGEST][:count]


def first_prompts(lines: Tensor, shown: Tensor, count: int) -> Tensor:
    """Return the first `count` lines (count, 4) whose left sides differ, and are not among the sides `shown` (n,)."""
    sides = side_number(lines[:, :2])
    lines = lines[~torch.isin(sides, shown)]
    sides, is_first = side_number(lines[:, :2]), torch.ones(len(lines), dtype=torch.bool)
    order = sides.sort(stable=True).indices
    is_first[order[1:]] = sides[order[1:]] != sides[order[:-1]]
    return lines[is_first][:count]
