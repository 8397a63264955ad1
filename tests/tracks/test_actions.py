"""The line language of actions against an interpreter of it in plain Python."""

import itertools
import re
from typing import Any

import pytest
import torch

from data import PADDING, DecodedProblems, decode, encode, get_track
from tests.support.digits import splitmix64_of_integers
from tests.support.tracks import cpu_batches
from tracks.controls import permute

NO_EXAMPLES = torch.empty(0, 109)


def result(line: str, before: str) -> str:
    """The result of a line such as `abcdef1`; `before` begins with the letters of the line before."""
    letters, action = line[:-1], int(line[-1])
    if action in (0, 9):
        return "" if action == 0 else "z"
    source = letters if action < 5 else re.match("[a-f]*", before)[0]
    copied = source[:3] if action % 2 else source[-3:]
    return copied.translate(str.maketrans("abcdef", "ghijkl")) if action in (3, 4, 7, 8) else copied


def number(letters: str) -> int:
    return sum(("abcdef".index(letter) + 1) * 7**place for place, letter in enumerate(letters))


def is_heldout(line: str, before: str) -> bool:
    h = 0
    for value in (number(line[:-1]), int(line[-1]), number(re.match("[a-f]*", before)[0])):
        h = splitmix64_of_integers(h ^ value)
    return (h >> 11) / 2**53 < 0.1


def text(track: Any, ids: Any) -> str:
    return decode(track, [i for i in ids.tolist() if i != PADDING])


def shown_lines(problem: Any) -> list[str]:
    """The letters and actions of all lines of a problem, the one that is not shown first."""
    lines = problem[1:].view(-1, 9).tolist()
    return ["".join("abcdef"[i] for i in line[:-1] if i >= 0) + str(line[-1]) for line in lines if line[0] >= 0]


def test_the_test_set_asks_each_action_1000_times_in_both_ways() -> None:
    track: Any = get_track("actions")
    problems = track.test_set(1)
    assert torch.equal(problems, track.test_set(2))
    assert track.is_heldout(problems).all()
    assert [int(group.sum()) for group in track.groups(problems).values()] == [1000] * 20
    shown = ((problems[:, 1:].view(-1, 12, 9)[..., 0] >= 0).sum(1) - 2).tolist()
    assert set(shown) == set(range(1, 11))
    assert abs(sum(shown) / len(shown) - 5.5) < 0.1


def test_prompts_and_answers_are_those_of_the_language() -> None:
    track: Any = get_track("actions")
    problems = track.test_set(1)[::97]
    for problem, prompt, answer in zip(problems, track.prompts(problems), track.answers(problems), strict=True):
        lines = shown_lines(problem)
        earlier = [line + result(line, before) + ";\n" for before, line in itertools.pairwise(lines[:-1])]
        whole = "".join(earlier) + lines[-1]
        if problem[0] == 1:
            assert text(track, prompt) == whole[-60:]
        else:
            while len(whole) > 60:
                whole = whole[len(earlier.pop(0)) :]
            assert text(track, prompt) == whole
        assert text(track, answer) == result(lines[-1], lines[-2]) + ";"
        assert text(track, prompt).split("\n")[-2] == earlier[-1][:-1], "the line before is whole"
        assert track.encode_prompts([text(track, prompt)])[0].tolist() == prompt.tolist()
        assert is_heldout(lines[-1], lines[-2])
    assert track.grade(problems, track.answers(problems)).all()


@pytest.mark.parametrize("window", [0, 64])
@pytest.mark.parametrize("is_permuted", [False, True])
def test_training_texts_hold_right_lines_none_of_which_is_held_out(window: int, is_permuted: bool) -> None:
    track: Any = permute(get_track("actions"), 7) if is_permuted else get_track("actions")
    batches = cpu_batches(track, window=window, loss_on="all" if window else "answer")
    batch = batches.draw(2, 100, torch.Generator().manual_seed(0), NO_EXAMPLES, 0.0)
    texts = torch.cat([batch.tokens, batch.targets[..., -1:]], -1).flatten(0, 1)
    assert texts.size(1) == batches.training_length == (65 if window else batches.text_tokens)
    num_lines = 0
    for ids in texts:
        lines = decode(track, ids).split("\n")[1:-1]
        for before, line in itertools.pairwise(lines):
            parts = re.fullmatch("([a-f]{4,8}[0-9])([a-lz]*);", line)
            assert parts
            assert parts[2] == result(parts[1], before)
            assert not is_heldout(parts[1], before)
            num_lines += 1
    assert num_lines > 100


