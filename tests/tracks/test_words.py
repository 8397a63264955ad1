"""Words by a rule, against the rule written plainly and against all words that it allows."""

import itertools
import math
import re
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from data import PADDING, DecodedProblems, controlled, decode, encode, get_batches, get_track, main
from settings import Settings
from tests.support.tracks import CPU, cpu_batches
from tracks.controls import permute
from tracks.describe_words import NUM_PROMPTS, WORDS_PER_INITIAL
from tracks.word_rule import draw_rows, rows_of, word_fault
from tracks.words import TEST, TRAINING, VALIDATION, distance_bounds, invalid_bound

TRACK: Any = get_track("words")
LINE = re.compile(r"([bcdfghjk][aeiou]){2,3};\n")
NO_HARD_EXAMPLES = torch.empty(0, 24)


def drawn(count: int = 2000, seed: int = 0) -> torch.Tensor:
    """Problems of any set."""
    return draw_rows(count, torch.Generator().manual_seed(seed))


def words_of(ids: Any) -> list[str]:
    """The words of a row of ids, END and line breaks included."""
    return decode(TRACK, [i for i in ids if i != PADDING]).splitlines(keepends=True)


def is_valid(word: str, before: list[str]) -> bool:
    return bool(
        re.fullmatch(r"([bcdfghjk][aeiou]){2,3}", word)
        and len({*word}) == len(word)
        and word[0] not in {other[0] for other in before}
    )


def all_words() -> list[str]:
    """Every word of the rule, whatever its first letter."""
    pairs = ["".join(pair) for pair in itertools.product("bcdfghjk", "aeiou")]
    words = ["".join(parts) for count in (2, 3) for parts in itertools.product(pairs, repeat=count)]
    return [word for word in words if len({*word}) == len(word)]


def completions_of(words: list[str]) -> torch.Tensor:
    """Completions (N, 7) of the given words, each with its END or without."""
    rows = [encode(TRACK, word) + [PADDING] * (TRACK.answer_length - len(word)) for word in words]
    return torch.tensor(rows, dtype=torch.int32)


def test_drawn_words_follow_the_rule_and_each_letter_is_drawn_uniformly() -> None:
    rows = drawn(20_000)
    letters, places = Counter[str](), Counter[tuple[int, int]]()
    for row in rows[:500]:
        before: list[str] = []
        for word in row.view(4, 6).tolist():
            text = decode(TRACK, [i for i in word if i != PADDING])
            assert is_valid(text, before), (text, before)
            before.append(text)
            letters.update(text)
            places[len(text), 0] += 1
    assert abs(places[4, 0] / 2000 - 0.5) < 0.05
    words = rows.view(-1, 4, 6).long()
    for word in range(4):
        assert (words[:, word, 0].bincount(minlength=8) / 20_000 - 1 / 8).abs().max() < 0.01
        assert (words[:, word, 1].sub(8).bincount(minlength=5) / 20_000 - 1 / 5).abs().max() < 0.015
    offsets = (words[:, 3, 2] - words[:, 3, 0]) % 8
    assert (offsets.bincount(minlength=8)[1:] / 20_000 - 1 / 7).abs().max() < 0.01
    offsets = (words[:, 3, 0, None] - words[:, :3, 0]) % 8
    assert (offsets.flatten().bincount(minlength=8)[1:] / 60_000 - 1 / 7).abs().max() < 0.01


def test_the_number_of_prompts_is_that_of_the_words_of_the_rule() -> None:
    words = all_words()
    assert len(words) == 8 * WORDS_PER_INITIAL
    assert NUM_PROMPTS == 8 * 7 * 6 * WORDS_PER_INITIAL**3
    assert all(word_fault(word, []) is None for word in words)


