"""Two-digit addition with the texts and the split of omnivault's adder, against Python's integers."""

from typing import Any

import pytest
import torch

from bench.judge.certificate import certify
from data import PADDING, get_track
from tests.support.judged import Stepwise
from tests.support.tracks import cpu_batches

PROBLEMS = [(a, b) for a in range(100) for b in range(100)]


@pytest.fixture(scope="module")
def track() -> Any:
    return get_track("add2-omnivault")


def texts_of(track: Any) -> list[list[str]]:
    """The tokens of all problems with their answers."""
    ids = torch.cat([track.prompts(track.rows), track.answers(track.rows)], 1)
    return [[track.vocabulary[i] for i in row] for row in ids.tolist()]


def test_a_text_has_two_digits_an_operand_and_three_for_the_sum_between_bos_and_eos(track: Any) -> None:
    assert texts_of(track) == [["<BOS>", *f"{a:02}+{b:02}={a + b:03}", "<EOS>"] for a, b in PROBLEMS]
    assert track.vocabulary == (*"0123456789+*-=", "<BOS>", "<EOS>", "<PAD>", "<UNK>")
    assert (track.prompt_length, track.answer_length) == (7, 4)


def test_the_split_has_the_published_sizes_shares_no_problem_and_is_the_same_every_time(track: Any) -> None:
    numbers = {name: set(track.number(rows).tolist()) for name, rows in track.sets.items()}
    assert {name: len(each) for name, each in numbers.items()} == {"train": 7000, "validation": 2000, "heldout": 1000}
    assert set.union(*numbers.values()) == set(range(10_000))  # 10,000 in all, so none is in two sets
    assert all(torch.equal(rows, get_track("add2-omnivault").sets[name]) for name, rows in track.sets.items())
    assert set(track.number(track.validation).tolist()) == numbers["validation"]
    assert set(track.number(track.rows[track.is_heldout(track.rows)]).tolist()) == numbers["heldout"]


def test_no_batch_has_a_problem_outside_the_training_set(track: Any) -> None:
    batches = cpu_batches(track, sampling="epochs")
    drawn = batches.draw(28, 250, torch.Generator().manual_seed(0), track.rows[:0], 0.0).whole_texts().flatten(0, 1)
    training = torch.cat([track.prompts(track.sets["train"]), track.answers(track.sets["train"])], 1)
    assert set(map(tuple, drawn.tolist())) == set(map(tuple, training.tolist()))  # an epoch draws each problem once


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("061<EOS>", True),
        ("062<EOS>", False),
        ("61<EOS><PAD>", False),
        ("0611", False),
    ],
)
def test_an_answer_is_right_if_it_is_the_sum_and_then_ends(track: Any, answer: str, is_right: bool) -> None:
    ids = []
    while answer:
        token = next(token for token in track.vocabulary if answer.startswith(token))
        ids.append(track.vocabulary.index(token))
        answer = answer.removeprefix(token)
    problem = track.rows[13 * 100 + 48]
    assert track.grade(problem[None], torch.tensor([ids])).tolist() == [is_right]


def test_prompts_are_read_without_bos_and_mistakes_are_sentences(track: Any) -> None:
    read, *refused = track.encode_prompts(["13+48=", "13+48", "1+4=", "13*48="]).tolist()
    assert [track.vocabulary[i] for i in read] == ["<BOS>", *"13+48="]
    assert all(i == PADDING for row in refused for i in row)
    assert track.sentence(track.rows[1348], "062") == "13 + 48: got 62, expected 61"


def test_the_certificate_decodes_all_problems_and_counts_the_thousand_that_are_held_out(track: Any) -> None:
    """This model adds rightly, but answers 000 where the first number is 99."""

    def next_logits(tokens: torch.Tensor) -> torch.Tensor:
        digits = tokens.long()
        a, b = digits[:, 1] * 10 + digits[:, 2], digits[:, 4] * 10 + digits[:, 5]
        total = torch.where(a == 99, 0, a + b)
        answer = [total // 100, total // 10 % 10, total % 10, torch.full_like(total, track.eos)]
        return torch.nn.functional.one_hot(answer[tokens.size(1) - 7], len(track.vocabulary)).float()

    certificate, sentences = certify(lambda dtype: Stepwise(next_logits), track, torch.device("cpu"), seed=1)
    heldout = {PROBLEMS[number] for number in track.number(track.sets["heldout"]).tolist()}
    assert (certificate.problems, certificate.errors) == (10_000, 100)
    assert (certificate.heldout_problems, certificate.heldout_errors) == (1000, sum(a == 99 for a, _ in heldout))
    assert certificate.exhaustive
    assert sentences[0] == "99 + 0: got 0, expected 99"