def test_the_loss_is_on_the_answers_that_the_text_tells() -> None:
    track: Any = get_track("actions")
    batch = cpu_batches(track).draw(1, 300, torch.Generator().manual_seed(0), NO_EXAMPLES, 0.0)
    for tokens, targets, mask in zip(batch.tokens[0], batch.targets[0], batch.loss_mask[0], strict=True):
        whole = decode(track, tokens[:1]) + decode(track, targets)
        lines, start = whole.split("\n"), 0
        for index, line in enumerate(lines):
            parts = re.match("([a-f]{4,8}[0-9])([a-lz]*;?)", line)
            marks = mask[max(0, start - 1) : start - 1 + len(line)].tolist()
            if parts and index:
                needs = parts[1][-1] in "5678"
                is_told = not needs or index > 1 or (marks and marks[-1])
                place = len(parts[1])
                assert all(marks[place : place + len(parts[2])]) == is_told
            start += len(line) + 1


def test_the_fixed_text_has_20000_lines_and_begins_without_a_line_before() -> None:
    track: Any = get_track("actions")
    ids = cpu_batches(track, window=64, loss_on="all").text.tolist()
    lines = "".join(track.vocabulary[i] for i in ids).removesuffix("\n").split("\n")
    assert len(lines) == 20_000
    assert not re.search("[5-8]", lines[0])
    assert len({line[-4:] for line in lines}) > 400


def test_drawn_problems_train() -> None:
    track: Any = get_track("actions")
    drawn = cpu_batches(track).draw_distinct(2000, torch.Generator().manual_seed(0))
    assert drawn.shape == (2000, 109)
    assert not track.is_heldout(drawn).any()
    assert {name: len(rows) for name, rows in track.sets.items()} == {"train": 20_000, "heldout": 20_000}
    assert not track.is_heldout(track.sets["train"]).any()


def test_only_what_is_a_problem_is_a_prompt() -> None:
    track: Any = get_track("actions")
    right = ["abcdef1", "fedcba0;\nabcd5", "c2abc;\nfedcba0;\nabcd5", "z;\nabcd9", "\nabcd0"]
    wrong = ["abc1", "abcdefabc1", "abcd5", "c0;\nabcd5", "abcg1", "abcd1abc", "abcd12", "", "aaaa0;\n" * 8 + "abcde1"]
    prompts = track.encode_prompts([*right, *wrong])
    for prompt, ids in zip(right, prompts, strict=False):
        assert ids[ids != PADDING].tolist() == encode(track, prompt), prompt
    assert [(row == PADDING).all() for row in prompts[len(right) :]] == [True] * len(wrong)


def test_the_verdict_depends_on_the_worst_action() -> None:
    track: Any = get_track("actions")
    problems = track.test_set(1)

    def verdict(errors: int) -> tuple[dict, dict]:
        right = torch.ones(len(problems), dtype=torch.bool)
        right[(problems[:, -1] == 6).nonzero()[:errors, 0]] = False
        results = DecodedProblems(problems, track.answers(problems), right)
        return track.measures(results, lambda batch: None), track.named_targets(results)

    measures, targets = verdict(5)
    assert (
        measures["largest share of errors of an action"]
        == 0.005
        == track.limits["largest share of errors of an action"]
    )
    assert measures["its upper bound, 95%"] == pytest.approx(0.01049, abs=1e-4)
    assert targets == {"each above 70%": True, "100%": False}
    assert verdict(0)[1]["100%"]
    assert not verdict(300)[1]["each above 70%"]
    assert verdict(299)[1]["each above 70%"]
    assert track.may_have_errors


def test_an_error_is_put_into_words() -> None:
    track: Any = get_track("actions")
    problem = track.test_set(1)[2001]
    before, line = text(track, track.prompts(problem)).split("\n")[-2:]
    assert track.sentence(problem, "x") == f"{line!r} after {before!r}: got 'x', expected {line[:3]!r}"