def test_a_problem_is_three_words_and_the_next_one() -> None:
    for row in drawn(50):
        prompt, answer, text = TRACK.prompts(row), TRACK.answers(row), TRACK.tokens(row)
        lines, end = words_of(prompt.tolist()), words_of(answer.tolist())
        assert len(lines) == 3
        assert all(map(LINE.fullmatch, lines))
        assert end == [decode(TRACK, [i for i in row[18:].tolist() if i >= 0]) + ";"]
        assert (prompt.shape, answer.shape, text.shape) == ((24,), (7,), (31,))
        assert decode(TRACK, text) == ("".join(lines) + end[0]).ljust(31, "\n")
        assert TRACK.encode_prompts(["".join(lines)])[0].tolist() == prompt.tolist()


@pytest.mark.parametrize(
    "text",
    [
        *("", "bidu;\nkefo;\n", "bidu;\nkefo;\ncuga;", "bidu;\nkefo;\nbaga;\n", "bid;\nkefo;\ncuga;\n", "bidu"),
        *("bidu;\nkefo;\ncuga;\nhafe;\n", "bidu;\nkefo;\ncaga;\n", "Bidu;\nkefo;\ncuga;\n", "bidu\nkefo\ncuga\n"),
    ],
)
def test_other_texts_are_no_prompts(text: str) -> None:
    assert (TRACK.encode_prompts([text]) == PADDING).all()


def test_the_grade_is_the_rule() -> None:
    """Words that break it in each way, and random texts of consonants and vowels."""
    generator = torch.Generator().manual_seed(1)
    words = ["hafe;", "hafegi;", "hafe", "hafegik", "bafe;", "hafa;", "hafefi;", "haf;", "hafeg;", "ahef;", "hfae;"]
    words += [";", "", "h", "hafe\n;", "hafehi;", "hafegih", "hafeg\n;", "\n;", "jako;"]
    random = torch.stack([torch.randint(2, (500,), generator=generator) * 3 + k % 2 * 8 for k in range(6)], 1)
    words += ["".join(TRACK.vocabulary[i] for i in row[: 4 + k % 3].tolist()) + ";" for k, row in enumerate(random)]
    before = ["bidu", "kefo", "cuga"]
    problems = torch.cat([rows_of(before), rows_of(["hafe"])]).to(torch.int8).expand(len(words), -1)
    expected = [word.endswith(";") and is_valid(word[:-1], before) for word in words]
    assert TRACK.grade(problems, completions_of(words)).tolist() == expected
    assert 5 < sum(expected) < 400
    starts = [word[0] for word in before]
    for word, is_right in zip(words, expected, strict=True):
        if word.endswith(";") or len(word) == 7:  # what decoding can return
            assert (word_fault(word.removesuffix(";"), starts) is None) == is_right, word


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("kafe", "one of the last three words starts with k, too"),
        ("hafa", "a occurs twice"),
        ("haef", "character 3 is 'e', not a consonant of bcdfghjk"),
        ("h\n", r"character 2 is '\n', not a vowel of aeiou"),
        ("hafegib", "it does not end after 6 letters"),
        ("haf", "it has 3 letters, not 4 or 6"),
        ("", "it has 0 letters, not 4 or 6"),
    ],
)
def test_an_error_is_a_sentence(answer: str, fault: str) -> None:
    problem = rows_of(["bidu", "kefo", "cuga", "hafe"])
    assert TRACK.sentence(problem, answer) == f"after bidu, kefo, cuga: got {answer!r}; {fault}"


def test_the_sets_are_disjoint_and_no_training_text_holds_three_words_of_another_set() -> None:
    sets = TRACK.sets
    assert [len(rows) for rows in sets.values()] == [10_000, 2000, 10_000]
    assert (TRACK.split(sets["heldout"]) == TEST).all()
    assert (TRACK.split(TRACK.validation) == VALIDATION).all()
    assert TRACK.is_heldout(TRACK.test_set(5)).all()
    assert torch.equal(TRACK.test_set(1), TRACK.test_set(2))
    shares = TRACK.split(drawn(20_000)).bincount() / 20_000
    assert (shares - torch.tensor([0.9, 0.05, 0.05])).abs().max() < 0.01
    batches = cpu_batches(TRACK)
    texts = batches.draw(2, 300, torch.Generator().manual_seed(0), NO_HARD_EXAMPLES, 0.0).whole_texts()
    for text in texts.flatten(0, 1).tolist():
        words = [word.rstrip(";\n") for word in words_of(text)][:4]
        assert all(is_valid(word, words[:i]) for i, word in enumerate(words))
        for start in (0, 1):
            assert TRACK.split(rows_of(words[start : start + 3])) == TRAINING


