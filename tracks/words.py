"""Words by a rule that can be learned but not predicted: a model that samples from it must never break it.

The rule is the "very simple model" of a published training log (a fork of femtoGPT, 2024).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tracks.base import PADDING, Batch, DecodedProblems, Decoding, Track, chunk_rows
from tracks.describe_words import (
    CONSONANTS,
    END,
    MAX_DISTANCE,
    MAX_INVALID,
    MOST_LETTERS,
    NUM_WORDS,
    SEPARATOR,
    TEST_SHARE,
    TEST_WORDS,
    VALIDATION_SHARE,
    VALIDATION_WORDS,
    VOWELS,
)
from tracks.hashing import hash_fraction
from tracks.padding import left_aligned, moved, places_without_padding
from tracks.word_rule import WORD_COLUMNS, draw_rows, draw_word, rows_of, word_fault, word_numbers

TRAINING, VALIDATION, TEST = range(3)  # the sets, as `Words.split` numbers them
SEEDS = {"train": 1, "validation": 2, "heldout": 3}  # of the fixed samples of the sets
BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED = 1_000, 5
TEXT_WORDS, TEXT_SEED = 8_000, 4  # of the text whose windows train
INVALID, LENGTHS, LETTERS = (
    f"{figure}, at most (95%)" for figure in ("invalid words", "distance of lengths", "distance of letters")
)


class Words(Track):
    """`bidu;` and a line break: the next word after three others, sampled at temperature 1.

    A word starts with a consonant of `bcdfghjk` with which none of the last three words begins. Consonants and vowels
    alternate, no letter occurs twice, and a word has 4 or 6 letters; a coin decides after 4. Every letter is drawn
    uniformly from those that the rule allows; the vowels are a, e, i, o and u.

    A problem is a row of four words, six letters each, (24,) int8 ids; PADDING follows a short word. The first three
    words are the prompt, and belong to a set by their hash: below `TEST_SHARE` to the test, below `TEST_SHARE +
    VALIDATION_SHARE` to validation, else to training. No three words in a row of a training text belong to another
    set. The fourth word is one of the valid answers; its loss is measured, and any valid word is right.
    """

    problem_width = WORD_COLUMNS * MOST_LETTERS
    limits: Mapping[str, float] = {INVALID: MAX_INVALID, LENGTHS: MAX_DISTANCE, LETTERS: MAX_DISTANCE}
    may_have_errors = True

    # -------------------------------------------------------------------------
    # text

    @property
    def decoding(self) -> Decoding:
        stop = self.description.vocabulary.index(END)
        return Decoding(max_new_tokens=self.answer_length, stop_token=stop, temperature=1.0)

    def words(self, problems: Tensor) -> Tensor:
        """Map problems (..., 24) to the ids of their words (..., 4, 8): the letters, END, SEPARATOR, then PADDING."""
        letters = problems.unflatten(-1, (WORD_COLUMNS, -1))
        ends = letters.new_tensor([self.description.vocabulary.index(token) for token in (END, SEPARATOR)])
        is_short = letters[..., 4:5] == PADDING
        more, last = torch.where(is_short, ends, letters[..., 4:]), torch.where(is_short, PADDING, ends)
        return torch.cat([letters[..., :4], more, last], -1)

    def prompts(self, problems: Tensor) -> Tensor:
        return left_aligned([self.words(problems)[..., :NUM_WORDS, :].flatten(-2)])

    def answers(self, problems: Tensor) -> Tensor:
        """Map problems (..., 24) to the ids of their fourth words with END, (..., 7); PADDING follows."""
        answers = self.words(problems)[..., NUM_WORDS, :-1]
        return answers.masked_fill(answers == self.description.vocabulary.index(SEPARATOR), PADDING)

    def tokens(self, problems: Tensor) -> Tensor:
        """Map problems (..., 24) to the ids of their four words, with line breaks up to a common length, (..., 31)."""
        ids, separator = self.words(problems).flatten(-2), self.description.vocabulary.index(SEPARATOR)
        places = places_without_padding(ids != PADDING)
        return moved(ids, places, fill=separator)[..., : self.prompt_length + self.answer_length]

    def encode_prompt(self, text: str) -> list[int]:
        words = text.split(END + SEPARATOR)
        if len(words) != NUM_WORDS + 1 or words.pop():
            return []
        if any(word_fault(word, [before[0] for before in words[:i]]) for i, word in enumerate(words)):
            return []
        return [self.description.vocabulary.index(character) for character in text]

    def sentence(self, problem: Tensor, answer: str) -> str:
        before = [
            "".join(self.description.vocabulary[i] for i in word if i != PADDING)
            for word in problem.unflatten(-1, (WORD_COLUMNS, -1))[:NUM_WORDS].tolist()
        ]
        fault = word_fault(answer, [word[0] for word in before])
        return f"after {', '.join(before)}: got {answer!r}; {fault}"

    @cached_property
    def text(self) -> str:
        """The text whose windows train, with the setting `window`: 8,000 words, the same for every run."""
        generator = random.Random(TEXT_SEED)
        rows: list[str] = []
        while len(rows) < TEXT_WORDS:
            rows.append(draw_word(generator, [word[0] for word in rows[-NUM_WORDS:]]))
            if len(rows) >= NUM_WORDS and self.split(rows_of(rows[-NUM_WORDS:])) != TRAINING:
                rows.pop()
        return "".join(word + END + SEPARATOR for word in rows)

    # -------------------------------------------------------------------------
    # which problems

    def split(self, problems: Tensor) -> Tensor:
        """Return the set of the first three words of problems (..., 18 or 24), (...,) int64."""
        return set_of(word_numbers(problems)[..., :NUM_WORDS])

    def is_heldout(self, problems: Tensor) -> Tensor:
        return self.split(problems) == TEST

    def is_training(self, problems: Tensor) -> Tensor:
        """Return which problems (..., 24) may train: no three words in a row belong to another set, (...,) bool."""
        numbers = word_numbers(problems)
        return (set_of(numbers[..., :-1]) == TRAINING) & (set_of(numbers[..., 1:]) == TRAINING)

    def draw(self, is_member: Callable[[Tensor], Tensor], count: int, generator: torch.Generator) -> Tensor:
        """Draw problems by the rule, of those for which `is_member` is true, (count, 24) int8."""
        parts: list[Tensor] = []
        num_drawn, num_members = 0, 0
        while num_members < count:
            share = (num_members + 1) / (num_drawn + 1)  # of members
            size = min(chunk_rows(generator.device), int((count - num_members) / share * 1.05) + 64)
            rows = draw_rows(size, generator)
            parts.append(rows[is_member(rows)])
            num_drawn, num_members = num_drawn + size, num_members + len(parts[-1])
        return torch.cat(parts)[:count]

    @cached_property
    def sets(self) -> dict[str, Tensor]:
        def sample(name: str, is_member: Callable[[Tensor], Tensor], count: int) -> Tensor:
            return self.draw(is_member, count, torch.Generator().manual_seed(SEEDS[name]))

        return {
            "train": sample("train", self.is_training, TEST_WORDS),
            "validation": self.validation,
            "heldout": sample("heldout", self.is_heldout, TEST_WORDS),
        }

    @cached_property
    def validation(self) -> Tensor:
        generator = torch.Generator().manual_seed(SEEDS["validation"])
        return self.draw(lambda rows: self.split(rows) == VALIDATION, VALIDATION_WORDS, generator)

    def test_set(self, seed: int) -> Tensor:
        """The prompts are the same for every seed; the seed draws the tokens of the answers."""
        return self.sets["heldout"]

    # -------------------------------------------------------------------------
    # grade and verdict

    def grade(self, problems: Tensor, completions: Tensor) -> Tensor:
        letters, length = completions[:, :MOST_LETTERS].long(), self.lengths(completions)
        place = torch.arange(MOST_LETTERS, device=letters.device)
        is_letter = place < length[:, None]
        is_consonant = (letters >= 0) & (letters < len(CONSONANTS))
        is_vowel = (letters >= len(CONSONANTS)) & (letters < len(CONSONANTS + VOWELS))
        alternates = (torch.where(place % 2 == 0, is_consonant, is_vowel) | ~is_letter).all(1)
        is_same = (letters[:, :, None] == letters[:, None]) & is_letter[:, None] & (place < place[:, None])
        starts = problems.unflatten(-1, (WORD_COLUMNS, -1))[..., :NUM_WORDS, 0]
        is_new = (letters[:, :1] != starts).all(-1)
        return ((length == 4) | (length == MOST_LETTERS)) & alternates & ~is_same.any(-1).any(-1) & is_new

    def lengths(self, completions: Tensor) -> Tensor:
        """Return the number of characters before END of completions (N, A), or A without END, (N,) int64."""
        return (completions == self.description.vocabulary.index(END)).cumsum(1).eq(0).sum(1)

    def measures(self, results: DecodedProblems, loss: Callable[[Batch], float | None]) -> dict[str, float | None]:
        """Return upper 95% bounds of the share of invalid words and of the distances from the rule's distributions.

        A distance is the total variation distance between two distributions: of the number of characters of a word,
        and of a character of a word, when word and character are drawn uniformly. The rule's own are exact, given the
        prompts.
        """
        problems, completions, right = results
        if not len(problems):
            return {}
        each = [self.length_shares(completions), self.letter_shares(completions)]
        lengths, letters = distance_bounds(each, [self.exact_lengths(), self.exact_letters(problems)])
        return {INVALID: invalid_bound(right), LENGTHS: lengths, LETTERS: letters}

    def named_targets(self, results: DecodedProblems) -> dict[str, bool]:
        return {"99.9%": invalid_bound(results.right) <= 0.001}

    def length_shares(self, completions: Tensor) -> Tensor:
        """Map completions (N, A) to the distribution of the length of each, 0 to A, (N, A + 1) float64: one is 1."""
        return torch.nn.functional.one_hot(self.lengths(completions), completions.size(1) + 1).double()

    def exact_lengths(self) -> Tensor:
        """Return the rule's own distribution of lengths, (A + 1,) float64."""
        shares = torch.zeros(self.answer_length + 1, dtype=torch.float64)
        shares[[4, MOST_LETTERS]] = 0.5
        return shares

    def letter_shares(self, completions: Tensor) -> Tensor:
        """Map completions (N, A) to the share of each token in each, (N, V + 1) float64; the last: an empty word."""
        nothing, lengths = len(self.description.vocabulary), self.lengths(completions)
        is_inside = torch.arange(completions.size(1)) < lengths[:, None]
        counts = torch.zeros(len(completions), nothing + 1, dtype=torch.float64)
        counts.scatter_add_(1, torch.where(is_inside, completions.long(), nothing), is_inside.double())
        counts[:, nothing] = lengths == 0
        return counts / counts.sum(1, keepdim=True)

    def exact_letters(self, problems: Tensor) -> Tensor:
        """Return the rule's own mean of `letter_shares` for the prompts of problems (N, 24), (V + 1,) float64."""
        starts = problems.unflatten(-1, (WORD_COLUMNS, -1))[..., :NUM_WORDS, 0].long()
        used = starts.flatten().bincount(minlength=len(CONSONANTS)).double() / len(problems)
        first = (1 - used) / (len(CONSONANTS) - NUM_WORDS)  # probability of each consonant at each of its places
        second = (1 - first) / 7
        third = (1 - first - second) / 6
        shares = torch.zeros(len(self.description.vocabulary) + 1, dtype=torch.float64)
        shares[: len(CONSONANTS)] = (first + second) / 8 + (first + second + third) / 12
        shares[len(CONSONANTS) : len(CONSONANTS + VOWELS)] = 0.5 / len(VOWELS)
        return shares


