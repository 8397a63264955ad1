"""The rule of the track of words: draws by it, and what breaks it.

A problem is a row of four words, six letters each; see `tracks.words.Words`.
"""

import functools
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from tracks.base import PADDING
from tracks.describe_words import CONSONANTS, MOST_LETTERS, NUM_WORDS, VOWELS

WORD_COLUMNS = NUM_WORDS + 1  # words of a problem


def draw_rows(count: int, generator: torch.Generator) -> Tensor:
    """Draw problems by the rule, of any set, (count, 24) int8 on the generator's device."""
    device = generator.device
    starts, words = (table.to(device) for table in tables())
    drawn_starts = starts[torch.randint(len(starts), (count,), generator=generator, device=device)]
    words_per_start = len(words) // len(CONSONANTS)
    index = torch.randint(words_per_start, (count, WORD_COLUMNS), generator=generator, device=device)
    return words[drawn_starts * words_per_start + index].flatten(1)


@functools.cache
def tables() -> tuple[Tensor, Tensor]:
    """Return everything that four words can start with, (1680, 4) int64, and all words, (40,320, 6) int8.

    Words are sorted by their first letters, and each stands in the list as often as it is likely.
    """
    starts: list[Tensor] = []
    for draw in torch.cartesian_prod(*(torch.arange(8 - i) for i in range(WORD_COLUMNS))).unbind(-1):
        starts.append(skip(draw, starts))
    consonants: list[Tensor] = []
    vowels: list[Tensor] = []
    *draws, coin = torch.cartesian_prod(*(torch.arange(size) for size in (8, 5, 7, 4, 6, 3, 2))).unbind(-1)
    for place, draw in enumerate(draws):
        letters = vowels if place % 2 else consonants
        letters.append(skip(draw, letters))
    columns = [ids for pair in zip(consonants, vowels, strict=True) for ids in (pair[0], pair[1] + len(CONSONANTS))]
    words = torch.stack(columns, -1).to(torch.int8)
    words[:, 4:].masked_fill_(coin[:, None] == 0, PADDING)
    return torch.stack(starts, -1), words


def skip(numbers: Tensor, taken: Sequence[Tensor]) -> Tensor:
    """Map k (n,) to the k-th number, from 0 on, that is in none of the tensors `taken` (n,)."""
    numbers = numbers.clone()
    if taken:
        for lower in torch.stack(list(taken), -1).sort(-1).values.unbind(-1):
            numbers += numbers >= lower
    return numbers


def word_numbers(problems: Tensor) -> Tensor:
    """Map words (..., n * 6) to a number for each, (..., n) int64: a digit for each letter, 0 for PADDING."""
    base = len(CONSONANTS + VOWELS) + 1
    digits = base ** torch.arange(MOST_LETTERS, device=problems.device)
    return ((problems.unflatten(-1, (-1, MOST_LETTERS)).long() + 1) * digits).sum(-1)


def draw_word(generator: random.Random, starts: Sequence[str]) -> str:
    """Draw a word by the rule; `starts` are the first letters of the last three words."""
    word = generator.choice([letter for letter in CONSONANTS if letter not in starts])
    while len(word) < 4 or (len(word) == 5) or (len(word) == 4 and generator.random() < 0.5):
        word += generator.choice([letter for letter in (VOWELS, CONSONANTS)[len(word) % 2 == 0] if letter not in word])
    return word


def rows_of(words: Sequence[str]) -> Tensor:
    """Return words as a part of a problem's row, (6 * len(words),) int64."""
    letters = CONSONANTS + VOWELS
    rows = [[letters.index(letter) for letter in word] + [PADDING] * (MOST_LETTERS - len(word)) for word in words]
    return torch.tensor(rows).flatten()


def word_fault(word: str, starts: Sequence[str]) -> str | None:
    """Describe what is wrong with a word after words that start with `starts`; None if it is valid."""
    for place, letter in enumerate(word[:MOST_LETTERS]):
        kind, letters = ("vowel", VOWELS) if place % 2 else ("consonant", CONSONANTS)
        if letter not in letters:
            return f"character {place + 1} is {letter!r}, not a {kind} of {letters}"
        if letter in word[:place]:
            return f"{letter} occurs twice"
    if word and word[0] in starts:
        return f"one of the last three words starts with {word[0]}, too"
    if len(word) > MOST_LETTERS:
        return f"it does not end after {MOST_LETTERS} letters"
    if len(word) not in (4, MOST_LETTERS):
        return f"it has {len(word)} letters, not 4 or {MOST_LETTERS}"
    return None