def test_the_long_text_follows_the_rule_and_windows_of_it_can_start_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracks.words.TEXT_WORDS", 300)
    track = get_track.__globals__["build_track"].__wrapped__("words", ())
    words = track.text.split(";\n")
    assert words.pop() == ""
    assert len(words) == 300
    assert all(is_valid(word, words[max(0, i - 3) : i]) for i, word in enumerate(words))
    assert all(track.split(rows_of(words[i : i + 3])) == TRAINING for i in range(298))
    batches = cpu_batches(track, window=64, loss_on="all")
    batch = batches.draw(3, 40, torch.Generator().manual_seed(0), NO_HARD_EXAMPLES, 0.0)
    assert batch.tokens.shape == (3, 40, 64)
    windows = {decode(track, row) for row in batch.whole_texts().flatten(0, 1)}
    assert all(window in track.text for window in windows)
    assert {window[0] for window in windows} > {*"\n;a"}
    assert (batches.is_uniform, batches.query_start, batches.training_length) == (True, 0, 65)


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_an_evaluated_batch_has_the_loss_on_the_fourth_word_or_on_all_words(loss_on: str) -> None:
    problems = drawn(20)
    batches = cpu_batches(TRACK, loss_on=loss_on)
    batch = batches.batch(problems, loss_on)
    for row, problem in enumerate(problems):
        answer = TRACK.answers(problem)
        prompt = TRACK.prompts(problem)
        targets = batch.targets[row][batch.loss_mask[row]].tolist()
        expected = answer[answer >= 0].tolist()
        if loss_on == "all":
            expected = prompt[prompt >= 0].tolist()[1:] + expected
        assert targets == expected
        assert batch.loss_mask[row][: batches.query_start].any() == 0
    assert batches.answer_start == 17


def test_the_distributions_of_the_rule_are_exact() -> None:
    """Against all words that may follow the prompts, each with its probability."""
    words = all_words()
    starts = ["bcd", "bkj", "fgh"]
    lengths: dict[int, float] = defaultdict(float)
    letters: dict[str, float] = defaultdict(float)
    for prompt in starts:
        for word in words:
            if word[0] not in prompt:
                weight = 1 / 5 / 5 / 7 / 4 / 2 / (18 if len(word) == 6 else 1) / len(starts)
                lengths[len(word)] += weight
                for letter in word:
                    letters[letter] += weight / len(word)
    problems = torch.stack([rows_of([start + "afe" for start in prompt] + ["kafe"]) for prompt in starts])
    assert math.isclose(sum(lengths.values()), 1)
    expected = [letters[letter] for letter in TRACK.vocabulary] + [0.0]
    assert torch.allclose(TRACK.exact_letters(problems), torch.tensor(expected, dtype=torch.float64))
    assert TRACK.exact_lengths().tolist() == pytest.approx([lengths[length] for length in range(8)])


def test_observed_distributions_count_each_word_alike() -> None:
    completions = completions_of(["hafe;", "hafegi;", ";", "h\nhhhhh"])
    assert TRACK.length_shares(completions).mean(0).tolist() == [0.25, 0, 0, 0, 0.25, 0, 0.25, 0.25]
    shares = TRACK.letter_shares(completions).mean(0).tolist()
    letters = dict(zip([*TRACK.vocabulary, "nothing"], shares, strict=True))
    assert letters == pytest.approx(
        dict.fromkeys([*TRACK.vocabulary, "nothing"], 0.0)
        | {"h": 1 / 16 + 1 / 24 + 6 / 28, "\n": 1 / 28, "nothing": 1 / 4}
        | dict.fromkeys("afe", 1 / 16 + 1 / 24)
        | dict.fromkeys("gi", 1 / 24)
    )


def results_of(words: list[str]) -> DecodedProblems:
    problems = TRACK.test_set(0)[: len(words)]
    completions = completions_of(words)
    return DecodedProblems(problems, completions, TRACK.grade(problems, completions))