def set_of(numbers: Tensor) -> Tensor:
    """Return the set of three words, given their numbers (..., 3), (...,) int64."""
    bounds = torch.tensor([TEST_SHARE, TEST_SHARE + VALIDATION_SHARE], dtype=torch.float64, device=numbers.device)
    return TEST - torch.bucketize(hash_fraction(numbers.unbind(-1)), bounds, right=True)


def invalid_bound(right: Tensor) -> float:
    """Return the upper 95% bound of the share of wrong completions, given which are right (N,) bool."""
    from bench.stats.descriptive import clopper_pearson_upper  # its first use imports scipy

    return clopper_pearson_upper(int((~right).sum()), len(right))


def distance_bounds(each: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Return upper 95% bounds of the total variation distances of means from exact distributions.

    Each mean is over the rows of a tensor (N, n) float64. The bound is the 95% quantile of the distance in 1,000
    bootstrap samples of the rows (Efron, 1979). It is conservative near 0, where sampling only adds to the distance.
    """
    generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)
    rows, sizes = torch.cat(list(each), 1), [len(distribution) for distribution in exact]
    differences = rows - torch.cat(list(exact))
    distances = []
    for _ in range(BOOTSTRAP_SAMPLES):
        drawn = torch.randint(len(rows), (len(rows),), generator=generator).bincount(minlength=len(rows))
        mean = drawn.double() @ differences / len(rows)
        distances.append(torch.stack([part.abs().sum() / 2 for part in mean.split(sizes)]))
    return torch.stack(distances).quantile(0.95, 0).tolist()