def test_words_drawn_by_the_rule_solve_the_track_and_others_do_not() -> None:
    problems = TRACK.test_set(0)
    right = TRACK.answers(problems)
    bounds = TRACK.measures(DecodedProblems(problems, right, TRACK.grade(problems, right)), lambda batch: None)
    assert list(bounds) == list(TRACK.limits)
    assert all(0 < bounds[name] <= limit for name, limit in TRACK.limits.items())
    assert TRACK.named_targets(DecodedProblems(problems, right, torch.ones(10_000, dtype=torch.bool))) == {
        "99.9%": True
    }
    invalid, lengths, letters = TRACK.limits
    short = right.masked_fill((right >= 0) & (torch.arange(7) > 3), PADDING)
    short[:, 4] = TRACK.vocabulary.index(";")
    only_short = TRACK.measures(DecodedProblems(problems, short, TRACK.grade(problems, short)), lambda batch: None)
    assert only_short[invalid] < 0.01
    assert only_short[lengths] == pytest.approx(0.5)
    one_word = results_of(["hafe;"] * 2000)
    assert TRACK.measures(one_word, lambda batch: None)[letters] > 0.5
    for count, is_solved in ((83, True), (84, False)):
        assert (invalid_bound(torch.arange(10_000) >= count) <= 0.01) == is_solved
    some_wrong = DecodedProblems(problems, right, torch.arange(10_000) >= 5)
    assert TRACK.named_targets(some_wrong) == {"99.9%": False}


def test_the_bound_of_a_distance_is_the_quantile_of_its_bootstrap_distribution() -> None:
    """With two outcomes, a bootstrap sample is a binomial number, whose quantile is exact."""
    count, exact = 2000, torch.tensor([0.5, 0.5], dtype=torch.float64)
    number = np.arange(count + 1)
    for ones in (1000, 1040, 1150):
        rows = torch.eye(2, dtype=torch.float64)[(torch.arange(count) < ones).long()]
        distances = abs(number / count - 0.5)
        order = distances.argsort()
        cumulated = binom.pmf(number, count, ones / count)[order].cumsum()
        expected = distances[order][cumulated.searchsorted(0.95)]
        assert distance_bounds([rows], [exact]) == [pytest.approx(expected, abs=0.0015)]


@pytest.mark.slow
def test_permuted_ids_are_the_same_track_and_other_controls_do_not_apply() -> None:
    track: Any = permute(TRACK, 7)
    problems = TRACK.test_set(0)
    completions = track.answers(problems)
    right = track.grade(problems, completions)
    assert right.all()
    results = DecodedProblems(problems, completions, right)
    assert track.measures(results, lambda batch: None) == TRACK.measures(
        results._replace(completions=TRACK.answers(problems)), lambda batch: None
    )
    assert track.vocabulary[track.decoding.stop_token] == ";"
    assert track.decode_completion(completions[0].tolist()) == TRACK.decode_completion(
        TRACK.answers(problems)[0].tolist()
    )
    generator = torch.Generator().manual_seed(0)
    text = get_batches(track, Settings(track="words").batch_options, CPU).draw(1, 1, generator, NO_HARD_EXAMPLES, 0.0)
    assert LINE.match(decode(track, text.whole_texts()[0, 0]))
    for control in ("shuffle", "poison"):
        with pytest.raises(ValueError, match="words has many to each problem"):
            controlled(TRACK, control, 7)


def test_one_length_of_training_texts_lets_the_kernel_compute_them() -> None:
    options: Any = {"track": "words", "kernel": "auto", "level_share": 0.0}
    assert Settings(**options).kernel_problem is None
    assert Settings(**options, window=64, loss_on="all").kernel_problem is None
    with pytest.raises(ValueError, match="window must be from 2 to 64"):
        Settings(**options, window=65, loss_on="all")


def test_the_proof_of_the_split_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["words"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-6].split() == ["words", "in", "train", "and", "validation", "0", "problems"]
    assert all(line.startswith("words ") for line in lines[1:])
